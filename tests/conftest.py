"""Shared helpers: tiny tasks, filled replays, and the real command line in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plugin_hasac.bench.records import Record
from plugin_hasac.components.replay import StepData, StepReplay
from plugin_hasac.components.task import Task

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
torch.set_num_threads(1)  # as hosts do; tiny tensors gain nothing from more


def blank(task: Task, n_envs: int, value: float = 0.0) -> StepData:
    """Observations and states filled with one number, everything available."""
    return StepData(
        obs=np.full((n_envs, task.n_agents, task.obs_dim), value, np.float32),
        state=np.full((n_envs, task.state_dim), value, np.float32),
        avail=np.ones((n_envs, task.n_agents, task.avail_dim), bool),
    )


def matrix_game_replay(
    payoff: np.ndarray, seed: int = 0, n_steps: int = 100, n_envs: int = 10
) -> tuple[Task, StepReplay]:
    """A replay of uniformly random joint actions in a one-shot matrix game."""
    task = Task.discrete(payoff.ndim, 1, 1, max(payoff.shape), 1)
    replay = StepReplay(task, 4 * n_envs * n_steps, n_envs, CPU, seed)
    now, over = blank(task, n_envs, 1.0), np.ones(n_envs, bool)
    now.avail[:] = [[action < size for action in range(task.avail_dim)] for size in payoff.shape]
    replay.start(now)
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        actions = np.stack([rng.integers(0, size, n_envs) for size in payoff.shape], axis=1)
        replay.add(actions[..., None], payoff[tuple(actions.T)], over, over, now, now)
    return task, replay


@dataclass(frozen=True)
class Finished:
    """A finished command: exit code, output, and the folder it ran in."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    def runs(self, name: str) -> list[Path]:
        """Sacred folders of an algorithm, oldest first."""
        found = (self.folder / "results" / "sacred" / name).glob("*/[0-9]*")
        return sorted(found, key=lambda path: int(path.name))

    def info(self, name: str, run: int = -1) -> dict:
        """sacred's info.json of one run."""
        return json.loads((self.runs(name)[run] / "info.json").read_text())


Cli = Callable[..., Finished]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs ``python main.py …`` of the checkout in an empty folder."""

    def call(
        *arguments: str,
        entry: tuple[str, ...] = (str(ROOT / "main.py"),),
        timeout: float = 300,
        environment: dict[str, str] | None = None,
    ) -> Finished:
        done = subprocess.run(
            [sys.executable, *entry, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr, tmp_path)

    return call


@pytest.fixture
def double_precision() -> Iterator[None]:
    """New tensors have float64 numbers, for comparisons that rounding would blur."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_record(algorithm: str, seed: int, returns: list[float], task: str = "game", **fields: Any) -> Record:
    """A run tested at steps 0, 500, 1000, … (or ``steps=``)."""
    steps = fields.pop("steps", [500 * number for number in range(len(returns))])
    settings = fields.pop("settings", {})
    return Record(algorithm, task, seed, steps, returns, settings=settings, machine={}, **fields)
