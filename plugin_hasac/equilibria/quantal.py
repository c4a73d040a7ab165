"""All logit quantal response equilibria of a matrix game, stable or not, along a path of temperatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from plugin_hasac.equilibria.matrix_games import (
    Array,
    expected_payoffs,
    qre_residual,
    soft_objective,
)
from plugin_hasac.equilibria.mirror import soft_max

SAME = 1e-6  # total variation below which two equilibria are one
EXACT = 1e-10  # residual of an equilibrium
NEWTON_STEPS = 60
MAX_PURE = 256  # of the joint actions, how many are tried as starts


@dataclass(frozen=True)
class Equilibrium:
    """One QRE.

    Attributes:
        alpha: temperature of all agents.
        policies: per agent ``(n_actions_i,)``.
        social_value: expected payoff.
        soft_value: expected payoff plus alpha times the entropies.
        residual: see :func:`qre_residual`.
        stable: a strict local maximum of the soft value: sequential updates converge to it from around. The others
            are saddles, which no learner stays at.
    """

    alpha: float
    policies: list[Array]
    social_value: float
    soft_value: float
    residual: float
    stable: bool


def temperature_path(
    payoff: Array,
    alphas: Sequence[float],
    *,
    random_starts: int = 200,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _alpha: None,
) -> list[Equilibrium]:
    """The QRE found at every temperature, highest soft value first.

    Newton's method is started from the pure joint actions, random policies, and the equilibria of the neighbouring
    temperature, going down and up again, so that no branch that was seen once is lost.

    Args:
        payoff: one axis per agent.
        alphas: positive temperatures.
        random_starts: number of random starts per temperature.
        seed: of these.
        progress: called with each temperature when it is done.
    """
    rng = np.random.default_rng(seed)
    found: dict[float, list[list[Array]]] = {alpha: [] for alpha in alphas}
    down = sorted(found, reverse=True)
    for path, fresh in ((down, random_starts), (down[::-1], 0)):
        tracked: list[list[Array]] = []
        for alpha in path:
            starts = [*tracked, *found[alpha]]
            if fresh:
                starts += list(_starts(payoff, rng, fresh))
            found[alpha] = tracked = _solutions(payoff, alpha, starts)
            if path is not down:
                progress(alpha)
    result = []
    for alpha in alphas:
        described = [_describe(payoff, alpha, policies) for policies in found[alpha]]
        result += sorted(described, key=lambda each: -each.soft_value)
    return result


def _starts(payoff: Array, rng: np.random.Generator, count: int) -> list[list[Array]]:
    starts = [[np.full(size, 1.0 / size) for size in payoff.shape]]
    if prod(payoff.shape) <= MAX_PURE:
        for joint in product(*map(range, payoff.shape)):
            starts.append([np.eye(size)[action] for size, action in zip(payoff.shape, joint)])
    return starts + [[rng.dirichlet(np.full(size, 0.5)) for size in payoff.shape] for _ in range(count)]


def _solutions(payoff: Array, alpha: float, starts: Sequence[list[Array]]) -> list[list[Array]]:
    solutions: list[list[Array]] = []
    for start in starts:
        policies = _newton(payoff, alpha, start)
        if policies is None:
            continue
        for other in solutions:
            if max(0.5 * np.abs(p - q).sum() for p, q in zip(policies, other)) < SAME:
                break
        else:
            solutions.append(policies)
    return solutions


def _newton(payoff: Array, alpha: float, start: list[Array]) -> list[Array] | None:
    """A root of ``u = expected payoffs under softmax(u / alpha)`` by damped Newton steps, or ``None``."""
    sizes = payoff.shape
    u = np.concatenate([expected_payoffs(payoff, start, agent) for agent in range(payoff.ndim)])

    def evaluate(point: Array) -> tuple[list[Array], Array]:
        policies = [soft_max(part, alpha) for part in np.split(point, np.cumsum(sizes)[:-1])]
        targets = [expected_payoffs(payoff, policies, agent) for agent in range(payoff.ndim)]
        return policies, np.concatenate(targets) - point

    policies, gap = evaluate(u)
    for _ in range(NEWTON_STEPS):
        error = np.abs(gap).max()
        if error < 1e-14 * max(1.0, np.abs(payoff).max()):
            break
        step = np.linalg.lstsq(np.eye(len(u)) - _jacobian(payoff, policies, alpha), gap, rcond=None)[0]
        for halving in range(20):
            tried = u + 0.5**halving * step
            tried_policies, tried_gap = evaluate(tried)
            if np.abs(tried_gap).max() < error:
                break
        else:
            break
        u, policies, gap = tried, tried_policies, tried_gap
    return policies if qre_residual(payoff, policies, [alpha] * payoff.ndim) < EXACT else None


def _interactions(payoff: Array, policies: Sequence[Array]) -> dict[tuple[int, int], Array]:
    """Expected payoff of each pair of actions of two agents, ``(n_actions_i, n_actions_j)``."""
    pairs = {}
    for i, j in product(range(payoff.ndim), repeat=2):
        if i != j:
            values = np.moveaxis(payoff, (i, j), (0, 1))
            for other in reversed([k for k in range(payoff.ndim) if k not in (i, j)]):
                values = values @ policies[other]
            pairs[i, j] = values
    return pairs


def _jacobian(payoff: Array, policies: Sequence[Array], alpha: float) -> Array:
    """Derivative of the expected payoffs in the logits times alpha, through everybody's softmax."""
    ends = np.cumsum(payoff.shape)
    jacobian = np.zeros((ends[-1], ends[-1]))
    for (i, j), values in _interactions(payoff, policies).items():
        spread = np.diag(policies[j]) - np.outer(policies[j], policies[j])
        rows, columns = (slice(ends[k] - payoff.shape[k], ends[k]) for k in (i, j))
        jacobian[rows, columns] = values @ spread / alpha
    return jacobian


def _describe(payoff: Array, alpha: float, policies: list[Array]) -> Equilibrium:
    alphas = [alpha] * payoff.ndim
    # The jacobian is similar to a symmetric matrix; all its eigenvalues are below 1 where the soft value's second
    # derivative is negative in every direction.
    slope = np.linalg.eigvals(_jacobian(payoff, policies, alpha)).real.max()
    return Equilibrium(
        alpha=alpha,
        policies=policies,
        social_value=soft_objective(payoff, policies, [0.0] * payoff.ndim),
        soft_value=soft_objective(payoff, policies, alphas),
        residual=qre_residual(payoff, policies, alphas),
        stable=bool(slope < 1 - 1e-9),
    )
