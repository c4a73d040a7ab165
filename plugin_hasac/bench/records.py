"""Runs as small records: what was tested when, and under which settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from plugin_hasac.errors import UserError

METRICS = {"return": "return_mean", "win_rate": "battle_won_mean", "ep_length": "ep_length_mean"}
SETTINGS = ("env", "t_max", "test_interval", "test_nepisode", "test_greedy", "batch_size_run", "env_args", "use_cuda")


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        algorithm: the config's ``name``; ``ALGO (HARL)`` for a run of HARL, whose algorithms are other implementations.
        task: ``env_args.map_name`` or ``env_args.key``.
        seed: of the run.
        steps: env steps at each test.
        test_returns: mean return of each test, in reward units.
        settings: config values that decide what was compared.
        machine: Python version and processor, as sacred recorded them.
        metrics: the tests' other statistics by name without ``test_`` (``battle_won_mean``, ``return_std``, …), one
            value per test.
        status: sacred's (``COMPLETED``, ``FAILED``, ``RUNNING``, …); ``UNFINISHED`` for a HARL log that stops early;
            empty where nothing says how the run ended.
        host: the framework, as the run recorded it.
        source: the folder that it was read from.
    """

    algorithm: str
    task: str
    seed: int
    steps: list[int]
    test_returns: list[float]
    settings: dict[str, Any]
    machine: dict[str, Any]
    metrics: dict[str, list[float]] = field(default_factory=dict)
    status: str = ""
    host: str = ""
    source: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing says that it broke off or is still running."""
        return self.status in ("", "COMPLETED")

    @property
    def label(self) -> str:
        """How a list of problems names the run."""
        return f"{self.algorithm} on {self.task}, seed {self.seed}" + (f" ({self.source})" if self.source else "")

    @property
    def env(self) -> str:
        """The family of tasks: a Gym key's prefix (``mpe`` of ``mpe:SimpleSpread-3-v0``), else the config's env."""
        prefix, separator, _ = self.task.partition(":")
        return prefix if separator else str(self.settings.get("env", "tasks"))

    def values(self, metric: str) -> list[float] | None:
        """One value per test of a metric: ``return``, ``win_rate``, ``ep_length`` or X of a logged ``test_X_mean``."""
        name = METRICS.get(metric, metric).removeprefix("test_")
        if name == "return_mean":
            return self.test_returns
        return self.metrics.get(name) or self.metrics.get(f"{name}_mean")


def read_sacred(folder: Path) -> Record:
    """Read one sacred folder of any PyMARL-family host.

    Metrics that were not logged at every test, together with the return, are left out.

    Raises:
        UserError: if a file is missing or damaged, or holds no test.
    """
    config, run = (_read_json(folder, f"{name}.json") for name in ("config", "run"))
    info = _read_json(folder, "info.json") if (folder / "info.json").is_file() else {}
    status = str(run.get("status", ""))
    # EPyMARL logs only the agents' sum where they do not share one reward.
    returns = "test_return_mean" if "test_return_mean" in info else "test_total_return_mean"
    if not info.get(returns):
        raise UserError(f"{folder} has no test_return_mean (status {status or 'unknown'}): no test was made or logged.")
    try:
        env_args, machine = config["env_args"], run.get("host", {})
        task = env_args.get("map_name") or env_args.get("key")
        if not task:
            raise KeyError("env_args.map_name or env_args.key")
        steps = [int(_plain(step)) for step in info[f"{returns}_T"]]
        series = {
            key.removeprefix("test_"): [float(_plain(value)) for value in info[key]]
            for key in info
            if re.fullmatch("test_.*_(mean|std)", key) and info.get(f"{key}_T") == info[f"{returns}_T"]
        }
        return checked(
            Record(
                algorithm=str(config["name"]),
                task=str(task),
                seed=int(config["seed"]),
                steps=steps,
                test_returns=series.pop(returns.removeprefix("test_")),
                settings={key: config[key] for key in SETTINGS if key in config},
                machine={"python": machine.get("python_version"), "cpu": machine.get("cpu")},
                metrics=series,
                status=status,
                host=_host(run),
                source=str(folder),
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is not a readable sacred run: {type(error).__name__} {error}") from error


def checked(record: Record) -> Record:
    """Return a record if it has tests with rising steps and a value of every metric for each.

    Raises:
        ValueError: if not.
    """
    steps, count = record.steps, len(record.steps)
    if not steps or any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError("the tests' env steps do not rise")
    if any(len(values) != count for values in (record.test_returns, *record.metrics.values())):
        raise ValueError("a metric has not one value for each test")
    return record


def find_records(places: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """All runs below some folders, and in JSON files that :func:`write_records` wrote.

    Folders of runs are sacred's (named by number) and HARL's (with a ``progress.txt``).

    Returns:
        The records, sorted by task, algorithm and seed, and one line for each run that could not be read.

    Raises:
        UserError: if a place does not exist or holds no run at all.
    """
    from plugin_hasac.bench.harl import read_harl  # it makes Records

    records, problems = [], []
    for place in places:
        if place.is_file():
            records += read_records(place)
            continue
        markers = {path for name in ("config.json", "run.json", "info.json") for path in place.rglob(name)}
        sacred = sorted({path.parent for path in markers if path.parent.name.isdigit()})
        harl = sorted(path.parent for path in place.rglob("progress.txt"))
        if not sacred and not harl:
            expected = "folders named by number with a config.json, or HARL's with a progress.txt"
            raise UserError(f"{place} holds no sacred runs: expected {expected}.")
        for read, folders in ((read_sacred, sacred), (read_harl, harl)):
            for folder in folders:
                # An absolute place is named from its own folder on, so that a report tells nothing about a home folder.
                shown = str(folder.relative_to(place.parent) if place.is_absolute() else folder)
                try:
                    records.append(replace(read(folder), source=shown))
                except UserError as error:
                    problems.append(f"left out: {str(error).replace(str(folder), shown)}")
    return sorted(records, key=lambda record: (record.task, record.algorithm, record.seed)), problems


def read_records(file: Path) -> list[Record]:
    """Read what :func:`write_records` wrote, in this version or an earlier one.

    Raises:
        UserError: if it is something else.
    """
    try:
        return [checked(Record(**entry)) for entry in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a file of run records (runs.json): {error}") from error


def write_records(records: list[Record], target: Path) -> None:
    """Write records as one JSON file with a line per run; empty optional fields are left out."""
    lines = []
    for record in records:
        optional = {"metrics": record.metrics, "status": record.status, "host": record.host, "source": record.source}
        entry = {key: value for key, value in asdict(record).items() if key not in optional or optional[key]}
        lines.append(json.dumps(entry))
    target.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a readable run: {name}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{folder} is not a readable run: {name} holds no JSON object.")
    return content


def _plain(value: Any) -> Any:
    """A number as sacred wrote it: plain, or a numpy scalar as ``{"dtype", "py/object", "value"}``."""
    return value["value"] if isinstance(value, dict) else value


def _host(run: dict[str, Any]) -> str:
    """PyMARLzoo+ names its sacred experiment after itself; PyMARL's family says ``pymarl``, in ``CHECKOUT/src``."""
    experiment = run.get("experiment", {})
    folder = Path(str(experiment.get("base_dir", "")))
    return folder.parent.name if folder.name == "src" else str(experiment.get("name", ""))
