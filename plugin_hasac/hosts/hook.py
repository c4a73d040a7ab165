"""What the lines that ``hasac hosts install`` adds to a host's ``src/main.py`` call."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from plugin_hasac.errors import UserError
from plugin_hasac.hosts.base import KINDS
from plugin_hasac.hosts.checkout import Checkout, checkout_at
from plugin_hasac.hosts.request import LEARNER, check


def prepare(main_file: str) -> None:
    """Register into the host, and make ``--config=hasac`` mean our config; other algorithms run as ever.

    Args:
        main_file: the host's ``src/main.py``.
    """
    try:
        host = checkout_at(Path(main_file).resolve().parents[1])
        host.register()
        if multiprocessing.parent_process() is None:  # env workers import main.py as well
            sys.argv[1:] = completed(host, sys.argv[1:])
    except UserError as error:
        print(f"hasac: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def completed(host: Checkout, params: list[str]) -> list[str]:
    """The host's command line with our configs as paths, checked and completed if the algorithm is ours.

    Raises:
        UserError: for an unknown config, key or env, or an impossible value, of our algorithms.
    """
    options = {kind: f"{option}=" for kind, option in KINDS.items()}
    names = {
        kind: param.removeprefix(option)
        for kind, option in options.items()
        for param in params
        if param.startswith(option)
    }
    if set(names) != set(KINDS):
        return params  # the host says what is missing
    paths = [options[kind] + host.host_argument(kind, name) for kind, name in names.items()]
    rest = [param for param in params if not param.startswith(tuple(options.values()))]
    split = rest.index("with") if "with" in rest else len(rest)
    flags, words = rest[:split], rest[split + 1 :]
    if host.config_values("algs", names["algs"]).get("learner") == LEARNER:
        _, additions, notice = check(host, names["algs"], names["envs"], words)
        if notice:
            print(f"hasac: {notice}", file=sys.stderr)
        words = [*additions, *words]
    return [*paths, *flags, *(["with", *words] if words else [])]
