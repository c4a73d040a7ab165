"""Drift functionals: what a step of a policy costs, beside what it gains.

MEHAML's agents maximise, one after the other, the mirror objective (Liu et al., ICLR 2024)

    E_s[ E_{a ~ pi-bar_{1:m-1}, pi-hat_i}[ Q(s, a) - alpha log pi-hat_i ] - D_i(pi-hat_i | s, pi-bar_{1:m-1}) ].

A drift functional D_i(pi-hat | …) of the step from pi to pi-hat is never negative, is 0 at pi-hat = pi, and has zero
gradient there. Every instance then improves the joint maximum-entropy objective and converges to a quantal response
equilibrium.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0  # beyond it, a ratio of probabilities is as good as infinite


class Drift(ABC):
    """``D = E_{a ~ under}[ integrand(log pi-hat(a) - log pi(a), A(a)) ]``, for every kind of action space.

    Subclasses take their parameters as keyword arguments, which come from ``drift_args`` in the YAML.

    Attributes:
        under: the expectation is under the policy before the step ("old", pi) or after it ("new", pi-hat).
        uses_advantage: whether the integrand looks at the advantage; it costs critic evaluations.
    """

    under: ClassVar[Literal["old", "new"]] = "old"
    uses_advantage: ClassVar[bool] = False

    @abstractmethod
    def integrand(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """What one action contributes; any shape, the same for both arguments and the result.

        Args:
            log_ratio: ``log pi-hat(a) - log pi(a)``.
            advantage: soft advantage ``Q(a) - alpha log pi(a) - E_pi[Q - alpha log pi]`` in reward units; zeros unless
                ``uses_advantage``.
        """

    def exact(self, new: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        """The drift over all choices, ``(…)``.

        Args:
            new: log-probabilities of pi-hat, ``(…, n_choices)``.
            old: the same of pi.
            advantage: ``(…, n_choices)``.
        """
        probs = (new if self.under == "new" else old).exp()
        log_ratio = (new - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return (probs * self.integrand(log_ratio, advantage)).sum(-1)

    def solution(self, values: Tensor, log_old: Tensor, alpha: float) -> Tensor | None:
        """Logits of the exact mirror step for discrete actions, ``(…, n_choices)``, or ``None`` if not known.

        Args:
            values: of each choice, ``(…, n_choices)``.
            log_old: log-probabilities of pi.
            alpha: the temperature.
        """
        return None


class KLDrift(Drift):
    """``strength * KL(pi-hat || pi) = strength * E_{a ~ pi-hat}[log pi-hat(a) / pi(a)]``.

    The mirror objective is then that of mirror descent in the space of policies: the solution for discrete actions is
    ``pi-hat ∝ exp((Q + strength log pi) / (alpha + strength))``.

    Args:
        strength: in reward units per nat.
    """

    under = "new"

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = float(strength)

    def integrand(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """See :class:`Drift`."""
        return self.strength * log_ratio

    def solution(self, values: Tensor, log_old: Tensor, alpha: float) -> Tensor:
        """See :class:`Drift`."""
        return (values + self.strength * log_old) / (alpha + self.strength)


class SquaredLogRatioDrift(Drift):
    """``strength / 2 * E_{a ~ pi}[(log pi-hat(a) / pi(a))^2]``.

    To second order the KL drift of the same strength, but it grows without bound where pi-hat gives an action up.

    Args:
        strength: in reward units.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = float(strength)

    def integrand(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """See :class:`Drift`."""
        return 0.5 * self.strength * log_ratio.square()


class ClippedDrift(Drift):
    """``E_{a ~ pi}[max(0, (rho - clip(rho, 1 - epsilon, 1 + epsilon)) A(a))]`` with ``rho = pi-hat(a) / pi(a)``.

    What PPO's clipping takes away from the gain (Kuba et al., "Mirror Learning", ICML 2022), here with the
    soft advantage: beyond the clipping range a step gains nothing more.

    Args:
        epsilon: half width of the range, above 0.
    """

    uses_advantage = True

    def __init__(self, epsilon: float = 0.2) -> None:
        self.epsilon = float(epsilon)

    def integrand(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """See :class:`Drift`."""
        ratio = torch.exp(log_ratio)
        return torch.relu((ratio - ratio.clamp(1 - self.epsilon, 1 + self.epsilon)) * advantage)
