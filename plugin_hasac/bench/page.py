"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from plugin_hasac import __version__
from plugin_hasac.bench.figures import Picture
from plugin_hasac.bench.statistics import REPETITIONS
from plugin_hasac.bench.tables import CSV_COLUMNS, Scores, Table, csv_rows

RUN_COLUMNS = ("task", "algorithm", "seed", "score", "tests", "last step", "status", "host", "source")


def html_page(scores: Scores, found: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """Fill the template.

    Args:
        scores: all numbers.
        found: tables of :func:`plugin_hasac.bench.tables.tables`.
        pictures: figures, in the order in which they are shown.
    """
    environment = Environment(
        loader=PackageLoader("plugin_hasac.bench"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    comparison = scores.comparison
    runs = [
        (
            *(run.task, run.algorithm, run.seed, f"{comparison.tests(run)[-1][1]:.6g}", len(run.steps)),
            *(run.steps[-1], run.status or "not known", run.host or "not known", run.source),
        )
        for run in comparison.records
    ]
    numbers = [[row[column] for column in CSV_COLUMNS] for row in csv_rows(scores)]
    return environment.get_template("report.html").render(
        scores=scores,
        comparison=comparison,
        tables=found,
        pictures=pictures,
        numbers=(CSV_COLUMNS, numbers),
        runs=(RUN_COLUMNS, runs),
        repetitions=REPETITIONS,
        version=__version__,
    )
