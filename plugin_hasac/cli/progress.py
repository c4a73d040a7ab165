"""Live progress of one run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Follows the statistics that a host logs, so it works for every algorithm. A context manager and an observer.

    Args:
        terminal: where to show it.
        config: the run's merged config.

    Attributes:
        tests: (t_env, mean test return) of every test so far.
    """

    def __init__(self, terminal: IO[str], config: dict[str, Any]) -> None:
        self.name = config["name"]
        self.t_max = int(config["t_max"])
        self.tests: list[tuple[int, float]] = []
        self.t_env = 0
        self._train_return = float("nan")
        self._started = self._last_line = time.monotonic()
        self._terminal = terminal
        self._bar = RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[returns]}"),
            console=Console(file=terminal),
            disable=not terminal.isatty(),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(self.name, total=self.t_max, returns="starting")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._bar.stop()

    def __call__(self, key: str, value: Any, t_env: int) -> None:
        """Take in one statistic."""
        new_test = key == "test_return_mean"
        if new_test:
            self.tests.append((int(t_env), float(value)))
        elif key == "return_mean":
            self._train_return = float(value)
        if t_env <= self.t_env and not new_test:
            return
        self.t_env = max(self.t_env, int(t_env))
        test = f"{self.tests[-1][1]:.2f}" if self.tests else "–"
        returns = f"return {self._train_return:.2f}, test {test}"
        self._bar.update(self._task, completed=min(self.t_env, self.t_max), returns=returns)
        if not self._terminal.isatty() and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            rate = self.t_env / (self._last_line - self._started)
            left = max(0, self.t_max - self.t_env) / max(rate, 1e-9)
            steps = f"{self.t_env:,}/{self.t_max:,} steps  {rate:.0f} steps/s  {left / 60:.1f} min left"
            print(f"{self.name}  {steps}  {returns}", file=self._terminal)
