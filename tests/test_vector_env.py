"""Vectorised stepping of the host's real envs."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest

from plugin_hasac.components.task import Task
from plugin_hasac.hosts.pymarlzooplus import PymarlzooplusRunner, _build_env
from plugin_hasac.vector.contract import Outcome
from plugin_hasac.vector.vector_env import VectorEnv

SPREAD = ("gymma", {"key": "mpe:SimpleSpread-3-v0", "time_limit": 7})
FORAGING = ("gymma", {"key": "lbforaging:Foraging-5x5-2p-1f-coop-v3", "time_limit": 9})


def vector_env(name: str, env_args: dict[str, Any], n_envs: int, workers: int, *, auto_reset: bool = True) -> VectorEnv:
    makers = [partial(_build_env, name, env_args, True, seed) for seed in range(n_envs)]
    preload = PymarlzooplusRunner.bridge.worker_modules
    return VectorEnv(makers[0]().task, makers, range(n_envs), workers=workers, auto_reset=auto_reset, preload=preload)


def record(name: str, env_args: dict[str, Any], workers: int, n_envs: int = 5, steps: int = 25) -> list[np.ndarray]:
    """Everything that the envs show under one fixed stream of actions, with the global generators being disturbed."""
    envs = vector_env(name, env_args, n_envs, workers)
    rng, seen = np.random.default_rng(0), []
    try:
        envs.reset()
        for _ in range(steps):
            np.random.random(3)
            random.random()
            shape = (n_envs, envs.task.n_agents, 1)
            envs.step(rng.integers(0, envs.task.avail_dim, shape))
            arrays = envs.arrays
            seen += [arrays.now.obs.copy(), arrays.now.state.copy(), arrays.successor.obs.copy()]
            seen += [arrays.reward.copy(), arrays.terminated.copy(), arrays.ended.copy()]
    finally:
        envs.close()
    return seen


@pytest.mark.parametrize("env", [SPREAD, FORAGING])
def test_same_results_for_every_number_of_workers(env: tuple[str, dict[str, Any]]) -> None:
    expected = record(*env, workers=0)
    for workers in (1, 2, 5):
        for ours, theirs in zip(expected, record(*env, workers=workers), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_envs_differ_from_each_other() -> None:
    envs = vector_env(*SPREAD, n_envs=3, workers=0)
    envs.reset()
    assert not np.array_equal(envs.arrays.now.obs[0], envs.arrays.now.obs[1])
    assert not np.array_equal(envs.arrays.now.obs[1], envs.arrays.now.obs[2])


def test_time_limit_truncates_and_shows_both_observations() -> None:
    envs = vector_env(*SPREAD, n_envs=2, workers=0)
    envs.reset()
    for t in range(1, 15):
        ended = envs.step(np.zeros((2, 3, 1), int))
        at_limit = t % 7 == 0
        assert [index for index, _ in ended] == ([0, 1] if at_limit else [])
        assert not envs.arrays.terminated.any()  # simple spread never terminates
        same = np.array_equal(envs.arrays.now.obs, envs.arrays.successor.obs)
        assert same != at_limit


def test_host_mode_reports_what_the_hosts_own_runner_sees() -> None:
    env = _build_env(*SPREAD, proper_time_limits=False, seed=0)
    env.reset()
    outcomes = [env.step(np.zeros((3, 1), int)) for _ in range(7)]
    assert outcomes[-1].terminated
    assert not outcomes[-1].truncated


def test_seeded_resets_repeat() -> None:
    envs = vector_env(*SPREAD, n_envs=2, workers=0, auto_reset=False)
    first: list[np.ndarray] = []
    for seeds in ([11, 12], [13, 14], [11, 12]):
        envs.reset(seeds)
        first.append(envs.arrays.now.obs.copy())
        envs.step(np.ones((2, 3, 1), int))
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])


def test_an_env_does_not_touch_the_process_wide_generators() -> None:
    envs = vector_env(*SPREAD, n_envs=2, workers=0)
    np.random.seed(5)
    random.seed(5)
    expected = np.random.random(3).tolist(), random.random()
    np.random.seed(5)
    random.seed(5)
    envs.reset()
    envs.step(np.zeros((2, 3, 1), int))
    assert (np.random.random(3).tolist(), random.random()) == expected


class Fragile:
    """Raises at its third step."""

    task = Task.discrete(1, 1, 1, 2, 10)

    def __init__(self) -> None:
        self.t = 0

    def reset(self, seed: int | None = None) -> None:
        pass

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.zeros((1, 1)), np.zeros(1), np.ones((1, 2), bool)

    def step(self, actions: np.ndarray) -> Outcome:
        self.t += 1
        if self.t == 3:
            raise ZeroDivisionError("third step")
        return Outcome(1.0, False, False)

    def close(self) -> None:
        pass


def test_failure_in_a_worker_is_reported() -> None:
    envs = VectorEnv(Fragile.task, [Fragile] * 2, [0, 1], workers=2, auto_reset=True)
    envs.reset()
    envs.step(np.zeros((2, 1, 1)))
    envs.step(np.zeros((2, 1, 1)))
    with pytest.raises(RuntimeError, match="third step"):
        envs.step(np.zeros((2, 1, 1)))
    envs.close()


def test_death_of_a_worker_is_reported() -> None:
    envs = VectorEnv(Fragile.task, [Fragile] * 2, [0, 1], workers=2, auto_reset=True)
    envs.reset()
    envs._backend.processes[1].kill()  # type: ignore[union-attr]
    envs._backend.processes[1].join()  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="worker 1 died"):
        envs.step(np.zeros((2, 1, 1)))
    envs.close()
