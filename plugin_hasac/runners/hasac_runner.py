"""Collects experience for HASAC inside a PyMARL-family training loop."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch

from plugin_hasac.config import HasacConfig
from plugin_hasac.controllers.hasac_mac import HasacMAC
from plugin_hasac.errors import UserError
from plugin_hasac.mehaml.registry import make_drift, make_neighbourhood
from plugin_hasac.runners.bridge import HostBridge
from plugin_hasac.runners.statistics import EpisodeStatistics
from plugin_hasac.vector.contract import StepEnv
from plugin_hasac.vector.vector_env import VectorEnv


class HasacRunner:
    """Steps all parallel envs, fills the replay on the MAC, plays test episodes.

    Training and test episodes run in envs of their own, so a test never cuts a training episode off. The seeds of test
    episodes follow from ``seed``, the training step and the episode's number alone: a checkpoint that is loaded and
    evaluated plays the very episodes that were played when it was saved.

    Args:
        args: the host's config as a namespace.
        logger: the host's logger.

    Raises:
        UserError: for impossible values, or an env that cannot be built or has unsupported spaces.
    """

    bridge: ClassVar[HostBridge]

    def __init__(self, args: SimpleNamespace, logger: Any) -> None:
        self.args, self.logger = args, logger
        self.config = HasacConfig.from_mapping(vars(args))
        self.batch_size: int = args.batch_size_run
        self._make_env = self.bridge.env_factory(args, self.config.time_limit_bootstrap == "proper")
        self.task = args.hasac_task = self._probe().task
        # Refuse what the algorithm would refuse before any env starts.
        self.config.initial_alphas(self.task.n_agents)
        make_drift(self.config.drift, self.config.drift_args)
        make_neighbourhood(self.config.neighbourhood, self.config.neighbourhood_args)
        self.envs = self._vector_env(auto_reset=True)
        self.test_envs: VectorEnv | None = None

        self.t_env = 0
        self.log_train_stats_t = -1_000_000
        self.train_stats = EpisodeStatistics(self.batch_size)
        self.test_stats = EpisodeStatistics(self.batch_size)
        self.mac: HasacMAC
        self._started = False
        self._rng = np.random.default_rng(args.seed)
        self._tested = (-1, 0)  # (t_env, test episodes played at it)
        self._clock = (0, time.perf_counter())  # (t_env, time) of the last log

    # ---------------------------------------------------------------- the host's runner API

    def setup(self, scheme: dict, groups: dict, preprocess: dict, mac: HasacMAC, explorer: Any = None) -> None:
        """Meet the MAC; further arguments describe the host's own episode buffer."""
        self.mac = mac
        self._placeholder = partial(self.bridge.empty_batch, scheme, groups, preprocess, self.args.device)

    def get_env_info(self) -> dict[str, int]:
        """Shapes, under the host's names; its own buffer holds no experience, so Box actions need no room in it."""
        return {
            "n_agents": self.task.n_agents,
            "n_actions": max(self.task.avail_dim, 1),
            "obs_shape": self.task.obs_dim,
            "state_shape": self.task.state_dim,
            "episode_limit": self.task.episode_limit,
        }

    def run(self, test_mode: bool = False, **_host_extras: Any) -> Any:
        """Advance every env by ``train_interval`` steps, or play one test episode per env.

        Returns:
            What the host's loop expects; the experience itself is in ``mac.replay``.
        """
        returns = self._run_test() if test_mode else self._run_train()
        return self.bridge.run_result(self._placeholder(), returns)

    def close_env(self) -> None:
        """End all envs."""
        self.envs.close()
        if self.test_envs is not None:
            self.test_envs.close()

    def save_replay(self) -> None:
        """Recording of games is up to each env's own settings; nothing to do here."""

    # ---------------------------------------------------------------- training

    def _run_train(self) -> list[float]:
        arrays, replay = self.envs.arrays, self.mac.replay
        if not self._started:
            self.envs.reset()
            replay.start(arrays.now)
            self._started, self._clock = True, (self.t_env, time.perf_counter())
        finished = []
        for _ in range(self.config.train_interval):
            if len(replay) < self.config.warmup_steps and not self.mac.restored:
                actions = self.task.uniform_actions(self._rng, arrays.now.avail)
            else:
                actions = self.mac.act(arrays.now)
            ended = self.envs.step(actions)
            replay.add(
                actions, arrays.reward, arrays.terminated, arrays.ended, arrays.successor, arrays.now, arrays.dropped
            )
            finished += self.train_stats.step(arrays.reward, ended, arrays.dropped)
            self.t_env += int((~arrays.dropped).sum())
        if self.t_env - self.log_train_stats_t >= self.args.runner_log_interval and self.train_stats.episodes:
            self.train_stats.log(self.logger, "", self.t_env)
            steps, since = self._clock
            self._clock = (self.t_env, time.perf_counter())
            self.logger.log_stat("env_steps_per_second", (self.t_env - steps) / (self._clock[1] - since), self.t_env)
            self.log_train_stats_t = self.t_env
        return finished

    # ---------------------------------------------------------------- testing

    def _run_test(self) -> list[float]:
        if self._tested[0] != self.t_env:
            self._tested = (self.t_env, 0)
        wanted = max(1, self.args.test_nepisode // self.batch_size) * self.batch_size
        if self.args.evaluate and self._tested[1] >= wanted:
            return []  # the host asks for test_nepisode *batches* when it evaluates a checkpoint; episodes are meant
        if self.test_envs is None:
            self.test_envs = self._vector_env(auto_reset=False)
        arrays, first = self.test_envs.arrays, self._tested[1]
        seeds = [
            int(np.random.SeedSequence([self.args.seed, self.t_env, first + i]).generate_state(1)[0])
            for i in range(self.batch_size)
        ]
        self.test_envs.reset(seeds)
        greedy = self.args.test_greedy
        sampler = None if greedy else torch.Generator(self.mac.acting_device).manual_seed(seeds[0])
        finished = []
        while arrays.active.any():
            arrays.reward[~arrays.active] = 0.0
            ended = self.test_envs.step(self.mac.act(arrays.now, test=True, greedy=greedy, sampler=sampler))
            finished += self.test_stats.step(arrays.reward, ended, arrays.dropped & arrays.active, arrays.active)
            arrays.active[[index for index, _ in ended]] = False
        self._tested = (self.t_env, first + self.batch_size)
        if self.test_stats.episodes >= wanted:
            self.test_stats.log(self.logger, "test_", self.t_env)
        return finished

    # ---------------------------------------------------------------- envs

    def _vector_env(self, *, auto_reset: bool) -> VectorEnv:
        seeds = [self.args.seed + i + (0 if auto_reset else self.batch_size) for i in range(self.batch_size)]
        return VectorEnv(
            self.task,
            [partial(self._make_env, seed) for seed in seeds],
            seeds,
            workers=self.config.env_workers,
            auto_reset=auto_reset,
            preload=self.bridge.worker_modules,
        )

    def _probe(self) -> StepEnv:
        """Build one env to learn the task's shapes, and close it."""
        try:
            env = self._make_env(self.args.seed)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"env '{self.args.env}' does not start with env_args {self.args.env_args}: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        env.close()
        return env
