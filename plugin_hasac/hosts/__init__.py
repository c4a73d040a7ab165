"""The frameworks that HASAC plugs into, one module each. Nothing outside this package imports a host."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from plugin_hasac.errors import UserError

if TYPE_CHECKING:
    from plugin_hasac.hosts.base import Host

HOSTS = {"pymarlzooplus": "Pymarlzooplus"}  # module of this package: class in it


def find_host(name: str = "pymarlzooplus") -> Host:
    """The installed host of that name.

    Raises:
        UserError: if the name is unknown or the host is not installed.
    """
    if name not in HOSTS:
        raise UserError(f"unknown host '{name}'; expected one of: {', '.join(sorted(HOSTS))}.")
    module = importlib.import_module(f"plugin_hasac.hosts.{name}")
    host: Host = getattr(module, HOSTS[name])()
    return host
