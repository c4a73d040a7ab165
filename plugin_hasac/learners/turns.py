"""Who waits for whom: updates in turns with the stepping of the envs, or beside it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class InTurns:
    """Work is done when :meth:`run` returns."""

    def run(self, work: Callable[[], None]) -> None:
        """Do it."""
        work()

    def wait(self) -> None:
        """Until all work is done."""


class Beside(InTurns):
    """Work is done by a thread of its own, in the order in which it came.

    Launching CUDA graphs holds their caller up once a GPU's queue is full, but needs no Python meanwhile.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "updates")
        self._last: Future[None] | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Begin it once earlier work is done; raises what that raised."""
        self.wait()
        self._last = self._thread.submit(work)

    def wait(self) -> None:
        """Until all work is done; raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
