"""The multi-agent controller: the joint policy that acts, and the experience it learns from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from plugin_hasac.components.replay import StepData, StepReplay
from plugin_hasac.config import HasacConfig
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.turns import Beside, InTurns
from plugin_hasac.modules.policies import Policies

# Up to so many floating-point operations, a CPU has picked the actions before a GPU has been asked.
SMALL_EVALUATION = 1e8


def can_overlap(replay: StepReplay) -> bool:
    """Whether updates can draw from it while envs step: rows in the host's memory change meanwhile."""
    return replay.device.type == "cuda"


class PolicyCopy:
    """The policies as they were when last copied, for acting.

    Args:
        policies: that learn.
        device: to act on.
        turns: of the updates, which are waited for before the policies are copied.

    Attributes:
        fresh: whether the copy is the one to act with; else it is renewed first.
    """

    def __init__(self, policies: Policies, device: torch.device, turns: InTurns) -> None:
        self.learning, self.turns, self.fresh = policies, turns, False
        self._copy = policies.twin(device)

    @property
    def policies(self) -> Policies:
        """To act with."""
        if not self.fresh:
            self.renew()
        return self._copy

    def renew(self) -> None:
        """Copy the policies as they are when all updates that have begun are done."""
        self.turns.wait()
        self._copy.copy_from(self.learning)
        self.fresh = True


class HasacMAC:
    """Holds the algorithm's networks and the step-level replay, and picks actions for all agents of all envs.

    Args:
        scheme, groups: the host's episode scheme; unused, the runner passes the task's shapes in ``args.hasac_task``.
        args: the host's config as a namespace.

    Attributes:
        acting_device: where actions are picked; small networks act faster on the CPU even if they learn on a GPU.
        overlap: whether updates run beside the stepping.
        turns: what runs the updates.
    """

    def __init__(self, scheme: dict, groups: dict, args: SimpleNamespace) -> None:
        config = HasacConfig.from_mapping(vars(args))
        self.device = torch.device("cuda" if args.use_cuda else "cpu")
        if config.cpu_threads is not None:
            torch.set_num_threads(config.cpu_threads)
        elif args.use_cuda:
            torch.set_num_threads(1)  # idle threads would spin on the cores that step the envs
        torch.set_float32_matmul_precision(config.matmul_precision)
        task = args.hasac_task
        self.algorithm = Hasac(task, config, self.device, args.seed)
        self.replay = StepReplay.fitting(task, config.replay_size, args.batch_size_run, self.device, args.seed)
        self.restored = False  # a checkpoint was loaded: no random warm-up
        policies = self.algorithm.policies
        small = 2 * args.batch_size_run * policies.parameters_in_use < SMALL_EVALUATION
        self.overlap = config.overlap and can_overlap(self.replay)
        self.turns = Beside() if self.overlap else InTurns()
        self.acting_device = torch.device("cpu") if small or self.overlap else self.device
        self._latest = PolicyCopy(policies, self.acting_device, self.turns)  # for tests
        # With overlap, training episodes go on with the policies from before the updates that are under way.
        self._acting = PolicyCopy(policies, self.acting_device, self.turns) if self.overlap else self._latest
        self._generator = torch.Generator(self.acting_device).manual_seed(args.seed + 1)
        self.learner: Any = None  # some hosts hang the learner here

    def about_to_learn(self) -> None:
        """The learner is going to update the policies."""
        if self.overlap:
            self._acting.renew()
        self._latest.fresh = False

    def changed(self) -> None:
        """The policies are others now, by a checkpoint."""
        self._acting.fresh = self._latest.fresh = False

    @torch.no_grad()
    def act(
        self, now: StepData, *, test: bool = False, greedy: bool = False, sampler: torch.Generator | None = None
    ) -> np.ndarray:
        """Actions ``(n_envs, n_agents, action_width)`` of all agents in all envs by one batched evaluation.

        Args:
            now: what the envs show.
            test: act with the policies as they are now, whatever ``overlap`` says.
            greedy: the mode (Box: the squashed mean) instead of a sample.
            sampler: random generator of the samples, by default the one of the training episodes.
        """
        avail = now.avail | ~now.avail.any(-1, keepdims=True)  # an env that is over may offer nothing
        actions = (self._latest if test else self._acting).policies.act(
            torch.from_numpy(now.obs).to(self.acting_device).transpose(0, 1),
            torch.from_numpy(avail).to(self.acting_device).transpose(0, 1),
            greedy=greedy,
            generator=sampler or self._generator,
        )
        return actions.transpose(0, 1).cpu().numpy()
