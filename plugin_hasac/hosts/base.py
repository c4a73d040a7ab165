"""What a host is to the command line, and what all PyMARL-family hosts share."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from plugin_hasac.errors import UserError, did_you_mean

KINDS = {"algs": "--config", "envs": "--env-config"}
_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries our YAML files inside the package (setup.py); a checkout has them beside it.
PLUGIN_CONFIG = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "config"

# Called with every statistic that the host logs: (name, value, t_env).
Observer = Callable[[str, float, int], None]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a dictionary.

    Raises:
        UserError: if it cannot be parsed or is no mapping.
    """
    try:
        with path.open() as file:
            values = yaml.safe_load(file) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold 'key: value' lines, not a {type(values).__name__}.")
    return values


def merged(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``update`` laid over it, nested mappings key by key."""
    result = dict(base)
    for key, value in update.items():
        old = result.get(key)
        result[key] = merged(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return result


def smallest_batch(batch_class: Any, scheme: dict, groups: dict, preprocess: dict, device: str) -> Any:
    """One env, one step, marked as filled, of a host's ``EpisodeBatch``."""
    batch = batch_class(scheme, groups, 1, 1, preprocess=preprocess, device=device)
    batch.update({"reward": [(0.0,)]}, ts=0)
    return batch


class Host(ABC):
    """An installed PyMARL-family framework."""

    name: str
    root: Path  # folder that holds the host's config/ and its Python modules

    @abstractmethod
    def register(self) -> None:
        """Add HASAC's runner, MAC, learner and envs to the host's registries."""

    @abstractmethod
    def launch(self, params: list[str], observer: Observer | None) -> None:
        """Run the host's main program with its command-line parameters.

        Args:
            params: ``--config=…``, ``--env-config=…``, then sacred's syntax.
            observer: told of every statistic.
        """

    _run: Any = None  # sacred's, of the last launch

    @property
    def run_folder(self) -> Path | None:
        """Where the last launched run was recorded: the folder of sacred's file observer."""
        return Path(self._run.observers[0].dir) if self._run is not None else None

    def write_records(self) -> None:
        """Have sacred write what it holds, which it does every 10 s."""
        self._run._stop_heartbeat()  # writes once more
        self._run._start_heartbeat()

    @contextmanager
    def observed(self, logger: Any, observer: Observer | None) -> Iterator[None]:
        """While this lasts, the host's logger class tells of its sacred run and of every statistic."""
        host, setup_sacred, log_stat = self, logger.setup_sacred, logger.log_stat

        def observed_setup(self: Any, sacred_run: Any) -> None:
            host._run = sacred_run
            setup_sacred(self, sacred_run)

        def observed_stat(self: Any, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
            log_stat(self, key, value, t, to_sacred)
            if observer is not None:
                observer(key, value, t)

        logger.setup_sacred, logger.log_stat = observed_setup, observed_stat
        try:
            yield
        finally:
            logger.setup_sacred, logger.log_stat = setup_sacred, log_stat

    @abstractmethod
    def env_names(self) -> set[str]:
        """Names that a config's ``env:`` may have."""

    def config_path(self, kind: str, name: str) -> Path:
        """File of a config, the host's own before ours.

        Args:
            kind: ``algs`` or ``envs``.
            name: without ``.yaml``; or the path of a YAML file.

        Raises:
            UserError: if there is none; the message lists what there is.
        """
        own = Path(name).with_suffix(".yaml") if name.endswith((".yaml", ".yml")) or "/" in name else None
        for path in (
            [own] if own else [folder / kind / f"{name}.yaml" for folder in (self.root / "config", PLUGIN_CONFIG)]
        ):
            if path.is_file():
                return path.resolve()
        names = self.config_names(kind)
        raise UserError(
            f"unknown {KINDS[kind]} '{name}'.{did_you_mean(name, names)} Expected one of: {', '.join(names)}; "
            "or the path of a YAML file."
        )

    def config_values(self, kind: str, name: str) -> dict[str, Any]:
        """Content of a config; raises as :meth:`config_path` and :func:`read_yaml`."""
        return read_yaml(self.config_path(kind, name))

    def config_names(self, kind: str) -> list[str]:
        """All config names, the host's and ours."""
        folders = (self.root / "config" / kind, PLUGIN_CONFIG / kind)
        return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})

    def host_argument(self, kind: str, name: str) -> str:
        """The name by which the host's own loader finds a config.

        Hosts join their config folder and the name, and an absolute name drops the folder.

        Raises:
            UserError: if the path holds a "=", at which hosts would cut it.
        """
        path = self.config_path(kind, name)
        if "=" in str(path):
            raise UserError(f"{path}: hosts cannot read a config whose path contains '='; move it.")
        return str(path.with_suffix(""))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The host's ``default.yaml``."""
        return read_yaml(self.root / "config" / "default.yaml")

    @cached_property
    def keys_read_in_code(self) -> set[str]:
        """Config keys that the host's code reads but its YAML files may not mention."""
        patterns = re.compile(r"""args\.(\w+)|getattr\((?:self\.)?args,\s*["'](\w+)["']|config\[["'](\w+)["']\]""")
        keys: set[str] = set()
        for path in self.root.rglob("*.py"):
            keys.update(word for match in patterns.findall(path.read_text(errors="ignore")) for word in match if word)
        return keys
