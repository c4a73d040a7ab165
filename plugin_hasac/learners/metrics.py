"""Running means of what an update reports, without waiting for the device at every update."""

from __future__ import annotations

import torch
from torch import Tensor

PER_AGENT = ("actor_loss", "entropy", "alpha", "grad_norm")
CRITIC = ("critic_loss", "critic_grad_norm", "q_mean")


class MetricMeans:
    """Sums of the metrics since they were last taken.

    Args:
        n_agents: number of agents.
        device: of the sums.

    Attributes:
        names: of the numbers in a vector of metrics: the critics', then each :data:`PER_AGENT` metric of every agent.
    """

    def __init__(self, n_agents: int, device: torch.device) -> None:
        self.n_agents = n_agents
        self.names = [*CRITIC, *(f"agent_{agent}_{name}" for name in PER_AGENT for agent in range(n_agents))]
        self.sums = torch.zeros(len(self.names), device=device)
        self.updates = 0

    def place(self, name: str) -> slice:
        """Where a per-agent metric lies, agents in their order."""
        start = len(CRITIC) + PER_AGENT.index(name) * self.n_agents
        return slice(start, start + self.n_agents)

    def vector(self, metrics: dict[str, Tensor]) -> Tensor:
        """A dictionary of metrics in the order of ``names``."""
        return torch.stack([metrics[name] for name in self.names])

    def take(self) -> dict[str, float]:
        """The means by name, with the averages over agents beside them, and a fresh start."""
        values = (self.sums / max(self.updates, 1)).tolist()
        means = dict(zip(self.names, values))
        for name in ("entropy", "alpha", "actor_loss"):
            own = values[self.place(name)]
            means[name] = sum(own) / len(own)
        self.sums.zero_()
        self.updates = 0
        return means
