"""The update of :class:`plugin_hasac.learners.hasac.Hasac` with the gradients worked by hand.

Same mathematics and, given the same random numbers, the same results to float tolerance as ``Hasac.update``, which is
the text to read first. What is saved here:

- one forward pass of each actor gives its first sample and serves its own gradient, for its weights have not changed;
- the critics' first layer is linear in (s, a_1, …, a_n), so a new action changes its output by a difference;
- only the smaller of the twin critics has a gradient in each row (on a CPU its rows alone are computed);
- every result has a buffer of its own that is never allocated again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_hasac.components.action_spaces import Categorical
from plugin_hasac.components.replay import TransitionBatch
from plugin_hasac.learners.hasac import Hasac, UpdateNoise
from plugin_hasac.learners.metrics import MetricMeans
from plugin_hasac.modules.distributions import MaskedCategorical, SquashedGaussian, distribution
from plugin_hasac.modules.passes import MLPPass, deactivate, product


class FastUpdate:
    """One step of learning of ``hasac``.

    Args:
        hasac: networks, optimisers and temperatures; changed in place.
        rows: batch size.

    Attributes:
        metrics: of the last update, in the order of :attr:`MetricMeans.names`.
    """

    def __init__(self, hasac: Hasac, rows: int) -> None:
        self.hasac, self.task, self.config, self.rows = hasac, hasac.task, hasac.config, rows
        device, n_agents = hasac.device, self.task.n_agents
        self.actors = [MLPPass(net, len(group), rows) for group, net in zip(self.task.groups, hasac.policies.nets)]
        self.critics = MLPPass(hasac.critic.net, 2, rows)
        self.joint = torch.empty(rows, self.task.joint_action_dim, device=device)
        self.first = torch.empty(2, rows, hasac.critic.net.sizes[1], device=device)  # critics' first layer, at joint
        self.value = torch.empty(n_agents, rows, device=device)
        self.entropy = torch.empty(n_agents, rows, device=device)
        self.names = MetricMeans(n_agents, device)
        self.metrics = torch.zeros(len(self.names.names), device=device)
        self.exact = self.config.actor_gradient == "exact"

    @torch.no_grad()
    def __call__(self, batch: TransitionBatch, noise: UpdateNoise, order: Sequence[int]) -> Tensor:
        """Make one update; returns ``metrics``."""
        self.update_critic(batch, noise)
        self.begin_actors(batch, noise)
        for agent in order:
            self.update_actor(agent, resample=self.config.sequential_update and agent != order[-1])
        self.finish()
        return self.metrics

    # ---------------------------------------------------------------- critics

    def update_critic(self, batch: TransitionBatch, noise: UpdateNoise) -> None:
        """Regress both soft critics to the soft n-step target."""
        hasac, net = self.hasac, self.hasac.critic.net
        target = self._soft_target(batch, noise)
        hasac.value_norm.update(target)
        target = hasac.value_norm.normalize(target)
        q = self._evaluate_critics(batch.state, hasac.policies.encode(batch.actions))
        error = q - target
        if self.config.use_huber_loss:
            delta = self.config.huber_delta
            slope = error.clamp(-delta, delta)
            loss = slope * (error - 0.5 * slope)
        else:
            slope, loss = 2 * error, error.square()
        self.critics.backward((slope / self.rows)[..., None])
        self.metrics[0] = loss.sum() / self.rows
        self.metrics[1] = hasac.clip(net.grads)
        self.metrics[2] = hasac.value_norm.denormalize(q.mean())
        hasac.critic_optimizer.step()

    def _soft_target(self, batch: TransitionBatch, noise: UpdateNoise) -> Tensor:
        hasac = self.hasac
        samples = [
            policy.rsample(own) for policy, own in zip(self._policies(batch.next_obs, batch.next_avail), noise.target)
        ]
        joint = hasac.policies.join([action for action, _ in samples])
        log_probs = hasac.policies.by_agent([log_prob for _, log_prob in samples])
        q = self._evaluate_critics(batch.next_state, joint, target=True).amin(0)
        soft_value = hasac.value_norm.denormalize(q) - hasac.temperatures.values() @ log_probs
        return torch.addcmul(batch.returns, batch.bootstrap, soft_value)

    def _evaluate_critics(self, state: Tensor, joint: Tensor, *, target: bool = False) -> Tensor:
        self.critics.observe(torch.cat([state, joint], dim=-1).expand(2, -1, -1))
        return self.critics.forward(net=self.hasac.target_critic.net if target else None).squeeze(-1)

    def _policies(self, obs: Tensor, avail: Tensor) -> list[MaskedCategorical | SquashedGaussian]:
        """All groups' policies; the passes keep what their gradients need."""
        result = []
        for index, (group, actors) in enumerate(zip(self.task.groups, self.actors)):
            own_obs, own_avail = self.hasac.policies.group_inputs(index, obs, avail)
            actors.observe(own_obs)
            result.append(distribution(self.task.agents[group[0]].action, actors.forward(), own_avail))
        return result

    # ---------------------------------------------------------------- actors

    def begin_actors(self, batch: TransitionBatch, noise: UpdateNoise) -> None:
        """Sample the joint action and evaluate everything that does not depend on the agents' order."""
        hasac = self.hasac
        self.batch, self.noise = batch, noise
        self.weight = hasac.alive_weight(batch.avail)
        self.alphas = hasac.temperatures.values()
        self.policies = self._policies(batch.obs, batch.avail)
        samples = [policy.rsample(own) for policy, own in zip(self.policies, noise.joint)]
        self.joint.copy_(hasac.policies.join([action for action, _ in samples]))
        self.log_probs = hasac.policies.by_agent([log_prob for _, log_prob in samples])
        self.entropy.copy_(
            hasac.policies.by_agent(
                [
                    policy.entropy() if isinstance(policy, MaskedCategorical) else -log_prob
                    for policy, (_, log_prob) in zip(self.policies, samples)
                ]
            )
        )
        weight, bias = hasac.critic.net.stacks[0], hasac.critic.net.stacks[1]
        seen = torch.cat([batch.state, self.joint], dim=-1).expand(2, -1, -1)
        product(seen, weight, self.first, bias)

    def update_actor(self, agent: int, *, resample: bool) -> None:
        """One step of one policy, and its new sample for the agents behind it."""
        hasac, (group, slot) = self.hasac, self.hasac.policies.place[agent]
        actors, (net, member) = self.actors[group], hasac.policies.member(agent)
        own_noise = hasac.policies.own(self.noise.joint, agent)
        shared = hasac.policies.share_param
        if shared:  # another agent's turn may have changed the common weights, and with them the own sample
            first = self.joint[:, self.task.own_blocks[agent]].clone()
            policy = self._policy(agent)
            action, log_prob = policy.rsample(own_noise)
            self._replace(agent, action)
            self.log_probs[agent] = log_prob
            self.entropy[agent] = policy.entropy() if isinstance(policy, MaskedCategorical) else -log_prob
        else:
            policy = self.policies[group].member(slot)
        gradient = self._objective_gradient(agent, policy, own_noise)
        actors.backward(gradient * -self.weight[agent][:, None], slot)
        self.metrics[self.names.place("grad_norm").start + agent] = hasac.clip(net.grads[member])
        hasac.actor_optimizers[hasac.policies.network(agent)].step()
        if shared and not resample:
            self._replace(agent, first)
        elif resample:
            self._replace(agent, self._policy(agent).sample(hasac.policies.own(self.noise.updated, agent)))

    def finish(self) -> None:
        """The temperatures, the target networks, and the rest of the metrics."""
        hasac, metrics, place = self.hasac, self.metrics, self.names.place
        metrics[place("alpha")] = self.alphas
        metrics[place("entropy")] = (self.weight * self.entropy).sum(-1)
        metrics[place("actor_loss")] = -(self.weight * self.value).sum(-1)
        hasac.temperatures.update(self.entropy, self.batch.avail, self.weight)
        hasac.target_critic.polyak_from(hasac.critic, self.config.polyak)

    def _policy(self, agent: int) -> MaskedCategorical | SquashedGaussian:
        """The agent's policy with its present weights."""
        group, slot = self.hasac.policies.place[agent]
        space = self.task.agents[agent].action
        avail = self.batch.avail[agent][..., : space.avail_dim]
        return distribution(space, self.actors[group].forward(slot), avail)

    def _replace(self, agent: int, action: Tensor) -> None:
        """Put the agent's encoded action into the joint action and the critics' first layer."""
        own = self.task.own_blocks[agent]
        change = action - self.joint[:, own]
        self.joint[:, own] = action
        weight = self._action_weight(own)
        if self.first.device.type == "cpu":
            for first, each in zip(self.first, weight):
                first.addmm_(change, each)
        else:
            self.first.baddbmm_(change.expand(2, -1, -1), weight)

    def _action_weight(self, place: slice) -> Tensor:
        """Rows of the critics' first layer that belong to a part of the joint action, ``(2, size, hidden)``."""
        start = self.task.state_dim
        return self.hasac.critic.net.stacks[0][:, start + place.start : start + place.stop]

    def _objective_gradient(self, agent: int, policy: MaskedCategorical | SquashedGaussian, noise: Tensor) -> Tensor:
        """Gradient of the agent's objective in each row with respect to its network's output; notes its value."""
        alpha, norm = self.alphas[agent], self.hasac.value_norm
        if self.exact and isinstance(policy, MaskedCategorical):
            q = norm.denormalize(self._own_action_values(agent))
            torch.sum(policy.log_probs.exp() * (q - alpha * policy.log_probs), -1, out=self.value[agent])
            return policy.exact_gradient(q, alpha)
        own = self.task.own_blocks[agent]
        q, slope = self._smaller_critic(own)
        torch.sub(norm.denormalize(q), alpha * self.log_probs[agent], out=self.value[agent])
        return policy.sampled_gradient(noise, self.joint[:, own], slope * norm.std, alpha)

    def _smaller_critic(self, own: slice) -> tuple[Tensor, Tensor]:
        """min_j Q_j at the joint action ``(batch,)`` and its slope with respect to one agent's part of it."""
        q = self.critics.forward_from(self.first).squeeze(-1)
        smaller = q[0] <= q[1]
        weight = self._action_weight(own)
        if self.first.device.type == "cpu":
            slope = torch.empty(self.rows, own.stop - own.start)
            for j, rows in enumerate((smaller.nonzero().squeeze(1), (~smaller).nonzero().squeeze(1))):
                slope[rows] = self._slope_of_first_in(rows, j) @ weight[j].t()
            return torch.minimum(q[0], q[1]), slope
        chosen = torch.stack([smaller, ~smaller]).to(q.dtype)
        slopes = self.critics.slope_of_first(chosen[..., None], first=self.first)
        return torch.minimum(q[0], q[1]), torch.bmm(slopes, weight.transpose(1, 2)).sum(0)

    def _slope_of_first_in(self, rows: Tensor, j: int) -> Tensor:
        """dQ_j / d(output of critic j's first layer) in some rows, ``(len(rows), hidden)``."""
        critics = self.critics
        layers = critics.net.layers(critics.parts(critics.net.stacks, j))
        slope = layers[-1][0].t().repeat(len(rows), 1)
        for k in range(len(layers) - 1, 0, -1):
            if k < len(layers) - 1:
                slope = slope @ layers[k][0].t()
            pre = self.first[j] if k == 1 else critics.pre[k - 1][j]
            post = critics.post[k][j].index_select(0, rows)
            seen = pre.index_select(0, rows) if critics.net.activation_name == "silu" else post
            deactivate(critics.net.activation_name, slope, seen, post)
        return slope

    def _own_action_values(self, agent: int) -> Tensor:
        """min_j Q_j of each choice of one agent, ``(batch, encoded_dim)``; as ``TwinCritic.own_action_values``."""
        own, space = self.task.own_blocks[agent], self.task.agents[agent].action
        assert isinstance(space, Categorical)
        columns = []
        for factor in space.factors():
            place = slice(own.start + factor.start, own.start + factor.stop)
            weight = self._action_weight(place)
            others = self.first - torch.matmul(self.joint[:, place], weight)
            if self.first.device.type == "cpu":  # choice by choice: what is being worked on stays in the cache
                for choice in range(place.stop - place.start):
                    torch.add(others, weight[:, choice, None], out=self.critics.pre[0])
                    q = self.critics.forward_from(self.critics.pre[0]).squeeze(-1)
                    columns.append(torch.minimum(q[0], q[1])[:, None])
            else:
                rows = (others[:, :, None] + weight[:, None]).flatten(1, 2)
                columns.append(self.hasac.critic.head(rows).amin(0).unflatten(0, (self.rows, -1)))
        return torch.cat(columns, dim=-1)
