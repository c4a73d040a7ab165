"""Makes the runs of a suite that are missing or failed, and tells how that goes."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from plugin_hasac.bench.launchers import Handle, Launcher
from plugin_hasac.bench.ledger import Entry, look
from plugin_hasac.bench.suite import Run, Suite

SECONDS_BETWEEN_LOOKS = 0.25


class Display(Protocol):
    """Shows a suite at work."""

    def started(self, run: Run) -> None:
        """A run was handed to the launcher."""

    def finished(self, run: Run, entry: Entry) -> None:
        """A run has ended."""

    def look(self, active: Sequence[tuple[Run, Entry]]) -> None:
        """Where the started runs stand, several times a second."""


class Interruption:
    """Notes SIGINT and SIGTERM, so that nothing is broken off half-way.

    Attributes:
        signal: the first that came, or None.
    """

    signal: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self.signal = self.signal or number


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """While this lasts, the two signals are noted instead of raised."""
    noted = Interruption()
    before = {number: signal.signal(number, noted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def entries(suite: Suite, runs: Sequence[Run]) -> dict[Run, Entry]:
    """What each run has left behind."""
    return {run: look(suite.folder / run.folder, run.identity) for run in runs}


def conduct(
    suite: Suite, runs: Sequence[Run], launcher: Launcher, display: Display, interruption: Interruption
) -> None:
    """Make runs until all have ended or a signal came.

    Args:
        suite: which they belong to.
        runs: to make.
        launcher: where.
        display: told of everything.
        interruption: looked at all the time.
    """
    waiting, active = deque(runs), dict[Run, Handle]()
    try:
        while (waiting or active) and not interruption.signal:
            while waiting and len(active) < launcher.capacity:
                run = waiting.popleft()
                active[run] = launcher.start(run)
                display.started(run)
            for run in [run for run, handle in active.items() if handle.over()]:
                del active[run]
                display.finished(run, look(suite.folder / run.folder, run.identity))
            display.look(list(entries(suite, list(active)).items()))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        launcher.stop()
