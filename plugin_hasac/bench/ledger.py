"""What runs have left behind: the one place where a suite's state is read from."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from plugin_hasac.bench.tracking import PROGRESS_FILE, read_json

STATUS_FILE = "status.json"
LOCK_FILE = "lock"
CONSOLE = "console.log"


class State(Enum):
    """Of a run. What was interrupted is missing: nothing else tells the two apart."""

    MISSING = "missing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    """What a run has left behind.

    Attributes:
        state: of the run.
        status: content of its status file; of another run in the same place if the suite was changed.
        progress: content of the file that a run keeps up to date.
        folder: of the run.
    """

    state: State
    status: dict[str, Any]
    progress: dict[str, Any]
    folder: Path

    @property
    def log(self) -> Path:
        """Everything that the run printed."""
        return self.folder / CONSOLE


def look(folder: Path, identity: str) -> Entry:
    """Read a run's state.

    Args:
        folder: of the run.
        identity: which run is meant; another one in this folder counts as missing.
    """
    status = read_json(folder / STATUS_FILE)
    state = State.MISSING
    if is_locked(folder):
        state = State.RUNNING
    elif status.get("identity") == identity:
        if status.get("state") == State.FAILED.value:
            state = State.FAILED
        elif is_complete(folder, status):
            state = State.COMPLETED
    return Entry(state, status, read_json(folder / PROGRESS_FILE), folder)


def is_complete(folder: Path, status: dict[str, Any]) -> bool:
    """Whether status file and sacred's record both say that the run came to its end."""
    record = folder / str(status.get("record"))
    return status.get("state") == State.COMPLETED.value and read_json(record / "run.json").get("status") == "COMPLETED"


# The lock is the kernel's: it ends with the process that holds it, however that ends.


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a run's folder; yields False if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_locked(folder: Path) -> bool:
    """Whether a process is making this run right now."""
    try:
        with (folder / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or none of this file system's locks
        return False
    return False
