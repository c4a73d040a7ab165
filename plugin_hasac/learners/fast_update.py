"""The update of :class:`plugin_hasac.learners.hasac.Hasac` with the gradients worked by hand.

Same mathematics and, given the same random numbers, the same results to float tolerance as ``Hasac.update``, which is
the text to read first. What is saved here:

- one forward pass of each actor gives its first sample and serves its own gradient, for its weights have not changed;
- the critics' first layer is linear in (s, a_1, …, a_n), so a new action changes its output by a difference;
- only the smaller of the twin critics has a gradient in each row (on a CPU its rows alone are computed, and only where
  the joint action has changed, :mod:`plugin_hasac.learners.joint_values`);
- every result has a buffer of its own that is never allocated again;
- on a GPU, chains of small operations are fused (:mod:`plugin_hasac.modules.fusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plugin_hasac.components.action_spaces import ActionSpace, Categorical
from plugin_hasac.components.replay import TransitionBatch
from plugin_hasac.learners.hasac import Hasac, UpdateNoise
from plugin_hasac.learners.joint_values import JointValues
from plugin_hasac.learners.metrics import MetricMeans
from plugin_hasac.modules.adam import Adam
from plugin_hasac.modules.distributions import MaskedCategorical, distribution
from plugin_hasac.modules.fusion import fused
from plugin_hasac.modules.passes import MLPPass, deactivate, product
from plugin_hasac.modules.stacked import StackedMLP
from plugin_hasac.native.heads import head
from plugin_hasac.native.library import Library
from plugin_hasac.native.passes import NativeJointValues, NativePass

# -------------------------------------------------------------------- chains of small operations, free of side effects


def draw(space: ActionSpace, output: Tensor, avail: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sample, its log-probability, and the policy's entropy (Box: a one-sample estimate) from a network's output."""
    policy = distribution(space, output, avail)
    if isinstance(policy, MaskedCategorical):  # without a gradient, a straight-through sample is a sample
        action = policy.sample(noise)
        return action, policy.log_prob(action), policy.entropy()
    action, log_prob = policy.rsample(noise)
    return action, log_prob, -log_prob


def draw_again(space: ActionSpace, output: Tensor, avail: Tensor, noise: Tensor) -> Tensor:
    """A sample alone."""
    return distribution(space, output, avail).sample(noise)


def exact_gradient(
    space: ActionSpace, output: Tensor, avail: Tensor, q: Tensor, scale: Tensor, alpha: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of the loss for the network's output, and the objective, from the twins' normalised Q of each choice."""
    policy = distribution(space, output, avail)
    assert isinstance(policy, MaskedCategorical)
    std, mean = scale.unbind()
    values = q.amin(0) * std + mean
    objective = (policy.log_probs.exp() * (values - alpha * policy.log_probs)).sum(-1)
    return policy.exact_gradient(values, alpha) * -weight[:, None], objective


def sampled_gradient(
    space: ActionSpace,
    output: Tensor,
    avail: Tensor,
    noise: Tensor,
    action: Tensor,
    slope: Tensor,
    scale: Tensor,
    alpha: Tensor,
    weight: Tensor,
) -> Tensor:
    """Gradient of the loss for the network's output from the normalised Q's slope in the sample."""
    policy = distribution(space, output, avail)
    return policy.sampled_gradient(noise, action, slope * scale[0], alpha) * -weight[:, None]


def soft_target(
    q: Tensor, log_probs: Tensor, alphas: Tensor, scale: Tensor, returns: Tensor, bootstrap: Tensor
) -> Tensor:
    """Y of :meth:`Hasac.soft_target`."""
    std, mean = scale.unbind()
    soft_value = q.amin(0) * std + mean - (alphas[:, None] * log_probs).sum(0)
    return returns + bootstrap * soft_value


def regression(delta: float | None, q: Tensor, target: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of the critics' loss in their outputs ``(2, batch, 1)``, and the metrics (loss, mean Q).

    Args:
        delta: of the Huber loss, or ``None`` for squares.
        q: ``(2, batch)``.
        target: ``(batch,)`` in reward units.
        scale: standard deviation and mean of the value normalisation.
    """
    std, mean = scale.unbind()
    error = q - (target - mean) / std
    if delta is None:
        slope, loss = 2 * error, error.square()
    else:
        slope = error.clamp(-delta, delta)
        loss = slope * (error - 0.5 * slope)
    metrics = torch.stack([loss.mean(1).sum(), q.mean() * std + mean])
    return (slope / q.shape[1])[..., None], metrics


def smaller_twin(activation: str, pre: Tensor, last: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """min_j Q_j in reward units, and its slope in the output of the critics' layer before the last.

    Args:
        activation: its name.
        pre: that output, ``(2, batch, hidden)``.
        last: layer, its bias below its weight, ``(2, hidden + 1, 1)``.
        scale: standard deviation and mean of the value normalisation.
    """
    std, mean = scale.unbind()
    if activation == "relu":
        post = pre.clamp_min(0.0)
        derivative = (pre > 0).to(pre.dtype)
    elif activation == "tanh":
        post = torch.tanh(pre)
        derivative = 1 - post.square()
    else:
        gate = torch.sigmoid(pre)
        post = pre * gate
        derivative = gate * (1 + pre * (1 - gate))
    weight = last[:, :-1].transpose(1, 2)
    q = (post * weight).sum(-1) + last[:, -1]
    first = q[0] <= q[1]
    chosen = torch.stack([first, ~first])
    return torch.where(first, q[0], q[1]) * std + mean, torch.where(chosen[..., None], derivative * weight, 0.0)


def agents_metrics(weight: Tensor, entropy: Tensor, value: Tensor, alphas: Tensor) -> Tensor:
    """Loss, entropy and temperature of every agent, one after the other."""
    return torch.cat([-(weight * value).sum(-1), (weight * entropy).sum(-1), alphas])


# -------------------------------------------------------------------- the update


class Turn(NamedTuple):
    """What one agent's turn reads and writes: views, made once.

    Attributes:
        group, slot: the agent's group, and its place there.
        own: its part of the joint action.
        space: of its actions.
        action: this part, ``(batch, encoded_dim)``.
        action_weight: rows of the critics' first layer that belong to it, ``(2, encoded_dim, hidden)``.
        log_prob, entropy, value: ``(batch,)``.
        grads: of its network, ``(n_parameters,)``.
        grad_norm: ``()``.
        optimizer: of its network.
    """

    group: int
    slot: int
    own: slice
    space: ActionSpace
    action: Tensor
    action_weight: Tensor
    log_prob: Tensor
    entropy: Tensor
    value: Tensor
    grads: Tensor
    grad_norm: Tensor
    optimizer: Adam


class FastUpdate:
    """One step of learning of ``hasac``.

    Args:
        hasac: networks, optimisers and temperatures; changed in place.
        rows: batch size.
        library: on a CPU, what computes the passes; PyTorch by default.

    Attributes:
        metrics: of the last update, in the order of :attr:`MetricMeans.names`.
    """

    def __init__(self, hasac: Hasac, rows: int, library: Library | None = None) -> None:
        self.hasac, self.task, self.config, self.rows = hasac, hasac.task, hasac.config, rows
        self.device, n_agents = hasac.device, self.task.n_agents
        self.library = library
        self.actors = [self._pass(net, len(group)) for group, net in zip(self.task.groups, hasac.policies.nets)]
        self.critics = self._pass(hasac.critic.net, 2, shared_input=True)

        def buffer(*shape: int) -> Tensor:
            return torch.empty(*shape, device=self.device)

        self.joint = buffer(rows, self.task.joint_action_dim)
        # The critics' first layer at the joint action. A GPU evaluates all behind it anew: it cannot wait for sizes.
        self.joint_values = self._joint_values(hasac.critic.net)
        self.first = self.joint_values.first if self.joint_values else buffer(2, rows, hasac.critic.net.sizes[1])
        self.value, self.entropy, self.log_probs = (buffer(n_agents, rows) for _ in range(3))
        self.names = MetricMeans(n_agents, self.device)
        self.metrics = torch.zeros(len(self.names.names), device=self.device)
        self.grad_norms = self.metrics[self.names.place("grad_norm")]
        self.turns = [self._turn(agent) for agent in range(n_agents)]
        self._fuse()

    def _pass(self, net: StackedMLP, slots: int, *, shared_input: bool = False) -> MLPPass | NativePass:
        if self.library is not None:
            return NativePass(self.library, net, slots, self.rows, shared_input=shared_input)
        return MLPPass(net, slots, self.rows, shared_input=shared_input)

    def _joint_values(self, net: StackedMLP) -> JointValues | NativeJointValues | None:
        if self.library is not None:
            return NativeJointValues(self.library, net, self.rows)
        return JointValues(net, self.rows) if self.device.type == "cpu" else None

    def _turn(self, agent: int) -> Turn:
        policies, own = self.hasac.policies, self.task.own_blocks[agent]
        net, member = policies.member(agent)
        group, slot = policies.place[agent]
        return Turn(
            group=group,
            slot=slot,
            own=own,
            space=self.task.agents[agent].action,
            action=self.joint[:, own],
            action_weight=self._action_weight(own),
            log_prob=self.log_probs[agent],
            entropy=self.entropy[agent],
            value=self.value[agent],
            grads=net.grads[member],
            grad_norm=self.grad_norms[agent],
            optimizer=self.hasac.actor_optimizers[policies.network(agent)],
        )

    def _fuse(self) -> None:
        spaces = [self.task.agents[group[0]].action for group in self.task.groups]

        def of_groups(function: Callable[..., Any]) -> list[Callable[..., Any]]:
            return [fused(partial(function, space), self.device) for space in spaces]

        if self.library is None:
            self.draw, self.draw_again = of_groups(draw), of_groups(draw_again)
            self.exact_gradient, self.sampled_gradient = of_groups(exact_gradient), of_groups(sampled_gradient)
        else:
            heads = [head(self.library, space) for space in spaces]
            self.draw, self.draw_again = [each.draw for each in heads], [each.draw_again for each in heads]
            self.sampled_gradient = [each.sampled_gradient for each in heads]
            self.exact_gradient = [each.exact_gradient for each in heads]
        self.soft_target = fused(soft_target, self.device)
        delta = self.config.huber_delta if self.config.use_huber_loss else None
        self.regression = fused(partial(regression, delta), self.device)
        self.smaller_twin = fused(partial(smaller_twin, self.critics.activation), self.device)
        self.agents_metrics = fused(agents_metrics, self.device)

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
        hasac, norm = self.hasac, self.hasac.value_norm
        joint, log_probs, _ = self._draw_all(batch.next_obs, batch.next_avail, noise.target, keep=False)
        q = self._evaluate_critics(batch.next_state, joint, target=True)
        alphas = hasac.temperatures.values()
        target = self.soft_target(q, log_probs, alphas, norm.scale, batch.returns, batch.bootstrap)
        norm.update(target)
        q = self._evaluate_critics(batch.state, hasac.policies.encode(batch.actions))
        slope, metrics = self.regression(q, target, norm.scale)
        self.critics.backward(slope)
        self.metrics[0:3:2] = metrics
        self._step(hasac.critic_optimizer, hasac.critic.net.grads, self.metrics[1])

    def _draw_all(
        self, obs: Tensor, avail: Tensor, noise: list[Tensor], *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Joint action ``(batch, joint_action_dim)``, log-probabilities and entropies ``(n_agents, batch)``."""
        drawn, self.avail = [], []
        for group, actors in enumerate(self.actors):
            own_obs, own_avail = self.hasac.policies.group_inputs(group, obs, avail)
            actors.observe(own_obs)
            drawn.append(self.draw[group](actors.forward(keep=keep), own_avail, noise[group]))
            self.avail.append(own_avail)
        actions, log_probs, entropies = zip(*drawn)
        policies = self.hasac.policies
        return policies.join(actions), policies.by_agent(log_probs), policies.by_agent(entropies)

    def _evaluate_critics(self, state: Tensor, joint: Tensor, *, target: bool = False) -> Tensor:
        self.critics.observe_together(state, joint)
        net = self.hasac.target_critic.net if target else None
        return self.critics.forward(net=net, keep=not target).squeeze(-1)

    # ---------------------------------------------------------------- actors

    def begin_actors(self, batch: TransitionBatch, noise: UpdateNoise) -> None:
        """Sample the joint action and evaluate everything that does not depend on the agents' order."""
        hasac = self.hasac
        self.batch, self.noise = batch, noise
        self.weight = hasac.alive_weight(batch.avail)
        self.alphas = hasac.temperatures.values()
        joint, log_probs, entropy = self._draw_all(batch.obs, batch.avail, noise.joint, keep=True)
        self.joint.copy_(joint)
        self.log_probs.copy_(log_probs)
        self.entropy.copy_(entropy)
        self.critics.observe_together(batch.state, joint)
        self.critics.first_layer(self.first)
        if self.joint_values is not None:
            self.joint_values.restart()

    def update_actor(self, agent: int, *, resample: bool) -> None:
        """One step of one policy, and its new sample for the agents behind it."""
        turn, shared = self.turns[agent], self.hasac.policies.share_param
        group, slot = turn.group, turn.slot
        actors, avail, noise = self.actors[group], self.avail[group][slot], self.noise.joint[group][slot]
        if shared:  # another agent's turn may have changed the common weights, and with them the own sample
            first = turn.action.clone()
            action, log_prob, entropy = self.draw[group](actors.forward(slot), avail, noise)
            self._replace(turn, action)
            turn.log_prob.copy_(log_prob)
            turn.entropy.copy_(entropy)
        actors.backward(self._slope_of_loss(agent, actors.output[slot], avail, noise), slot)
        self._step(turn.optimizer, turn.grads, turn.grad_norm)
        if shared and not resample:
            self._replace(turn, first)
        elif resample:
            self._replace(turn, self.draw_again[group](actors.forward(slot, keep=False), avail, noise))

    def finish(self) -> None:
        """The temperatures, the target networks, and the agents' metrics."""
        hasac, names = self.hasac, self.names
        self.metrics[names.place("actor_loss").start : names.place("alpha").stop] = self.agents_metrics(
            self.weight, self.entropy, self.value, self.alphas
        )
        hasac.temperatures.update(self.entropy, self.batch.avail, self.weight)
        hasac.target_critic.polyak_from(hasac.critic, self.config.polyak)

    def _slope_of_loss(self, agent: int, output: Tensor, avail: Tensor, noise: Tensor) -> Tensor:
        """Gradient of the agent's loss with respect to its network's output ``(batch, out)``; notes the objective."""
        turn = self.turns[agent]
        scale, alpha, weight = self.hasac.value_norm.scale, self.alphas[agent], self.weight[agent]
        if self.config.actor_gradient == "exact" and isinstance(turn.space, Categorical):
            q = self._own_action_values(turn.own, turn.space)
            slope, value = self.exact_gradient[turn.group](output, avail, q, scale, alpha, weight)
            turn.value.copy_(value)
            return slope
        q, slope = self._smaller_critic(turn.action_weight)
        torch.sub(q, alpha * turn.log_prob, out=turn.value)
        return self.sampled_gradient[turn.group](output, avail, noise, turn.action, slope, scale, alpha, weight)

    def _replace(self, turn: Turn, action: Tensor) -> None:
        """Put an agent's encoded action into the joint action and the critics' first layer."""
        change = action - turn.action
        turn.action.copy_(action)
        if self.joint_values is not None:
            real = not isinstance(turn.space, Categorical)  # of real numbers, a new sample is never the old one
            self.joint_values.move(change, turn.action_weight, everywhere=real)
        else:
            product(change.expand(2, -1, -1), turn.action_weight, self.first, add=True)

    def _action_weight(self, place: slice) -> Tensor:
        """Rows of the critics' first layer that belong to a part of the joint action, ``(2, size, hidden)``."""
        start = self.task.state_dim
        return self.hasac.critic.net.stacks[0][:, start + place.start : start + place.stop]

    def _step(self, optimizer: Adam, grads: Tensor, norm: Tensor) -> None:
        """One step with clipped gradients; notes what their norm was."""
        if self.library is None:
            norm.copy_(self.hasac.clip(grads))
            optimizer.step()
        else:
            norm.fill_(optimizer.clipped_step(self.library.adam, self.config.grad_norm_clip))

    # ---------------------------------------------------------------- what the critics tell an actor

    def _smaller_critic(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """min_j Q_j at the joint action in reward units ``(batch,)``, and its normalised slope in one agent's part.

        Args:
            weight: of that part in the critics' first layer, ``(2, encoded_dim, hidden)``.
        """
        if self.joint_values is not None:
            slope = self.joint_values.slope_in(weight)
            return self.hasac.value_norm.denormalize(self.joint_values.q), slope
        assert isinstance(self.critics, MLPPass)
        layers = self.critics.layers()
        pre = self.critics.forward_from(self.first, skip=1)
        q, slope = self.smaller_twin(pre, layers[-1].extended, self.hasac.value_norm.scale)
        for k in range(len(layers) - 2, 0, -1):
            slope = product(slope, layers[k].transposed, layers[k - 1].slope)
            deactivate(self.critics.activation, slope, self.first if k == 1 else layers[k - 1].pre, layers[k].post)
        return q, torch.bmm(slope, weight.transpose(1, 2)).sum(0)

    def _own_action_values(self, own: slice, space: Categorical) -> Tensor:
        """Normalised Q_j of each choice of one agent, ``(2, batch, encoded_dim)``."""
        parts = []
        for factor in space.factors():
            place = slice(own.start + factor.start, own.start + factor.stop)
            weight = self._action_weight(place)
            if isinstance(self.joint_values, NativeJointValues):
                self.joint_values.settle()
            others = product(self.joint[:, place].expand(2, -1, -1), -weight, self.first.clone(), add=True)
            if self.device.type == "cpu":  # choice by choice: what is being worked on stays in the cache
                for choice in range(place.stop - place.start):
                    parts.append(self.critics.forward_shifted(others, weight[:, choice]).clone())
            else:
                rows = (others[:, :, None] + weight[:, None]).flatten(1, 2)
                parts.append(self.hasac.critic.head(rows).unflatten(1, (self.rows, -1)))
        return torch.cat(parts, dim=-1)
