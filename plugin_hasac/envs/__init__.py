"""Environments that hosts lack, in the hosts' ``MultiAgentEnv`` contract."""

from __future__ import annotations

from plugin_hasac.envs.base import PluginEnv
from plugin_hasac.envs.mamujoco import MAMuJoCo
from plugin_hasac.envs.matrix_game import MatrixGame
from plugin_hasac.envs.mpe import MPE

REGISTRY: dict[str, type[PluginEnv]] = {env.name: env for env in (MAMuJoCo, MatrixGame, MPE)}
