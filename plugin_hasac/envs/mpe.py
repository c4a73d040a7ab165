"""Multi-Agent Particle Environments as PettingZoo has them, with discrete or continuous actions."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plugin_hasac.envs.base import PluginEnv, required
from plugin_hasac.errors import UserError, did_you_mean

SCENARIOS = {"simple_spread": 3, "simple_reference": 3, "simple_speaker_listener": 4}  # and PettingZoo's version


class MPE(PluginEnv):
    """A cooperative scenario of PettingZoo's MPE.

    The team's reward is the sum of the agents' rewards, the state all observations one after the other (as in the
    HASAC authors' experiments). Agents keep their own sizes of observation and action.

    Args:
        scenario: key of :data:`SCENARIOS`; a version suffix such as ``_v3`` is ignored.
        continuous_actions: Box [0, 1] instead of Discrete actions.
        episode_limit: steps per episode; scenarios never terminate.
        map_name: the name under which hosts sort results.
        seed: of the first episode; later ones follow from it.
        scenario_args: further arguments of the scenario, such as ``N`` or ``local_ratio``.

    Raises:
        UserError: for an unknown scenario or argument, or if PettingZoo's MPE is not installed.
    """

    name = "mpe"

    def __init__(
        self,
        scenario: str = "simple_spread",
        continuous_actions: bool = False,
        episode_limit: int = 25,
        map_name: str | None = None,
        seed: int | None = None,
        **scenario_args: Any,
    ) -> None:
        plain = _plain(scenario)
        if plain not in SCENARIOS:
            raise UserError(
                f"env_args.scenario: unknown MPE scenario '{scenario}'.{did_you_mean(plain, SCENARIOS)} "
                f"Expected one of: {', '.join(SCENARIOS)}."
            )
        module = f"{plain}_v{SCENARIOS[plain]}"
        # PettingZoo moved MPE into a package of its own; hosts pin versions from before that.
        package = "mpe2" if importlib.util.find_spec("mpe2") else "pettingzoo.mpe"
        scenario_module = required(f"{package}.{module}", self.name, "pettingzoo==1.24.3 pygame==2.6.1")
        try:
            self.env = scenario_module.parallel_env(
                continuous_actions=continuous_actions, max_cycles=episode_limit, **scenario_args
            )
        except TypeError as error:
            raise UserError(f"env_args: MPE's {plain} does not take {scenario_args}: {error}") from error
        self._simulator = self.env.unwrapped
        self.agents = list(self.env.possible_agents)
        self.action_spaces = [self.env.action_space(agent) for agent in self.agents]
        self.continuous = continuous_actions
        self.observation_sizes = [int(self.env.observation_space(agent).shape[0]) for agent in self.agents]
        self.state_size = sum(self.observation_sizes)
        self.episode_limit = episode_limit
        self._seed = seed

    @classmethod
    def task_name(cls, env_args: Mapping[str, Any]) -> str:
        """Scenario and kind of actions."""
        kind = "continuous" if env_args.get("continuous_actions") else "discrete"
        return f"{_plain(str(env_args.get('scenario') or 'simple_spread'))}-{kind}"

    def reset(self, seed: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """Begin an episode."""
        shown, _ = self.env.reset(seed=self._seed if seed is None else seed)
        self._seed = None  # from now on the scenario's own generator goes on
        self._observations = list(shown.values())
        return self.get_obs(), self.get_state()

    def step(self, actions: Sequence[Any]) -> tuple[float, bool, dict[str, Any]]:
        """See :class:`PluginEnv`."""
        own: list[Any]
        if self.continuous:
            own = [
                np.clip(np.asarray(action, dtype=np.float32), space.low, space.high)
                for action, space in zip(actions, self.action_spaces)
            ]
        else:
            own = [int(action) for action in actions]
        # What PettingZoo's step does once all agents have been asked in turn, which takes as long as the world itself.
        simulator = self._simulator
        simulator.current_actions = own
        simulator._execute_world_step()
        simulator.steps += 1
        self._observations = [simulator.observe(agent) for agent in self.agents]
        over = simulator.steps >= simulator.max_cycles
        return float(sum(simulator.rewards.values())), over, {"episode_limit": over}

    def observations(self) -> list[np.ndarray]:
        """See :class:`PluginEnv`."""
        return self._observations

    def get_state(self) -> np.ndarray:
        """All observations, unpadded, one after the other."""
        return np.concatenate(self._observations).astype(np.float32)

    def close(self) -> None:
        """Close the scenario."""
        self.env.close()


def _plain(scenario: str) -> str:
    head, _, version = scenario.rpartition("_v")
    return head if head and version.isdigit() else scenario
