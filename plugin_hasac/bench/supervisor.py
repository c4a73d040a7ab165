"""Makes one run of a suite in a process of its own, leaves no process behind and nothing half-recorded.

``python -m plugin_hasac.bench.supervisor JOB PARENT``, with a :class:`Job` as JSON and the id of the process that
asks for it: when that ends, so does the run. Every launcher starts runs in this way.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from plugin_hasac.bench.ledger import CONSOLE, LOCK_FILE, STATUS_FILE, State, is_complete, locked
from plugin_hasac.bench.tracking import PROGRESS_FILE, RUN_FOLDER, read_json, write_json

GRACE = 3.0  # seconds from SIGTERM to SIGKILL
BUSY = 75  # exit code: another process is making this run
INTERRUPTED = 130
WAITED_FOR = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        root: the suite's folder.
        folder: the run's folder in it.
        command: the ``hasac run`` command line.
        about: ``algorithm``, ``task``, ``seed`` and ``identity``, for the status file.
        directory: working directory of the run.
        environment: variables to set.
    """

    root: str
    folder: str
    command: list[str]
    about: dict[str, Any]
    directory: str
    environment: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """Python's arguments that make the run; the parent's process id has to follow."""
        return ["-m", "plugin_hasac.bench.supervisor", json.dumps(asdict(self))]


def supervise(job: Job, parent: int) -> int:
    """Make the run; the exit code says how it went, and the status file too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)  # they wait until someone asks, so none comes at a bad time
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the run orphans becomes a child of this process
    if os.getppid() != parent:  # it ended before the first of these lines
        return INTERRUPTED
    root, folder = Path(job.root), Path(job.root) / job.folder
    with locked(folder) as free:
        if not free:
            return BUSY
        status = read_json(folder / STATUS_FILE)
        if status.get("identity") == job.about["identity"] and is_complete(folder, status):
            return 0
        make_room(root, folder, status)
        started = datetime.now().astimezone()
        status = {
            "state": State.RUNNING.value,
            **job.about,
            "command": shlex.join(job.command),
            "directory": job.directory,
            "machine": platform.node(),
            "started": started.isoformat(timespec="seconds"),
        }
        write_json(folder / STATUS_FILE, status)
        code = run(job, folder)
        if code is None:
            return INTERRUPTED
        finished = datetime.now().astimezone()
        status["finished"] = finished.isoformat(timespec="seconds")
        status["seconds"] = round((finished - started).total_seconds(), 1)
        status |= verdict(folder, code)
        write_json(folder / STATUS_FILE, status)
        return int(status["state"] != State.COMPLETED.value)


def run(job: Job, folder: Path) -> int | None:
    """The command's exit code; None if this process was told to stop. Either way none of its processes is left."""
    command = [sys.executable, "-m", "plugin_hasac", *job.command[1:]]
    environment = {**os.environ, **job.environment, RUN_FOLDER: str(folder)}
    with (
        tempfile.TemporaryDirectory(prefix="hasac-", ignore_cleanup_errors=True) as temporary,
        (folder / CONSOLE).open("w") as console,
    ):
        environment["TMPDIR"] = temporary  # sacred leaves files there when it is killed
        child = subprocess.Popen(
            command,
            cwd=job.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_prepare,  # noqa: PLW1509 (this process has one thread)
        )
        try:
            while child.poll() is None:
                if signal.sigwait(WAITED_FOR) != signal.SIGCHLD:
                    return None
            return child.returncode
        finally:
            end_children()


def _prepare() -> None:
    """In the new process: no blocked signals, and no life after this one's."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITED_FOR)
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_children() -> None:
    """End every process that is left of the run, with its whole group (on Linux, as all of this)."""
    deadline, told = time.monotonic() + GRACE, set()
    while children := _children():
        for pid in children:
            late = time.monotonic() > deadline
            if late or pid not in told:
                told.add(pid)
                _signal(pid, signal.SIGKILL if late else signal.SIGTERM)
        _reap()
        time.sleep(0.02)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number) if os.getpgid(pid) == pid else os.kill(pid, number)


def _children() -> list[int]:
    """Processes whose parent is this one."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def make_room(root: Path, folder: Path, status: dict[str, Any]) -> None:
    """Remove what an earlier try left; a complete run of other settings goes beside the suite's folder instead."""
    keep = is_complete(folder, status)
    record = Path(read_json(folder / PROGRESS_FILE).get("record") or folder)
    if not record.is_relative_to(folder) and read_json(record / "run.json").get("status") != "COMPLETED":
        shutil.rmtree(record, ignore_errors=True)  # what an interrupted run left in its host's checkout
    aside = root.with_name(f"{root.name}-superseded") / f"{folder.relative_to(root)}-{status.get('identity')}"
    for entry in folder.iterdir():
        if entry.name == LOCK_FILE:
            continue
        if keep:
            aside.mkdir(parents=True, exist_ok=True)
            shutil.move(entry, aside / entry.name)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def verdict(folder: Path, code: int) -> dict[str, Any]:
    """What a finished command has achieved: entries of the status file."""
    progress = read_json(folder / PROGRESS_FILE)
    found = progress.get("record")
    record = _into(folder, Path(found)) if found and Path(found).is_dir() else None
    entries: dict[str, Any] = {
        "state": State.FAILED.value,
        "record": str(record.relative_to(folder)) if record else None,
    }
    entries |= {key: progress.get(key) for key in ("t_env", "test_step", "test_return")}
    said = [line for line in (folder / CONSOLE).read_text(errors="replace").splitlines() if line.startswith("hasac: ")]
    if code < 0:
        entries["problem"] = f"killed by {signal.Signals(-code).name}"
    elif code > 0:
        entries["problem"] = said[-1].removeprefix("hasac: ") if said else f"exit code {code}"
    elif record is None or read_json(record / "run.json").get("status") != "COMPLETED":
        entries["problem"] = "ended without a complete sacred record"
    elif progress.get("test_step") is None:
        entries["problem"] = "ended without a test"
    else:
        entries["state"] = State.COMPLETED.value
    return entries


def _into(folder: Path, record: Path) -> Path:
    """Hosts in a checkout record there; their records move to the run's folder."""
    if record.is_relative_to(folder):
        return record
    target = folder / "results" / "sacred" / record.name
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(record, target))


if __name__ == "__main__":
    sys.exit(supervise(Job(**json.loads(sys.argv[1])), int(sys.argv[2])))
