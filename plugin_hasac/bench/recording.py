"""Reference scores from measured runs, with where they come from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import plugin_hasac
from plugin_hasac.bench.records import Record
from plugin_hasac.bench.reference import parse_entry
from plugin_hasac.bench.regression import scores_by_seed
from plugin_hasac.errors import UserError

COMPARED = ("env_args", "test_greedy")  # settings without which scores are not comparable
NAMES = ("map_name", "key", "seed")  # env_args that say which task and run it is
DIGITS = 6


def record_entries(
    records: Sequence[Record],
    metric: str,
    at_step: int | None = None,
    tolerance: str | None = None,
    direction: str | None = None,
) -> list[dict[str, Any]]:
    """One entry for each algorithm and task.

    Args:
        records: measured runs.
        metric: as hosts log it.
        at_step: env steps of the scores; without it the last that all runs of an algorithm on a task reached.
        tolerance: drop that is accepted, as in the file.
        direction: as in the file.

    Returns:
        Entries as they are written, without their source.

    Raises:
        UserError: if a run has no score there, seeds are made twice, or settings differ.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.algorithm, record.task), []).append(record)
    entries = []
    for (algorithm, task), runs in groups.items():
        env_steps = min(run.steps[-1] for run in runs) if at_step is None else at_step
        scores, lacking = scores_by_seed(runs, metric, env_steps)
        if lacking:
            raise UserError(f"{algorithm} on {task}: {'; '.join(lacking)}: nothing was recorded.")
        values = [float(f"{score:.{DIGITS}g}") for score in scores.values()]
        entry: dict[str, Any] = {"algorithm": algorithm, "task": task, "metric": metric}
        entry |= {"direction": direction} if direction else {}
        entry |= {"env_steps": env_steps, "value": float(f"{np.mean(values):.{DIGITS}g}")}
        if len(values) > 1:
            entry["spread"] = float(f"{np.std(values, ddof=1):.{DIGITS}g}")
        entry |= {"seeds": len(values), "values": values}
        if tolerance is not None:
            entry["tolerance"] = float(tolerance) if _is_float(tolerance) else tolerance
        settings = _settings(f"{algorithm} on {task}", runs)
        if settings:
            entry["settings"] = settings
        _, mistakes = parse_entry({**entry, "source": "-"})
        if mistakes:
            raise UserError(f"{algorithm} on {task}: {mistakes[0]}")
        entries.append(entry)
    return entries


def provenance(
    records: Sequence[Record], places: Iterable[Path], command: str, commit: str | None = None
) -> dict[str, Any]:
    """Where measured scores come from: commit, command, host, machine, package versions, as far as runs tell.

    Args:
        records: measured runs.
        places: where they were found.
        command: that made the runs.
        commit: of this plugin when they were made; by default that of the checkout this code runs from.
    """
    hosts: set[str] = set()
    packages: dict[str, set[str]] = {}
    for file in (path for place in places for path in sorted(place.rglob("run.json"))):
        try:
            experiment = json.loads(file.read_text())["experiment"]
            hosts.add(_with_version(experiment["name"]))
            for package in experiment["dependencies"]:
                name, _, version = package.partition("==")
                packages.setdefault(name, set()).add(version)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a sacred record, or a damaged one: find_records names those
    source: dict[str, Any] = {
        "plugin_hasac": plugin_hasac.__version__,
        "commit": commit or _commit() or "unknown",
        "command": command,
    }
    hosts = hosts or {_with_version(host) for host in (getattr(record, "host", "") for record in records) if host}
    found = {
        "host": sorted(hosts),
        "python": _distinct(record.machine.get("python") for record in records),
        "cpu": _distinct(record.machine.get("cpu") for record in records),
    }
    source |= {key: ", ".join(values) for key, values in found.items() if values}
    if packages:
        source["packages"] = {name: ", ".join(sorted(versions)) for name, versions in sorted(packages.items())}
    return source


def as_yaml(entries: Sequence[Mapping[str, Any]], source: Mapping[str, Any]) -> str:
    """The text of a reference file."""
    style: dict[str, Any] = {"sort_keys": False, "width": 118, "allow_unicode": True}
    top = yaml.safe_dump({"defaults": {"source": dict(source)}}, default_flow_style=False, **style)
    return top + yaml.safe_dump({"entries": [dict(entry) for entry in entries]}, default_flow_style=None, **style)


def _settings(label: str, runs: Sequence[Record]) -> dict[str, Any]:
    """The settings that decide what was measured, the same for all runs.

    Raises:
        UserError: if they are not.
    """
    each = []
    for run in runs:
        settings = {key: run.settings[key] for key in COMPARED if key in run.settings}
        if "env_args" in settings:
            settings["env_args"] = {key: value for key, value in settings["env_args"].items() if key not in NAMES}
        each.append({key: value for key, value in settings.items() if value not in ({}, None)})
    if any(settings != each[0] for settings in each):
        raise UserError(f"{label}: the runs differ in {' or '.join(COMPARED)}; record those that belong together.")
    return each[0]


def _commit() -> str | None:
    """Of the checkout that this code lies in; ``+changes`` if it is not what was committed."""
    root = Path(plugin_hasac.__file__).resolve().parents[1]
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return None  # installed somewhere inside another project's checkout
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
        return _git(root, "rev-parse", "--short", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _with_version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def _distinct(values: Iterable[Any]) -> list[str]:
    return sorted({str(value) for value in values if value})


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
