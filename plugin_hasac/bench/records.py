"""Runs as small records: what was tested when, and under which settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plugin_hasac.errors import UserError


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        algorithm: the config's ``name``.
        task: ``env_args.map_name`` or ``env_args.key``.
        seed: of the run.
        steps: env steps at each test.
        test_returns: mean return of each test, in reward units.
        settings: config values that decide what was compared.
        machine: Python version and processor, as sacred recorded them.
    """

    algorithm: str
    task: str
    seed: int
    steps: list[int]
    test_returns: list[float]
    settings: dict[str, Any]
    machine: dict[str, Any]


SETTINGS = ("t_max", "test_interval", "test_nepisode", "test_greedy", "batch_size_run", "env_args", "use_cuda")


def read_sacred(folder: Path) -> Record:
    """Read one sacred folder of any PyMARL-family host.

    Raises:
        UserError: if a file is missing or damaged, or holds no test.
    """
    try:
        config, info, run = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "info", "run"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a readable sacred run: {error}") from error
    if not info.get("test_return_mean"):
        raise UserError(f"{folder} has no test_return_mean: the run ended before its first test.")
    env_args = config["env_args"]
    host = run.get("host", {})
    return Record(
        algorithm=config["name"],
        task=str(env_args.get("map_name") or env_args.get("key")),
        seed=int(config["seed"]),
        steps=[int(step) for step in info["test_return_mean_T"]],
        test_returns=[float(v["value"] if isinstance(v, dict) else v) for v in info["test_return_mean"]],
        settings={key: config[key] for key in SETTINGS if key in config},
        machine={"python": host.get("python_version"), "cpu": host.get("cpu")},
    )


def find_records(places: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """All runs below some folders, and in JSON files that :func:`write_records` wrote.

    Returns:
        The records, sorted by task, algorithm and seed, and one line for each run that could not be read.

    Raises:
        UserError: if a place does not exist or holds no run at all.
    """
    records, problems = [], []
    for place in places:
        if place.is_file():
            try:
                records += [Record(**entry) for entry in json.loads(place.read_text())]
            except (ValueError, TypeError) as error:
                raise UserError(f"{place} is not a file of run records: {error}") from error
            continue
        folders = sorted(path.parent for path in place.rglob("config.json") if path.parent.name.isdigit())
        if not folders:
            raise UserError(f"{place} holds no sacred runs (folders named by number with a config.json).")
        for folder in folders:
            try:
                records.append(read_sacred(folder))
            except UserError as error:
                problems.append(str(error))
    return sorted(records, key=lambda record: (record.task, record.algorithm, record.seed)), problems


def write_records(records: list[Record], target: Path) -> None:
    """Write records as one JSON file with a line per run."""
    lines = ",\n".join(json.dumps(asdict(record)) for record in records)
    target.write_text(f"[\n{lines}\n]\n")
