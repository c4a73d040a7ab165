"""Reference scores: a YAML format that is checked strictly, and the files that are shipped.

``results/reference/README.md`` documents the format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from plugin_hasac.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]
# setup.py copies the files into the package; a checkout has them where they are written.
_COPIED = _PACKAGE / "references"
SHIPPED = _COPIED if _COPIED.is_dir() else _PACKAGE.parent / "results" / "reference"

DIRECTIONS = ("higher-is-better", "lower-is-better")
ROLES = ("reference", "bar")
FILE_KEYS = ("about", "defaults", "entries")
REQUIRED = ("algorithm", "task", "metric", "source")
ROUNDING = 1e-3  # by which value and spread may differ from those of the listed values, relative


@dataclass(frozen=True)
class Entry:
    """One reference score.

    Attributes:
        algorithm: the config's ``name``.
        task: ``env_args.map_name`` or ``env_args.key``.
        metric: as hosts log it, such as ``test_return_mean``.
        source: paper and table, or commit and command.
        value: mean over seeds; ``None`` if it is not available.
        env_steps: at which the value was measured; ``None`` if the source does not say.
        spread: standard deviation over seeds (n - 1), ``None`` if unknown.
        seeds: how many; ``None`` if unknown: the value then counts as exact.
        values: one per seed, or empty.
        direction: one of :data:`DIRECTIONS`.
        tolerance: drop that is accepted, in the metric's units.
        role: ``reference`` (of the same algorithm) or ``bar`` (for whichever algorithm was measured).
        settings: config values that a run must share to be comparable.
        note: shown with the entry.
        why: why it cannot be compared.
    """

    algorithm: str
    task: str
    metric: str
    source: str | Mapping[str, Any]
    value: float | None = None
    env_steps: int | None = None
    spread: float | None = None
    seeds: int | None = None
    values: tuple[float, ...] = ()
    direction: str = DIRECTIONS[0]
    tolerance: float = 0.0
    role: str = ROLES[0]
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    why: str = ""

    @property
    def comparable(self) -> bool:
        """Whether there is something to compare with."""
        return not self.why

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.direction == DIRECTIONS[0] else -1

    @property
    def label(self) -> str:
        """How messages name it."""
        steps = "" if self.env_steps is None else f" at {self.env_steps:,} env steps"
        return f"{self.algorithm} on {self.task}, {self.metric}{steps}"


FIELDS = tuple(each.name for each in fields(Entry))
TEXTS = ("algorithm", "task", "note", "why")


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key given twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def find_reference(name: str) -> Path:
    """A file by its path, or a shipped one by its name.

    Raises:
        UserError: if there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    raise UserError(
        f"--reference: no file '{name}', and no shipped reference of that name.{did_you_mean(name, shipped)} "
        f"Shipped: {', '.join(shipped)}."
    )


def read_references(files: Sequence[Path]) -> list[Entry]:
    """The entries of some files, in their order.

    Raises:
        UserError: with one line for each mistake in a file.
    """
    entries, mistakes = [], []
    for file in files:
        found, wrong = _read(file)
        entries += found
        mistakes += [f"{file}: {mistake}" for mistake in wrong]
    if mistakes:
        raise UserError("\n".join(mistakes))
    return entries


def _read(file: Path) -> tuple[list[Entry], list[str]]:
    try:
        content = yaml.load(file.read_text(), _Loader)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return [], [f"not valid YAML{where}: {error.problem}."]
    except (OSError, ValueError, yaml.YAMLError) as error:
        return [], [f"not readable: {' '.join(str(error).split())}"]
    if not isinstance(content, dict) or not isinstance(content.get("entries"), list) or not content["entries"]:
        return [], ["expected a mapping with a list 'entries' (results/reference/README.md has the format)."]
    defaults = content.get("defaults", {})
    mistakes = [_unknown(key, FILE_KEYS) for key in content if key not in FILE_KEYS]
    if not isinstance(defaults, dict):
        return [], [*mistakes, f"'defaults' must be a mapping, got {defaults!r}."]
    mistakes += [f"defaults: {_unknown(key, FIELDS)}" for key in defaults if key not in FIELDS]
    entries: list[Entry] = []
    seen: dict[tuple[Any, ...], int] = {}
    for number, given in enumerate(content["entries"], start=1):
        if not isinstance(given, dict):
            mistakes.append(f"entry {number}: expected a mapping, got {given!r}.")
            continue
        where = f"entry {number} ({given.get('algorithm', '?')} on {given.get('task', '?')})"
        merged = {key: value for key, value in defaults.items() if key in FIELDS} | given
        entry, wrong = parse_entry(merged)
        mistakes += [f"{where}: {mistake}" for mistake in wrong]
        if entry is not None:
            # Papers may differ on a bar; a reference has one value.
            origin = str(entry.source) if entry.role == "bar" else ""
            key = (entry.algorithm, entry.task, entry.metric, entry.env_steps, entry.role, origin)
            if key in seen:
                mistakes.append(f"{where}: the same as entry {seen[key]}: give one of them.")
            seen.setdefault(key, number)
            entries.append(entry)
    return entries, mistakes


def parse_entry(given: Mapping[str, Any]) -> tuple[Entry | None, list[str]]:
    """Check one entry.

    Args:
        given: as in the file, defaults merged.

    Returns:
        The entry, or ``None`` and one line for each mistake.
    """
    mistakes = [_unknown(key, FIELDS) for key in given if key not in FIELDS]
    mistakes += [f"'{key}' is missing." for key in REQUIRED if given.get(key) in (None, "")]
    if "value" not in given and "values" not in given:
        mistakes.append("'value' is missing (null, with 'why', if it is not available).")
    read = {key: value for key, value in given.items() if key in FIELDS and value not in (None, "")}
    for key, accepts, expected in (
        *((key, _is_text, "a text") for key in TEXTS),
        ("metric", lambda it: str(it).startswith("test_"), "the full name of a test's metric, as test_return_mean"),
        *((key, _is_number, "a finite number") for key in ("value", "spread")),
        *((key, _is_count, "a whole number above 0") for key in ("env_steps", "seeds")),
        ("values", lambda it: isinstance(it, list) and it and all(map(_is_number, it)), "a list of finite numbers"),
        ("direction", lambda it: it in DIRECTIONS, " or ".join(DIRECTIONS)),
        ("role", lambda it: it in ROLES, " or ".join(ROLES)),
        ("tolerance", lambda it: _tolerance(it, 1.0) is not None, "a number from 0 on, or a percentage as '3%'"),
        ("settings", lambda it: isinstance(it, dict), "a mapping"),
        ("source", lambda it: _is_text(it) or (isinstance(it, dict) and bool(it)), "a text or a mapping"),
    ):
        if key in read and not accepts(read[key]):
            mistakes.append(f"'{key}' must be {expected}, got {read[key]!r}.")
    if mistakes:
        return None, mistakes
    mistakes = _complete(read)
    if mistakes:
        return None, mistakes
    for key in ("value", "spread"):
        if key in read:
            read[key] = float(read[key])
    read["tolerance"] = _tolerance(read.get("tolerance", 0), read.get("value", 0.0))
    read["values"] = tuple(map(float, read.get("values", ())))
    return Entry(**read), []


def _complete(read: dict[str, Any]) -> list[str]:
    """Fill in what follows from the values per seed; say what contradicts or is missing."""
    mistakes = []
    values = read.get("values", [])
    if values:
        own = {"value": float(np.mean(values)), "seeds": len(values)}
        if len(values) > 1:
            own["spread"] = float(np.std(values, ddof=1))
        slack = ROUNDING * max(map(abs, values), default=0.0)
        for key, number in own.items():
            if abs(read.setdefault(key, number) - number) > slack * (key != "seeds"):
                mistakes.append(f"'{key}' is {read[key]:g}, but that of 'values' is {number:.6g}.")
    absent = [key for key in ("value", "env_steps") if key not in read]
    if absent and "why" not in read:
        mistakes.append(f"'{absent[0]}' is not given: say in 'why' for what reason.")
    if "why" in read and not absent:
        mistakes.append("'why' says why there is no value or no env_steps, but both are given; use 'note'.")
    if read.get("spread", 0.0) < 0:
        mistakes.append(f"'spread' must not be negative, got {read['spread']:g}.")
    if read.get("seeds", 1) > 1 and "spread" not in read and not absent:
        mistakes.append(f"'spread' is missing: {read['seeds']} seeds have one (or leave out 'seeds').")
    if read.get("seeds") == 1 and "spread" in read:
        mistakes.append("'spread' is given, but one seed has none.")
    return mistakes


def _unknown(key: object, known: Sequence[str]) -> str:
    return f"'{key}' is not a field.{did_you_mean(str(key), known)} Expected: {', '.join(known)}."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _tolerance(given: Any, value: float) -> float | None:
    """In the metric's units; ``None`` if it is none."""
    if isinstance(given, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", given)
        return float(match[1]) / 100 * abs(value) if match else None
    return float(given) if _is_number(given) and given >= 0 else None
