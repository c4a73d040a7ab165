"""HASAC itself: the update of Liu et al. (ICLR 2024), Algorithm 2, with torch alone and no host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_hasac.components.replay import TransitionBatch
from plugin_hasac.components.task import Task
from plugin_hasac.components.temperatures import Temperatures
from plugin_hasac.components.value_norm import ValueNorm
from plugin_hasac.config import HasacConfig
from plugin_hasac.mehaml.drifts import MAX_LOG_RATIO
from plugin_hasac.mehaml.mirror import MirrorStep
from plugin_hasac.mehaml.registry import make_drift, make_neighbourhood
from plugin_hasac.modules.adam import Adam
from plugin_hasac.modules.critics import TwinCritic
from plugin_hasac.modules.distributions import MaskedCategorical, SquashedGaussian
from plugin_hasac.modules.policies import JointNoise, Policies

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class UpdateNoise:
    """The random numbers of one update, drawn beforehand so that every implementation can be given the same.

    Attributes:
        target: of the next actions in the soft target.
        joint: of the joint action that the agents start from, of each agent's own sample in its turn, and of its new
            sample from the updated policy, which later agents respond to. Such common random numbers change an action
            no further than its policy has changed; most discrete ones stay what they were.
    """

    target: JointNoise
    joint: JointNoise


class Hasac:
    """Policies, soft critics and temperatures of one task, and one step of learning.

    The step is written to be read and to be checked against: plain PyTorch, one agent after the other. What trains is
    :mod:`plugin_hasac.learners.fast_update`, which computes the same numbers in less time.

    Args:
        task: shapes.
        config: hyper-parameters.
        device: where everything lives.
        seed: of the initial weights, the action samples and the agent order.
    """

    def __init__(self, task: Task, config: HasacConfig, device: torch.device, seed: int) -> None:
        self.task, self.config, self.device = task, config, device
        init = torch.Generator().manual_seed(seed)
        shape: dict[str, Any] = {"hidden_sizes": config.hidden_sizes, "activation": config.activation}
        shape |= {"device": device, "generator": init}
        self.policies = Policies(
            task, normalize_input=config.use_feature_normalization, share_param=config.share_param, **shape
        )
        self.critic, self.target_critic = TwinCritic(task, **shape), TwinCritic(task, **shape)
        self.target_critic.copy_from(self.critic)
        self.value_norm = ValueNorm(
            config.use_valuenorm, [self.critic, self.target_critic], decay=config.valuenorm_decay, device=device
        )
        self.temperatures = Temperatures(
            config.initial_alphas(task.n_agents),
            auto=config.auto_alpha,
            lr=config.alpha_lr,
            task=task,
            target=config.target_entropy_nats,
            fraction=config.target_entropy_fraction,
            device=device,
        )
        twins = self.critic.net  # always step together
        self.critic_optimizer = Adam(twins.flat.view(-1), twins.grads.view(-1), config.critic_lr)
        firsts = {self.policies.network(agent): agent for agent in reversed(range(task.n_agents))}
        self.actor_optimizers = [
            Adam(net.flat[member], net.grads[member], config.lr)
            for net, member in (self.policies.member(firsts[network]) for network in sorted(firsts))
        ]
        self.mirror = MirrorStep(
            self.policies,
            make_drift(config.drift, config.drift_args),
            make_neighbourhood(config.neighbourhood, config.neighbourhood_args),
            config.anchor_interval,
        )
        self.generator = torch.Generator(device).manual_seed(seed)  # action samples of the update
        self.order_generator = torch.Generator().manual_seed(seed)

    # ---------------------------------------------------------------- Algorithm 2

    def update(
        self, batch: TransitionBatch, noise: UpdateNoise | None = None, order: Sequence[int] | None = None
    ) -> Metrics:
        """One gradient step of the critics, then one of each agent in turn, then the target networks.

        Args:
            batch: transitions.
            noise: :meth:`draw_noise` by default.
            order: permutation of the agents, :meth:`draw_order` by default.
        """
        noise = noise or self.draw_noise(batch.returns.shape[0])
        metrics = self.update_critic(batch, noise.target)
        metrics |= self.update_actors(batch, noise, self.draw_order() if order is None else order)
        self.target_critic.polyak_from(self.critic, self.config.polyak)
        return metrics

    @torch.no_grad()
    def soft_target(self, batch: TransitionBatch, noise: JointNoise) -> Tensor:
        """Soft n-step target y in reward units, ``(batch,)``.

        ``y = R_k' + gamma^k' (1 - terminated) [min_j Q_j(s', a') - sum_i alpha_i log pi_i(a'_i | o'_i)]``
        """
        joint, log_probs = self.policies.sample(batch.next_obs, batch.next_avail, noise)
        entropy_bonus = -self.temperatures.values() @ log_probs
        next_q = self.target_critic.values(batch.next_state, joint)
        next_q = self.value_norm.denormalize(next_q.amin(0))
        return batch.returns + batch.bootstrap * (next_q + entropy_bonus)

    def update_critic(self, batch: TransitionBatch, noise: JointNoise) -> Metrics:
        """Regress both soft critics to the soft n-step target."""
        target = self.soft_target(batch, noise)
        self.value_norm.update(target)
        target = self.value_norm.normalize(target)
        q = self.critic.values(batch.state, self.policies.encode(batch.actions))
        if self.config.use_huber_loss:
            loss = F.huber_loss(q, target.expand_as(q), delta=self.config.huber_delta, reduction="none")
        else:
            loss = (q - target).square()
        loss = loss.mean(1).sum()  # over the batch; over the twins
        self.critic.net.grads.copy_(torch.autograd.grad(loss, self.critic.weights)[0])
        grad_norm = self.clip(self.critic.net.grads)
        self.critic_optimizer.step()
        q_mean = self.value_norm.denormalize(q.detach().mean())
        return {"critic_loss": loss.detach(), "critic_grad_norm": grad_norm, "q_mean": q_mean}

    def update_actors(self, batch: TransitionBatch, noise: UpdateNoise, order: Sequence[int]) -> Metrics:
        """One step of every policy and temperature, agent after agent.

        Each agent responds to the agents before it as they are *after* their step, and to the ones behind it as they
        were (unless ``sequential_update`` is off: then to all as they were, which is MASAC). A temperature concerns its
        own agent alone, so all of them step together at the end.

        Args:
            batch: only its states, observations and masks are used.
            noise: of the samples.
            order: permutation of the agents.
        """
        weight, metrics = self.alive_weight(batch.avail), Metrics()
        self.mirror.begin()
        with torch.no_grad():
            joint, _ = self.policies.sample(batch.obs, batch.avail, noise.joint)
            embedded_state = self.critic.embed_state(batch.state)
        entropy = torch.empty_like(weight)
        for agent in order:
            obs, avail = batch.obs[agent], batch.avail[agent]
            net, member = self.policies.member(agent)
            theta = net.flat[member].clone().requires_grad_()
            policy = self.policies.of_agent(agent, obs, avail, theta)
            own_noise = self.policies.own(noise.joint, agent)
            loss, own_entropy = self.actor_objective(agent, policy, own_noise, embedded_state, joint, weight[agent])
            if self.mirror.drift is not None:
                drift = self.actor_drift(agent, policy, own_noise, obs, avail, embedded_state, joint)
                loss = loss + (weight[agent] * drift).sum()
            net.grads[member] = torch.autograd.grad(loss, theta)[0]
            grad_norm = self.clip(net.grads[member])
            self.actor_optimizers[self.policies.network(agent)].step()
            self.mirror.enter_neighbourhood(agent, obs, avail, weight[agent])
            entropy[agent] = own_entropy.detach()
            if self.config.sequential_update and agent != order[-1]:  # nobody responds to the last one
                updated = self.policies.of_agent(agent, obs, avail)
                joint[:, self.task.own_blocks[agent]] = updated.sample(own_noise)
            metrics |= {
                f"agent_{agent}_actor_loss": loss.detach(),
                f"agent_{agent}_entropy": weight[agent] @ entropy[agent],
                f"agent_{agent}_alpha": self.temperatures[agent],
                f"agent_{agent}_grad_norm": grad_norm,
            }
        self.temperatures.update(entropy, batch.avail, weight)
        return metrics

    def actor_objective(
        self,
        agent: int,
        policy: MaskedCategorical | SquashedGaussian,
        noise: Tensor,
        embedded_state: Tensor,
        joint: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Loss of pi_i: minus E[min_j Q_j(s, a_-i, a_i) - alpha_i log pi_i(a_i | o_i)].

        The expectation over a_i is exact for a discrete action (with several factors: over each factor in turn, the
        others as sampled, which is the same gradient in expectation), or one reparameterised sample.

        Args:
            agent: index i.
            policy: pi_i at the batch's observations, with gradient.
            noise: of the own sample, ``(batch, encoded_dim)``.
            embedded_state: see :meth:`TwinCritic.embed_state`.
            joint: encoded joint action ``(batch, joint_action_dim)``; agent i's own block is replaced.
            weight: averaging weights of the rows, ``(batch,)``.

        Returns:
            The loss, and the entropy of pi_i per row ``(batch,)`` (Box: a one-sample estimate).
        """
        alpha, own = self.temperatures[agent], self.task.own_blocks[agent]
        action, log_prob = policy.rsample(noise)
        joint = torch.cat([joint[:, : own.start], action, joint[:, own.stop :]], dim=-1)
        if isinstance(policy, MaskedCategorical) and self.config.actor_gradient == "exact":
            with torch.no_grad():
                q = self.critic.own_action_values(agent, embedded_state, joint).amin(0)
                q = self.value_norm.denormalize(q)
            value = (policy.log_probs.exp() * (q - alpha * policy.log_probs)).sum(-1)
            return -(weight * value).sum(), policy.entropy()
        q = self.critic.head(embedded_state + self.critic.embed_actions(joint)).amin(0)
        value = self.value_norm.denormalize(q) - alpha * log_prob
        own_entropy = policy.entropy() if isinstance(policy, MaskedCategorical) else -log_prob
        return -(weight * value).sum(), own_entropy

    def actor_drift(
        self,
        agent: int,
        policy: MaskedCategorical | SquashedGaussian,
        noise: Tensor,
        obs: Tensor,
        avail: Tensor,
        embedded_state: Tensor,
        joint: Tensor,
    ) -> Tensor:
        """Drift of a MEHAML instance from the anchor to ``policy``, ``(batch,)``, in reward units.

        Over all choices of a discrete action; from one sample for Box, whose advantage is measured against the mean of
        this sample and the one with the opposite noise. Arguments as in :meth:`actor_objective`.
        """
        drift, alpha, own = self.mirror.drift, self.temperatures[agent], self.task.own_blocks[agent]
        assert drift is not None
        old = self.mirror.old_policy(agent, obs, avail)
        if isinstance(policy, MaskedCategorical):
            assert isinstance(old, MaskedCategorical)
            values = None
            if drift.uses_advantage:
                with torch.no_grad():
                    values = self.critic.own_action_values(agent, embedded_state, joint).amin(0)
                    values = self.value_norm.denormalize(values)
            return self.mirror.of_choices(policy, old, values, alpha)

        def gain(action: Tensor) -> Tensor:
            whole = torch.cat([joint[:, : own.start], action, joint[:, own.stop :]], dim=-1)
            q = self.critic.head(embedded_state + self.critic.embed_actions(whole)).amin(0)
            return self.value_norm.denormalize(q) - alpha * old.log_prob(action)

        if drift.under == "new":
            action, log_prob = policy.rsample(noise)
        else:
            action = old.sample(noise)
            log_prob = policy.log_prob(action)
        log_ratio = (log_prob - old.log_prob(action)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        advantage = torch.zeros_like(log_ratio)
        if drift.uses_advantage:
            with torch.no_grad():
                advantage = 0.5 * (gain(action) - gain(old.sample(-noise)))
        return drift.integrand(log_ratio, advantage)

    # ---------------------------------------------------------------- small parts

    def draw_noise(self, rows: int) -> UpdateNoise:
        """Fresh noise for a batch of ``rows`` transitions."""
        everything = self.policies.noise(rows, self.generator, samples=2)
        return UpdateNoise(*([group[sample] for group in everything] for sample in range(2)))

    def draw_order(self) -> list[int]:
        """A random permutation of the agents, or 0…n-1 with ``fixed_order``."""
        if self.config.fixed_order:
            return list(range(self.task.n_agents))
        return torch.randperm(self.task.n_agents, generator=self.order_generator).tolist()

    def alive_weight(self, avail: Tensor) -> Tensor:
        """Weights that average over the rows in which an agent has a choice: ``(n_agents, batch, avail_dim) -> …``.

        An agent with a single available action is dead (only the no-op is left) or forced: it can learn nothing there.
        """
        n_agents, rows = avail.shape[:2]
        if not self.config.use_policy_active_masks or self.task.avail_dim == 0:
            return torch.full((n_agents, rows), 1.0 / rows, device=avail.device)
        alive = avail.sum(-1) > self._choices
        alive = (alive | self._unmasked).to(torch.get_default_dtype())
        return alive / alive.sum(-1, keepdim=True).clamp_min(1.0)

    @cached_property
    def _choices(self) -> Tensor:
        return torch.tensor([[agent.action.width] for agent in self.task.agents], device=self.device)

    @cached_property
    def _unmasked(self) -> Tensor:
        return torch.tensor([[agent.action.avail_dim == 0] for agent in self.task.agents], device=self.device)

    def clip(self, grads: Tensor) -> Tensor:
        """Scale a network's gradient to at most ``grad_norm_clip``, in place; returns its norm before."""
        flat = grads.view(-1)
        # Each the faster one on its device, by up to 3% of an update.
        norm = torch.dot(flat, flat).sqrt() if flat.is_cuda else torch.linalg.vector_norm(flat)
        if self.config.grad_norm_clip is not None:
            grads.mul_((self.config.grad_norm_clip / (norm + 1e-6)).clamp_max(1.0))
        return norm

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict:
        """Everything that learning needs to go on, as tensors and plain containers."""
        return {
            "policies": self.policies.state_dict(),
            "critic": self.critic.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "value_norm": self.value_norm.state_dict(),
            "temperatures": self.temperatures.state_dict(),
            "mirror": self.mirror.state_dict() if self.mirror.active else None,
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "actor_optimizers": [optimizer.state_dict() for optimizer in self.actor_optimizers],
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            KeyError, ValueError: if the checkpoint is of another task or other network sizes.
        """
        self.policies.load_state_dict(state["policies"])
        self.critic.load_state_dict(state["critic"])
        self.target_critic.load_state_dict(state["target_critic"])
        self.value_norm.load_state_dict(state["value_norm"])
        self.temperatures.load_state_dict(state["temperatures"])
        if self.mirror.active and state.get("mirror"):
            self.mirror.load_state_dict(state["mirror"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        for optimizer, saved in zip(self.actor_optimizers, state["actor_optimizers"]):
            optimizer.load_state_dict(saved)
