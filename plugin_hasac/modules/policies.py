"""The agents' policies pi_i(a_i | o_i) for discrete actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plugin_hasac.components.task import Task
from plugin_hasac.modules.stacked import StackedMLP

# Finite, so that probability x log-probability of an unavailable action is 0 and not NaN; far beyond any logit.
UNAVAILABLE = -1e9


def masked_log_softmax(logits: Tensor, avail: Tensor) -> Tensor:
    """Log-probabilities ``(…, n_actions)`` with zero probability on unavailable actions."""
    return F.log_softmax(logits.masked_fill(~avail, UNAVAILABLE), dim=-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats of categorical distributions, ``(…, n_actions) -> (…)``."""
    return -(log_probs.exp() * log_probs).sum(-1)


def sample(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draw action indices ``(…)`` by the Gumbel-max trick; an unavailable action is never drawn."""
    noise = torch.empty_like(log_probs).exponential_(generator=generator).log()
    return (log_probs - noise).argmax(-1)


def gumbel_softmax(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Straight-through Gumbel-softmax one-hot sample ``(…, n_actions)``, temperature 1 (Jang et al., 2017)."""
    noise = torch.empty_like(log_probs).exponential_(generator=generator).log()
    soft = F.softmax(log_probs - noise, dim=-1)
    hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())


class CategoricalPolicies:
    """One categorical policy per agent, over the actions available to it.

    Args:
        task: shapes.
        hidden_sizes: widths of the hidden layers.
        activation: name of the activation.
        normalize_input: LayerNorm on the observation (``use_feature_normalization``).
        share_param: one network for all agents, with the agent's one-hot id appended to its observation.
        device, generator: see :class:`StackedMLP`.
    """

    def __init__(
        self,
        task: Task,
        *,
        hidden_sizes: Sequence[int],
        activation: str,
        normalize_input: bool,
        share_param: bool,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.n_agents = task.n_agents
        self.n_actions = task.n_actions
        self.share_param = share_param
        self.agent_ids = torch.eye(task.n_agents, device=device)
        obs_dim = task.obs_dim + (task.n_agents if share_param else 0)
        self.net = StackedMLP(
            1 if share_param else task.n_agents,
            (obs_dim, *hidden_sizes, task.n_actions),
            activation=activation,
            output_gain=0.01,  # close to uniform at the start
            normalize_input=normalize_input,
            device=device,
            generator=generator,
        )

    def parameters(self, agent: int) -> list[nn.Parameter]:
        """The parameters theta_i that ``agent``'s optimiser steps."""
        return self.net.members[0 if self.share_param else agent]

    def log_probs(self, obs: Tensor, avail: Tensor) -> Tensor:
        """All agents at once, without gradient.

        Args:
            obs: ``(n_agents, batch, obs_dim)``.
            avail: ``(n_agents, batch, n_actions)``, bool.

        Returns:
            ``(n_agents, batch, n_actions)``.
        """
        stacks: Sequence[Tensor] = self.net.stacks
        if self.share_param:
            obs = torch.cat([obs, self.agent_ids[:, None].expand(-1, obs.shape[1], -1)], dim=-1)
            stacks = [stack.expand(self.n_agents, -1, -1) for stack in stacks]
        return masked_log_softmax(self.net.forward(stacks, obs), avail)

    def agent_log_probs(self, agent: int, obs: Tensor, avail: Tensor) -> Tensor:
        """One agent, with gradient: ``(batch, obs_dim), (batch, n_actions) -> (batch, n_actions)``."""
        if self.share_param:
            obs = torch.cat([obs, self.agent_ids[agent].expand(obs.shape[0], -1)], dim=-1)
        return masked_log_softmax(self.net.forward(self.parameters(agent), obs), avail)
