"""What a single environment offers to the vector env, whichever host it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from plugin_hasac.components.task import Task


@dataclass(frozen=True)
class Outcome:
    """Result of one step of one env.

    Attributes:
        reward: shared reward of the team.
        terminated: the task ended: nothing comes after, nothing is bootstrapped.
        truncated: the episode was cut off, by a time limit as a rule; it bootstraps.
        info: statistics of the episode; read at its end only.
        dropped: the env broke down during this step, so the transition is not data.
    """

    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any] = field(default_factory=dict)
    dropped: bool = False


class StepEnv(Protocol):
    """One environment. Hosts' envs are adapted to this in ``plugin_hasac.hosts``.

    Attributes:
        task: its shapes.
        draws_globally: whether it may draw from the process-wide generators of ``random`` or ``numpy.random``.
    """

    task: Task
    draws_globally: bool

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; with a seed, one that depends on the seed alone as far as the env allows."""

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations ``(n_agents, obs_dim)``, state ``(state_dim,)``, availability ``(n_agents, avail_dim)`` bool."""

    def step(self, actions: np.ndarray) -> Outcome:
        """Take the joint action ``(n_agents, action_width)``, in the env's units."""

    def close(self) -> None:
        """Release what the env holds."""
