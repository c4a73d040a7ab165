"""Figures of a comparison, drawn by rliable where it has the plot. Every figure says in words what it shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rliable import plot_utils

from plugin_hasac.bench.comparison import TOLERANCE, Comparison
from plugin_hasac.bench.records import Record
from plugin_hasac.bench.statistics import (
    Normalizer,
    iqm_over_steps,
    normalized_scores,
    on_one_grid,
    performance_profile,
    probability_of_improvement,
    shared_grid,
)

MAX_PAIRS = 15  # more rows than that nobody reads: then only pairs with the first algorithm are drawn
FONTS: Any = {"labelsize": "medium", "ticklabelsize": "small", "wrect": 4, "hrect": 4}
STYLE: Any = {"svg.hashsalt": "hasac report", "svg.fonttype": "path", "savefig.facecolor": "white"}


LINE_STYLES: Any = ("solid", "dashed", "dashdot", "dotted", (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Picture:
    """A figure with its words.

    Attributes:
        figure: the drawing.
        title: a heading.
        caption: what it shows, numbers included, also for readers who do not see it.
    """

    figure: Figure
    title: str
    caption: str

    def save(self, target: Path) -> None:
        """Write it as PNG and, for papers, as PDF beside it."""
        with mpl.rc_context(STYLE):
            self.figure.savefig(target, dpi=150)
            self.figure.savefig(target.with_suffix(".pdf"), metadata={"CreationDate": None})

    def data_uri(self) -> str:
        """SVG inside a URI, for a page that is one file."""
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


class Palette:
    """One colour and line style for each algorithm, the same in all figures and distinct without colour vision."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        few = len(algorithms) <= 10
        colours = sns.color_palette("colorblind" if few else "husl", len(algorithms))
        self.colours = dict(zip(algorithms, colours))
        self.styles = dict(zip(algorithms, cycle(LINE_STYLES)))


Curve = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # env steps, IQM and band at each


def learning_curves(comparison: Comparison) -> dict[str, dict[str, Curve]]:
    """IQM over seeds with 95% bootstrap bands, by task and algorithm."""

    def curve(runs: Sequence[Record]) -> Curve:
        steps, values = on_one_grid(runs, comparison.metric)
        return steps, *iqm_over_steps(values[:, None])

    return {
        task: {algorithm: curve(runs) for algorithm, runs in by_algorithm.items()}
        for task, by_algorithm in comparison.runs.items()
    }


def curves(
    comparison: Comparison, lines: dict[str, dict[str, Curve]], palette: Palette, task: str | None = None
) -> Picture:
    """One panel of :func:`learning_curves` per task, or one task's alone."""
    tasks = [task] if task else comparison.tasks
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 3.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    words = []
    for panel, name in zip(panels, tasks):
        ends = []
        for algorithm, (steps, iqm, band) in lines[name].items():
            _line(panel, steps, iqm, band, algorithm, palette)
            ends.append(f"{algorithm} {iqm[-1]:.4g} at step {steps[-1]:,.0f}")
        if panel.get_xlim()[1] > 1.1 * comparison.at_step:
            panel.axvline(comparison.at_step, color="0.35", linewidth=1, linestyle=":")
        _decorate(
            panel, "env steps", f"test {comparison.metric}", "" if task else name
        )  # a title stands above a task's own figure
        words.append(f"{name}: {', '.join(ends)}.")
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    _legend(figure, panels[: len(tasks)])
    title = f"Learning curve on {task}" if task else "Learning curves"
    caption = f"Test {comparison.metric} over env steps, interquartile mean over seeds. {' '.join(words)}"
    return Picture(figure, title, caption)


def profiles(comparison: Comparison, palette: Palette) -> Picture:
    """Performance profiles: the fraction of runs above each normalised score."""
    thresholds = np.linspace(0.0, 1.0, 101)
    values, bands = {}, {}
    for algorithm, scores in normalized_scores(comparison).items():
        values[algorithm], band = performance_profile(scores, thresholds)
        if band is not None:
            bands[algorithm] = band
    figure, panel = _single()
    plot_utils.plot_performance_profiles(
        values,
        thresholds,
        performance_profile_cis=bands,
        ax=panel,
        colors=palette.colours,
        linestyles=palette.styles,
        xlabel=r"normalised score $\tau$",
        ylabel=r"fraction of runs with score > $\tau$",
        **FONTS,
    )
    _legend(figure, [panel])
    halves = ", ".join(f"{algorithm} {profile[50]:.0%}" for algorithm, profile in values.items())
    return Picture(
        figure, "Performance profiles", f"Fraction of runs above a normalised score. Above one half: {halves}."
    )


def improvement(comparison: Comparison, palette: Palette) -> Picture | None:
    """Probability that a run of one algorithm scores higher than one of another; None with a single algorithm."""
    matrices = normalized_scores(comparison)
    names = list(matrices)
    pairs = [(first, second) for number, first in enumerate(names) for second in names[number + 1 :]]
    if len(pairs) > MAX_PAIRS:
        pairs = pairs[: len(names) - 1]
    if not pairs:
        return None
    separator = "\n"
    values, intervals, words = {}, {}, []
    for first, second in reversed(pairs):  # the plot fills from below
        value, interval = probability_of_improvement(matrices[first], matrices[second])
        key = separator.join((first, second))
        values[key] = value
        intervals[key] = np.array(interval or (value, value))
        text = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        words.append(f"{first} over {second} {value:.2f}{text}")
    figure, panel = _single(height=1.2 + 0.34 * len(pairs))
    plot_utils.plot_probability_of_improvement(
        values,
        intervals,
        pair_separator=separator,
        ax=panel,
        colors=[palette.colours[key.split(separator)[0]] for key in values],
        xlabel="P(X > Y)",
        left_ylabel="X",
        right_ylabel="Y",
        xticks=[0.0, 0.25, 0.5, 0.75, 1.0],
        **{key: FONTS[key] for key in ("labelsize", "ticklabelsize")},
    )
    panel.axvline(0.5, color="0.35", linewidth=1, linestyle=":")
    panel.set_xlim(-0.02, 1.02)
    figure.set_layout_engine("constrained", rect=(0.0, 0.0, 1.0, 0.95))  # room for X and Y above
    caption = f"Probability that a run of the first scores higher than one of the second: {'; '.join(reversed(words))}."
    return Picture(figure, "Probability of improvement", caption)


def efficiency(comparison: Comparison, palette: Palette) -> Picture:
    """Sample efficiency: IQM of normalised scores over all shared tasks against env steps."""
    normalize = Normalizer(comparison)
    tasks = comparison.shared_tasks
    runs = [run for task in tasks for group in comparison.runs[task].values() for run in group]
    grid = shared_grid(runs, (1 + TOLERANCE) * comparison.at_step)
    figure, panel = _single()
    ends = []
    for algorithm in comparison.algorithms:
        groups = [comparison.runs[task][algorithm] for task in tasks]
        n = min(map(len, groups))
        columns = [
            normalize(task, on_one_grid(group[:n], comparison.metric, grid)[1]) for task, group in zip(tasks, groups)
        ]
        iqm, band = iqm_over_steps(np.stack(columns, axis=1))
        _line(panel, grid, iqm, band, algorithm, palette)
        ends.append(f"{algorithm} {iqm[-1]:.2f}")
    _decorate(panel, "env steps", f"IQM of normalised {comparison.metric}")
    _legend(figure, [panel])
    caption = f"IQM of normalised scores over tasks and seeds against env steps; at the end: {', '.join(ends)}."
    return Picture(figure, "Sample efficiency", caption)


def _single(height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    return figure, figure.subplots()


def _line(
    panel: Axes, steps: np.ndarray, values: np.ndarray, band: np.ndarray | None, algorithm: str, palette: Palette
) -> None:
    """One algorithm's curve, as rliable draws sample efficiency."""
    plot_utils.plot_sample_efficiency_curve(
        steps,
        {algorithm: values},
        {algorithm: np.array([values, values]) if band is None else band},
        colors=palette.colours,
        ax=panel,
        marker="o" if len(steps) == 1 else "",
        linewidth=2.4 if algorithm == "hasac" else 1.6,
        **FONTS,
    )
    panel.lines[-1].set_linestyle(palette.styles[algorithm])


def _decorate(panel: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    panel.set_xlabel(xlabel)
    panel.set_ylabel(ylabel)
    panel.set_title(title, fontsize="medium")
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend below, with every algorithm of any panel."""
    columns = max(2, int(figure.get_figwidth() / 1.3))
    handles = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels())}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), columns), frameon=False
    )
