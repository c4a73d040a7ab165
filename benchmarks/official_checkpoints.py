"""Our mean return at every test beside the range of the official implementation's seeds, as a Markdown table.

    python benchmarks/official_checkpoints.py results/benchmarks/official/runs.json > checkpoints.md

The runs are those of ``official_harl.py`` and of ``hasac run``. Each official test is compared with our first one at or
behind its env step: ours come up to one block of training later. Our test before learning has no partner.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from plugin_hasac.bench.records import read_records
from plugin_hasac.errors import UserError

OURS, OFFICIAL = "hasac", "hasac (official)"


def tests(records: list, steps: list[int]) -> np.ndarray:
    """Returns ``(seeds, tests)``: of each run, the first test at or behind each of ``steps``."""
    rows = []
    for record in records:
        at = np.searchsorted(record.steps, steps)
        if at[-1] == len(record.steps):
            raise UserError(f"{record.algorithm} on {record.task}, seed {record.seed}, ends before step {steps[-1]:,}.")
        rows.append(np.array(record.test_returns)[at])
    return np.stack(rows)


def table(records: list, task: str) -> list[str]:
    """Lines of one task's table. Raises UserError if either side has no runs of it, or ends too early."""
    own, official = ([r for r in records if (r.algorithm, r.task) == (name, task)] for name in (OURS, OFFICIAL))
    if not own or not official:
        raise UserError(f"{task}: has {len(own)} runs of {OURS} and {len(official)} of {OFFICIAL}; expected both.")
    steps = official[0].steps
    ours, theirs = tests(own, steps), tests(official, steps)
    lines = [
        f"## {task}: {len(own)} seeds here, {len(official)} official",
        "",
        "| env steps | here: mean | lowest to highest | official: mean | lowest to highest | our mean is |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = np.select([ours.mean(0) > theirs.max(0), ours.mean(0) < theirs.min(0)], ["above", "below"], "within")
    for step, mine, other, verdict in zip(steps, ours.T, theirs.T, verdicts):
        cells = [f"{each.mean():.1f} | {each.min():.1f} to {each.max():.1f}" for each in (mine, other)]
        lines.append(f"| {step:,} | {cells[0]} | {cells[1]} | {verdict} |")
    counts = ", ".join(f"{verdict} {np.sum(verdicts == verdict)}" for verdict in ("above", "within", "below"))
    return [*lines, "", f"Of {len(steps)} tests: {counts}.", ""]


def main() -> None:
    """Read the records, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="JSON file of records, as 'hasac report' writes it")
    try:
        records = read_records(parser.parse_args().runs)
        for task in sorted({record.task for record in records}):
            print("\n".join(table(records, task)))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
