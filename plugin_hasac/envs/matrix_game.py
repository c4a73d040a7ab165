"""Cooperative matrix games: every agent picks an action, all get the payoff at the joint action."""

from __future__ import annotations

from typing import Any

import numpy as np

from plugin_hasac.errors import UserError

GAMES: dict[str, list[list[float]]] = {
    # Claus & Boutilier (1998), figures 3 and 4: miscoordination around the optimum is punished.
    "climbing": [[11, -30, 0], [-30, 7, 6], [0, 0, 5]],
    "penalty": [[10, 0, -100], [0, 2, 0], [-100, 0, 10]],
}


def payoff_tensor(payoff: str | list) -> np.ndarray:
    """Payoffs of a game by name, or given as nested lists with one axis per agent.

    Raises:
        UserError: for an unknown name, or lists that do not form a tensor of finite numbers.
    """
    if isinstance(payoff, str):
        if payoff not in GAMES:
            raise UserError(f"unknown matrix game '{payoff}'; expected one of {', '.join(GAMES)}, or nested lists.")
        return np.array(GAMES[payoff], dtype=np.float64)
    try:
        tensor = np.array(payoff, dtype=np.float64)
    except (TypeError, ValueError):
        tensor = np.array(np.nan)
    if tensor.ndim == 0 or not np.isfinite(tensor).all():
        raise UserError(f"payoff {payoff!r} is not a tensor of finite numbers with one axis per agent.")
    return tensor


class MatrixGame:
    """A matrix game, repeated ``episode_limit`` times per episode, without memory.

    Observations and the state are a constant 1, so each agent plays blind.

    Args:
        key: name of a game in :data:`GAMES`, kept under this name because hosts sort results by it.
        payoff: nested lists, one axis per agent; overrides ``key``.
        episode_limit: repetitions per episode.
        seed: unused, the game is deterministic.

    Raises:
        UserError: see :func:`payoff_tensor`.
    """

    def __init__(
        self, key: str = "climbing", payoff: list | None = None, episode_limit: int = 1, seed: int | None = None
    ) -> None:
        self.payoff = payoff_tensor(key if payoff is None else payoff)
        self.n_agents = self.payoff.ndim
        self.n_actions = max(self.payoff.shape)
        self.episode_limit = episode_limit
        self._t = 0

    def reset(self, seed: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """Begin an episode."""
        self._t = 0
        return self.get_obs(), self.get_state()

    def step(self, actions: Any) -> tuple[float, bool, dict[str, Any]]:
        """Payoff of the joint action. The last repetition terminates the episode: there is nothing to bootstrap."""
        self._t += 1
        payoff = float(self.payoff[tuple(int(action) for action in actions)])
        return payoff, self._t >= self.episode_limit, {"episode_limit": False}  # the hosts' key for time-outs

    def get_obs(self) -> list[np.ndarray]:
        """One constant per agent."""
        return [np.ones(1, dtype=np.float32) for _ in range(self.n_agents)]

    def get_obs_size(self) -> int:
        """Length of an observation."""
        return 1

    def get_state(self) -> np.ndarray:
        """A constant."""
        return np.ones(1, dtype=np.float32)

    def get_state_size(self) -> int:
        """Length of the state."""
        return 1

    def get_avail_actions(self) -> list[list[int]]:
        """Agents with fewer actions than the largest axis have the rest masked."""
        return [[int(action < size) for action in range(self.n_actions)] for size in self.payoff.shape]

    def get_total_actions(self) -> int:
        """Size of the largest action set."""
        return self.n_actions

    def get_env_info(self) -> dict[str, int]:
        """Shapes, under the hosts' names."""
        return {
            "state_shape": 1,
            "obs_shape": 1,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def get_print_info(self) -> None:
        """Nothing to print."""

    def get_stats(self) -> dict[str, float]:
        """No statistics of its own."""
        return {}

    def render(self) -> None:
        """Nothing to show."""

    def save_replay(self) -> None:
        """Nothing to save."""

    def close(self) -> None:
        """Nothing to release."""
