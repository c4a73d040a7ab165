"""``hasac report``: tables, figures, a page and JSON files from runs' folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from plugin_hasac.bench.comparison import compare
from plugin_hasac.bench.records import find_records, write_records
from plugin_hasac.errors import UserError


def report(
    places: Sequence[str],
    out: str,
    at_step: int | None = None,
    metric: str = "return",
    ranges: Sequence[str] = (),
) -> None:
    """Write ``runs.json``, tables, figures, ``marl_eval.json``, ``problems.txt`` and ``report.html``; print the tables.

    Args:
        places: folders with runs of sacred or HARL, or ``runs.json`` files of earlier reports.
        out: the folder to write to.
        at_step: env steps at which scores are compared; without it the largest that all complete runs reached.
        metric: ``return``, ``win_rate``, ``ep_length``, or X of a logged ``test_X_mean``.
        ranges: ``TASK=LOW:HIGH``, the possible scores of a task, to normalise by.

    Raises:
        UserError: if a place holds no runs, nothing can be compared, or a package is missing.
    """
    console = Console()
    records, unreadable = find_records([Path(place) for place in places])
    for problem in unreadable if not records else ():
        console.print(problem, style="yellow", highlight=False, markup=False, soft_wrap=True)
    if not records:
        raise UserError(f"no run in {', '.join(places)} can be read; see above.")
    if at_step is not None and at_step < 1:
        raise UserError(f"--at-step {at_step} is not a number of env steps: expected at least 1.")
    comparison = compare(records, unreadable, metric, at_step, dict(map(_range, ranges)))

    # Slow to import, and the first of these says what to install if it is missing.
    from plugin_hasac.bench import tables
    from plugin_hasac.bench.marl_eval import marl_eval_data
    from plugin_hasac.bench.statistics import REPETITIONS

    with console.status(
        f"{len(comparison.records)} runs at step {comparison.at_step:,}: {REPETITIONS} bootstrap samples"
    ):
        from plugin_hasac.bench import figures
        from plugin_hasac.bench.page import html_page

        scores = tables.Scores.of(comparison)
        found = tables.tables(scores)
        data, refused = marl_eval_data(comparison)
        comparison.problems.extend(refused)
        palette = figures.Palette(comparison.algorithms)
        lines = figures.learning_curves(comparison)
        pictures = {"curves": figures.curves(comparison, lines, palette)}
        if comparison.shared_tasks:
            pictures["profiles"] = figures.profiles(comparison, palette)
            pictures["efficiency"] = figures.efficiency(comparison, palette)
            pairs = figures.improvement(comparison, palette)
            if pairs:
                pictures["improvement"] = pairs
        by_task = [figures.curves(comparison, lines, palette, task) for task in comparison.tasks]
        page = html_page(scores, found, [*by_task, *(pictures[name] for name in pictures if name != "curves")])

    texts = {
        "table.md": tables.markdown(found),
        "table.tex": tables.latex(found),
        "table.csv": tables.to_csv(tables.csv_rows(scores)),
        "marl_eval.json": json.dumps(data, indent=1) + "\n",
        "problems.txt": "".join(f"{problem}\n" for problem in comparison.problems),
        "report.html": page,
    }
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_records(records, folder / "runs.json")
        for name in ("curves", "profiles", "efficiency", "improvement"):
            if name in pictures:
                pictures[name].save(folder / f"{name}.png")
            else:  # an earlier report's would not belong to these tables
                for suffix in (".png", ".pdf"):
                    (folder / name).with_suffix(suffix).unlink(missing_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise UserError(f"--out {folder} is not a folder that can be written to: {error}") from error

    for problem in comparison.problems:
        console.print(problem, style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(Markdown(tables.markdown(found)))
    console.print(
        f"{len(comparison.records)} of {len(records) + len(unreadable)} runs compared at step {comparison.at_step:,}, "
        f"{len(comparison.problems)} problems; written to {folder}",
        highlight=False,
        soft_wrap=True,
    )


def _range(text: str) -> tuple[str, tuple[float, float]]:
    task, _, ends = text.rpartition("=")
    try:
        low, high = map(float, ends.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not task or low >= high:
        raise UserError(f"--range {text} is not TASK=LOW:HIGH with LOW below HIGH, as in 3s5z=0:20.")
    return task, (low, high)
