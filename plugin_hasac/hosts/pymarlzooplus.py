"""PyMARLzoo+ (``pymarlzooplus`` on the Python package index), the default host."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from plugin_hasac.components.action_spaces import Box, from_gymnasium
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.controllers.hasac_mac import HasacMAC
from plugin_hasac.envs import REGISTRY as OUR_ENVS
from plugin_hasac.errors import UserError
from plugin_hasac.hosts.base import Host, Observer
from plugin_hasac.learners.hasac_learner import HasacLearner
from plugin_hasac.runners.hasac_runner import HasacRunner
from plugin_hasac.vector.contract import Outcome, StepEnv


class Pymarlzooplus(Host):
    """PyMARLzoo+ 1.1.

    Raises:
        UserError: if it is not installed.
    """

    name = "pymarlzooplus"

    def __init__(self) -> None:
        spec = importlib.util.find_spec("pymarlzooplus")
        if spec is None or spec.origin is None:
            raise UserError(
                "the host 'pymarlzooplus' is not installed; run ./install.sh in the checkout, "
                "or 'pip install --no-deps pymarlzooplus==1.1.0' beside requirements.txt."
            )
        self.root = Path(spec.origin).parent
        self._run: Any = None

    def register(self) -> None:
        """Add our entries to the host's registries, which are plain dictionaries."""

        def registry(module: str) -> dict[str, Any]:
            return importlib.import_module(f"pymarlzooplus.{module}").REGISTRY

        registry("runners")["hasac"] = PymarlzooplusRunner
        registry("controllers")["hasac_mac"] = HasacMAC
        registry("learners")["hasac_learner"] = HasacLearner
        envs = registry("envs")
        available = importlib.import_module("pymarlzooplus.envs").REGISTRY_availability
        for name, env in OUR_ENVS.items():
            if name not in envs:
                envs[name] = partial(_make, env)
                available.append(name)

    def launch(self, params: list[str], observer: Observer | None) -> None:
        """Run ``pymarlzooplus.main``, with results under the working directory."""
        main: Any = importlib.import_module("pymarlzooplus.main")
        run: Any = importlib.import_module("pymarlzooplus.run")
        self.register()
        # The host writes beside the outermost script, which for an installed command is the venv's bin folder.
        main.get_caller_path = os.getcwd
        host = self

        class ObservedLogger(run.Logger):
            def setup_sacred(self, sacred_run: Any) -> None:
                host._run = sacred_run
                super().setup_sacred(sacred_run)

            def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
                super().log_stat(key, value, t, to_sacred)
                if observer is not None:
                    observer(key, value, t)

        original, run.Logger = run.Logger, ObservedLogger
        try:
            main.pymarlzooplus(["main.py", *params])
        finally:
            run.Logger = original

    @property
    def run_folder(self) -> Path | None:
        """Folder of sacred's file observer."""
        return Path(self._run.observers[0].dir) if self._run is not None else None

    def env_names(self) -> set[str]:
        """The host's registry and ours."""
        return set(importlib.import_module("pymarlzooplus.envs").REGISTRY_availability) | set(OUR_ENVS)


def _make(env: Any, **env_args: Any) -> Any:
    """What the host's registry calls; a module-level function, so that its worker processes can unpickle it."""
    return env(**env_args)


class PymarlzooplusEnv(StepEnv):
    """Adapts the host's ``MultiAgentEnv`` contract.

    Args:
        name: of the env in the host's registry.
        env_args: its arguments, seed included.
        proper_time_limits: report an episode that reaches its limit as truncated even if the env calls it terminated.

    Raises:
        UserError: if its spaces are not supported.
    """

    def __init__(self, name: str, env_args: dict[str, Any], proper_time_limits: bool) -> None:
        registry = importlib.import_module("pymarlzooplus.envs").REGISTRY
        self.env = registry[name](**env_args) if name in registry else OUR_ENVS[name](**env_args)
        self.proper_time_limits = proper_time_limits
        self._accepts_seed = "seed" in inspect.signature(self.env.reset).parameters
        self._t = 0
        self.task = self._task(name)

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
        reward, done, info = self.env.step(self._own_actions(actions))
        self._t += 1
        # The host's key for time-outs decides where an env sets it. Most do not: the host drops gymnasium's truncation
        # flag on the way, and some envs count time themselves and call it the end. There an episode of full length
        # counts as cut off.
        cut_off = bool(info.get("episode_limit", self.proper_time_limits and self._t >= self.task.episode_limit))
        return Outcome(float(reward), bool(done and not cut_off), bool(done and cut_off), info)

    def _own_actions(self, actions: np.ndarray) -> Any:
        """Unpad: an index per Discrete agent, else a vector."""
        if not hasattr(self.env, "action_spaces"):
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


class PymarlzooplusRunner(HasacRunner):
    """HASAC's runner in this host's loop."""

    class bridge:  # noqa: N801 (a namespace, not a type that is instantiated)
        """See :class:`plugin_hasac.runners.bridge.HostBridge`."""

        worker_modules = ("plugin_hasac.cli.main", __name__, "pymarlzooplus.envs")

        @staticmethod
        def env_factory(args: SimpleNamespace, proper_time_limits: bool) -> Any:
            """Seeds travel in ``env_args``, as in the host's own runners."""
            return partial(_build_env, args.env, dict(args.env_args), proper_time_limits)

        @staticmethod
        def run_result(episode_batch: Any, returns: list[float]) -> Any:
            """The host unpacks (batch, returns)."""
            return episode_batch, returns

        @staticmethod
        def empty_batch(scheme: dict, groups: dict, preprocess: dict, device: str) -> Any:
            """One env, one step, marked as filled."""
            batch_class = importlib.import_module("pymarlzooplus.components.episode_buffer").EpisodeBatch
            batch = batch_class(scheme, groups, 1, 1, preprocess=preprocess, device=device)
            batch.update({"reward": [(0.0,)]}, ts=0)
            return batch


def _build_env(name: str, env_args: dict[str, Any], proper_time_limits: bool, seed: int) -> StepEnv:
    return PymarlzooplusEnv(name, {**env_args, "seed": seed}, proper_time_limits)
