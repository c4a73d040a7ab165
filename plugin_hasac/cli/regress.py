"""``hasac regress``: measured runs against reference scores, and references from measured runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from plugin_hasac.bench.junit import as_row, explain, write_junit
from plugin_hasac.bench.recording import as_yaml, provenance, record_entries
from plugin_hasac.bench.records import Record, find_records
from plugin_hasac.bench.reference import Entry, find_reference, read_references
from plugin_hasac.bench.regression import LEVEL, MIN_SEEDS, POWER, Outcome, Verdict, exit_code, judge
from plugin_hasac.errors import UserError, did_you_mean

STYLES = {
    Outcome.OK: "green",
    Outcome.ABOVE: "green",
    Outcome.REGRESSION: "bold red",
    Outcome.NOT_ENOUGH_DATA: "yellow",
}
WIDTH = 160  # of tables where no terminal says: CI logs


def regress(options: argparse.Namespace) -> int:
    """Do what the command line asks.

    Returns:
        The exit code.

    Raises:
        UserError: if anything that was given is wrong.
    """
    both = {"algorithms": options.algorithm, "tasks": options.task}
    comparing = {
        "--reference": options.reference,
        "--bar": options.bar,
        "--junit": options.junit,
        "--json": options.json,
    }
    recording = {
        "--out": options.out,
        "--command": options.made_by,
        "--commit": options.commit,
        "--metric": options.metric,
        "--at-step": options.at_step,
        "--tolerance": options.tolerance,
        "--direction": options.direction,
    }
    for name, value in (comparing if options.record else recording).items():
        if value:
            raise UserError(f"{name} is {'not for' if options.record else 'only for'} hasac regress --record.")
    if options.record:
        return record(
            options.results,
            options.out,
            options.made_by,
            metric=options.metric,
            at_step=options.at_step,
            tolerance=options.tolerance,
            direction=options.direction,
            commit=options.commit,
            **both,
        )
    return compare(
        options.results,
        options.reference,
        bar=options.bar,
        min_seeds=options.min_seeds,
        junit=options.junit,
        json_file=options.json,
        **both,
    )


def compare(
    places: Sequence[str],
    references: Sequence[str],
    *,
    bar: bool = False,
    algorithms: Sequence[str] = (),
    tasks: Sequence[str] = (),
    min_seeds: int = MIN_SEEDS,
    junit: str | None = None,
    json_file: str | None = None,
) -> int:
    """Compare runs with references, print tables, write files.

    Args:
        places: folders with runs, or ``runs.json`` files.
        references: files, or names of shipped ones.
        bar: take every reference as a bar for whichever algorithm was measured.
        algorithms: only these.
        tasks: only these.
        min_seeds: fewer give no verdict.
        junit: file for JUnit XML.
        json_file: file for all numbers.

    Returns:
        The exit code: 0, 1 (regression) or 2 (not enough data).

    Raises:
        UserError: if anything that was given is wrong.
    """
    if not references:
        raise UserError("hasac regress needs --reference: files, or names of shipped references.")
    if min_seeds < 2:
        raise UserError(f"--min-seeds must be 2 or more (one seed says nothing about spread), got {min_seeds}.")
    entries = read_references([find_reference(name) for name in references])
    if bar:
        entries = [replace(entry, role="bar") for entry in entries]
    records, problems = _records(places)
    _check("--algorithm", algorithms, {record.algorithm for record in records} | {entry.algorithm for entry in entries})
    _check("--task", tasks, {record.task for record in records} | {entry.task for entry in entries})
    records = _selected(records, algorithms, tasks)
    entries = [
        entry
        for entry in entries
        if (not tasks or entry.task in tasks)
        and (not algorithms or entry.role == "bar" or entry.algorithm in algorithms)
    ]
    verdicts = judge(records, entries, min_seeds)
    if not verdicts:
        tasks_of_runs = ", ".join(sorted({record.task for record in records})) or "none"
        raise UserError(f"nothing to compare: no bar is on a task of the runs that were chosen ({tasks_of_runs}).")
    code = exit_code(verdicts)
    if problems and code == 0 and not all(verdict.is_bar for verdict in verdicts):
        code = 2  # what could not be read may be what is wrong
    if junit:
        _write(Path(junit), lambda target: write_junit(verdicts, target))
    if json_file:
        content = {"exit_code": code, "level": LEVEL, "min_seeds": min_seeds, "left_out": problems}
        content["verdicts"] = [as_row(verdict) for verdict in verdicts]
        _write(Path(json_file), lambda target: target.write_text(json.dumps(content, indent=1) + "\n"))
    _show(entries, verdicts, problems, code)
    return code


def record(
    places: Sequence[str],
    out: str | None,
    command: str | None,
    *,
    metric: str | None = None,
    at_step: int | None = None,
    tolerance: str | None = None,
    direction: str | None = None,
    commit: str | None = None,
    algorithms: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> int:
    """Write a reference file from runs.

    Args:
        places: folders with runs, or ``runs.json`` files.
        out: the file to write; never an existing one.
        command: that made the runs.
        metric: as hosts log it (test_return_mean).
        at_step: env steps of the scores; without it the last that all runs of an algorithm on a task reached.
        tolerance: drop that is accepted, as in the file.
        direction: as in the file.
        commit: of this plugin when the runs were made (default: the one that runs now).
        algorithms: only these.
        tasks: only these.

    Returns:
        0.

    Raises:
        UserError: if anything that was given is wrong.
    """
    if not out or not command:
        raise UserError("hasac regress --record needs --out FILE.yaml and --command 'the command that made the runs'.")
    if Path(out).exists():
        raise UserError(f"--out: {out} exists already; remove it first if it is to be replaced.")
    records, problems = _records(places)
    if problems:
        raise UserError(f"nothing was recorded, because a run cannot be read: {problems[0]}")
    _check("--algorithm", algorithms, {each.algorithm for each in records})
    _check("--task", tasks, {each.task for each in records})
    records = _selected(records, algorithms, tasks)
    if not records:
        raise UserError("nothing to record: no run is of an --algorithm and a --task that were given.")
    entries = record_entries(records, metric or "test_return_mean", at_step, tolerance, direction)
    source = provenance(records, map(Path, places), command, commit)
    _write(Path(out), lambda target: target.write_text(as_yaml(entries, source)))
    print(f"{len(entries)} entries from {len(records)} runs; written to {out}")
    return 0


def _records(places: Sequence[str]) -> tuple[list[Record], list[str]]:
    if not places:
        raise UserError(
            "hasac regress needs folders with runs, before --reference: hasac regress RESULTS --reference …"
        )
    absent = [place for place in places if not Path(place).exists()]
    if absent:
        raise UserError(f"no folder or file '{absent[0]}' with runs.")
    records, problems = find_records([Path(place) for place in places])
    return records, [problem.removeprefix("left out: ") for problem in problems]


def _selected(records: Iterable[Record], algorithms: Sequence[str], tasks: Sequence[str]) -> list[Record]:
    return [
        record
        for record in records
        if (not algorithms or record.algorithm in algorithms) and (not tasks or record.task in tasks)
    ]


def _check(option: str, given: Iterable[str], known: set[str]) -> None:
    for word in given:
        if word not in known:
            raise UserError(
                f"{option}: neither runs nor references have '{word}'.{did_you_mean(word, known)} "
                f"There are: {', '.join(sorted(known))}."
            )


def _write(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file in one piece: it is there whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        os.close(descriptor)
        try:
            write(Path(name))
            Path(name).chmod(0o644)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error


def _show(entries: Sequence[Entry], verdicts: Sequence[Verdict], problems: Sequence[str], code: int) -> None:
    """Tables, reasons and a last line that says it all."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False, emoji=False)
    references = [verdict for verdict in verdicts if not verdict.is_bar]
    bars = [verdict for verdict in verdicts if verdict.is_bar]
    for title, rows in (("References", references), ("Bars: scores to reach, never a regression", bars)):
        if rows:
            console.print(_table(title, rows))
    for problem in problems:
        console.print(f"left out: {problem}", style="yellow", soft_wrap=True)
    for (outcome, what, text), names in _reasons(verdicts).items():
        against = f" against {', '.join(names)}" if names else ""
        console.print(f"{outcome}: {what}{against}: {text}", style=STYLES.get(outcome), soft_wrap=True)
    unused = sum(entry.role == "bar" for entry in entries) - len({id(verdict.entry) for verdict in bars})
    if unused:
        console.print(f"{unused} bars are on tasks without runs and not shown.", style="dim", soft_wrap=True)
    rule = f"Rule: t-tests, {LEVEL:.0%} for all comparisons of a table together (Holm), one-sided for references,"
    rule += f" two-sided for bars. 'finds': the drop that is found with {POWER:.0%} probability."
    console.print(rule, style="dim", soft_wrap=True)
    summary = {0: "no regression" if references else "bars", 1: "regression", 2: "not enough data"}[code]
    counts = [f"{sum(v.outcome == outcome for v in verdicts)} {outcome}" for outcome in Outcome]
    console.print(f"{summary} ({', '.join(count for count in counts if not count.startswith('0 '))})", style="bold")


def _reasons(verdicts: Sequence[Verdict]) -> dict[tuple[Outcome, str, str], list[str]]:
    """What there is to say on outcomes, each with the bars that it is about."""
    reasons: dict[tuple[Outcome, str, str], list[str]] = {}
    for verdict in verdicts:
        text = explain(verdict)
        if text and verdict.outcome != Outcome.OK and (verdict.reason or verdict.outcome != Outcome.ABOVE):
            what = f"{verdict.algorithm} on {verdict.entry.task}"
            names = reasons.setdefault((verdict.outcome, what, text), [])
            names += [verdict.entry.algorithm] if verdict.is_bar else []
    return reasons


def _table(title: str, verdicts: Sequence[Verdict]) -> Table:
    bars = verdicts[0].is_bar
    table = Table(title=title, title_justify="left")
    columns = ["algorithm", "task", "metric", "env steps", "bar" if bars else "reference", "measured", "p"]
    for column in columns if bars else [*columns, "finds"]:
        table.add_column(column, justify="left" if column in ("algorithm", "task", "metric", "bar") else "right")
    table.add_column("outcome")
    for verdict in verdicts:
        entry = verdict.entry
        row = [
            verdict.algorithm,
            entry.task,
            entry.metric,
            "?" if entry.env_steps is None else f"{entry.env_steps:,}",
            (f"{entry.algorithm} " if bars else "") + _score(entry.value, entry.spread, entry.seeds),
            _score(verdict.mean, verdict.spread, len(verdict.scores) or None),
            "" if verdict.p_value is None else f"{verdict.p_value:.2g}",
        ]
        if not bars:
            row.append("" if verdict.finds is None else f"{verdict.finds:.3g}")
        table.add_row(*row, str(verdict.outcome), style=STYLES.get(verdict.outcome))
    return table


def _score(mean: float | None, spread: float | None, seeds: int | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}") + ("" if seeds is None else f" ({seeds})")
