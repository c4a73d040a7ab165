"""Normalised regression targets for the critics that keep what the critics say (PopArt, van Hasselt et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from plugin_hasac.modules.fusion import fused

MIN_STD = 1e-2  # of the targets, in reward units: keeps near-constant targets from being blown up into noise


class Rescalable(Protocol):
    """A critic whose outputs can be rescaled through its last layer."""

    def rescale_output(self, scale: Tensor, shift: Tensor) -> None:
        """Replace every output q by ``scale * q + shift``."""


def new_moments(decay: float, moments: Tensor, scale: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The running moments after a batch of targets, the (std, mean) that follow, and the outputs' (scale, shift)."""
    targets = targets.double()
    batch = torch.stack([torch.ones_like(targets[0]), targets.mean(), targets.square().mean()])
    moments = torch.lerp(moments, batch, 1.0 - decay)
    mean = moments[1] / moments[0]
    std = (moments[2] / moments[0] - mean.square()).clamp_min(MIN_STD**2).sqrt()
    change = torch.stack([scale[0] / std, (scale[1] - mean) / std])
    return moments, torch.stack([std, mean]).to(scale.dtype), change.to(scale.dtype)


class ValueNorm:
    """Running mean and standard deviation of the soft targets, in reward units.

    Critics regress ``(y - mean) / std``. Whenever the statistics move, the last layers of the critics are rescaled so
    that the *denormalised* Q of every state and action stays exactly what it was; actors and targets only see
    denormalised values, on the same scale as the entropy terms.

    Args:
        enabled: with ``False`` mean 0 and standard deviation 1 for ever.
        critics: the networks to rescale (online and target).
        decay: of the running moments, per update.
        device: where the statistics live.
    """

    def __init__(self, enabled: bool, critics: Sequence[Rescalable], *, decay: float, device: torch.device) -> None:
        self.enabled = enabled
        self.critics = critics
        self.decay = decay
        # Zero-debiased running moments: weight, first and second moment, all in float64 against cancellation.
        self.moments = torch.zeros(3, dtype=torch.float64, device=device)
        self.scale = torch.tensor([1.0, 0.0], device=device)  # standard deviation and mean, in one tensor
        self.std, self.mean = self.scale.unbind()
        self._moments = fused(partial(new_moments, decay), device)

    def normalize(self, values: Tensor) -> Tensor:
        """Reward units to the critics' output units."""
        return (values - self.mean) / self.std

    def denormalize(self, outputs: Tensor) -> Tensor:
        """The critics' output units to reward units."""
        return outputs * self.std + self.mean

    @torch.no_grad()
    def update(self, targets: Tensor) -> None:
        """Take in a batch of targets ``(batch,)`` and rescale the critics accordingly."""
        if not self.enabled:
            return
        moments, scale, change = self._moments(self.moments, self.scale, targets)
        for critic in self.critics:
            critic.rescale_output(change[0], change[1])
        self.moments.copy_(moments)
        self.scale.copy_(scale)

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"moments": self.moments.clone(), "mean": self.mean.clone(), "std": self.std.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy the statistics (the checkpoint's critics already fit them)."""
        self.moments.copy_(state["moments"])
        self.mean.copy_(state["mean"])
        self.std.copy_(state["std"])
