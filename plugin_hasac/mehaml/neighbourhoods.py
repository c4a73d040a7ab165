"""Neighbourhoods U(pi): the policies that a step from pi may reach (Liu et al., ICLR 2024)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from plugin_hasac.modules.distributions import Distribution


class Neighbourhood(ABC):
    """Policies around pi. Contains pi itself, so that a step can always be shortened until it is inside.

    Subclasses take their parameters as keyword arguments, which come from ``neighbourhood_args`` in the YAML.
    """

    @abstractmethod
    def contains(self, new: Distribution, old: Distribution, weight: Tensor) -> Tensor:
        """Whether pi-hat is inside, a bool tensor without dimensions.

        Args:
            new: pi-hat at some observations, ``(batch,)`` distributions.
            old: pi at the same ones.
            weight: of these observations, ``(batch,)``, with sum 1.
        """


class KLBall(Neighbourhood):
    """``E_s[KL(pi-hat(.|s) || pi(.|s))] <= radius``.

    Args:
        radius: in nats.

    Raises:
        ValueError: unless it is positive.
    """

    def __init__(self, radius: float = 0.05) -> None:
        self.radius = float(radius)
        if not self.radius > 0:
            raise ValueError(f"radius {radius} is not positive: no policy could ever move")

    def contains(self, new: Distribution, old: Distribution, weight: Tensor) -> Tensor:
        """See :class:`Neighbourhood`."""
        return (weight * new.kl(old)).sum() <= self.radius
