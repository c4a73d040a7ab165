"""Env steps per second through the vector env: in this process and with workers, beside the env stepped by itself.

    python benchmarks/stepping.py [--env spread] [--workers 0,1,2,4,8,16] [--envs-per-worker 4] [--json FILE]

The policy is trivial: the same random actions again and again. "alone" is the env's library stepped in a bare loop.
Everything is measured in turns, and the ratios are between medians of one run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from learner import processor
from rich.console import Console
from rich.table import Table

from plugin_hasac.components.task import Task
from plugin_hasac.envs import REGISTRY
from plugin_hasac.hosts.envs import HostEnv
from plugin_hasac.vector.contract import Outcome, StepEnv
from plugin_hasac.vector.vector_env import VectorEnv


class BusyEnv:
    """Works for 5 ms per step, about what StarCraft II takes for a battle of SMAC; 5 agents, episodes of 60 steps."""

    task = Task.discrete(5, 72, 98, 12, 60)
    draws_globally = False
    seconds = 5e-3

    def __init__(self) -> None:
        self.t = 0
        self.shown = (
            np.zeros((5, 72), np.float32),
            np.zeros(98, np.float32),
            np.ones((5, 12), bool),
        )

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode."""
        self.t = 0

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Zeros."""
        return self.shown

    def step(self, actions: np.ndarray) -> Outcome:
        """Burn the time."""
        until = time.perf_counter() + self.seconds
        while time.perf_counter() < until:
            pass
        self.t += 1
        return Outcome(1.0, False, self.t == 60)

    def close(self) -> None:
        """Nothing to close."""


ENVS: dict[str, tuple[str, dict[str, Any]]] = {
    "spread": ("mpe", {"scenario": "simple_spread"}),
    "halfcheetah": ("mamujoco", {"scenario": "HalfCheetah", "agent_conf": "2x3"}),
    "busy": ("", {}),
}


def make(env: str, seed: int) -> StepEnv:
    """One env as the runner has it."""
    name, env_args = ENVS[env]
    return HostEnv(name, REGISTRY[name](**env_args, seed=seed), True) if name else BusyEnv()


def alone(env: str) -> Callable[[np.ndarray], None]:
    """Takes one step of the env's library, given the actions ``(n_agents, width)``."""
    plugin_env = make(env, 0)
    plugin_env.reset(0)
    if env == "spread":
        library = plugin_env.env.env  # type: ignore[attr-defined]

        def step(actions: np.ndarray) -> None:
            *_, truncated, _ = library.step(dict(zip(library.possible_agents, actions[:, 0].tolist())))
            if any(truncated.values()):
                library.reset()
    elif env == "halfcheetah":
        robots = plugin_env.env.env  # type: ignore[attr-defined]

        def step(actions: np.ndarray) -> None:
            _, _, terminated, truncated, _ = robots.step(dict(zip(robots.possible_agents, actions)))
            if any(terminated.values()) or any(truncated.values()):
                robots.reset()
    else:

        def step(actions: np.ndarray) -> None:
            plugin_env.step(actions)

    return step


def steps_per_second(work: Callable[[], int], seconds: float) -> float:
    """Rate of something that tells how many env steps it has made, over at least ``seconds``."""
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        done += work()
    return done / elapsed


def step_all(vector: VectorEnv, actions: Iterator[np.ndarray]) -> int:
    """One step of every env."""
    vector.step(next(actions))
    return vector.n_envs


def measure(env: str, workers: list[int], envs_per_worker: int, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Median rates of every number of workers, and of the env alone."""
    task, rng = make(env, 0).task, np.random.default_rng(0)
    contenders: dict[str, Callable[[], int]] = {}
    closers: list[Callable[[], None]] = []

    def actions(n_envs: int) -> Iterator[np.ndarray]:
        avail = np.ones((n_envs, task.n_agents, task.avail_dim), bool)
        return itertools.cycle([task.uniform_actions(rng, avail) for _ in range(64)])

    single, stream = alone(env), actions(1)

    def by_itself() -> int:
        single(next(stream)[0])
        return 1

    contenders["alone"] = by_itself
    for count in workers:
        n_envs = max(count, 1) * envs_per_worker
        makers = [partial(make, env, seed) for seed in range(n_envs)]
        vector = VectorEnv(task, makers, range(n_envs), workers=count, auto_reset=True)
        vector.reset()
        closers.append(vector.close)

        contenders[str(count)] = partial(step_all, vector, actions(n_envs))
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, work in contenders.items():
            rate = steps_per_second(work, seconds if repeat else 0.2)
            if repeat:  # the first turn warms up
                rates[name].append(rate)
    for close in closers:
        close()
    baseline = float(np.median(rates["alone"]))
    rows = []
    for name, values in rates.items():
        low, median, high = np.percentile(values, [25, 50, 75])
        n_envs = 1 if name == "alone" else max(int(name), 1) * envs_per_worker
        row = {"env": env, "workers": name, "envs": n_envs, "steps_per_second": round(float(median), 1)}
        row |= {"low": round(float(low), 1), "high": round(float(high), 1)}
        rows.append(row | {"ratio_to_alone": round(float(median) / baseline, 3)})
    return rows


def main() -> None:
    """Measure the envs that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="spread,halfcheetah,busy", help=f"of {', '.join(ENVS)}")
    parser.add_argument("--workers", default="0,1,2", help="numbers of worker processes; 0: in this process")
    parser.add_argument("--envs-per-worker", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    where = f"{processor()}, {len(os.sched_getaffinity(0))} cores"
    table = Table("env", "workers", "envs", "steps/s", "25% to 75%", "times alone", title=f"Stepping on {where}")
    rows = []
    for env in options.env.split(","):
        if env not in ENVS:
            parser.error(f"--env: {env!r} is not one of {', '.join(ENVS)}")
        workers = [int(word) for word in options.workers.split(",")]
        for row in measure(env, workers, options.envs_per_worker, options.repeats, options.seconds):
            spread = f"{row['low']:,.0f} to {row['high']:,.0f}"
            rate, ratio = f"{row['steps_per_second']:,.0f}", f"{row['ratio_to_alone']:.2f}"
            table.add_row(row["env"], row["workers"], str(row["envs"]), rate, spread, ratio)
            rows.append(row | {"machine": where})
    Console(width=120).print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
