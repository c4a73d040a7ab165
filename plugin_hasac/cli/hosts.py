"""``hasac hosts``: look at a checkout of a host, and put HASAC into it or take it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from plugin_hasac.errors import RunFailedError
from plugin_hasac.hosts import patching
from plugin_hasac.hosts.checkout import Checkout, checkout_at

PROBE = """
import pathlib, sys
from plugin_hasac.hosts.checkout import checkout_at
checkout_at(pathlib.Path(sys.argv[1])).register()
"""


def check(path: str) -> None:
    """Say what a checkout is, what works and what is missing.

    Raises:
        UserError: if it is no host.
        RunFailedError: if HASAC cannot run in it as things are.
    """
    host, console = checkout_at(Path(path).expanduser()), Console(highlight=False, soft_wrap=True)
    commit = host.commit()
    tested = "the tested one" if commit == host.tested_commit else f"tested: {host.tested_commit[:7]}"
    console.print(f"host       {host.family} at {host.path}")
    console.print(f"commit     {commit[:7]} ({tested})")
    console.print(f"installed  {'yes' if patching.is_installed(host) else 'no: hasac hosts install ' + str(path)}")
    missing = host.missing()
    for name, advice in missing.items():
        console.print(f"missing    {name}: pip install {advice}")
    if not missing:
        problem = _import_problem(host)
        console.print(
            f"imports    {problem or 'complete: HASAC registers into runners, controllers, learners and envs'}"
        )
    if missing or problem:
        raise RunFailedError(f"{host.family} at {host.path} does not start in this Python environment; see above.")


def install(path: str, *, force: bool) -> None:
    """Make ``python src/main.py --config=hasac …`` work in a checkout."""
    host = checkout_at(Path(path).expanduser())
    done = patching.install(host, force=force)
    print(f"{'installed into' if done else 'already installed in'} {host.main}")
    print(f"now: cd {host.path} && python src/main.py --config=hasac --env-config=…")


def uninstall(path: str) -> None:
    """Undo :func:`install`."""
    host = checkout_at(Path(path).expanduser())
    print(f"{'removed from' if patching.uninstall(host) else 'was not installed in'} {host.main}")


def _import_problem(host: Checkout) -> str:
    """What goes wrong when the host's modules are imported, in a process of its own; "" for nothing."""
    done = subprocess.run([sys.executable, "-c", PROBE, host.path], check=False, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""
