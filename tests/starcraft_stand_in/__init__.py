"""A stand-in for the StarCraft II executable, and for nothing else of SMAC.

The unmodified ``smac`` and ``smacv2`` packages find it under ``SC2PATH``, launch it through ``pysc2`` and speak the SC2
API with it over a websocket, as with the game. Battles have movement, range, cooldown, damage and death, but neither
the game's balance nor its pathing: scores made with it mean nothing and are never reported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

BUILD = 75689  # of StarCraft II 4.10, the version that SMAC results are reported for


def install(folder: Path, maps: Iterable[str]) -> Path:
    """Make a folder that passes for an installation.

    Args:
        folder: becomes ``SC2PATH``.
        maps: names of the maps to offer; their files stay empty, as the stand-in goes by the name.

    Returns:
        The folder.
    """
    executable = folder / "Versions" / f"Base{BUILD}" / "SC2_x64"
    executable.parent.mkdir(parents=True)
    server = Path(__file__).with_name("server.py")
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{server}" "$@"\n')
    executable.chmod(0o755)
    (folder / "Maps" / "SMAC_Maps").mkdir(parents=True)
    for name in maps:
        (folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()
    (folder / "Replays").mkdir()
    return folder
