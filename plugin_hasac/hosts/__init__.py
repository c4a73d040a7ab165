"""The frameworks that HASAC plugs into, one module each. Nothing outside this package imports a host."""

from __future__ import annotations

from plugin_hasac.errors import UserError
from plugin_hasac.hosts.base import Host
from plugin_hasac.hosts.pymarlzooplus import Pymarlzooplus

HOSTS: dict[str, type[Host]] = {"pymarlzooplus": Pymarlzooplus}


def find_host(name: str = "pymarlzooplus") -> Host:
    """The installed host of that name.

    Raises:
        UserError: if the name is unknown or the host is not installed.
    """
    if name not in HOSTS:
        raise UserError(f"unknown host '{name}'; expected one of: {', '.join(sorted(HOSTS))}.")
    return HOSTS[name]()
