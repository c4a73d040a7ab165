"""HASAC itself: the update of Liu et al. (ICLR 2024), Algorithm 2, with torch alone and no host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_hasac.components.action_spaces import ActionSpace
from plugin_hasac.components.replay import TransitionBatch
from plugin_hasac.components.task import Task
from plugin_hasac.components.temperatures import Temperatures
from plugin_hasac.components.value_norm import ValueNorm
from plugin_hasac.config import HasacConfig
from plugin_hasac.modules.critics import TwinCritic
from plugin_hasac.modules.distributions import MaskedCategorical, SquashedGaussian
from plugin_hasac.modules.policies import Policies

Metrics = dict[str, Tensor]


class Hasac:
    """Policies, soft critics and temperatures of one task, and one step of learning.

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
            spaces=[agent.action for agent in task.agents],
            target=config.target_entropy_nats,
            fraction=config.target_entropy_fraction,
            device=device,
        )
        self.critic_optimizer = torch.optim.Adam(self.critic.params, lr=config.critic_lr, fused=True)
        parameters = {self.policies.network(agent): self.policies.parameters(agent) for agent in range(task.n_agents)}
        self.actor_optimizers = [torch.optim.Adam(parameters[n], lr=config.lr, fused=True) for n in sorted(parameters)]
        self.generator = torch.Generator(device).manual_seed(seed)  # action samples of the update
        self.order_generator = torch.Generator().manual_seed(seed)

    # ---------------------------------------------------------------- Algorithm 2

    def update(self, batch: TransitionBatch) -> Metrics:
        """One gradient step of the critics, then one of each agent in turn, then the target networks."""
        metrics = self.update_critic(batch)
        metrics |= self.update_actors(batch)
        self.target_critic.polyak_from(self.critic, self.config.polyak)
        return metrics

    @torch.no_grad()
    def soft_target(self, batch: TransitionBatch) -> Tensor:
        """Soft n-step target y in reward units, ``(batch,)``.

        ``y = R_k' + gamma^k' (1 - terminated) [min_j Q_j(s', a') - sum_i alpha_i log pi_i(a'_i | o'_i)]``
        """
        joint, log_probs = self.policies.sample(batch.next_obs, batch.next_avail, self.generator)
        entropy_bonus = -self.temperatures.values() @ log_probs
        next_q = self.target_critic.values(batch.next_state, joint)
        next_q = self.value_norm.denormalize(next_q.amin(0))
        return batch.returns + batch.bootstrap * (next_q + entropy_bonus)

    def update_critic(self, batch: TransitionBatch) -> Metrics:
        """Regress both soft critics to the soft n-step target."""
        target = self.soft_target(batch)
        self.value_norm.update(target)
        target = self.value_norm.normalize(target)
        q = self.critic.values(batch.state, self.policies.encode(batch.actions))
        if self.config.use_huber_loss:
            loss = F.huber_loss(q, target.expand_as(q), delta=self.config.huber_delta, reduction="none")
        else:
            loss = (q - target).square()
        loss = loss.mean(1).sum()  # over the batch; over the twins
        grad_norm = self._step(self.critic_optimizer, self.critic.params, loss)
        q_mean = self.value_norm.denormalize(q.detach().mean())
        return {"critic_loss": loss.detach(), "critic_grad_norm": grad_norm, "q_mean": q_mean}

    def update_actors(self, batch: TransitionBatch, order: Sequence[int] | None = None) -> Metrics:
        """One step of every policy and temperature, agent after agent.

        Each agent responds to the agents before it as they are *after* their step, and to the ones behind it as they
        were (unless ``sequential_update`` is off: then to all as they were, which is MASAC).

        Args:
            batch: only its states, observations and masks are used.
            order: the permutation of the agents; by default random, or 0…n-1 with ``fixed_order``.
        """
        n_agents, metrics = self.task.n_agents, Metrics()
        if order is None:
            order = range(n_agents) if self.config.fixed_order else self._permutation()
        with torch.no_grad():
            joint, _ = self.policies.sample(batch.obs, batch.avail, self.generator)
            embedded_state = self.critic.embed_state(batch.state)
        for agent in order:
            space = self.task.agents[agent].action
            obs, avail = batch.obs[agent], batch.avail[agent][:, : space.avail_dim]
            weight = self._alive_weight(space, avail)
            policy = self.policies.of_agent(agent, obs, avail)
            loss, agent_entropy = self.actor_objective(agent, policy, embedded_state, joint, weight)
            parameters = self.policies.parameters(agent)
            grad_norm = self._step(self._actor_optimizer(agent), parameters, loss)
            self.temperatures.update(agent, agent_entropy, avail, weight)
            if self.config.sequential_update and agent != order[-1]:  # nobody responds to the last one
                with torch.no_grad():
                    updated = self.policies.of_agent(agent, obs, avail)
                    joint[:, self.task.own_blocks[agent]] = updated.sample(self.generator)
            metrics |= {
                f"agent_{agent}_actor_loss": loss.detach(),
                f"agent_{agent}_entropy": (weight * agent_entropy.detach()).sum(),
                f"agent_{agent}_alpha": self.temperatures[agent],
                f"agent_{agent}_grad_norm": grad_norm,
            }
        return metrics

    def actor_objective(
        self,
        agent: int,
        policy: MaskedCategorical | SquashedGaussian,
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
            embedded_state: see :meth:`TwinCritic.embed_state`.
            joint: encoded joint action ``(batch, joint_action_dim)``; agent i's own block is replaced.
            weight: averaging weights of the rows, ``(batch,)``.

        Returns:
            The loss, and the entropy of pi_i per row ``(batch,)`` (Box: a one-sample estimate).
        """
        alpha = self.temperatures[agent]
        if isinstance(policy, MaskedCategorical) and self.config.actor_gradient == "exact":
            with torch.no_grad():
                q = self.critic.own_action_values(agent, embedded_state, joint).amin(0)
                q = self.value_norm.denormalize(q)
            value = (policy.log_probs.exp() * (q - alpha * policy.log_probs)).sum(-1)
            return -(weight * value).sum(), policy.entropy()
        own = self.task.own_blocks[agent]
        action, log_prob = policy.rsample(self.generator)
        joint = torch.cat([joint[:, : own.start], action, joint[:, own.stop :]], dim=-1)
        q = self.critic.head(embedded_state + self.critic.embed_actions(joint)).amin(0)
        value = self.value_norm.denormalize(q) - alpha * log_prob
        agent_entropy = policy.entropy() if isinstance(policy, MaskedCategorical) else -log_prob
        return -(weight * value).sum(), agent_entropy

    # ---------------------------------------------------------------- small parts

    def _alive_weight(self, space: ActionSpace, avail: Tensor) -> Tensor:
        """Weights ``(batch,)`` that average over the rows in which the agent has a choice.

        An agent with a single available action is dead (only the no-op is left) or forced: it can learn nothing there.
        """
        if not self.config.use_policy_active_masks or space.avail_dim == 0:
            return torch.full(avail.shape[:1], 1.0 / avail.shape[0], device=avail.device)
        alive = (avail.sum(-1) > space.width).float()
        return alive / alive.sum().clamp_min(1.0)

    def _permutation(self) -> list[int]:
        return torch.randperm(self.task.n_agents, generator=self.order_generator).tolist()

    def _actor_optimizer(self, agent: int) -> torch.optim.Optimizer:
        return self.actor_optimizers[self.policies.network(agent)]

    def _step(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """One optimiser step for these parameters alone; returns the gradient norm before clipping."""
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            parameter.grad = gradient
        limit = self.config.grad_norm_clip or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        optimizer.step()
        return grad_norm

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict:
        """Everything that learning needs to go on, as tensors and plain containers."""
        return {
            "policies": self.policies.state_dict(),
            "critic": self.critic.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "value_norm": self.value_norm.state_dict(),
            "temperatures": self.temperatures.state_dict(),
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
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        for optimizer, saved in zip(self.actor_optimizers, state["actor_optimizers"]):
            optimizer.load_state_dict(saved)
