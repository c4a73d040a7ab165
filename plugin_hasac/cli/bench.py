"""``hasac bench``: make the runs of a suite, here, on a Ray cluster or through Slurm."""

from __future__ import annotations

import shlex
import signal
import sys
from collections import Counter
from pathlib import Path

from plugin_hasac.bench.conduct import conduct, entries, interruptions
from plugin_hasac.bench.launchers import Launcher
from plugin_hasac.bench.launchers import slurm as slurm_jobs
from plugin_hasac.bench.ledger import Entry, State
from plugin_hasac.bench.suite import Run, Suite, read_suite
from plugin_hasac.cli.board import Board, problem
from plugin_hasac.errors import RunFailedError, UserError


def bench(
    name: str,
    *,
    folder: str | None = None,
    only: str | None = None,
    ray: str | None = None,
    slurm: str | None = None,
    dry_run: bool = False,
) -> None:
    """Make what is missing of a suite.

    Args:
        name: path of a suite, or the name of a shipped one.
        folder: for results, instead of the suite's own.
        only: index or identity of the one run to make.
        ray: address of a Ray cluster.
        slurm: ``print`` or ``submit`` an array job.
        dry_run: list the runs and their commands, and start nothing.

    Raises:
        UserError: if the suite is wrong, or what was asked for does not fit together.
        RunFailedError: if a run failed.
        KeyboardInterrupt: after Ctrl-C, when everything has been ended.
    """
    chosen = [f"--{key}" for key, value in {"only": only, "ray": ray, "slurm": slurm}.items() if value]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} exclude each other.")
    suite = read_suite(name, folder)
    runs = (suite.find(only),) if only else suite.runs
    found = entries(suite, runs)
    todo = [run for run in runs if found[run].state in (State.MISSING, State.FAILED)]
    if dry_run:
        _list(suite, found)
    elif slurm and not todo:
        print("hasac: nothing is missing", file=sys.stderr)
    elif slurm == "print":
        print(slurm_jobs.script(suite, todo), end="")
    elif slurm:
        print(f"array job {slurm_jobs.submit(suite, todo)}: {len(todo)} runs; results in {suite.folder}")
    else:
        _make(suite, found, todo, ray)


def _make(suite: Suite, before: dict[Run, Entry], todo: list[Run], ray: str | None) -> None:
    launcher = _launcher(suite, ray) if todo else None  # before the signals are taken over, since Ray takes them too
    complete = sum(entry.state is State.COMPLETED for entry in before.values())
    with interruptions() as interruption, Board(sys.stderr, len(before), complete, todo) as board:
        if launcher:
            conduct(suite, todo, launcher, board, interruption)
    after = entries(suite, list(before))
    _summary(suite, after)
    if interruption.signal:
        print("the same command makes the rest")
        if interruption.signal == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + interruption.signal)
    bad = sum(entry.state is not State.COMPLETED for entry in after.values())
    if bad:
        raise RunFailedError(f"{bad} of {len(after)} runs are not complete; the same command tries them again.")


def _launcher(suite: Suite, ray: str | None) -> Launcher:
    if ray:
        from plugin_hasac.bench.launchers.ray import Ray

        return Ray(suite, ray)
    from plugin_hasac.bench.launchers.local import Local

    return Local(suite)


def _list(suite: Suite, found: dict[Run, Entry]) -> None:
    for run, entry in found.items():
        print(f"{run.index:4}  {run.identity}  {entry.state.value:9}  {run.command_line}")
    print(f"{_counts(found)}; results in {suite.folder}")


def _summary(suite: Suite, found: dict[Run, Entry]) -> None:
    for run, entry in found.items():
        if entry.state is not State.COMPLETED and entry.status.get("state") == State.FAILED.value:
            print(f"failed  {run.name}: {problem(entry)}\n        log: {entry.log}")
    print(f"{_counts(found)}; results in {suite.folder}")
    tested = [entry.status["test_step"] for entry in found.values() if entry.state is State.COMPLETED]
    if tested:
        place = _shown(suite.folder)
        print(f"report: hasac report {place} --out {place}-report --at-step {min(tested)}")


def _counts(found: dict[Run, Entry]) -> str:
    counts = Counter(entry.state.value for entry in found.values())
    return ", ".join(f"{counts[state.value]} {state.value}" for state in State if counts[state.value])


def _shown(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
