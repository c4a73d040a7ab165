"""The learning curve of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot_learning_curve(tests: Sequence[tuple[int, float]], title: str, target: Path) -> None:
    """Write a PNG of one run's mean test return over env steps.

    Args:
        tests: (env steps, mean return) of each test.
        title: of the figure.
        target: the file.
    """
    from matplotlib.figure import Figure  # slow to import, and used once at the end

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*tests), marker="o", markersize=3)
    axes.set(title=title, xlabel="env steps", ylabel="mean test return")
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=150)
