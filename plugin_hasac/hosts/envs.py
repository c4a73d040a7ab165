"""Hosts' envs as the runner sees them: one adapter for all dialects of the ``MultiAgentEnv`` contract."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from plugin_hasac.components.action_spaces import Box, from_gymnasium
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.envs.base import PluginEnv
from plugin_hasac.errors import UserError
from plugin_hasac.vector.contract import Outcome, StepEnv

STARCRAFT = ("sc2", "sc2v2")  # names under which hosts register SMAC and SMACv2


class HostEnv(StepEnv):
    """Adapts an env of a host, or one of ours.

    Args:
        name: of the env in the host's registry.
        env: the env.
        proper_time_limits: report an episode that reaches its limit as truncated even if the env calls it terminated.

    Raises:
        UserError: if its spaces are not supported.
    """

    def __init__(self, name: str, env: Any, proper_time_limits: bool) -> None:
        self.env = env
        self.draws_globally = not isinstance(env, PluginEnv)
        self.starcraft = name in STARCRAFT
        self.proper_time_limits = proper_time_limits
        # SMAC's game is seeded when it starts, and never again (EPyMARL's wrapper accepts a seed and fails on it).
        self._accepts_seed = not self.starcraft and "seed" in inspect.signature(self.env.reset).parameters
        self._t = 0
        self.task = self._task(name)
        self._single_indices = all(type(space).__name__ == "Discrete" for space in getattr(env, "action_spaces", []))

    def _task(self, name: str) -> Task:
        if hasattr(self.env, "action_spaces"):  # an env of ours: any spaces, agents may differ
            spaces = [from_gymnasium(s, f"agent {i} of env '{name}'") for i, s in enumerate(self.env.action_spaces)]
            agents = tuple(AgentSpec(size, space) for size, space in zip(self.env.observation_sizes, spaces))
            return Task(agents, self.env.state_size, self.env.episode_limit)
        info = self.env.get_env_info()
        for key in ("obs_shape", "state_shape"):
            if not isinstance(info[key], (int, np.integer)):
                raise UserError(
                    f"env '{name}' has a {key} of {info[key]}; HASAC's networks take flat vectors, not images. "
                    "Choose an image encoder in env_args, or another env."
                )
        return Task.discrete(
            n_agents=int(info["n_agents"]),
            obs_dim=int(info["obs_shape"]),
            state_dim=int(info["state_shape"]),
            n_actions=int(info["n_actions"]),
            episode_limit=int(info["episode_limit"]),
        )

    def reset(self, seed: int | None = None) -> None:
        """See :class:`StepEnv`."""
        if seed is not None and self._accepts_seed:
            self.env.reset(seed=seed)
        else:
            self.env.reset()
        self._t = 0

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`StepEnv`."""
        obs = np.asarray(self.env.get_obs(), dtype=np.float32)
        state = np.asarray(self.env.get_state(), dtype=np.float32)
        return obs, state, np.asarray(self.env.get_avail_actions(), dtype=np.bool_)

    def step(self, actions: np.ndarray) -> Outcome:
        """See :class:`StepEnv`."""
        result = self.env.step(self._own_actions(actions))
        self._t += 1
        if len(result) == 5:  # gymnasium's order, as EPyMARL has it
            _, reward, terminated, truncated, info = result
        else:
            (reward, terminated, info), truncated = result, False
        done = bool(terminated or truncated)
        if done and self.starcraft and not info:  # SMAC's only sign that the game crashed and was started again
            return Outcome(0.0, False, False, dropped=True)
        cut_off = done and self._is_cut_off(info, bool(truncated))
        return Outcome(float(reward), done and not cut_off, cut_off, info)

    def _is_cut_off(self, info: dict[str, Any], truncated: bool) -> bool:
        """Whether an episode that is over was ended by its time limit alone.

        The hosts' key for time-outs decides where an env sets it. Most do not: wrappers drop gymnasium's truncation
        flag on the way, and some envs count time themselves and call it the end. There an episode of full length
        counts as cut off, unless a battle was decided in its last step.
        """
        if "episode_limit" in info:
            return bool(info["episode_limit"])
        if not self.proper_time_limits:
            return False  # hosts' own runners merge truncation into termination
        if truncated or self._t < self.task.episode_limit:
            return truncated
        decided = info.get("battle_won") or info.get("dead_allies", 0) >= self.task.n_agents
        return not (self.starcraft and decided)

    def _own_actions(self, actions: np.ndarray) -> Any:
        """Unpad: an index per Discrete agent, else a vector."""
        if self._single_indices:
            return actions[:, 0]
        own: list[Any] = []
        for action, agent, space in zip(actions, self.task.agents, self.env.action_spaces):
            values = action[: agent.action.width]
            own.append(values if isinstance(agent.action, Box) else values.astype(np.int64))
            if type(space).__name__ == "Discrete":
                own[-1] = int(values[0])
        return own

    def close(self) -> None:
        """Close the env."""
        self.env.close()
