"""Episode statistics under the names that PyMARL-family runners log."""

from __future__ import annotations

from typing import Any

import numpy as np


class EpisodeStatistics:
    """Returns, lengths and summed info keys of the episodes that ended since the last log.

    Args:
        n_envs: number of parallel envs.
    """

    def __init__(self, n_envs: int) -> None:
        self._running_return = np.zeros(n_envs)
        self._running_length = np.zeros(n_envs, dtype=np.int64)
        self._clear()

    def _clear(self) -> None:
        self._returns: list[float] = []
        self._sums: dict[str, float] = {}

    @property
    def episodes(self) -> int:
        """Episodes that ended since the last log."""
        return len(self._returns)

    def step(
        self,
        reward: np.ndarray,
        ended: list[tuple[int, dict[str, Any]]],
        dropped: np.ndarray,
        active: np.ndarray | None = None,
    ) -> list[float]:
        """Take in one vector step.

        Args:
            reward: ``(n_envs,)``.
            ended: index and info of the envs whose episode ended.
            dropped: ``(n_envs,)`` bool, steps that do not count.
            active: ``(n_envs,)`` bool, envs that took part; all by default.

        Returns:
            The returns of the episodes that ended.
        """
        counted = ~dropped if active is None else ~dropped & active
        self._running_return += np.where(counted, reward, 0.0)
        self._running_length += counted
        finished = []
        for index, info in ended:
            episode = {"ep_length": float(self._running_length[index])}
            numbers = (int, float, np.number, np.bool_)
            episode |= {key: float(value) for key, value in info.items() if isinstance(value, numbers)}
            for key, value in episode.items():
                self._sums[key] = self._sums.get(key, 0.0) + value
            finished.append(float(self._running_return[index]))
            self._running_return[index] = self._running_length[index] = 0
        self._returns += finished
        return finished

    def log(self, logger: Any, prefix: str, t_env: int) -> None:
        """Log means since the last log, and start over."""
        logger.log_stat(prefix + "return_mean", float(np.mean(self._returns)), t_env)
        logger.log_stat(prefix + "return_std", float(np.std(self._returns)), t_env)
        for key, total in self._sums.items():
            logger.log_stat(f"{prefix}{key}_mean", total / self.episodes, t_env)
        self._clear()
