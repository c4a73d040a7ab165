"""The frameworks that HASAC plugs into. Nothing outside this package imports a host."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugin_hasac.hosts.base import Host

DEFAULT = "pymarlzooplus"


def find_host(name: str = DEFAULT) -> Host:
    """The installed default host, or the one in a folder.

    Args:
        name: ``pymarlzooplus``, or the path of a checkout.

    Raises:
        UserError: if there is no host of that name or in that folder.
    """
    if name == DEFAULT:
        default: Host = importlib.import_module("plugin_hasac.hosts.pymarlzooplus").Pymarlzooplus()
        return default
    found: Host = importlib.import_module("plugin_hasac.hosts.checkout").checkout_at(Path(name).expanduser())
    return found
