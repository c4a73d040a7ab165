"""Words between two processes: through shared memory while the other side is awake, else through a socket."""

from __future__ import annotations

import os
import select
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

PATIENCE, SHORT_PATIENCE = 5e-3, 5e-4  # seconds; steps of fast envs and of a policy take less than the first
RECHECK = 100  # milliseconds after which a sleeping side looks again: processors may show memory's changes late
_COUNT, _WORD, _ASLEEP = range(3)


def patience(n_workers: int) -> float:
    """Seconds that a side looks for the next word itself before it goes to sleep.

    Who looks keeps a core busy. The main process needs one, and may have a thread of updates that needs another.
    """
    spare = len(os.sched_getaffinity(0)) - n_workers
    return PATIENCE if spare > 1 else SHORT_PATIENCE if spare == 1 else 0.0


class Line:
    """One end of a connection. The ends take turns: a side tells one word, then hears one.

    Waking a sleeping process takes as long as a step of a fast env. While both sides are quick, words pass through
    memory that they share, and nobody sleeps. Objects always pass through a pipe.

    Args:
        objects: this end of the pipe for objects.
        bell: this end of the pair of sockets that wakes a sleeper.
        outgoing: shared memory of what this end tells: how many words, the last one, whether the other side sleeps.
        incoming: of what it hears.
        patience: seconds before it goes to sleep.
    """

    def __init__(self, objects: Connection, bell: Connection, outgoing: Any, incoming: Any, patience: float) -> None:
        self._objects, self._bell, self.patience = objects, bell, patience
        self._blocks = outgoing, incoming
        self._map()

    @classmethod
    def between(cls, context: Any, patience: float) -> tuple[Line, Line]:
        """Both ends; either can be sent to a process that ``context`` starts."""
        objects, bells = context.Pipe(), context.Pipe()
        there, back = context.RawArray("q", 3), context.RawArray("q", 3)
        return (
            cls(objects[0], bells[0], there, back, patience),
            cls(objects[1], bells[1], back, there, patience),
        )

    def _map(self) -> None:
        self._outgoing, self._incoming = (np.frombuffer(block, dtype=np.int64) for block in self._blocks)
        self._heard = 0
        self._visitors = select.poll()
        self._visitors.register(self._bell.fileno(), select.POLLIN)

    def __getstate__(self) -> dict[str, Any]:
        return {"_objects": self._objects, "_bell": self._bell, "patience": self.patience, "_blocks": self._blocks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()

    def tell(self, word: int, message: Any = None) -> None:
        """Tell a word, and send an object if there is one. Raises BrokenPipeError if a sleeping other side is gone."""
        outgoing = self._outgoing
        outgoing[_WORD] = word
        outgoing[_COUNT] += 1
        if outgoing[_ASLEEP]:
            os.write(self._bell.fileno(), b"!")
        if message is not None:
            self._objects.send(message)

    def hear(self) -> int:
        """Wait for a word. Raises EOFError if the other side is gone."""
        incoming, count = self._incoming, self._heard + 1
        if incoming[_COUNT] < count:
            until = time.perf_counter() + self.patience
            while incoming[_COUNT] < count:
                if time.perf_counter() >= until:
                    self._sleep(count)
        self._heard = count
        return int(incoming[_WORD])

    def _sleep(self, count: int) -> None:
        incoming = self._incoming
        incoming[_ASLEEP] = 1
        while incoming[_COUNT] < count:
            if self._visitors.poll(RECHECK) and not os.read(self._bell.fileno(), 64):
                raise EOFError
        incoming[_ASLEEP] = 0

    def receive(self) -> Any:
        """The object behind a word."""
        return self._objects.recv()

    def close(self) -> None:
        """Hang up."""
        self._objects.close()
        self._bell.close()
