"""Measured runs against reference scores.

The rule and its reasons are in ``results/reference/README.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from scipy import optimize, stats

from plugin_hasac.bench.records import Record
from plugin_hasac.bench.reference import Entry

LEVEL = 0.05  # probability of any false alarm in one call, at most
POWER = 0.8  # of the drop that a comparison is said to find
MIN_SEEDS = 3
NEAR = 0.02  # hosts test a little before or after their interval


class Outcome(StrEnum):
    """What a comparison found; the first three are of references, the next three of bars."""

    OK = "ok"
    REGRESSION = "regression"
    NOT_ENOUGH_DATA = "not enough data"
    ABOVE = "above the bar"
    BELOW = "below the bar"
    UNDECIDED = "undecided"
    NOT_AVAILABLE = "not available"


@dataclass(frozen=True)
class Verdict:
    """One entry and what was measured.

    Attributes:
        entry: the reference or bar.
        algorithm: whose runs were compared; another than the entry's only for bars.
        outcome: what was found.
        env_steps: at which the runs were scored; fewer than the entry's only for bars.
        scores: measured, by seed.
        p_value: adjusted for the number of comparisons (Holm).
        finds: the smallest drop below the reference that this comparison finds with probability :data:`POWER`.
        reason: for the outcome, where it needs one.
    """

    entry: Entry
    algorithm: str
    outcome: Outcome = Outcome.NOT_ENOUGH_DATA
    env_steps: int | None = None
    scores: Mapping[int, float] = field(default_factory=dict)
    p_value: float | None = None
    finds: float | None = None
    reason: str = ""

    @property
    def is_bar(self) -> bool:
        """Whether it is about a bar."""
        return self.entry.role == "bar"

    @property
    def mean(self) -> float | None:
        """Of the measured scores."""
        return float(np.mean(list(self.scores.values()))) if self.scores else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the measured scores."""
        return float(np.std(list(self.scores.values()), ddof=1)) if len(self.scores) > 1 else None


def metric_values(record: Record, metric: str) -> list[float] | None:
    """One value per test of a metric as hosts log it, or ``None`` if the run has none."""
    if metric == "test_return_mean":
        return record.test_returns
    return getattr(record, "metrics", {}).get(metric.removeprefix("test_"))


def judge(records: Sequence[Record], entries: Sequence[Entry], min_seeds: int = MIN_SEEDS) -> list[Verdict]:
    """Compare runs with reference scores.

    Args:
        records: measured runs.
        entries: references, each compared with the runs of its algorithm on its task, and bars, each compared with the
            runs of every algorithm on its task; a bar can be passed with fewer env steps than its own, not missed.
        min_seeds: fewer give no verdict.

    Returns:
        One verdict for each reference, and for each bar and algorithm with runs on its task.
    """
    verdicts: list[Verdict] = []
    for entry in entries:
        algorithms = [entry.algorithm]
        if entry.role == "bar":
            algorithms = sorted({record.algorithm for record in records if record.task == entry.task})
        for algorithm in algorithms:
            runs = [record for record in records if (record.task, record.algorithm) == (entry.task, algorithm)]
            verdicts.append(_test(entry, algorithm, runs, min_seeds))
    return _decide([each for each in verdicts if not each.is_bar]) + _decide([each for each in verdicts if each.is_bar])


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """1: a regression; 2: not enough data for a reference, or nothing was compared; else 0. Bars never count."""
    verdicts = list(verdicts)
    outcomes = {verdict.outcome for verdict in verdicts if not verdict.is_bar}
    if Outcome.REGRESSION in outcomes:
        return 1
    compared = any(verdict.p_value is not None for verdict in verdicts)
    return 2 if Outcome.NOT_ENOUGH_DATA in outcomes or not compared else 0


def score_at(record: Record, metric: str, env_steps: int) -> float | str:
    """The value of the last test within 2% of a number of env steps, or why there is none."""
    values = metric_values(record, metric)
    if values is None:
        return f"no {metric}"
    if record.steps[-1] < (1 - NEAR) * env_steps:
        return f"ended at step {record.steps[-1]:,} of {env_steps:,}"
    near = [value for step, value in zip(record.steps, values) if abs(step - env_steps) <= NEAR * env_steps]
    return near[-1] if near else f"no test within {NEAR:.0%} of step {env_steps:,}"


def scores_by_seed(runs: Iterable[Record], metric: str, env_steps: int) -> tuple[dict[int, float], list[str]]:
    """One score per seed.

    Returns:
        The scores, and one line for each reason why seeds have none. No scores if a seed has several that differ.
    """
    scores: dict[int, float] = {}
    lacking: dict[int, str] = {}
    for run in runs:
        score = score_at(run, metric, env_steps)
        if isinstance(score, str):
            lacking[run.seed] = score
        elif run.seed in scores and not np.isclose(scores[run.seed], score, rtol=1e-9, atol=0, equal_nan=True):
            both = f"{scores[run.seed]:g} and {score:g}"
            return {}, [f"different scores {both} (seed {run.seed}): give one folder per measurement"]
        else:
            scores[run.seed] = score
    by_reason: dict[str, list[int]] = {}
    for seed, reason in sorted(lacking.items()):
        if seed not in scores:  # a run that broke off and was made again counts as made
            by_reason.setdefault(reason, []).append(seed)
    lines = [f"{reason} (seed {', '.join(map(str, seeds))})" for reason, seeds in by_reason.items()]
    return dict(sorted(scores.items())), lines


def pooled_spread(
    spread: np.ndarray | float, n: int, reference_spread: np.ndarray | float, n_reference: int | None
) -> np.ndarray:
    """Standard deviation estimated from both sides; a reference of one seed or an exact one adds nothing to it."""
    more = (n_reference or 1) - 1
    return np.sqrt(((n - 1) * np.square(spread) + more * np.square(reference_spread)) / _freedom(n, n_reference))


def drop_p_value(
    mean: np.ndarray | float,
    spread: np.ndarray | float,
    n: int,
    reference: np.ndarray | float,
    reference_spread: np.ndarray | float,
    n_reference: int | None,
) -> np.ndarray:
    """One-sided p-value of "the mean is not below the reference", by Student's t-test with pooled variance.

    Args:
        mean: of the measured scores.
        spread: their standard deviation (n - 1).
        n: how many there are, at least 2.
        reference: mean of the reference's scores.
        reference_spread: their standard deviation.
        n_reference: how many there are; ``None``: the reference is an exact number.

    Returns:
        The p-value, in the arguments' common shape.
    """
    error = pooled_spread(spread, n, reference_spread, n_reference) * math.sqrt(_error_factor(n, n_reference))
    difference = np.asarray(mean, dtype=float) - reference
    # Without any spread a difference is real unless it is rounding.
    rounding = 1e-9 * np.maximum(np.abs(mean), np.abs(reference))
    exact = np.where(difference < -rounding, 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > rounding, stats.t.cdf(difference / error, _freedom(n, n_reference)), exact)


def smallest_drop(spread: float, n: int, n_reference: int | None, level: float = LEVEL, power: float = POWER) -> float:
    """The drop that :func:`drop_p_value` finds at a level with a probability, for a given spread of both sides."""
    df = _freedom(n, n_reference)
    critical = stats.t.isf(level, df)
    shift = optimize.brentq(lambda delta: stats.nct.sf(critical, df, delta) - power, 0.0, 2 * critical + 10)
    return float(shift * spread * math.sqrt(_error_factor(n, n_reference)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's method: compared with a level each, they keep it for all together."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = float(largest)
    return adjusted


def _freedom(n: int, n_reference: int | None) -> int:
    return n + (n_reference or 1) - 2


def _error_factor(n: int, n_reference: int | None) -> float:
    return 1 / n + (0.0 if n_reference is None else 1 / n_reference)


def _test(entry: Entry, algorithm: str, runs: Sequence[Record], min_seeds: int) -> Verdict:
    """The scores and the unadjusted p-value, or why there is none."""
    verdict = Verdict(entry, algorithm)
    if entry.value is None or entry.env_steps is None:
        return replace(verdict, outcome=Outcome.NOT_AVAILABLE, reason=entry.why)
    if not runs:
        return replace(verdict, reason="no run")
    unlike = _unlike(entry, runs)
    if unlike:
        return replace(verdict, reason=unlike)
    env_steps = entry.env_steps
    if verdict.is_bar:  # it may be reached sooner
        reached = min(max(run.steps[-1] for run in runs if run.seed == seed) for seed in {run.seed for run in runs})
        env_steps = reached if reached < (1 - NEAR) * env_steps else env_steps
    scores, lacking = scores_by_seed(runs, entry.metric, env_steps)
    if env_steps != entry.env_steps:
        lacking = [f"measured at {env_steps:,} env steps, the bar at {entry.env_steps:,}", *lacking]
    verdict = replace(verdict, env_steps=env_steps, scores=scores, reason="; ".join(lacking))
    infinite = [seed for seed, score in scores.items() if not math.isfinite(score)]
    if infinite:
        verdict = replace(verdict, reason=f"seed {infinite[0]} diverged: {entry.metric} is {scores[infinite[0]]}")
        return verdict if verdict.is_bar else replace(verdict, outcome=Outcome.REGRESSION, p_value=0.0)
    if len(scores) < min_seeds:
        return replace(verdict, reason="; ".join([f"{len(scores)} of at least {min_seeds} seeds", *lacking]))
    assert verdict.mean is not None and verdict.spread is not None
    mean, spread = entry.sign * verdict.mean, verdict.spread
    reference = (entry.spread or 0.0, entry.seeds)
    p = drop_p_value(mean, spread, len(scores), entry.sign * entry.value - entry.tolerance, *reference)
    if verdict.is_bar:  # either side counts
        above = drop_p_value(-mean, spread, len(scores), -entry.sign * entry.value - entry.tolerance, *reference)
        p = np.minimum(1.0, 2 * np.minimum(p, above))
    return replace(verdict, p_value=float(p))


def _decide(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Adjust the p-values of a family of comparisons, and decide."""
    tested = [verdict for verdict in verdicts if verdict.p_value is not None]
    adjusted = iter(holm([verdict.p_value for verdict in tested if verdict.p_value is not None]))
    return [
        verdict if verdict.p_value is None else _decided(verdict, next(adjusted), LEVEL / len(tested))
        for verdict in verdicts
    ]


def _decided(verdict: Verdict, p: float, level: float) -> Verdict:
    entry = verdict.entry
    if verdict.outcome == Outcome.REGRESSION:
        return replace(verdict, p_value=p)
    assert verdict.mean is not None and verdict.spread is not None and entry.value is not None
    if verdict.is_bar:
        better = entry.sign * verdict.mean > entry.sign * entry.value
        outcome = Outcome.UNDECIDED if p > LEVEL else Outcome.ABOVE if better else Outcome.BELOW
        if verdict.env_steps != entry.env_steps and outcome != Outcome.ABOVE:
            outcome = Outcome.NOT_ENOUGH_DATA  # more steps may do it
        return replace(verdict, p_value=p, outcome=outcome)
    n = len(verdict.scores)
    pooled = float(pooled_spread(verdict.spread, n, entry.spread or 0.0, entry.seeds))
    finds = entry.tolerance + smallest_drop(pooled, n, entry.seeds, level)
    # A run that ended early may be what is wrong.
    passed = Outcome.NOT_ENOUGH_DATA if verdict.reason else Outcome.OK
    outcome = Outcome.REGRESSION if p <= LEVEL else passed
    return replace(verdict, p_value=p, outcome=outcome, finds=finds)


def _unlike(entry: Entry, runs: Sequence[Record]) -> str:
    """What makes runs not comparable with an entry, or an empty string."""
    for run in runs:
        for name, wanted in entry.settings.items():
            if name not in run.settings:
                continue
            found = run.settings[name]
            if isinstance(wanted, Mapping) and isinstance(found, Mapping):
                differ = [key for key in wanted if found.get(key) != wanted[key]]
                pairs = [(f"{name}.{key}", wanted[key], found.get(key)) for key in differ]
            else:
                pairs = [(name, wanted, found)] if found != wanted else []
            for key, expected, got in pairs:
                return f"not comparable: {key} of seed {run.seed} is {got!r}, the reference's is {expected!r}"
    return ""
