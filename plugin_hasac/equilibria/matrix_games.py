"""Quantal response equilibria of cooperative matrix games, computed exactly in float64.

A joint policy is a quantal response equilibrium (QRE) if every agent plays
``pi_i(a_i) ∝ exp(E_{a_-i ~ pi_-i}[payoff(a)] / alpha_i)`` (Liu et al., ICLR 2024; McKelvey & Palfrey, 1995).
In a one-shot game the soft Q of a joint action is its payoff. Equation numbers are those of ``docs/mehaml.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def expected_payoffs(payoff: Array, policies: Sequence[Array], agent: int) -> Array:
    """``E_{a_-i ~ pi_-i}[payoff(a)]`` for each action of one agent, ``(n_actions_i,)``.

    Args:
        payoff: one axis per agent.
        policies: one distribution per agent, of the length of its axis.
        agent: index i.
    """
    values = np.moveaxis(payoff, agent, 0)
    for other in reversed([j for j in range(payoff.ndim) if j != agent]):
        values = values @ policies[other]
    return values


def quantal_response(payoff: Array, policies: Sequence[Array], agent: int, alpha: float) -> Array:
    """The policy of one agent that maximises expected payoff plus alpha times entropy, others fixed (equation 4)."""
    logits = expected_payoffs(payoff, policies, agent) / alpha
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def soft_objective(payoff: Array, policies: Sequence[Array], alphas: Sequence[float]) -> float:
    """Maximum-entropy objective (equation 1): expected payoff plus ``sum_i alpha_i H(pi_i)``, in payoff units."""
    value = float(expected_payoffs(payoff, policies, 0) @ policies[0])
    for policy, alpha in zip(policies, alphas, strict=True):
        positive = policy[policy > 0]
        value -= alpha * float(positive @ np.log(positive))
    return value


def qre_residual(payoff: Array, policies: Sequence[Array], alphas: Sequence[float]) -> float:
    """Largest total variation distance between an agent's policy and its quantal response; 0 at a QRE (equation 3)."""
    return max(
        0.5 * float(np.abs(policies[i] - quantal_response(payoff, policies, i, alphas[i])).sum())
        for i in range(payoff.ndim)
    )


def soft_policy_iteration(
    payoff: Array,
    alphas: Sequence[float],
    start: Sequence[Array] | None = None,
    *,
    tolerance: float = 1e-12,
    max_sweeps: int = 100_000,
) -> list[Array]:
    """Sequential quantal responses, agent after agent, until no policy moves: a QRE.

    Every response raises :func:`soft_objective`, so the iteration converges (Liu et al., 2024, theorem on HASPI).

    Args:
        payoff: one axis per agent.
        alphas: one positive temperature per agent.
        start: initial policies, uniform by default; which QRE is reached can depend on them.
        tolerance: on the residual.
        max_sweeps: over all agents.

    Raises:
        RuntimeError: if the tolerance is not reached.
    """
    policies = [np.full(size, 1.0 / size) for size in payoff.shape] if start is None else [p.copy() for p in start]
    for _ in range(max_sweeps):
        for agent in range(payoff.ndim):
            policies[agent] = quantal_response(payoff, policies, agent, alphas[agent])
        if qre_residual(payoff, policies, alphas) < tolerance:
            return policies
    raise RuntimeError(f"no QRE within {max_sweeps} sweeps; residual {qre_residual(payoff, policies, alphas):.2e}")
