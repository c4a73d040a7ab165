"""What a suite runs: algorithms x tasks x seeds, read from YAML and checked before anything starts."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugin_hasac.bench.resources import Resources
from plugin_hasac.config import check_keys
from plugin_hasac.errors import UserError, did_you_mean
from plugin_hasac.hosts import DEFAULT, find_host
from plugin_hasac.hosts.base import PLUGIN_CONFIG, Host, merged, read_yaml
from plugin_hasac.hosts.request import LEARNER, check

KEYS = {"host", "folder", "algorithms", "tasks", "seeds", "settings", "resources"}
ALGORITHM_KEYS = {"name", "config", "settings", "seeds"}
TASK_KEYS = {"name", "env", "env_args", "settings"}
# Where a run computes and what else it leaves behind, not what it computes: these do not make it another run.
NOT_IDENTITY = ("cpu_threads", "env_workers")


@dataclass(frozen=True)
class Run:
    """One run of a suite.

    Attributes:
        index: position in the suite.
        algorithm: its name in the suite, and in the run's record.
        task: its name in the suite.
        seed: of the run.
        command: the ``hasac run`` command line.
        t_max: env steps.
        identity: hash of host, algorithm, task, seed and every setting, stock values included.
    """

    index: int
    algorithm: str
    task: str
    seed: int
    command: tuple[str, ...]
    t_max: int
    identity: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.algorithm} on {self.task}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where it lies in the suite's folder."""
        return Path(self.algorithm) / self.task / f"seed{self.seed}"

    @property
    def command_line(self) -> str:
        """The command as one types it."""
        return shlex.join(self.command)


@dataclass(frozen=True)
class Suite:
    """A checked suite.

    Attributes:
        path: its file.
        folder: where results go.
        runs: in the order in which they start: all first seeds, then all second ones, and so on.
        resources: what runs may use.
    """

    path: Path
    folder: Path
    runs: tuple[Run, ...]
    resources: Resources

    def find(self, word: str) -> Run:
        """One run by its index or its identity.

        Raises:
            UserError: if there is none.
        """
        for run in self.runs:
            if word in (str(run.index), run.identity):
                return run
        raise UserError(
            f"--only {word}: {self.path} has no such run; expected an index from 0 to {len(self.runs) - 1}, or an "
            "identity (--dry-run lists both). A suite that was changed has other identities."
        )


def suite_path(name: str) -> Path:
    """A suite's file, given its path or the name of a shipped suite.

    Raises:
        UserError: if there is none.
    """
    shipped = {path.stem: path for path in sorted((PLUGIN_CONFIG / "suites").glob("*.yaml"))}
    if Path(name).is_file():
        return Path(name).resolve()
    if name in shipped:
        return shipped[name]
    raise UserError(
        f"no suite '{name}'.{did_you_mean(name, shipped)} Expected the path of a YAML file, or one of: "
        f"{', '.join(shipped)}."
    )


def read_suite(name: str, folder: str | None = None) -> Suite:
    """Read and check a suite.

    Args:
        name: path of a YAML file, or the name of a shipped suite.
        folder: for results, instead of the suite's own.

    Raises:
        UserError: for an unknown key, algorithm or env, a value of a wrong type, or a name given twice.
    """
    path = suite_path(name)
    values = read_yaml(path)
    check_keys(values, KEYS, f"in {path}")
    resources = Resources.from_mapping(_typed(values, "resources", Mapping, {}, f"in {path}"))
    host_name = _typed(values, "host", str, DEFAULT, f"in {path}")
    host = find_host(host_name)
    common = _settings(values, "settings", f"in {path}")
    seeds = _seeds(values.get("seeds", 1), f"in {path}")
    algorithms = [_algorithm(entry, seeds) for entry in _list(values, "algorithms", path)]
    tasks = [_task(entry) for entry in _list(values, "tasks", path)]
    _refuse_twice([each["name"] for each in algorithms], "algorithms", path)
    _refuse_twice([each["name"] for each in tasks], "tasks", path)
    pairs = _Pairs(host, host_name, common, resources.threads)
    cells = [(task, algorithm, pairs.checked(algorithm, task)) for task in tasks for algorithm in algorithms]
    _refuse_one_record(cells, path)
    runs: list[Run] = []
    for number in range(max(len(algorithm["seeds"]) for algorithm in algorithms)):
        for task, algorithm, (config, command) in cells:
            if number < len(algorithm["seeds"]):
                seed = algorithm["seeds"][number]
                runs.append(_run(len(runs), algorithm["name"], task["name"], seed, config, command, host.name))
    own = _typed(values, "folder", str, f"results/suites/{path.stem}", f"in {path}")
    return Suite(path, Path(folder or own).expanduser().resolve(), tuple(runs), resources)


def _run(
    index: int, algorithm: str, task: str, seed: int, config: Mapping[str, Any], command: tuple[str, ...], host: str
) -> Run:
    settings = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    what = {"host": host, "algorithm": algorithm, "task": task, **settings, "seed": seed}
    identity = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return Run(index, algorithm, task, seed, (*command, f"seed={seed}"), int(config["t_max"]), identity)


@dataclass
class _Pairs:
    """Puts algorithms and tasks together as ``hasac run`` will."""

    host: Host
    host_name: str
    common: Mapping[str, Any]
    threads: int

    def checked(self, algorithm: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The merged config, and the command but for the seed. Raises UserError."""
        config_name, env_name = self._named("algs", algorithm["config"]), self._named("envs", task["env"])
        in_yaml = merged(self.host.defaults, self.host.config_values("algs", config_name))
        changes = merged(merged(self.common, task["settings"]), algorithm["settings"])
        if task["env_args"]:
            changes = merged(changes, {"env_args": task["env_args"]})
        if in_yaml.get("learner") == LEARNER:
            changes = {"cpu_threads": self.threads, **changes} if "cpu_threads" in in_yaml else changes
            # What a report tells algorithms apart by. Not for a host's own, some of which ask for their name.
            if algorithm["name"] != in_yaml.get("name"):
                changes = {"name": algorithm["name"], **changes}
        words = list(_words(changes))
        try:
            config, _additions, _notice = check(self.host, config_name, env_name, [*words, "seed=0"])
        except UserError as error:
            raise UserError(f"{algorithm['name']} on {task['name']}: {error}") from None
        host = [] if self.host_name == DEFAULT else [f"--host={Path(self.host_name).expanduser().resolve()}"]
        return config, ("hasac", "run", *host, f"--config={config_name}", f"--env-config={env_name}", "with", *words)

    def _named(self, kind: str, name: str) -> str:
        """A name as it is, a file by its whole path."""
        path = self.host.config_path(kind, name)
        return str(path) if "/" in name or name.endswith((".yaml", ".yml")) else name


def _words(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings in sacred's syntax; what is text stays text where sacred would see a number."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _words(value, f"{prefix}{key}.")
            continue
        text = str(value)
        if isinstance(value, str) and not re.fullmatch(
            r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value
        ):  # YAML 1.1: 1e-4 is text
            try:
                ast.literal_eval(value)
                text = repr(value)
            except (ValueError, SyntaxError):
                pass
        yield f"{prefix}{key}={text}"


# ---------------------------------------------------------------- entries of the file


def _algorithm(entry: Any, seeds: list[int]) -> dict[str, Any]:
    values = {"config": entry} if isinstance(entry, str) else entry
    if not isinstance(values, Mapping):
        raise UserError(f"algorithms: {entry!r} is not a name, or a mapping such as {{config: hasac, settings: …}}.")
    check_keys(values, ALGORITHM_KEYS, "in algorithms")
    config = _typed(values, "config", str, None, "in algorithms") or _typed(values, "name", str, None, "in algorithms")
    if config is None:
        raise UserError(f"algorithms: {entry!r} has no 'config' (such as hasac).")
    name = _name(_typed(values, "name", str, Path(config).stem, "in algorithms"))
    own = _seeds(values["seeds"], f"of {name}") if "seeds" in values else seeds
    return {"name": name, "config": config, "settings": _settings(values, "settings", f"of {name}"), "seeds": own}


def _task(entry: Any) -> dict[str, Any]:
    values = {"env": entry} if isinstance(entry, str) else entry
    if not isinstance(values, Mapping):
        raise UserError(f"tasks: {entry!r} is not the name of an env config, or a mapping such as {{env: gymma, …}}.")
    check_keys(values, TASK_KEYS, "in tasks")
    env = _typed(values, "env", str, None, "in tasks") or _typed(values, "name", str, None, "in tasks")
    if env is None:
        raise UserError(f"tasks: {entry!r} has no 'env' (such as simple_spread).")
    env_args = _settings(values, "env_args", f"of {env}")
    default = env_args.get("map_name") or env_args.get("key") or Path(env).stem
    name = _name(_typed(values, "name", str, str(default), "in tasks"))
    return {"name": name, "env": env, "env_args": env_args, "settings": _settings(values, "settings", f"of {name}")}


def _typed(values: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        expected = "a text" if kind is str else "a mapping of 'key: value' lines"
        raise UserError(f"{key} {where}: {value!r} is not {expected}.")
    return value


def _settings(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    settings = dict(_typed(values, key, Mapping, {}, where))
    for own, better in {"seed": "seeds", "name": "the name of an algorithm"}.items():
        if key == "settings" and own in settings:
            raise UserError(f"settings {where}: '{own}' is set by {better}.")
    return settings


def _list(values: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    entries = values.get(key)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{key} in {path}: {entries!r} is not a list with at least one entry.")
    return entries


def _seeds(value: Any, where: str) -> list[int]:
    whole = [
        isinstance(seed, int) and not isinstance(seed, bool) for seed in (value if isinstance(value, list) else [value])
    ]
    if isinstance(value, int) and all(whole) and value > 0:
        return list(range(1, value + 1))
    if isinstance(value, list) and value and all(whole) and min(value) >= 0 and len(set(value)) == len(value):
        return value
    raise UserError(f"seeds {where}: {value!r} is neither a number of seeds nor a list of different whole numbers.")


def _name(name: str) -> str:
    if not re.fullmatch(r"[^\s/.=][^\s/=]*", name):
        raise UserError(
            f"name {name!r}: a name is part of a path, so it has no spaces, '/' or '='; add another 'name'."
        )
    return name


def _refuse_twice(names: list[str], what: str, path: Path) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{what} in {path}: '{name}' is there {count} times; give each a 'name' of its own.")


def _refuse_one_record(cells: list[tuple[Any, Any, Any]], path: Path) -> None:
    """What runs record under one name cannot be told apart in a report."""
    names: dict[tuple[str, str], str] = {}
    for task, algorithm, (config, _command) in cells:
        env_args = config["env_args"]
        recorded = {
            "algorithms": (algorithm, config["name"]),
            "tasks": (task, env_args.get("map_name") or env_args.get("key")),
        }
        for what, (entry, name) in recorded.items():
            other = names.setdefault((what, str(name)), entry["name"])
            if other != entry["name"]:
                raise UserError(
                    f"{what} in {path}: '{other}' and '{entry['name']}' are both recorded as '{name}', so a report "
                    "could not tell them apart; put one into a suite of its own."
                )
