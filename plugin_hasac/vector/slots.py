"""The arrays that parallel envs write into, and one env's place in them."""

from __future__ import annotations

import random
from collections.abc import Callable
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


class OwnRandomness:
    """Gives an env the process-wide generators of ``random`` and ``numpy.random`` for itself while it runs.

    Several hosts' envs draw from the global generators. With a private state per env, an episode does not depend on
    which envs share its process, nor on what else the process draws.
    """

    def __init__(self, seed: int) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start both streams anew."""
        self._numpy: Any = np.random.MT19937(seed)
        self._python = random.Random(seed).getstate()

    def __enter__(self) -> None:
        self._outer_numpy, self._outer_python = np.random.get_bit_generator(), random.getstate()
        np.random.set_bit_generator(self._numpy)
        random.setstate(self._python)

    def __exit__(self, *_exc: object) -> None:
        self._numpy, self._python = np.random.get_bit_generator(), random.getstate()
        np.random.set_bit_generator(self._outer_numpy)
        random.setstate(self._outer_python)


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
        self.randomness = OwnRandomness(seed)
        with self.randomness:
            self.env = make_env()

    def reset(self, seed: int | None) -> None:
        """Begin an episode and show its first observation."""
        if seed is not None:
            self.randomness.seed(seed)
        with self.randomness:
            self.env.reset(seed)
            self._show(self.arrays.now)

    def step(self) -> dict[str, Any] | None:
        """Take the action that lies in the arrays; returns the statistics of an episode that ended, else ``None``."""
        arrays, i = self.arrays, self.index
        with self.randomness:
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
                for shown, following in zip(vars(arrays.now).values(), vars(arrays.successor).values()):
                    shown[i] = following[i]
        return outcome.info if ended else None

    def close(self) -> None:
        """Close the env."""
        self.env.close()

    def _show(self, where: StepData) -> None:
        where.obs[self.index], where.state[self.index], where.avail[self.index] = self.env.observe()
