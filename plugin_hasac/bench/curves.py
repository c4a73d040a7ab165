"""Learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plugin_hasac.bench.records import Record


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


def plot_comparison(records: Sequence[Record], target: Path) -> None:
    """Write a PNG with one panel per task: mean over seeds of each algorithm, with a band of one standard deviation.

    Args:
        records: runs; an algorithm's runs are compared at the number of tests that all its seeds reached.
        target: the file.
    """
    from matplotlib.figure import Figure

    tasks = sorted({record.task for record in records})
    algorithms = sorted({record.algorithm for record in records}, key=lambda name: (name != "hasac", name))
    figure = Figure(figsize=(4.8 * len(tasks), 3.8), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks):
        for number, algorithm in enumerate(algorithms):
            runs = [record for record in records if (record.task, record.algorithm) == (task, algorithm)]
            if not runs:
                continue
            length = min(len(run.steps) for run in runs)
            steps = np.mean([run.steps[:length] for run in runs], axis=0)
            returns = np.array([run.test_returns[:length] for run in runs])
            mean, spread = returns.mean(0), returns.std(0)
            width = 2.4 if algorithm == "hasac" else 1.3
            panel.plot(steps, mean, label=f"{algorithm} ({len(runs)})", color=f"C{number}", linewidth=width)
            panel.fill_between(steps, mean - spread, mean + spread, color=f"C{number}", alpha=0.15, linewidth=0)
        panel.set(title=task, xlabel="env steps")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean test return")
    panels[-1].legend(title="algorithm (seeds)", fontsize="small")
    figure.savefig(target, dpi=130)
