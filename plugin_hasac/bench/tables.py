"""Tables of scores: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from plugin_hasac.bench.comparison import Comparison
from plugin_hasac.bench.statistics import Interval, Summary, best, normalized_scores, summarize

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """A cell's numbers as text.

    Attributes:
        value: the mean or the IQM; a dash where there are no runs.
        spread: what stands behind it: ± deviation, or the interval; empty for one seed.
        bold: whether its interval overlaps the best one.
    """

    value: str
    spread: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table in words and cells, for every output format.

    Attributes:
        title: what it shows.
        note: how to read it.
        columns: headings; the first is that of the rows' names.
        rows: names and cells.
    """

    title: str
    note: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Scores:
    """All numbers of a comparison.

    Attributes:
        comparison: the runs.
        by_task: summaries by task and algorithm, in the metric's units.
        overall: normalised summaries by algorithm over the shared tasks; empty if there is no shared task.
    """

    comparison: Comparison
    by_task: dict[str, dict[str, Summary]]
    overall: dict[str, Summary]

    @classmethod
    def of(cls, comparison: Comparison) -> Scores:
        """Work them out."""
        by_task = {
            task: {name: summarize(comparison.scores(task, name)[:, None]) for name in by_algorithm}
            for task, by_algorithm in comparison.runs.items()
        }
        return cls(comparison, by_task, {name: summarize(s) for name, s in normalized_scores(comparison).items()})

    @property
    def seeds(self) -> str:
        """Number of seeds, or its range."""
        numbers = {summary.n for summaries in self.by_task.values() for summary in summaries.values()}
        return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"

    @property
    def normalization(self) -> str:
        """How scores were normalised, in a sentence."""
        if self.comparison.metric == "win_rate":
            return "Win rates are not normalised."
        text = "Scores are min-max normalised per task: 0 is the lowest and 1 the highest score of any compared run"
        given = [f"{task} from {low:g} to {high:g}" for task, (low, high) in self.comparison.ranges.items()]
        return text + (f", or the range given ({'; '.join(given)})." if given else ".")


def tables(scores: Scores) -> list[Table]:
    """Mean and deviation per task, IQM and interval per task, where each algorithm stands, the aggregate over tasks."""
    comparison = scores.comparison
    where = f"at {comparison.at_step:,} env steps, seeds per algorithm: {scores.seeds}"
    bold = "Bold: the best, and all whose 95% stratified-bootstrap interval overlaps its"
    found = [
        Table(
            f"{comparison.metric}: mean ± standard deviation",
            f"Test {comparison.metric} {where}; (n) seeds. {bold} (intervals of the mean, in table.csv).",
            ["task", *comparison.algorithms],
            _matrix(scores, "mean", _deviation),
        ),
        Table(
            f"{comparison.metric}: IQM [95% interval]",
            f"Interquartile mean of the test {comparison.metric} {where}. {bold}.",
            ["task", *comparison.algorithms],
            _matrix(scores, "iqm", lambda summary, text: _interval(summary.iqm_interval, text)),
        ),
    ]
    if len(comparison.algorithms) > 1:
        found.append(_standing(scores, where))
    if scores.overall:
        tasks = comparison.shared_tasks
        rows = []
        tops = {statistic: best(scores.overall, statistic) for statistic in ("iqm", "mean")}
        for name, summary in scores.overall.items():
            cells = [
                Cell(f"{value:.3f}", _interval(interval, "{:.3f}".format), name in tops[statistic])
                for statistic, value, interval in (
                    ("iqm", summary.iqm, summary.iqm_interval),
                    ("mean", summary.mean, summary.mean_interval),
                )
            ]
            rows.append((name, [*cells, Cell(f"{summary.n} × {len(tasks)}")]))
        found.append(
            Table(
                f"Normalised {comparison.metric} over tasks [95% interval]",
                f"{where[0].upper()}{where[1:]}. {scores.normalization} {bold}. Tasks: {', '.join(tasks)}.",
                ["algorithm", "IQM", "mean", "seeds × tasks"],
                rows,
            )
        )
    return found


def _standing(scores: Scores, where: str) -> Table:
    tops = {task: best(summaries, "mean") for task, summaries in scores.by_task.items()}
    peaks = {task: max(summary.mean for summary in summaries.values()) for task, summaries in scores.by_task.items()}
    rows = []
    for name in scores.comparison.algorithms:
        tasks = [task for task, summaries in scores.by_task.items() if name in summaries]
        behind = [task for task in tasks if name not in tops[task]]
        counts = (sum(scores.by_task[task][name].mean == peaks[task] for task in tasks), len(tasks) - len(behind))
        cells = [Cell(f"{count} of {len(tasks)}") for count in counts]
        rows.append((name, [*cells, Cell(", ".join(behind) or DASH)]))
    return Table(
        "Where each algorithm is among the best, and where behind",
        f"Means {where}. Among the best: the interval overlaps that of the highest mean (95%, stratified bootstrap).",
        ["algorithm", "highest mean", "among the best", "behind on"],
        rows,
    )


def _matrix(
    scores: Scores, statistic: str, spread: Callable[[Summary, Callable[[float], str]], str]
) -> list[tuple[str, list[Cell]]]:
    rows = []
    for task, summaries in scores.by_task.items():
        text = _decimals(summaries)
        top = best(summaries, statistic)
        cells = []
        for name in scores.comparison.algorithms:
            if name not in summaries:
                cells.append(Cell(DASH))
                continue
            summary = summaries[name]
            cells.append(Cell(text(getattr(summary, statistic)), spread(summary, text), name in top))
        rows.append((task, cells))
    return rows


def _decimals(summaries: Mapping[str, Summary]) -> Callable[[float], str]:
    """Two decimals, or three where all of a task's scores are small."""
    digits = 3 if max(abs(summary.mean) for summary in summaries.values()) < 5 else 2
    return lambda value: f"{value:.{digits}f}"


def _deviation(summary: Summary, text: Callable[[float], str]) -> str:
    return f"({summary.n})" if summary.deviation is None else f"± {text(summary.deviation)} ({summary.n})"


def _interval(interval: Interval | None, text: Callable[[float], str]) -> str:
    return f"[{text(interval[0])}, {text(interval[1])}]" if interval else ""


def markdown(found: list[Table]) -> str:
    """All tables as GitHub-flavoured Markdown."""
    blocks = []
    for table in found:
        lines = [f"**{table.title}**", "", "| " + " | ".join(map(_pipe, table.columns)) + " |"]
        lines.append("|---" * len(table.columns) + "|")
        for name, cells in table.rows:
            texts = [" ".join(filter(None, (cell.value, cell.spread))) for cell in cells]
            marked = [f"**{text}**" if cell.bold else text for cell, text in zip(cells, texts)]
            lines.append(f"| {_pipe(name)} | " + " | ".join(marked) + " |")
        blocks.append("\n".join([*lines, "", table.note]))
    return "\n\n".join(blocks) + "\n"


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


LATEX_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX_ESCAPES |= {character: f"\\{character}" for character in "&%$#_{}"}
LATEX_ESCAPES |= {"±": r"$\pm$", "×": r"$\times$", DASH: "--"}


def latex(found: list[Table]) -> str:
    r"""All tables as LaTeX ``table`` environments, for a paper that loads booktabs and graphicx."""
    blocks = ["% \\usepackage{booktabs,graphicx}"]
    for table in found:
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(table.title)}. {_tex(table.note)}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{l{'c' * (len(table.columns) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(map(_tex, table.columns))} \\\\",
            r"    \midrule",
        ]
        for name, cells in table.rows:
            lines.append(f"    {' & '.join([_tex(name), *map(_tex_cell, cells)])} \\\\")
        blocks.append("\n".join([*lines, r"    \bottomrule", r"  \end{tabular}}", r"\end{table}"]))
    return "\n\n".join(blocks) + "\n"


def _tex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


def _tex_cell(cell: Cell) -> str:
    """The value, and under it, in small, its spread: algorithms' columns stay narrow enough for a page."""

    def numbers(text: str) -> str:
        return re.sub(r"(?<!\w)-(?=\d)", "$-$", _tex(text))

    bold = r"\bfseries\boldmath " if cell.bold else ""
    if not cell.spread:
        return f"{{{bold}{numbers(cell.value)}}}"
    lines = rf"{bold}{numbers(cell.value)} \\ {bold}\scriptsize {numbers(cell.spread)}"
    return rf"\begin{{tabular}}{{@{{}}c@{{}}}}{lines}\end{{tabular}}"


CSV_COLUMNS = (
    *("task", "algorithm", "metric", "env_steps", "seeds", "mean", "standard_deviation", "mean_low", "mean_high"),
    *("iqm", "iqm_low", "iqm_high", "best_mean", "best_iqm", "scores"),
)
ALL_TASKS = "all tasks (normalised)"


def csv_rows(scores: Scores) -> list[dict[str, object]]:
    """Every number of every task and algorithm, and the aggregate, as rows of :data:`CSV_COLUMNS`."""
    rows = []
    parts = {**scores.by_task, ALL_TASKS: scores.overall}
    for task, summaries in parts.items():
        tops = {statistic: best(summaries, statistic) if summaries else set() for statistic in ("mean", "iqm")}
        for name, summary in summaries.items():
            values = scores.comparison.scores(task, name) if task in scores.by_task else np.array([])
            numbers = (
                *(summary.mean, summary.deviation, *(summary.mean_interval or (None, None))),
                *(summary.iqm, *(summary.iqm_interval or (None, None))),
            )
            shown = ["" if number is None else f"{number:.6g}" for number in numbers]
            row = (task, name, scores.comparison.metric, scores.comparison.at_step, summary.n, *shown)
            bold = (int(name in tops["mean"]), int(name in tops["iqm"]))
            rows.append(dict(zip(CSV_COLUMNS, (*row, *bold, " ".join(f"{value:.6g}" for value in values)))))
    return rows


def to_csv(rows: list[dict[str, object]]) -> str:
    """Rows of :func:`csv_rows` as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
