"""The temperatures alpha_i: fixed, or tuned per agent towards a target entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_hasac.components.action_spaces import Box, Categorical
from plugin_hasac.components.task import Task
from plugin_hasac.modules.adam import Adam


class Temperatures:
    """One temperature per agent.

    An automatic temperature minimises ``log(alpha) * (H(pi_i) - target)``: it rises while the policy's entropy is below
    the target and falls while it is above (Haarnoja et al., 2018, section 5, in the usual log form).

    Args:
        initial: starting value of each alpha_i, also its value for good when ``auto`` is off.
        auto: tune the temperatures.
        lr: Adam's learning rate for log(alpha).
        task: the agents.
        target: target entropy in nats, or ``None`` for :meth:`target_entropy`'s own.
        fraction: see :meth:`target_entropy`.
        device: where they live.
    """

    def __init__(
        self,
        initial: Sequence[float],
        *,
        auto: bool,
        lr: float,
        task: Task,
        target: float | None,
        fraction: float,
        device: torch.device,
    ) -> None:
        self.auto = auto
        self.task = task
        self.members = [torch.tensor(group, device=device) for group in task.groups]
        self.target = target
        self.fraction = fraction
        self.log_alpha = torch.tensor(initial, device=device).log()
        self._grad = torch.zeros_like(self.log_alpha)
        # Adam treats each number on its own, so one optimiser steps every agent's temperature.
        self.optimizer = Adam(self.log_alpha, self._grad, lr) if auto else None

    @torch.no_grad()
    def rescale(self, unit: float) -> None:
        """Multiply every alpha_i."""
        self.log_alpha.add_(math.log(unit))

    def values(self) -> Tensor:
        """alpha_1 … alpha_n, ``(n_agents,)``, without gradient."""
        return self.log_alpha.exp()

    def __getitem__(self, agent: int) -> Tensor:
        return self.log_alpha[agent].exp()

    def target_entropy(self, avail: Tensor) -> Tensor:
        """Target in nats for each row of the availability masks, ``(n_agents, batch, avail_dim) -> (n_agents, batch)``.

        Discrete: ``fraction`` of the entropy of the uniform policy over the available choices. Box: minus the number of
        dimensions on the [-1, 1] scale (Haarnoja et al., 2018, appendix D), expressed in the env's units.
        """
        if self.target is not None:
            return torch.full(avail.shape[:-1], self.target, device=avail.device)
        by_group = []
        for group, members in zip(self.task.groups, self.members):
            space = self.task.agents[group[0]].action
            own = avail if len(group) == self.task.n_agents else avail[members]
            if isinstance(space, Box):
                by_group.append(torch.full(own.shape[:-1], space.log_scale - space.width, device=avail.device))
                continue
            assert isinstance(space, Categorical)
            counts = torch.stack([own[..., factor].sum(-1) for factor in space.factors()])
            by_group.append(self.fraction * counts.log().sum(0))
        if len(by_group) == 1:
            return by_group[0]
        target = torch.empty(avail.shape[:-1], device=avail.device)
        for members, own in zip(self.members, by_group):
            target[members] = own
        return target

    @torch.no_grad()
    def update(self, entropy: Tensor, avail: Tensor, weight: Tensor) -> None:
        """One step of every alpha_i.

        Args:
            entropy: entropy of pi_i (or a sample of -log pi_i) per row, ``(n_agents, batch)``.
            avail: ``(n_agents, batch, avail_dim)``.
            weight: averaging weights of the rows, ``(n_agents, batch)``; dead rows have 0.
        """
        if self.optimizer is None:
            return
        gap = weight * (entropy - self.target_entropy(avail))
        torch.sum(gap, -1, out=self._grad)  # d/d log(alpha) of log(alpha) * gap
        self.optimizer.step()

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        return {"log_alpha": self.log_alpha.clone(), "optimizer": optimizer}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError if the number of agents differs."""
        if state["log_alpha"].shape != self.log_alpha.shape:
            raise ValueError(f"{len(state['log_alpha'])} temperatures, expected {len(self.log_alpha)}")
        self.log_alpha.copy_(state["log_alpha"])
        if self.optimizer and state["optimizer"]:
            self.optimizer.load_state_dict(state["optimizer"])
