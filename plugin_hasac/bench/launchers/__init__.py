"""Where the runs of a suite are made: on this machine, on a Ray cluster, or as a Slurm array job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from plugin_hasac.bench.suite import Run, Suite
from plugin_hasac.bench.supervisor import Job


class Handle(Protocol):
    """A started run."""

    def over(self) -> bool:
        """Whether it has ended, in whatever way."""


class Launcher(Protocol):
    """Starts runs. What came of them is in what they leave behind, see :mod:`plugin_hasac.bench.ledger`."""

    capacity: int  # runs to start at once

    def start(self, run: Run) -> Handle:
        """Start a run."""

    def stop(self) -> None:
        """End all that was started, and wait until nothing of it is left."""


def make_job(suite: Suite, run: Run) -> Job:
    """What it takes to make a run anywhere that sees the same files."""
    about = {"algorithm": run.algorithm, "task": run.task, "seed": run.seed, "identity": run.identity}
    environment = {**suite.resources.environment(), "PYTHONPATH": python_path()}
    folder = str(run.folder)
    return Job(str(suite.folder), folder, list(run.command), about, str(Path.cwd()), environment)


def python_path() -> str:
    """``PYTHONPATH`` with which another process imports this very plugin."""
    package = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
