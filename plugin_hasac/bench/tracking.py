"""How a suite follows its runs: a small file that ``hasac run`` keeps up to date on request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Names a folder: 'hasac run' then keeps progress.json and the host's console output there, and the default host its
# results. An environment variable and no option, so that a run's command line is the same inside a suite and outside.
RUN_FOLDER = "HASAC_RUN_FOLDER"
PROGRESS_FILE = "progress.json"
HOST_LOG = "host.log"
SECONDS_BETWEEN_WRITES = 1.0


def run_folder() -> Path | None:
    """The folder that the environment asks for, or None."""
    folder = os.environ.get(RUN_FOLDER)
    return Path(folder) if folder else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file so that readers see the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(values, indent=1) + "\n")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty where there is none or it is damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


class ProgressFile:
    """Writes where a run stands: an observer of the statistics that a host logs.

    The file holds ``t_env`` and ``t_max`` (env steps), ``steps_per_second``, ``test_step`` and ``test_return`` (env
    steps at the last test and its mean return, or null) and ``record`` (the folder of sacred's record, or null).

    Args:
        folder: to write to.
        t_max: env steps of the run.
        record: gives the folder of sacred's record.
    """

    def __init__(self, folder: Path, t_max: int, record: Callable[[], Path | None]) -> None:
        self._path = folder / PROGRESS_FILE
        self._record = record
        self._started, self._written = time.monotonic(), 0.0
        self._values: dict[str, Any] = {"t_env": 0, "t_max": t_max, "test_step": None, "test_return": None}

    def __call__(self, key: str, value: Any, t_env: int) -> None:
        """Take in one statistic."""
        values = self._values
        values["t_env"] = max(values["t_env"], int(t_env))
        if key == "test_return_mean":
            values["test_step"], values["test_return"] = int(t_env), float(value)
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Bring the file up to date."""
        self._written = time.monotonic()
        record = self._record()
        rate = self._values["t_env"] / max(self._written - self._started, 1e-9)
        write_json(
            self._path,
            {**self._values, "steps_per_second": round(rate, 1), "record": str(record.resolve()) if record else None},
        )
