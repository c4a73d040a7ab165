"""``hasac configs`` and ``hasac options``."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Table

from plugin_hasac.config import HasacConfig
from plugin_hasac.hosts import find_host


def list_configs(host_name: str) -> None:
    """Print the names that ``--config`` and ``--env-config`` take."""
    host = find_host(host_name)
    table = Table("--config", "--env-config", title=f"host: {host.name}")
    table.add_row("\n".join(host.config_names("algs")), "\n".join(host.config_names("envs")))
    Console().print(table)


def list_options() -> None:
    """Print HASAC's hyper-parameters with default, values and meaning."""
    table = Table("key", "default", "values", "meaning", title="HASAC's hyper-parameters")
    for field in dataclasses.fields(HasacConfig):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        table.add_row(field.name, str(default), field.metadata["expected"], field.metadata["doc"])
    Console().print(table)
