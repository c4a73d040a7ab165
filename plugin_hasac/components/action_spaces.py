"""Action spaces of single agents: how an action is stored, encoded for the critics, and decoded for the env."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_hasac.errors import UserError


class ActionSpace(ABC):
    """One agent's action space.

    An *action* is what the env takes: ``(…, width)``, indices or numbers in the env's units. An *encoded* action is
    what policies emit and critics see: ``(…, encoded_dim)``, one-hot or scaled to [-1, 1].

    Attributes:
        width: numbers in an action.
        encoded_dim: numbers in an encoded action.
        avail_dim: length of the availability mask (0: nothing can be masked).
    """

    width: int
    encoded_dim: int
    avail_dim: int

    @abstractmethod
    def encode(self, actions: Tensor) -> Tensor:
        """``(…, width) -> (…, encoded_dim)``."""

    @abstractmethod
    def decode(self, encoded: Tensor) -> Tensor:
        """``(…, encoded_dim) -> (…, width)``."""

    @abstractmethod
    def uniform(self, noise: np.ndarray, avail: np.ndarray) -> np.ndarray:
        """Uniformly random actions, made of uniform noise from [0, 1).

        Args:
            noise: ``(n, encoded_dim)``.
            avail: ``(n, avail_dim)`` bool.

        Returns:
            ``(n, width)``.
        """


@dataclass(frozen=True)
class Categorical(ActionSpace):
    """Discrete (one factor) and MultiDiscrete (several): one choice per factor.

    Attributes:
        nvec: number of choices of each factor. The masks of the factors lie one after the other.
    """

    nvec: tuple[int, ...]

    @property
    def width(self) -> int:  # type: ignore[override]
        """One index per factor."""
        return len(self.nvec)

    @property
    def encoded_dim(self) -> int:  # type: ignore[override]
        """One-hots of all factors."""
        return sum(self.nvec)

    @property
    def avail_dim(self) -> int:  # type: ignore[override]
        """One flag per choice."""
        return sum(self.nvec)

    def factors(self) -> list[slice]:
        """Where each factor's one-hot lies in the encoding."""
        ends = np.cumsum(self.nvec).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.nvec)]

    def encode(self, actions: Tensor) -> Tensor:
        """One-hot."""
        parts = [F.one_hot(actions[..., i].long(), size) for i, size in enumerate(self.nvec)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).to(torch.get_default_dtype())

    def decode(self, encoded: Tensor) -> Tensor:
        """Indices, int64."""
        return torch.stack([encoded[..., factor].argmax(-1) for factor in self.factors()], dim=-1)

    def uniform(self, noise: np.ndarray, avail: np.ndarray) -> np.ndarray:
        """See :class:`ActionSpace`; only available choices."""
        return np.stack([(noise[:, f] * avail[:, f]).argmax(-1) for f in self.factors()], axis=-1)


@dataclass(frozen=True)
class Box(ActionSpace):
    """Real vectors within finite bounds, which need not be symmetric or equal.

    Attributes:
        low, high: bounds in the env's units, one number per dimension.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    avail_dim = 0

    @property
    def width(self) -> int:  # type: ignore[override]
        """Number of dimensions."""
        return len(self.low)

    @property
    def encoded_dim(self) -> int:  # type: ignore[override]
        """Number of dimensions."""
        return len(self.low)

    @property
    def log_scale(self) -> float:
        """Log of the volume that the env's units give to a unit of the [-1, 1] scale: sum of log((high - low) / 2)."""
        return sum(math.log((high - low) / 2) for low, high in zip(self.low, self.high))

    def encode(self, actions: Tensor) -> Tensor:
        """The env's units to [-1, 1]."""
        middle, half = _affine(self, actions.device, actions.dtype)
        return (actions - middle) / half

    def decode(self, encoded: Tensor) -> Tensor:
        """[-1, 1] to the env's units."""
        middle, half = _affine(self, encoded.device, encoded.dtype)
        return middle + half * encoded

    def uniform(self, noise: np.ndarray, avail: np.ndarray) -> np.ndarray:
        """See :class:`ActionSpace`."""
        low, high = np.array(self.low), np.array(self.high)
        return low + (high - low) * noise


@lru_cache(maxsize=64)
def _affine(box: Box, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Middle and half width of a box."""
    low, high = (torch.tensor(bound, device=device, dtype=dtype) for bound in (box.low, box.high))
    return (low + high) / 2, (high - low) / 2


def from_gymnasium(space: Any, whose: str) -> ActionSpace:
    """Our description of a gymnasium (or gym) action space.

    Args:
        space: told by its class name, so that neither library has to be installed.
        whose: for the error message, such as "agent 0 of env 'mpe'".

    Raises:
        UserError: for a Tuple, Dict or other space, and for a Box without finite bounds or with more than one axis.
    """
    kind = type(space).__name__
    if kind == "Discrete" and getattr(space, "start", 0) == 0:
        return Categorical((int(space.n),))
    if kind == "MultiDiscrete" and not np.any(getattr(space, "start", 0)):
        return Categorical(tuple(int(size) for size in np.ravel(space.nvec)))
    if kind == "Box" and len(space.shape) == 1:
        low, high = np.asarray(space.low, float), np.asarray(space.high, float)
        if np.isfinite([low, high]).all() and (low < high).all():
            return Box(tuple(low.tolist()), tuple(high.tolist()))
    raise UserError(
        f"{whose} has the action space {space}; expected Discrete or MultiDiscrete that count from 0, or a flat Box "
        "with finite bounds. Wrap the env so that it has one of these."
    )
