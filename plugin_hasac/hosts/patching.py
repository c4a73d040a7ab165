"""Two lines in a checkout's ``src/main.py``, put in and taken out again byte by byte."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from plugin_hasac.errors import UserError
from plugin_hasac.hosts.checkout import Checkout

LINES = (
    "from plugin_hasac.hosts import hook  # plugin_hasac: 'hasac hosts uninstall' removes these two lines",
    "hook.prepare(__file__)  # plugin_hasac",
)
# The hosts' registries must be filled before their loop is imported.
ANCHOR = re.compile(rb"^from run import .*$", re.MULTILINE)


def is_installed(host: Checkout) -> bool:
    """Whether the lines are there, whole and once.

    Raises:
        UserError: if they are there in part, changed, or more than once.
    """
    content = host.main.read_bytes()
    count = content.count(_block(content))
    if count > 1 or (b"plugin_hasac" in content.replace(_block(content), b"")):
        raise UserError(
            f"{host.main} holds lines of plugin_hasac that 'hasac hosts install' did not write; remove them by hand "
            "or restore the file from version control."
        )
    return count == 1


def install(host: Checkout, *, force: bool = False) -> bool:
    """Insert the lines before the host imports its loop.

    Args:
        host: the checkout.
        force: even if the tree has changes that are not committed, or is under no version control.

    Returns:
        Whether anything was done (not if they were there already).

    Raises:
        UserError: if the tree is dirty or unknown, or ``src/main.py`` has no place for the lines.
    """
    if is_installed(host):
        return False
    if not force:
        _refuse_unclean(host)
    content = host.main.read_bytes()
    places = list(ANCHOR.finditer(content))
    if len(places) != 1:
        raise UserError(
            f"{host.main} has {len(places)} lines 'from run import …', expected one: put these lines in by hand before "
            f"the host's loop is imported: {' / '.join(LINES)}"
        )
    at = places[0].start()
    _write(host.main, content[:at] + _block(content) + content[at:])
    return True


def uninstall(host: Checkout) -> bool:
    """Take the lines out; every other byte stays.

    Returns:
        Whether anything was done (not if they were not there).

    Raises:
        UserError: see :func:`is_installed`.
    """
    if not is_installed(host):
        return False
    content = host.main.read_bytes()
    _write(host.main, content.replace(_block(content), b""))
    return True


def patch(host: Checkout) -> str:
    """What :func:`install` does to an untouched checkout, as a patch without a line of the host's own."""
    before = host.main.read_bytes().replace(_block(host.main.read_bytes()), b"")
    place = ANCHOR.search(before)
    if place is None:
        raise UserError(f"{host.main} has no line 'from run import …'.")
    line = before[: place.start()].count(b"\n")
    inserted = "".join(f"+{text}\n" for text in LINES)
    return f"--- a/src/main.py\n+++ b/src/main.py\n@@ -{line},0 +{line + 1},{len(LINES)} @@\n{inserted}"


def _block(content: bytes) -> bytes:
    """The lines with the file's own line ends."""
    end = "\r\n" if b"\r\n" in content else "\n"
    return "".join(line + end for line in LINES).encode()


def _refuse_unclean(host: Checkout) -> None:
    status = subprocess.run(
        ["git", "-C", host.path, "status", "--porcelain", "--untracked-files=no"],
        check=False,
        capture_output=True,
        text=True,
    )
    if status.returncode:
        raise UserError(f"{host.path} is under no version control, so a change could not be undone there; use --force.")
    if status.stdout.strip():
        first = status.stdout.strip().splitlines()[0].split()[-1]
        raise UserError(
            f"{host.path} has changes that are not committed ({first} …); commit or stash them, or use --force."
        )


def _write(target: Path, content: bytes) -> None:
    """Replace a file whole or not at all, with its permissions."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).chmod(target.stat().st_mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
