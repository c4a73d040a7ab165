"""Live progress of a suite: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from plugin_hasac.bench.ledger import Entry, State
from plugin_hasac.bench.suite import Run

SECONDS_BETWEEN_LINES = 30.0
ROWS = 20  # running runs that are shown at once


class Board:
    """Shows a suite at work: a context manager and a :class:`plugin_hasac.bench.conduct.Display`.

    Args:
        terminal: where to show it.
        total: how many runs there are.
        before: how many of them are complete already.
        to_make: the runs that will be made.
    """

    def __init__(self, terminal: IO[str], total: int, before: int, to_make: Sequence[Run]) -> None:
        self._console = Console(file=terminal, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True) if terminal.isatty() else None
        self._total, self._completed, self._failed = total, before, 0
        self._steps_to_make = sum(run.t_max for run in to_make)
        self._steps_made = 0
        self._begun: dict[Run, float] = {}
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(Text(line))

    def started(self, run: Run) -> None:
        """A run was handed to the launcher."""
        self._begun[run] = time.monotonic()
        if not self._live:
            self.say(f"started    {run.name}")

    def finished(self, run: Run, entry: Entry) -> None:
        """A run has ended."""
        self._steps_made += run.t_max
        took = _duration(entry.status.get("seconds") or time.monotonic() - self._begun[run])
        if entry.state is State.COMPLETED:
            self._completed += 1
            number = f"{self._completed} of {self._total}"
            value = f"{entry.status['test_return']:.2f}"
            self.say(
                f"completed  {run.name}: test return {value} at step {entry.status['test_step']:,}, {took} ({number})"
            )
            return
        self._failed += 1
        self.say(f"failed     {run.name}: {problem(entry)} ({entry.log})")

    def look(self, active: Sequence[tuple[Run, Entry]]) -> None:
        """Where the started runs stand."""
        running = [(run, entry) for run, entry in active if entry.state is State.RUNNING]
        made = self._steps_made + sum(min(_steps(entry), run.t_max) for run, entry in running)
        if self._live:
            self._live.update(self._table(running, len(active) - len(running), made))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(self._headline(len(running), made))
            for run, entry in running:
                self.say(f"running    {run.name}: {_steps(entry):,}/{run.t_max:,} steps, {_numbers(entry)}")

    def _headline(self, running: int, made: int) -> str:
        elapsed = time.monotonic() - self._started
        left = _duration((self._steps_to_make - made) * elapsed / made) if made else "–"
        counts = f"{self._completed} of {self._total} runs complete, {running} running, {self._failed} failed"
        return f"suite      {counts}; {_duration(elapsed)} so far, {left} left"

    def _table(self, running: Sequence[tuple[Run, Entry]], queued: int, made: int) -> RenderableType:
        table = Table("run", "steps", "", "test return", "steps/s", box=None, padding=(0, 2, 0, 0))
        for run, entry in running[:ROWS]:
            steps = _steps(entry)
            test, rate = entry.progress.get("test_return"), entry.progress.get("steps_per_second")
            bar = ProgressBar(total=run.t_max, completed=min(steps, run.t_max), width=24)
            numbers = ("–" if test is None else f"{test:.2f}", f"{rate:.0f}" if rate else "starting")
            table.add_row(run.name, f"{steps:,}/{run.t_max:,}", bar, *numbers)
        more = len(running) - ROWS
        notes = [f"and {more} more running"] if more > 0 else []
        notes += [f"{queued} handed over, not yet begun"] if queued else []
        return Group(table, *map(Text, notes), Text(self._headline(len(running), made), "bold"))


def problem(entry: Entry) -> str:
    """Why a run is not complete."""
    if entry.state is State.RUNNING:
        return "another process is making this run"
    if entry.state is State.FAILED:
        return str(entry.status.get("problem"))
    return "ended without a word"


def _steps(entry: Entry) -> int:
    return int(entry.progress.get("t_env") or 0)


def _numbers(entry: Entry) -> str:
    test, rate = entry.progress.get("test_return"), entry.progress.get("steps_per_second") or 0
    return f"{rate:.0f} steps/s, test return {'–' if test is None else format(test, '.2f')}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
