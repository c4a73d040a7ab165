"""The mirror step of one agent, exactly: what a policy does against known values of its actions.

Equations 4 (no drift) and 5 of ``docs/mehaml.md``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plugin_hasac.components.action_spaces import Categorical
from plugin_hasac.equilibria.matrix_games import Array
from plugin_hasac.mehaml.drifts import Drift
from plugin_hasac.mehaml.neighbourhoods import Neighbourhood
from plugin_hasac.modules.distributions import MaskedCategorical

ASCENT_STEPS = 100
STATIONARY = 1e-12  # mean size of the slope, relative to the temperature, at which the ascent ends
ROUNDING = 1e-12  # relative; differences of the objective below it say nothing
HALVINGS = 60


def soft_max(values: Array, alpha: float) -> Array:
    """``exp(values / alpha)``, normalised over the last axis."""
    weights = np.exp((values - values.max(-1, keepdims=True)) / alpha)
    return weights / weights.sum(-1, keepdims=True)


def mirror_step(
    values: Array,
    old: Array,
    alpha: float,
    drift: Drift | None = None,
    neighbourhood: Neighbourhood | None = None,
) -> Array:
    """``argmax E_{a ~ pi-hat}[values(a) - alpha log pi-hat(a)] - D(pi-hat | pi)`` in the neighbourhood, in each state.

    Without drift it is the quantal response; a drift may know the solution, too. Else the maximum is searched by mirror
    ascent from ``old``, whose every step raises the objective. What lies outside the neighbourhood is mixed with
    ``old``, half and half, until it is inside; where that would lower the objective, the state keeps ``old``.

    Args:
        values: of each action, ``(n_states, n_actions)``.
        old: pi, ``(n_states, n_actions)``.
        alpha: positive temperature.
        drift: or ``None``.
        neighbourhood: or ``None``.

    Returns:
        pi-hat, ``(n_states, n_actions)``.
    """
    if drift is None and neighbourhood is None:
        return soft_max(values, alpha)
    with np.errstate(divide="ignore"):
        log_old = torch.from_numpy(np.maximum(np.log(old), -700.0))
    mirror = _MirrorObjective(torch.from_numpy(values), log_old, alpha, drift)
    log_new = torch.from_numpy(np.log(np.maximum(soft_max(values, alpha), 1e-300)))
    if drift is not None:
        log_new = mirror.ascend()
    if neighbourhood is not None:
        log_new = _shortened(mirror, log_new, neighbourhood)
    new = log_new.exp().numpy()
    return new / new.sum(-1, keepdims=True)


class _MirrorObjective:
    """The objective of every state, and its ascent.

    Args:
        values, log_old, alpha, drift: see :func:`mirror_step`, as tensors.
    """

    def __init__(self, values: Tensor, log_old: Tensor, alpha: float, drift: Drift | None) -> None:
        self.values, self.log_old, self.alpha, self.drift = values, log_old, alpha, drift
        soft = values - alpha * log_old
        self.advantage = soft - (log_old.exp() * soft).sum(-1, keepdim=True)

    def __call__(self, log_new: Tensor) -> Tensor:
        """``(n_states,)``."""
        gain = (log_new.exp() * (self.values - self.alpha * log_new)).sum(-1)
        return gain if self.drift is None else gain - self.drift.exact(log_new, self.log_old, self.advantage)

    def ascend(self) -> Tensor:
        """Log-probabilities at a maximum, or as near as some steps come."""
        known = None if self.drift is None else self.drift.solution(self.values, self.log_old, self.alpha)
        if known is not None:
            return torch.log_softmax(known, -1)
        log_new = self.log_old.clone()
        best, slope = self._value_and_slope(log_new)
        size = torch.full_like(best, 1 / self.alpha)
        for _ in range(ASCENT_STEPS):
            tried = torch.log_softmax(log_new + size[:, None] * slope, -1)
            value, tried_slope = self._value_and_slope(tried)
            flat, flatter = (self._mean_size(each, at) for each, at in ((slope, log_new), (tried_slope, tried)))
            # Where the objective cannot tell any more, the slope still can.
            level = (value - best).abs() <= ROUNDING * (1 + best.abs())
            better = torch.where(level, flatter < flat, value > best)
            log_new, slope = (torch.where(better[:, None], *pair) for pair in ((tried, log_new), (tried_slope, slope)))
            best = torch.where(better, value, best)
            size = torch.where(better, (1.25 * size).clamp_max(1 / self.alpha), 0.5 * size)
            if (torch.minimum(flat, flatter) < STATIONARY * self.alpha).all():
                break
        return log_new

    def _value_and_slope(self, log_new: Tensor) -> tuple[Tensor, Tensor]:
        """The objective, and its slope in the probabilities, moved to mean 0."""
        variable = log_new.clone().requires_grad_()
        value = self(variable)
        (slope,) = torch.autograd.grad(value.sum(), variable)
        probs = log_new.exp()
        slope = slope / probs.clamp_min(1e-300)
        return value.detach(), slope - (probs * slope).sum(-1, keepdim=True)

    @staticmethod
    def _mean_size(slope: Tensor, log_new: Tensor) -> Tensor:
        return (log_new.exp() * slope.abs()).sum(-1)


def _shortened(mirror: _MirrorObjective, log_new: Tensor, neighbourhood: Neighbourhood) -> Tensor:
    """Each state's step, halved until it is inside the neighbourhood and no loss."""
    log_old, before = mirror.log_old, mirror(mirror.log_old)
    old, new, result = log_old.exp(), log_new.exp(), log_old.clone()
    space, ones = Categorical((old.shape[-1],)), torch.ones(1, old.shape[-1], dtype=torch.bool)
    for state in range(len(old)):
        part = new[state]
        origin = MaskedCategorical(space, log_old[state : state + 1], ones)
        for _ in range(HALVINGS):
            log_part = part.clamp_min(1e-300).log()[None]
            inside = neighbourhood.contains(
                MaskedCategorical(space, log_part, ones), origin, torch.ones(1, dtype=part.dtype)
            )
            if bool(inside) and mirror_value(mirror, log_part, state) >= before[state]:
                result[state] = log_part[0]
                break
            part = 0.5 * (part + old[state])
    return result


def mirror_value(mirror: _MirrorObjective, log_part: Tensor, state: int) -> Tensor:
    """The objective of one state."""
    one = _MirrorObjective(mirror.values[state : state + 1], mirror.log_old[state : state + 1], mirror.alpha, None)
    one.drift = mirror.drift
    return one(log_part)[0]
