"""The multi-agent controller: the joint policy that acts, and the experience it learns from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from plugin_hasac.components.replay import StepData, StepReplay
from plugin_hasac.config import HasacConfig
from plugin_hasac.learners.hasac import Hasac


class HasacMAC:
    """Holds the algorithm's networks and the step-level replay, and picks actions for all agents of all envs.

    Args:
        scheme, groups: the host's episode scheme; unused, the runner passes the task's shapes in ``args.hasac_task``.
        args: the host's config as a namespace.
    """

    def __init__(self, scheme: dict, groups: dict, args: SimpleNamespace) -> None:
        config = HasacConfig.from_mapping(vars(args))
        if config.cpu_threads is not None:
            torch.set_num_threads(config.cpu_threads)
        torch.set_float32_matmul_precision(config.matmul_precision)
        self.device = torch.device("cuda" if args.use_cuda else "cpu")
        self.algorithm = Hasac(args.hasac_task, config, self.device, args.seed)
        self.replay = StepReplay.fitting(
            args.hasac_task, config.replay_size, args.batch_size_run, self.device, args.seed
        )
        self.restored = False  # a checkpoint was loaded: no random warm-up
        self._generator = torch.Generator(self.device).manual_seed(args.seed + 1)
        self.learner: Any = None  # some hosts hang the learner here

    @torch.no_grad()
    def act(self, now: StepData, *, greedy: bool = False, sampler: torch.Generator | None = None) -> np.ndarray:
        """Actions ``(n_envs, n_agents, action_width)`` of all agents in all envs by one batched evaluation.

        Args:
            now: what the envs show.
            greedy: the mode (Box: the squashed mean) instead of a sample.
            sampler: random generator of the samples, by default the one of the training episodes.
        """
        avail = now.avail | ~now.avail.any(-1, keepdims=True)  # an env that is over may offer nothing
        actions = self.algorithm.policies.act(
            torch.from_numpy(now.obs).to(self.device).transpose(0, 1),
            torch.from_numpy(avail).to(self.device).transpose(0, 1),
            greedy=greedy,
            generator=sampler or self._generator,
        )
        return actions.transpose(0, 1).cpu().numpy()
