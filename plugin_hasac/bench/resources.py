"""What the runs of a suite may use of a machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plugin_hasac.config import check_keys
from plugin_hasac.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Resources:
    """What each run gets, and how many run at once.

    Attributes:
        workers: runs at once; None for as many as the machine's cores and GPUs allow.
        threads: of each run's arithmetic.
        gpus: of each run; 0.5 lets two share one, 0 leaves the choice to the run.
        sbatch: options of Slurm's ``sbatch``, such as ``{partition: cpu, time: "4:00:00"}``.
    """

    workers: int | None = None
    threads: int = 1
    gpus: float = 0
    sbatch: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Resources:
        """Raises UserError for an unknown key or an impossible value."""
        values = {key: value for key, value in values.items() if value is not None}
        check_keys(values, set(cls.__dataclass_fields__), "in resources")
        for key in ("workers", "threads"):
            value = values.get(key, 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"resources: {key}: {value!r} is not a whole number of at least 1.")
        gpus, sbatch = values.get("gpus", 0), values.get("sbatch", {})
        if not isinstance(gpus, (int, float)) or isinstance(gpus, bool) or gpus < 0 or (gpus > 1 and gpus % 1):
            raise UserError(
                f"resources: gpus: {gpus!r} is neither a share of a GPU below 1 nor a whole number of them."
            )
        if not isinstance(sbatch, Mapping):
            raise UserError(f"resources: sbatch: {sbatch!r} is not a mapping of sbatch's options.")
        return cls(**values)

    def environment(self) -> dict[str, str]:
        """Variables that hold a run's libraries to its threads."""
        return dict.fromkeys(THREAD_VARIABLES, str(self.threads))

    def places(self) -> list[dict[str, str]]:
        """One entry for each run that this machine takes at once: variables that say which GPUs it may see.

        Raises:
            UserError: if runs need more GPUs than there are.
        """
        cores = len(os.sched_getaffinity(0))
        most = self.workers or max(1, cores // self.threads)
        if not self.gpus:
            return [{} for _ in range(most)]
        devices = _devices()
        fitting = int(len(devices) / self.gpus + 1e-9)
        if fitting == 0:
            raise UserError(f"resources: gpus: {self.gpus} for each run, but this machine has {len(devices)}.")
        share = max(1, int(self.gpus))
        first = [int(number * self.gpus + 1e-9) for number in range(min(most, fitting))]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(devices[start : start + share])} for start in first]


def _devices() -> list[str]:
    """The GPUs that may be used, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
