"""SMAC and SMACv2 for hosts that lack them. The packages' own envs already speak the hosts' contract."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from plugin_hasac.envs.base import required
from plugin_hasac.errors import UserError, did_you_mean

PACKAGES = "protobuf==3.20.3 pysc2==4.0.0 git+https://github.com/oxwhirl/"
# Kinds of units with their weights, and which may not make up a whole team: the distribution that SMACv2 ships.
TEAMS = {
    "terran": ({"marine": 0.45, "marauder": 0.45, "medivac": 0.1}, ("medivac",)),
    "protoss": ({"stalker": 0.45, "zealot": 0.45, "colossus": 0.1}, ()),
    "zerg": ({"zergling": 0.45, "hydralisk": 0.45, "baneling": 0.1}, ("baneling",)),
}


def refuse_without_starcraft() -> None:
    """Raises UserError if StarCraft II is not where the packages look for it."""
    folder = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if not (folder / "Versions").is_dir():
        raise UserError(
            f"StarCraft II is not installed in {folder}; install it there (version 4.10 with the SMAC maps), or set "
            "SC2PATH to its folder."
        )


def smac(**env_args: Any) -> Any:
    """SMAC's env (Samvelyan et al., 2019).

    Raises:
        UserError: for an unknown map, or if the package or the game is missing.
    """
    package = required("smac.env", "sc2", f"{PACKAGES}smac")
    known = required("smac.env.starcraft2.maps.smac_maps", "sc2", f"{PACKAGES}smac").get_smac_map_registry()
    name = env_args.get("map_name", "")
    if name not in known:
        raise UserError(
            f"env_args.map_name: SMAC has no map '{name}'.{did_you_mean(str(name), known)} "
            f"Expected one of: {', '.join(sorted(known))}."
        )
    refuse_without_starcraft()
    return package.StarCraft2Env(**env_args)


def smacv2(map_name: str, **env_args: Any) -> Any:
    """SMACv2's env (Ellis et al., 2023) with its standard distribution of teams and starting positions.

    Args:
        map_name: such as ``terran_5_vs_5``; the names that other frameworks use.
        env_args: passed on; ``capability_config`` replaces the standard distribution.

    Raises:
        UserError: for an unknown map, or if the package or the game is missing.
    """
    match = re.fullmatch(r"(terran|protoss|zerg)_(\d+)_vs_(\d+)", map_name)
    if match is None:
        raise UserError(
            f"env_args.map_name: SMACv2 has no map '{map_name}'; expected terran, protoss or zerg and two numbers, "
            "such as terran_5_vs_5."
        )
    wrapper = required("smacv2.env.starcraft2.wrapper", "sc2v2", f"{PACKAGES}smacv2").StarCraftCapabilityEnvWrapper
    refuse_without_starcraft()
    race, (weights, exceptions) = match[1], TEAMS[match[1]]
    standard = {
        "n_units": int(match[2]),
        "n_enemies": int(match[3]),
        "team_gen": {
            "dist_type": "weighted_teams",
            "unit_types": list(weights),
            "weights": list(weights.values()),
            "exception_unit_types": list(exceptions),
            "observe": True,
        },
        "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
    }
    usual = {
        "capability_config": standard,
        "difficulty": "7",
        "obs_own_pos": True,
        "use_unit_ranges": True,
        "min_attack_range": 2,
        "conic_fov": False,
        "num_fov_actions": 12,
    }
    return wrapper(map_name=f"10gen_{race}", **{**usual, **env_args})
