"""The learner that PyMARL-family loops call: gradient updates from the replay, logs, checkpoints."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from plugin_hasac.config import HasacConfig
from plugin_hasac.controllers.hasac_mac import HasacMAC
from plugin_hasac.errors import UserError
from plugin_hasac.learners.updaters import Updater, make_updater

CHECKPOINT = "hasac.pt"


class HasacLearner:
    """Drives :class:`plugin_hasac.learners.hasac.Hasac` from the host's loop.

    Args:
        mac: holds the algorithm and the replay.
        scheme: the host's episode scheme; unused.
        logger: the host's logger.
        args: the host's config as a namespace.
    """

    def __init__(self, mac: HasacMAC, scheme: dict, logger: Any, args: SimpleNamespace) -> None:
        self.mac, self.logger, self.args = mac, logger, args
        self.config = HasacConfig.from_mapping(vars(args))
        self.log_stats_t = -args.learner_log_interval - 1
        self._owed = 0.0  # updates that are due, fractions included
        self._seconds = 0.0  # spent on updates since the last log
        self._updater: Updater | None = None

    def train(self, batch: Any, t_env: int, episode_num: int) -> None:
        """Make the updates that the last ``train_interval`` steps are worth (none before ``warmup_steps``).

        Args:
            batch: the host's episode batch; unused, experience comes from ``mac.replay``.
            t_env: env steps so far.
            episode_num: unused.
        """
        config, replay = self.config, self.mac.replay
        if len(replay) < max(config.warmup_steps, 1):
            return
        if self._updater is None:
            self._updater = make_updater(self.mac.algorithm, replay)
            self._announce(self._updater)
            if config.alpha_unit == "reward_std" and not self.mac.restored:
                self._measure_alpha()
        self._owed += config.update_per_train * config.train_interval
        due = int(self._owed)
        self._owed -= due
        self.mac.about_to_learn()
        replay.flush()
        self.mac.turns.run(partial(self._update, self._updater, due))
        if t_env - self.log_stats_t >= self.args.learner_log_interval:
            self._log(self._updater, t_env)

    def _update(self, updater: Updater, times: int) -> None:
        started = time.perf_counter()
        for _ in range(times):
            updater.step()
        updater.finish()
        self._seconds += time.perf_counter() - started

    def _log(self, updater: Updater, t_env: int) -> None:
        self.mac.turns.wait()
        updates = updater.means.updates
        if updates:
            for key, value in updater.means.take().items():
                self.logger.log_stat(key, value, t_env)
            self.logger.log_stat("updates_per_second", updates / max(self._seconds, 1e-9), t_env)
            self.log_stats_t, self._seconds = t_env, 0.0

    def _measure_alpha(self) -> None:
        """Bring the temperatures from standard deviations of the rewards to reward units."""
        spread = self.mac.replay.reward_std()
        self.mac.algorithm.temperatures.rescale(spread or 1.0)
        unit = f"{spread:.4g}, their standard deviation" if spread else "1: they do not differ"
        self.logger.console_logger.info(f"HASAC: alpha's unit by the rewards so far: {unit}")

    def _announce(self, updater: Updater) -> None:
        log = self.logger.console_logger
        log.info(f"HASAC: {updater.description}")
        if self.config.overlap:
            why_not = "in turns: overlap=True needs use_cuda=True and a replay that fits the GPU"
            turns = "envs step while updates run" if self.mac.overlap else why_not
            log.info(f"HASAC: {turns}")

    def cuda(self) -> None:
        """Nothing to move: networks and replay were built on their device."""

    def save_models(self, path: str) -> None:
        """Write one checkpoint file into the folder ``path``, whole or not at all."""
        self.mac.turns.wait()
        target = Path(path) / CHECKPOINT
        unfinished = target.with_suffix(".partial")
        torch.save(self.mac.algorithm.state_dict(), unfinished)
        unfinished.replace(target)

    def load_models(self, path: str) -> None:
        """Restore a checkpoint; the replay starts empty and is filled by the restored policies.

        Raises:
            UserError: if it is missing, damaged, or of another task or other network sizes.
        """
        source = Path(path) / CHECKPOINT
        if not source.is_file():
            raise UserError(
                f"checkpoint_path: {source} does not exist; expected a folder saved by HASAC with save_model=True."
            )
        try:
            state = torch.load(source, map_location=self.mac.device, weights_only=True)
        except Exception as error:
            raise UserError(f"checkpoint {source} is damaged and cannot be read; use another load_step.") from error
        self.mac.turns.wait()
        try:
            self.mac.algorithm.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                f"checkpoint {source} does not fit this task or these network settings ({error}); "
                "use the env and the hidden_sizes it was trained with."
            ) from error
        self.mac.changed()
        self.mac.restored = True
