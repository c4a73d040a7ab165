"""Tables of final scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plugin_hasac.bench.records import Record


def final_scores(records: Sequence[Record], at_step: int) -> dict[str, dict[str, list[float]]]:
    """Mean return of the last test up to a step, by task and algorithm, one value per seed.

    Runs whose tests end more than 2% earlier are left out.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for record in records:
        reached = [value for step, value in zip(record.steps, record.test_returns) if step <= 1.02 * at_step]
        if record.steps[-1] >= 0.98 * at_step:
            scores.setdefault(record.task, {}).setdefault(record.algorithm, []).append(reached[-1])
    return scores


def markdown_table(records: Sequence[Record], at_step: int) -> str:
    """Mean ± standard deviation over seeds; tasks as rows, algorithms as columns, the best mean of a task in bold."""
    scores = final_scores(records, at_step)
    algorithms = sorted({algorithm for by_algorithm in scores.values() for algorithm in by_algorithm})
    algorithms.sort(key=lambda name: (name != "hasac", name))
    lines = ["| task | " + " | ".join(algorithms) + " |", "|---" * (len(algorithms) + 1) + "|"]
    for task, by_algorithm in sorted(scores.items()):
        best = max(np.mean(values) for values in by_algorithm.values())
        cells = []
        for algorithm in algorithms:
            values = by_algorithm.get(algorithm, [])
            if not values:
                cells.append("–")
                continue
            text = f"{np.mean(values):.2f} ± {np.std(values):.2f} ({len(values)})"
            cells.append(f"**{text}**" if np.mean(values) == best else text)
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
