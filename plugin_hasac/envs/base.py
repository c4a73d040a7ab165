"""What the plugin's own envs share: the hosts' ``MultiAgentEnv`` contract, for any action spaces."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from plugin_hasac.errors import UserError


def required(module: str, env: str, packages: str) -> ModuleType:
    """Import a module that only one env needs.

    Raises:
        UserError: if its package is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"env '{env}' needs a package that is missing ({error}): pip install {packages}") from error


class PluginEnv(ABC):
    """A cooperative env. Agents may differ in observation size, action size and kind of action space.

    Subclasses set the attributes in their constructor and implement the abstract methods. They draw random numbers from
    generators of their own alone, so that an episode depends on its env's seed and on nothing else in the process.

    Attributes:
        name: in the registry.
        observation_sizes: length of each agent's observation.
        action_spaces: gymnasium space of each agent, with bounds in the env's units.
        state_size: length of the global state.
        episode_limit: time limit of an episode, in steps.
    """

    name: str
    observation_sizes: Sequence[int]
    action_spaces: Sequence[Any]
    state_size: int
    episode_limit: int

    @classmethod
    @abstractmethod
    def task_name(cls, env_args: Mapping[str, Any]) -> str:
        """The name under which hosts sort results of these arguments."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """Begin an episode; returns observations and state."""

    @abstractmethod
    def step(self, actions: Sequence[Any]) -> tuple[float, bool, dict[str, Any]]:
        """Take one action per agent: an int for Discrete, else a vector in the env's units.

        Returns:
            The team's reward, whether the episode ended, and infos, among them ``episode_limit`` (the hosts' key):
            whether it ended by its time limit alone.
        """

    @abstractmethod
    def observations(self) -> list[np.ndarray]:
        """Each agent's own observation, ``(observation_sizes[i],)``."""

    @abstractmethod
    def get_state(self) -> np.ndarray:
        """The global state, ``(state_size,)`` float32."""

    @abstractmethod
    def close(self) -> None:
        """Release what the env holds."""

    # ---------------------------------------------------------------- the rest of the hosts' contract

    @property
    def n_agents(self) -> int:
        """Number of agents."""
        return len(self.action_spaces)

    def get_obs(self) -> list[np.ndarray]:
        """All observations as float32, zero-padded to the longest."""
        padded = np.zeros((self.n_agents, self.get_obs_size()), dtype=np.float32)
        for row, obs in zip(padded, self.observations()):
            row[: len(obs)] = obs
        return list(padded)

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        """One agent's padded observation."""
        return self.get_obs()[agent_id]

    def get_obs_size(self) -> int:
        """Length of the longest observation."""
        return max(self.observation_sizes)

    def get_state_size(self) -> int:
        """Length of the state."""
        return self.state_size

    def get_avail_actions(self) -> list[list[int]]:
        """Own actions available, padding not; nothing to mask for Box. Several factors lie one after the other."""
        return self._avail_actions

    @cached_property
    def _avail_actions(self) -> list[list[int]]:
        counts = [int(np.sum(getattr(space, "nvec", getattr(space, "n", 0)))) for space in self.action_spaces]
        return [[int(action < count) for action in range(max(counts))] for count in counts]

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """One agent's mask."""
        return self.get_avail_actions()[agent_id]

    def get_total_actions(self) -> int:
        """Size of the largest action set.

        Raises:
            UserError: if an agent's space is not Discrete: hosts' own algorithms know nothing else.
        """
        for agent, space in enumerate(self.action_spaces):
            if type(space).__name__ != "Discrete":
                raise UserError(
                    f"agent {agent} of env '{self.name}' has the action space {space}; this algorithm of the host "
                    "knows Discrete alone. Use --config=hasac or masac, or a discrete variant of the env."
                )
        return max(int(space.n) for space in self.action_spaces)

    def get_env_info(self) -> dict[str, int]:
        """Shapes under the hosts' names; raises as :meth:`get_total_actions`."""
        return {
            "state_shape": self.state_size,
            "obs_shape": self.get_obs_size(),
            "n_actions": self.get_total_actions(),
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def get_print_info(self) -> None:  # noqa: B027 (hosts call it; most envs have nothing to say)
        """Nothing to print."""

    def get_stats(self) -> dict[str, float]:
        """No statistics of its own."""
        return {}

    def render(self) -> None:  # noqa: B027
        """Nothing to show."""

    def save_replay(self) -> None:  # noqa: B027
        """Nothing to save."""
