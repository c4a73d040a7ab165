"""What hosts need from Python or from libraries that newer versions dropped, restored in memory only."""

from __future__ import annotations

import collections
import collections.abc
import importlib.util
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import yaml


def restore_imp() -> None:
    """Python 3.12 removed ``imp``; PyMARLzoo+'s MPE loads its scenarios with ``imp.load_source``."""
    if sys.version_info < (3, 12) or "imp" in sys.modules:
        return

    def load_source(name: str, path: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    imp = types.ModuleType("imp")
    imp.load_source = load_source
    sys.modules["imp"] = imp


def restore_collections() -> None:
    """Python 3.10 moved the abstract classes to ``collections.abc``; PyMARL and PyMARL2 use ``collections.Mapping``."""
    for name in ("Mapping", "MutableMapping", "Iterable", "Sequence"):
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))


def restore_yaml_load() -> None:
    """PyYAML 6 wants a Loader; PyMARL and PyMARL2 call ``yaml.load(file)`` on their own configs."""
    original = yaml.load
    if getattr(original, "by_plugin_hasac", False):
        return

    def load(stream: Any, Loader: Any = yaml.FullLoader) -> Any:  # noqa: N803 (PyYAML's name)
        return original(stream, Loader)

    load.by_plugin_hasac = True  # type: ignore[attr-defined]
    yaml.load = load


class _Altered(types.ModuleType):
    """A module, except for what is replaced."""

    def __init__(self, module: types.ModuleType, **replaced: Any) -> None:
        super().__init__(module.__name__)
        self._module = module
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def finish_sacred_records(modules: list[types.ModuleType]) -> None:
    """PyMARL and PyMARL2 end with ``os._exit``, which loses what sacred has not written yet: let it return.

    Args:
        modules: the host's modules that hold ``os`` and call its ``_exit`` when a run is over.
    """
    for module in modules:
        if getattr(module, "os", None) is os:
            vars(module)["os"] = _Altered(os, _exit=lambda _code: None)


def write_instead_of_waiting(module: types.ModuleType, write: Callable[[], None]) -> None:
    """PyMARLzoo+ sleeps for 10 s before it plots, until sacred has written its records, and 2 s for sacred's thread.

    That thread ends with the run, so waiting for it inside is in vain.

    Args:
        module: the host's, which holds ``time`` and ``threading``; its loop never sleeps otherwise.
        write: writes the records.
    """
    from sacred.utils import IntervalTimer

    def others() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if not isinstance(thread, IntervalTimer)]

    vars(module)["time"] = _Altered(time, sleep=lambda _seconds: write())
    vars(module)["threading"] = _Altered(threading, enumerate=others)
