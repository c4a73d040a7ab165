"""Runs as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from plugin_hasac.bench.launchers import make_job
from plugin_hasac.bench.suite import Run, Suite


@dataclass
class LocalHandle:
    """A supervisor's process, and the place in ``places`` that it takes."""

    process: subprocess.Popen[bytes]
    place: dict[str, str]

    def over(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None


class Local:
    """See :class:`plugin_hasac.bench.launchers.Launcher`.

    Args:
        suite: whose runs to start.

    Raises:
        UserError: if the machine lacks the GPUs that a run needs.
    """

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._places = suite.resources.places()
        self._started: list[LocalHandle] = []
        self.capacity = len(self._places)

    def start(self, run: Run) -> LocalHandle:
        """Start a run on a place that is free."""
        self._started = [handle for handle in self._started if not handle.over()]
        taken = [id(handle.place) for handle in self._started]
        place = next(place for place in self._places if id(place) not in taken)
        job = make_job(self._suite, run)
        process = subprocess.Popen(
            [sys.executable, *job.arguments(), str(os.getpid())],
            env={**os.environ, **job.environment, **place},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which then ends the others
        )
        self._started.append(LocalHandle(process, place))
        return self._started[-1]

    def stop(self) -> None:
        """End all supervisors, which end their runs."""
        for handle in self._started:
            handle.process.terminate()
        for handle in self._started:
            handle.process.wait()
