"""The temperatures alpha_i: fixed, or tuned per agent towards a target entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plugin_hasac.components.action_spaces import ActionSpace, Box, Categorical


class Temperatures:
    """One temperature per agent.

    An automatic temperature minimises ``log(alpha) * (H(pi_i) - target)``: it rises while the policy's entropy is below
    the target and falls while it is above (Haarnoja et al., 2018, section 5, in the usual log form).

    Args:
        initial: starting value of each alpha_i, also its value for good when ``auto`` is off.
        auto: tune the temperatures.
        lr: Adam's learning rate for log(alpha).
        spaces: the agents' action spaces.
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
        spaces: Sequence[ActionSpace],
        target: float | None,
        fraction: float,
        device: torch.device,
    ) -> None:
        self.auto = auto
        self.spaces = spaces
        self.target = target
        self.fraction = fraction
        self.log_alpha = torch.tensor(initial, device=device).log()
        self.members = [nn.Parameter(value) for value in self.log_alpha]  # views: each agent steps alone
        self.optimizers = [torch.optim.Adam([member], lr=lr) for member in self.members] if auto else []

    def values(self) -> Tensor:
        """alpha_1 … alpha_n, ``(n_agents,)``, without gradient."""
        return self.log_alpha.exp()

    def __getitem__(self, agent: int) -> Tensor:
        return self.log_alpha[agent].exp()

    def target_entropy(self, agent: int, avail: Tensor) -> Tensor:
        """Target in nats for each row of an availability mask, ``(batch, avail_dim) -> (batch,)``.

        Discrete: ``fraction`` of the entropy of the uniform policy over the available choices. Box: minus the number of
        dimensions on the [-1, 1] scale (Haarnoja et al., 2018, appendix D), expressed in the env's units.
        """
        space = self.spaces[agent]
        if self.target is not None:
            return torch.full(avail.shape[:-1], self.target, device=avail.device)
        if isinstance(space, Box):
            return torch.full(avail.shape[:-1], space.log_scale - space.width, device=avail.device)
        assert isinstance(space, Categorical)
        counts = torch.stack([avail[..., factor].sum(-1) for factor in space.factors()])
        return self.fraction * counts.log().sum(0)

    def update(self, agent: int, entropy: Tensor, avail: Tensor, weight: Tensor) -> None:
        """One step of alpha_i.

        Args:
            agent: index i.
            entropy: entropy of pi_i (or a sample of -log pi_i) per row, ``(batch,)``.
            avail: ``(batch, avail_dim)``.
            weight: averaging weights of the rows, ``(batch,)``; dead rows have 0.
        """
        if not self.auto:
            return
        member = self.members[agent]
        gap = (weight * (entropy.detach() - self.target_entropy(agent, avail))).sum()
        member.grad = gap  # d/d log(alpha) of log(alpha) * gap
        self.optimizers[agent].step()

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"log_alpha": self.log_alpha.clone(), "optimizers": [opt.state_dict() for opt in self.optimizers]}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError if the number of agents differs."""
        if state["log_alpha"].shape != self.log_alpha.shape:
            raise ValueError(f"{len(state['log_alpha'])} temperatures, expected {len(self.log_alpha)}")
        self.log_alpha.copy_(state["log_alpha"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
