"""Cooperative matrix games: every agent picks an action, all get the payoff at the joint action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from plugin_hasac.envs.base import PluginEnv
from plugin_hasac.errors import UserError

GAMES: dict[str, list[list[float]]] = {
    # Claus & Boutilier (1998), figures 3 and 4: miscoordination around the optimum is punished.
    "climbing": [[11, -30, 0], [-30, 7, 6], [0, 0, 5]],
    "penalty": [[10, 0, -100], [0, 2, 0], [-100, 0, 10]],
    # Three equilibria, 5, 10 and 20, and a punishment between them.
    "peaks": [[5, -20, -20], [-20, 10, -20], [-20, -20, 20]],
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


class MatrixGame(PluginEnv):
    """A matrix game, repeated ``episode_limit`` times per episode, without memory.

    Observations and the state are a constant 1, so each agent plays blind.

    Args:
        map_name: name of a game in :data:`GAMES`.
        payoff: nested lists, one axis per agent; overrides ``map_name``.
        episode_limit: repetitions per episode.
        seed: unused, the game is deterministic.

    Raises:
        UserError: see :func:`payoff_tensor`.
    """

    name = "matrix_game"

    def __init__(
        self,
        map_name: str = "climbing",
        payoff: list | None = None,
        episode_limit: int = 1,
        seed: int | None = None,
    ) -> None:
        self.payoff = payoff_tensor(map_name if payoff is None else payoff)
        self.action_spaces = [Discrete(size) for size in self.payoff.shape]
        self.observation_sizes = [1] * self.payoff.ndim
        self.state_size = 1
        self.episode_limit = episode_limit
        self._t = 0

    @classmethod
    def task_name(cls, env_args: Mapping[str, Any]) -> str:
        """The game's name."""
        return str(env_args.get("map_name") or "climbing")

    def reset(self, seed: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """Begin an episode."""
        self._t = 0
        return self.get_obs(), self.get_state()

    def step(self, actions: Sequence[Any]) -> tuple[float, bool, dict[str, Any]]:
        """Payoff of the joint action. The last repetition terminates the episode: there is nothing to bootstrap."""
        self._t += 1
        payoff = float(self.payoff[tuple(int(action) for action in actions)])
        return payoff, self._t >= self.episode_limit, {"episode_limit": False}

    def observations(self) -> list[np.ndarray]:
        """One constant per agent."""
        return [np.ones(1, dtype=np.float32) for _ in self.action_spaces]

    def get_state(self) -> np.ndarray:
        """A constant."""
        return np.ones(1, dtype=np.float32)

    def close(self) -> None:
        """Nothing to release."""
