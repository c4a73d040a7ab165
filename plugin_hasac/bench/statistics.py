"""Statistics of a handful of runs, by rliable, the tool of Agarwal et al. (2021), arXiv:2108.13264.

All intervals are 95% percentile intervals of the stratified bootstrap over seeds: seeds are drawn with replacement
within each task. They are the same in every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import scipy.stats

from plugin_hasac.bench.comparison import Comparison, values_of
from plugin_hasac.bench.records import Record
from plugin_hasac.errors import UserError

try:
    from rliable import library, metrics
except (ImportError, TypeError) as error:  # TypeError: arch 7.2.0 with pandas 3
    packages = "rliable==1.2.0 arch==7.2.0 'pandas<3' seaborn Jinja2"
    raise UserError(f"packages for reports are missing or too new ({error}): pip install {packages}") from error

REPETITIONS = 2000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """Scores of one algorithm, in the metric's units or normalised.

    Attributes:
        n: number of seeds.
        mean, iqm: mean and interquartile mean over seeds (and tasks).
        deviation: sample standard deviation over seeds (divisor n - 1); None for one seed, and over several tasks.
        mean_interval, iqm_interval: their 95% intervals; None for one seed.
    """

    n: int
    mean: float
    iqm: float
    deviation: float | None
    mean_interval: Interval | None
    iqm_interval: Interval | None


def summarize(scores: np.ndarray) -> Summary:
    """Summarise scores ``(n_seeds, n_tasks)``."""
    n, n_tasks = scores.shape
    deviation = float(scores[:, 0].std(ddof=1)) if n > 1 and n_tasks == 1 else None
    (mean, iqm), interval = _estimate(
        scores, lambda sample: np.array([metrics.aggregate_mean(sample), metrics.aggregate_iqm(sample)])
    )
    if interval is None:
        return Summary(n, mean, iqm, deviation, None, None)
    (mean_low, iqm_low), (mean_high, iqm_high) = interval
    return Summary(n, mean, iqm, deviation, (mean_low, mean_high), (iqm_low, iqm_high))


def best(summaries: Mapping[str, Summary], statistic: str) -> set[str]:
    """The algorithms whose interval of a statistic (``mean`` or ``iqm``) overlaps that of the highest one.

    One seed has no interval; its value stands for it.
    """
    intervals = {
        name: getattr(summary, f"{statistic}_interval") or (getattr(summary, statistic),) * 2
        for name, summary in summaries.items()
    }
    top = max(summaries, key=lambda name: getattr(summaries[name], statistic))
    low, high = intervals[top]
    return {name for name, (other_low, other_high) in intervals.items() if other_high >= low and other_low <= high}


def iqm_over_steps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """IQM at each step of ``(n_seeds, n_tasks, n_steps)``.

    Returns:
        The IQM, ``(n_steps,)``, and its intervals, ``(2, n_steps)``, or None for one seed.
    """

    def iqm(sample: np.ndarray) -> np.ndarray:  # rliable's aggregate_iqm of each step, in one call
        return scipy.stats.trim_mean(sample.reshape(-1, sample.shape[-1]), 0.25, axis=0)

    return _estimate(values, iqm)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Fraction of runs ``(n_seeds, n_tasks)`` above each threshold, and its intervals ``(2, n_thresholds)``."""
    return _estimate(scores, lambda sample: (sample[..., None] > thresholds).mean((0, 1)))


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> tuple[float, Interval | None]:
    """Probability that a run of one algorithm scores higher than one of another, averaged over tasks; ties count half.

    Args:
        first: ``(n_seeds, n_tasks)``.
        second: ``(m_seeds, n_tasks)``.
    """

    def probability(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # rliable's function of this name, which is slow: it works out a p-value each time
        above = x[:, None] - y[None]
        return np.array([((above > 0) + 0.5 * (above == 0)).mean()])

    if min(len(first), len(second)) < 2:
        return float(probability(first, second)[0]), None
    with _same_draws():
        values, intervals = library.get_interval_estimates({"": [first, second]}, probability, reps=REPETITIONS)
    return float(values[""][0]), (float(intervals[""][0, 0]), float(intervals[""][1, 0]))


class Normalizer:
    """Scales a task's values to [0, 1], and clips them to it.

    0 and 1 are the ends of the task's given range, for win rates 0 and 1, else the lowest and highest score of all
    compared runs. A task whose scores are all equal becomes 0. Only tests before the scores can need clipping.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.ranges: dict[str, Interval] = {}
        for task, by_algorithm in comparison.runs.items():
            scores = np.concatenate([comparison.scores(task, algorithm) for algorithm in by_algorithm])
            span = (0.0, 1.0) if comparison.metric == "win_rate" else (float(scores.min()), float(scores.max()))
            self.ranges[task] = comparison.ranges.get(task, span)

    def __call__(self, task: str, values: np.ndarray) -> np.ndarray:
        """Normalise values of a task."""
        low, high = self.ranges[task]
        return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)


def normalized_scores(comparison: Comparison) -> dict[str, np.ndarray]:
    """Normalised scores ``(n_seeds, n_tasks)`` of each algorithm over the shared tasks.

    With unequal numbers of seeds, the smallest number, and the smallest seeds, count on each task.
    """
    normalize = Normalizer(comparison)
    tasks = comparison.shared_tasks
    matrices = {}
    for algorithm in comparison.algorithms if tasks else []:
        columns = [normalize(task, comparison.scores(task, algorithm)) for task in tasks]
        matrices[algorithm] = np.stack([column[: min(map(len, columns))] for column in columns], axis=1)
    return matrices


def on_one_grid(runs: Sequence[Record], metric: str, grid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Values of runs at the same env steps, linear between a run's tests.

    Args:
        runs: at least one.
        metric: of the values.
        grid: env steps; without it those of the run with the fewest tests, within what all runs cover.

    Returns:
        The steps, ``(n_steps,)``, and values, ``(n_runs, n_steps)``.
    """
    if grid is None:
        grid = shared_grid(runs)
    return grid, np.array([np.interp(grid, run.steps, values_of(run, metric)) for run in runs])


def shared_grid(runs: Sequence[Record], limit: float = np.inf) -> np.ndarray:
    """Steps of the run with the fewest tests, cut to what all runs cover and to a limit."""
    start, end = max(run.steps[0] for run in runs), min(limit, *(run.steps[-1] for run in runs))
    coarsest = min(runs, key=lambda run: len(run.steps)).steps
    return np.unique(np.clip(coarsest, min(start, end), end))


def _estimate(sample: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """A statistic and its intervals, ``(2, …)``; seeds are the sample's first dimension."""
    if len(sample) < 2:
        return function(sample), None
    with _same_draws():
        values, intervals = library.get_interval_estimates({"": sample}, function, reps=REPETITIONS)
    return values[""], intervals[""]


@contextmanager
def _same_draws() -> Iterator[None]:
    """Rliable draws from numpy's global generator, whatever generator it is given; seed it, and put it back."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
