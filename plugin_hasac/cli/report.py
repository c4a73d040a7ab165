"""``hasac report``: a table, a figure and a small JSON file from runs' folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from plugin_hasac.bench.curves import plot_comparison
from plugin_hasac.bench.records import find_records, write_records
from plugin_hasac.bench.tables import markdown_table


def report(places: Sequence[str], out: str, at_step: int) -> None:
    """Write ``runs.json``, ``table.md`` and ``curves.png``, and print the table.

    Args:
        places: folders with sacred runs, or ``runs.json`` files of earlier reports.
        out: the folder to write to.
        at_step: env steps at which final scores are compared.

    Raises:
        UserError: if a place holds no runs.
    """
    records, problems = find_records([Path(place) for place in places])
    console = Console()
    for problem in problems:
        console.print(f"left out: {problem}", style="yellow")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown_table(records, at_step)
    write_records(records, folder / "runs.json")
    (folder / "table.md").write_text(table)
    plot_comparison(records, folder / "curves.png")
    console.print(Markdown(table))
    console.print(f"{len(records)} runs; written to {folder}")
