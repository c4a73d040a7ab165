"""Environments that hosts lack, in the hosts' ``MultiAgentEnv`` contract."""

from __future__ import annotations

from plugin_hasac.envs.matrix_game import MatrixGame

REGISTRY = {"matrix_game": MatrixGame}
