"""The JSON of marl-eval, the tool of Gorsane et al. (2022), arXiv:2209.10485.

``{env: {task: {algorithm: {seed_k: {step_i: {"step_count": …, metric: [value]}, …, "absolute_metrics": {metric:
[value]}}}}}}``. Hosts log one mean per test, so every list has one value. They do not test a best policy at the end, so
the absolute metrics are those of the last test up to the comparison's step. They log no clock with
their tests, so there is no ``elapsed_time`` (marl-eval reads none).
"""

from __future__ import annotations

from typing import Any

from plugin_hasac.bench.comparison import Comparison, counts, values_of
from plugin_hasac.bench.records import METRICS

NAMES = {logged.removesuffix("_mean"): name for name, logged in METRICS.items()}


def marl_eval_data(comparison: Comparison) -> tuple[dict[str, Any], list[str]]:
    """The data, and a line for each env that marl-eval will refuse to aggregate.

    Only metrics that all compared runs of an env have are in it. marl-eval needs the same algorithms on all tasks of an
    env, and equal numbers of seeds and tests.
    """
    data: dict[str, Any] = {}
    problems = []
    by_env: dict[str, list[str]] = {}
    for task, by_algorithm in comparison.runs.items():
        by_env.setdefault(next(iter(by_algorithm.values()))[0].env, []).append(task)
    for env, tasks in by_env.items():
        runs = [run for task in tasks for group in comparison.runs[task].values() for run in group]
        shared = set.intersection(*(set(run.metrics) for run in runs))
        metrics = sorted(
            {"return", comparison.metric} | {NAMES.get(name.removesuffix("_mean"), name) for name in shared}
        )
        shapes = set()
        for task in tasks:
            for algorithm, group in comparison.runs[task].items():
                for run in group:
                    tests = [
                        {"step_count": step, **{metric: [values_of(run, metric)[number]] for metric in metrics}}
                        for number, step in enumerate(run.steps)
                        if counts(step, comparison.at_step)
                    ]
                    last = {metric: tests[-1][metric] for metric in metrics}
                    steps = {f"step_{number}": test for number, test in enumerate(tests)}
                    of_task = data.setdefault(env, {}).setdefault(task, {})
                    by_seed = of_task.setdefault(algorithm.replace(",", ";"), {})  # it allows no comma
                    by_seed[f"seed_{run.seed}"] = {**steps, "absolute_metrics": last}
                    shapes.add((len(group), len(tests)))
        if len(shapes) > 1 or len({frozenset(comparison.runs[task]) for task in tasks}) > 1:
            problems.append(
                f"marl_eval.json: marl-eval will not aggregate {env}: it needs the same algorithms on all tasks, and "
                "equal numbers of seeds and tests"
            )
    return data, problems
