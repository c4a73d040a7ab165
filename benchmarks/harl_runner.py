"""Builds the official code's runner (a checkout of PKU-MARL/HARL), unmodified, around envs that are handed in.

Needs, beside this plugin: ``pip install tensorboardX setproctitle absl-py`` and the checkout.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

VectorEnvs = Callable[[int, int], Any]  # (count, first seed) to envs


def make_runner(
    checkout: Path,
    env_name: str,
    env_args: dict[str, Any],
    settings: dict[str, Any],
    envs: VectorEnvs,
    test_envs: VectorEnvs,
    wrap: Callable[[type], type] = lambda runner: runner,
) -> tuple[Any, Path]:
    """The runner and the folder of its logs.

    Args:
        checkout: of the official code.
        env_name: which of its env families to pretend.
        env_args: that the family's naming of tasks reads.
        settings: its ``algo_args``.
        envs: makes the training envs.
        test_envs: makes the test envs.
        wrap: may subclass the runner.
    """
    sys.path.insert(0, str(checkout))
    np.int = int  # type: ignore[attr-defined]  # the official code uses the name that numpy has dropped
    from harl.runners import off_policy_base_runner
    from harl.runners.off_policy_ha_runner import OffPolicyHARunner

    off_policy_base_runner.make_train_env = lambda _env, seed, count, _args: envs(count, seed)
    off_policy_base_runner.make_eval_env = lambda _env, seed, count, _args: test_envs(count, seed)
    folder = Path(tempfile.mkdtemp(prefix="official-"))
    settings["logger"]["log_dir"] = str(folder)
    names = {"algo": "hasac", "env": env_name, "exp_name": "official"}
    return wrap(OffPolicyHARunner)(names, settings, env_args), folder


def default_settings(checkout: Path) -> dict[str, Any]:
    """The ``algo_args`` that the checkout ships for any task."""
    return yaml.safe_load((checkout / "harl/configs/algos_cfgs/hasac.yaml").read_text())


class RandomEnv:
    """Random numbers of a task's shapes behind the official env interface, for timing its update.

    Args:
        observation_spaces: one per agent.
        state_space: of all.
        action_spaces: one per agent, gymnasium's.
        seed: of the numbers.
    """

    def __init__(self, observation_spaces: list[Any], state_space: Any, action_spaces: list[Any], seed: int) -> None:
        self.n_agents = len(action_spaces)
        self.observation_space, self.action_space = observation_spaces, action_spaces
        self.share_observation_space = [state_space] * self.n_agents
        self.rng = np.random.default_rng(seed)

    def reset(self) -> tuple[list[np.ndarray], list[np.ndarray], Any]:
        """Observations, states, available actions."""
        observations = [self.rng.normal(size=space.shape) for space in self.observation_space]
        state = self.rng.normal(size=self.share_observation_space[0].shape)
        discrete = hasattr(self.action_space[0], "n")
        avail = [[1] * int(space.n) for space in self.action_space] if discrete else None
        return observations, [state] * self.n_agents, avail

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """As the official envs."""
        observations, states, avail = self.reset()
        reward = [[self.rng.normal()]] * self.n_agents
        return observations, states, reward, [False] * self.n_agents, [{}] * self.n_agents, avail

    def close(self) -> None:
        """Nothing to close."""


def official_update(
    checkout: Path, env: Callable[[int], Any], values: dict[str, Any], cuda: bool, algo: dict[str, Any] | None = None
) -> Any:
    """A runner whose ``train()`` is one official update, with a replay that has been filled by random actions.

    Args:
        checkout: of the official code.
        env: makes an env behind the official interface from a seed.
        values: our ``replay_batch_size`` and ``hidden_sizes``.
        cuda: use the GPU.
        algo: further settings of the official code, whichever of its sections they belong to.
    """
    import torch

    settings = default_settings(checkout)
    settings["device"] = {"cuda": cuda, "cuda_deterministic": False, "torch_threads": torch.get_num_threads()}
    settings["algo"] |= {"batch_size": values["replay_batch_size"], "buffer_size": 4000, "n_step": 1}
    settings["model"] |= {"hidden_sizes": values["hidden_sizes"]}
    settings["train"] |= {"warmup_steps": 2000}
    settings["eval"]["use_eval"] = False
    for section in ("algo", "model", "train"):
        settings[section] |= {key: value for key, value in (algo or {}).items() if key in settings[section]}

    def vector(count: int, first_seed: int) -> Any:
        from harl.envs.env_wrappers import ShareDummyVecEnv

        return ShareDummyVecEnv([lambda seed=first_seed + i: env(seed) for i in range(count)])

    env_args = {"scenario": "random", "agent_conf": "", "continuous_actions": False}
    runner, folder = make_runner(checkout, "pettingzoo_mpe", env_args, settings, vector, vector)
    runner.train_episode_rewards = np.zeros(settings["train"]["n_rollout_threads"])
    runner.done_episodes_rewards = []
    runner.warmup()
    shutil.rmtree(folder)
    return runner
