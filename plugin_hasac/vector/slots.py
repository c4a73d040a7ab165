"""The arrays that parallel envs write into, and one env's place in them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from plugin_hasac.components.replay import StepData
from plugin_hasac.components.task import Task
from plugin_hasac.vector.contract import StepEnv

Allocate = Callable[[tuple[int, ...], type], np.ndarray]


class EnvArrays:
    """Inputs and outputs of ``n_envs`` envs, envs in front.

    Args:
        task: shapes.
        n_envs: number of envs.
        allocate: makes an array of a shape and dtype, e.g. in memory that processes share.
    """

    def __init__(self, task: Task, n_envs: int, allocate: Allocate) -> None:
        def step_data() -> StepData:
            return StepData(
                obs=allocate((n_envs, task.n_agents, task.obs_dim), np.float32),
                state=allocate((n_envs, task.state_dim), np.float32),
                avail=allocate((n_envs, task.n_agents, task.avail_dim), np.bool_),
            )

        self.actions = allocate(
            (n_envs, task.n_agents, task.action_width), np.int64 if task.is_discrete else np.float64
        )
        self.active = allocate((n_envs,), np.bool_)
        self.now = step_data()
        self.successor = step_data()
        self.reward = allocate((n_envs,), np.float64)
        self.terminated = allocate((n_envs,), np.bool_)
        self.ended = allocate((n_envs,), np.bool_)
        self.dropped = allocate((n_envs,), np.bool_)


@dataclass(frozen=True)
class RandomState:
    """State of the process-wide generators of ``random`` and ``numpy.random``.

    Several hosts' envs draw from these. With a private state per env, an episode does not depend on which envs share
    its process, nor on what else the process draws.
    """

    numpy: Any
    python: tuple[Any, ...]

    @classmethod
    def seeded(cls, seed: int) -> RandomState:
        """Both streams from their beginning."""
        return cls(np.random.MT19937(seed), random.Random(seed).getstate())

    @classmethod
    def current(cls) -> RandomState:
        """What is installed now."""
        return cls(np.random.get_bit_generator(), random.getstate())

    def install(self) -> None:
        """Make it the process's state."""
        np.random.set_bit_generator(self.numpy)
        random.setstate(self.python)


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Puts the process-wide generators back at the end."""
    outer = RandomState.current()
    try:
        yield
    finally:
        outer.install()


class EnvSlot:
    """One env and its index in the arrays.

    Args:
        make_env: builds the env.
        seed: of the env's own randomness.
        arrays: where it reads its action and writes its outcome.
        index: its place.
        auto_reset: begin the next episode at once when one ends.
    """

    def __init__(
        self, make_env: Callable[[], StepEnv], seed: int, arrays: EnvArrays, index: int, auto_reset: bool
    ) -> None:
        self.arrays, self.index, self.auto_reset = arrays, index, auto_reset
        self.randomness = RandomState.seeded(seed)
        with preserved_randomness(), self._own_randomness():
            self.env = make_env()
        self.draws_globally = getattr(self.env, "draws_globally", True)

    def reset(self, seed: int | None) -> None:
        """Begin an episode and show its first observation."""
        if seed is not None:
            self.randomness = RandomState.seeded(seed)
        with self._own_randomness():
            self.env.reset(seed)
            self._show(self.arrays.now)

    def step(self) -> dict[str, Any] | None:
        """Take the action that lies in the arrays; returns the statistics of an episode that ended, else ``None``."""
        if not self.draws_globally:
            return self._step()
        with self._own_randomness():
            return self._step()

    def _step(self) -> dict[str, Any] | None:
        arrays, i = self.arrays, self.index
        outcome = self.env.step(arrays.actions[i])
        ended = outcome.terminated or outcome.truncated or outcome.dropped
        arrays.reward[i], arrays.terminated[i] = outcome.reward, outcome.terminated
        arrays.ended[i], arrays.dropped[i] = ended, outcome.dropped
        if not outcome.dropped:
            self._show(arrays.successor)
        if ended and self.auto_reset:
            self.env.reset()
            self._show(arrays.now)
        elif not outcome.dropped:
            now, successor = arrays.now, arrays.successor
            now.obs[i], now.state[i], now.avail[i] = successor.obs[i], successor.state[i], successor.avail[i]
        return outcome.info if ended else None

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """The env runs with its own state of the process-wide generators; the caller preserves the process's."""
        self.randomness.install()
        yield
        self.randomness = RandomState.current()

    def close(self) -> None:
        """Close the env."""
        self.env.close()

    def _show(self, where: StepData) -> None:
        where.obs[self.index], where.state[self.index], where.avail[self.index] = self.env.observe()
