"""Environments that hosts lack, in the hosts' ``MultiAgentEnv`` contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plugin_hasac.envs.base import PluginEnv
from plugin_hasac.envs.mamujoco import MAMuJoCo
from plugin_hasac.envs.matrix_game import MatrixGame
from plugin_hasac.envs.mpe import MPE
from plugin_hasac.envs.starcraft import smac, smacv2

REGISTRY: dict[str, type[PluginEnv]] = {env.name: env for env in (MAMuJoCo, MatrixGame, MPE)}
# Envs of other packages that already speak the hosts' contract.
FACTORIES: dict[str, Callable[..., Any]] = {"sc2": smac, "sc2v2": smacv2}
