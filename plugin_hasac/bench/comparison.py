"""Which runs are compared, at which step, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import numpy as np

from plugin_hasac.bench.records import Record
from plugin_hasac.errors import UserError, did_you_mean

TOLERANCE = 0.02  # hosts test a little before or after their interval


@dataclass(frozen=True)
class Comparison:
    """Runs that can be compared, one per task, algorithm and seed.

    Attributes:
        metric: as named on the command line.
        at_step: env steps at which scores are compared.
        ranges: lowest and highest possible score of tasks for which they were given.
        runs: the runs by task and algorithm, in the order of seeds; both sorted, HASAC first.
        problems: one line for each thing that is missing, broken or worth knowing.
    """

    metric: str
    at_step: int
    ranges: dict[str, tuple[float, float]]
    runs: dict[str, dict[str, list[Record]]]
    problems: list[str]

    @property
    def tasks(self) -> list[str]:
        """All tasks with runs."""
        return list(self.runs)

    @property
    def algorithms(self) -> list[str]:
        """All algorithms with runs."""
        return in_order({algorithm for by_algorithm in self.runs.values() for algorithm in by_algorithm})

    @property
    def records(self) -> list[Record]:
        """All runs."""
        return [run for by_algorithm in self.runs.values() for runs in by_algorithm.values() for run in runs]

    @property
    def shared_tasks(self) -> list[str]:
        """Tasks on which every algorithm has runs: those that can be aggregated over."""
        return [task for task in self.runs if len(self.runs[task]) == len(self.algorithms)]

    def tests(self, run: Record) -> list[tuple[int, float]]:
        """Env steps and values of a run's tests up to ``at_step``."""
        return [
            (step, value) for step, value in zip(run.steps, values_of(run, self.metric)) if counts(step, self.at_step)
        ]

    def scores(self, task: str, algorithm: str) -> np.ndarray:
        """Value of the last test up to ``at_step`` of each seed, ``(n_seeds,)``."""
        return np.array([self.tests(run)[-1][1] for run in self.runs[task][algorithm]])


def compare(
    records: Sequence[Record],
    problems: Sequence[str] = (),
    metric: str = "return",
    at_step: int | None = None,
    ranges: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> Comparison:
    """Choose the runs to compare, and list the rest.

    A run counts if one of its tests lies within 2% of ``at_step`` or beyond, however it ended. Of runs with the same
    task, algorithm and seed, the one whose tests go furthest counts, then a completed one, then the one listed last.

    Args:
        records: all runs.
        problems: lines on runs that could not be read.
        metric: see :meth:`Record.values`.
        at_step: env steps of the scores; without it the largest that all complete runs reached.
        ranges: lowest and highest possible score of tasks.

    Raises:
        UserError: if nothing can be compared, or a range is that of no task.
    """
    found = list(problems)
    tasks = {run.task for run in records}
    for task in set(ranges) - tasks:
        raise UserError(f"--range: no run is of the task '{task}'.{did_you_mean(task, tasks)}")
    usable = _with_metric(records, metric, found)
    usable = _one_per_seed(usable, found)
    if at_step is None:
        complete = [run for run in usable if run.complete] or usable
        shortest = min(complete, key=lambda run: run.steps[-1])
        at_step, longest = shortest.steps[-1], max(run.steps[-1] for run in complete)
        if longest > (1 + TOLERANCE) * at_step:
            reason = f"where {shortest.label} ends; others go on to step {longest:,} (--at-step)"
            found.append(f"short: compared at step {at_step:,}, {reason}")
    chosen: dict[str, dict[str, list[Record]]] = {}
    for run in usable:
        early = run.steps[-1] < (1 - TOLERANCE) * at_step
        late = not counts(run.steps[0], at_step)
        if early:
            found.append(f"left out: {run.label}: ended at step {run.steps[-1]:,} of {at_step:,}{_status(run)}")
        elif late:
            found.append(f"left out: {run.label}: first tested at step {run.steps[0]:,}, after {at_step:,}")
        else:
            chosen.setdefault(run.task, {}).setdefault(run.algorithm, []).append(run)
            if not run.complete:
                found.append(f"used all the same: {run.label}: {run.status}, but tested until step {run.steps[-1]:,}")
    if not chosen:
        last = max((run.steps[-1] for run in usable), default=0)
        raise UserError(f"no run reached step {at_step:,} (the furthest: {last:,}); give a smaller --at-step.")
    runs = {
        task: {
            algorithm: sorted(chosen[task][algorithm], key=lambda run: run.seed) for algorithm in in_order(chosen[task])
        }
        for task in sorted(chosen)
    }
    comparison = Comparison(metric, at_step, dict(ranges), runs, found)
    for task, (low, high) in ranges.items():
        scores = [score for name in runs.get(task, {}) for score in comparison.scores(task, name)]
        if scores and not low <= min(scores) <= max(scores) <= high:
            raise UserError(f"--range {task}={low:g}:{high:g}: its scores lie in [{min(scores):g}, {max(scores):g}].")
    found += _gaps(comparison, records)
    found += _unequal(comparison)
    return comparison


def in_order(algorithms: Iterable[str]) -> list[str]:
    """HASAC first, the others by name."""
    return sorted(algorithms, key=lambda name: (name != "hasac", name))


def values_of(run: Record, metric: str) -> list[float]:
    """A metric that the run is known to have."""
    values = run.values(metric)
    assert values is not None
    return values


def counts(step: int, at_step: int) -> bool:
    """Whether a test belongs to the comparison at a step."""
    return step <= (1 + TOLERANCE) * at_step


def _status(run: Record) -> str:
    return "" if run.complete else f" ({run.status})"


def _with_metric(records: Sequence[Record], metric: str, found: list[str]) -> list[Record]:
    """The runs with finite values of a metric."""
    usable = []
    for run in records:
        values = run.values(metric)
        if not values:
            found.append(f"left out: {run.label}: has no {metric}{_status(run)}")
        elif not np.isfinite(values).all():
            step = run.steps[int(np.argmin(np.isfinite(values)))]
            found.append(f"left out: {run.label}: diverged, {metric} is not finite at step {step:,}{_status(run)}")
        else:
            usable.append(run)
    if not usable:
        logged = sorted({name for run in records for name in run.metrics if name.endswith("_mean")})
        known = ", ".join(["return", *(name.removesuffix("_mean") for name in logged)])
        raise UserError(f"no run has usable values of '{metric}' (--metric); the runs have: {known}.")
    return usable


def _one_per_seed(records: Sequence[Record], found: list[str]) -> list[Record]:
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for run in records:
        groups.setdefault((run.task, run.algorithm, run.seed), []).append(run)
    kept = []
    for runs in groups.values():
        *others, best = sorted(runs, key=lambda run: (run.steps[-1], run.complete))
        kept.append(best)
        for other in others:
            same = (other.steps, other.test_returns) == (best.steps, best.test_returns)
            found.append(
                f"{'same run twice' if same else 'same seed twice'}: {best.label}: used the one to step "
                f"{best.steps[-1]:,}{_status(best)}, left out {other.source or 'another'} "
                f"to step {other.steps[-1]:,}{_status(other)}"
            )
    return kept


def _gaps(comparison: Comparison, records: Sequence[Record]) -> list[str]:
    """Pairs without runs, and algorithms with fewer seeds than others on the same task."""
    lines = []
    for task, algorithm in product(sorted({run.task for run in records}), in_order({run.algorithm for run in records})):
        by_algorithm = comparison.runs.get(task, {})
        most = max((len(runs) for runs in by_algorithm.values()), default=0)
        count = len(by_algorithm.get(algorithm, []))
        if count == 0:
            lines.append(f"missing: no run of {algorithm} on {task} to compare")
        elif count < most:
            lines.append(f"fewer seeds: {algorithm} on {task} has {count}, others have up to {most}")
        elif count == 1:
            lines.append(f"one seed: {algorithm} on {task} has no interval")
    if len(comparison.shared_tasks) < len(comparison.runs):
        left_out = [task for task in comparison.runs if task not in comparison.shared_tasks]
        lines.append(f"not in the aggregate, because not every algorithm has runs there: {', '.join(left_out)}")
    for algorithm in comparison.algorithms:
        numbers = {len(comparison.runs[task][algorithm]) for task in comparison.shared_tasks}
        if len(numbers) > 1:
            lines.append(f"fewer seeds: the aggregate counts {min(numbers)} of {algorithm} on each task, the lowest")
    return lines


def _unequal(comparison: Comparison) -> list[str]:
    """Runs of unequal tests, scored at an earlier step, or of different frameworks under one name."""
    lines = []
    for task, by_algorithm in comparison.runs.items():
        for setting in ("test_nepisode", "test_greedy"):
            values = {
                run.settings[setting] for runs in by_algorithm.values() for run in runs if setting in run.settings
            }
            if len(values) > 1:
                lines.append(f"unequal tests: {setting} on {task} is {' or '.join(map(str, sorted(values)))}")
        for algorithm, runs in by_algorithm.items():
            scored = min(comparison.tests(run)[-1][0] for run in runs)
            if scored < (1 - TOLERANCE) * comparison.at_step:
                text = f"{algorithm} on {task} is scored at step {scored:,}, the next test comes too late"
                lines.append(f"early: {text}")
            hosts = {run.host for run in runs if run.host}
            if len(hosts) > 1:
                lines.append(f"mixed: {algorithm} on {task} has runs of {' and '.join(sorted(hosts))}")
    return lines
