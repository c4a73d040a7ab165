"""Small cooperative Markov games, given as tensors, solved exactly in float64 (theory: Liu et al., ICLR 2024).

Equation numbers are those of ``docs/mehaml.md``.

A matrix game is a Markov game with one state and gamma 0 (:meth:`MarkovGame.from_payoff`).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plugin_hasac.equilibria.matrix_games import Array
from plugin_hasac.equilibria.mirror import mirror_step, soft_max
from plugin_hasac.mehaml.drifts import Drift
from plugin_hasac.mehaml.neighbourhoods import Neighbourhood

Policies = list[Array]  # per agent ``(n_states, n_actions_i)``


@dataclass(frozen=True)
class MarkovGame:
    """Everybody sees the state and gets the same reward.

    Attributes:
        reward: ``(n_states, n_actions_1, …, n_actions_n)``.
        transition: probabilities of the next state, ``(n_states, n_actions_1, …, n_actions_n, n_states)``.
        gamma: discount factor below 1.
        start: distribution of the first state, ``(n_states,)``.
    """

    reward: Array
    transition: Array
    gamma: float
    start: Array

    def __post_init__(self) -> None:
        n_states = self.reward.shape[0]
        if self.transition.shape != (*self.reward.shape, n_states) or self.start.shape != (n_states,):
            raise ValueError(
                f"reward {self.reward.shape}, transition {self.transition.shape}, start {self.start.shape}: expected "
                "transition to have reward's shape with the states behind, and start one number per state"
            )
        sums = self.transition.sum(-1)
        if (self.transition < 0).any() or not np.allclose(sums, 1) or not np.isclose(self.start.sum(), 1):
            raise ValueError("transition and start must be probabilities that sum to 1")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma {self.gamma} is not in [0, 1)")

    @classmethod
    def from_payoff(cls, payoff: Array) -> MarkovGame:
        """The matrix game with a payoff tensor of one axis per agent."""
        return cls(payoff[None], np.ones((1, *payoff.shape, 1)), 0.0, np.ones(1))

    @property
    def n_agents(self) -> int:
        """Number of agents, n."""
        return self.reward.ndim - 1

    def uniform(self) -> Policies:
        """Everybody at random."""
        n_states = self.reward.shape[0]
        return [np.full((n_states, size), 1.0 / size) for size in self.reward.shape[1:]]


def over_actions(tensor: Array, policies: Sequence[Array], kept: int | None = None) -> Array:
    """Expectation over everybody's action but one agent's, ``(n_states, [n_actions_kept,] …)``.

    Args:
        tensor: ``(n_states, n_actions_1, …, n_actions_n, …)``.
        policies: per agent ``(n_states, n_actions_i)``.
        kept: the agent whose action stays.
    """
    axes = string.ascii_lowercase[1 : len(policies) + 1]
    others = [i for i in range(len(policies)) if i != kept]
    operands = "".join(f",a{axes[i]}" for i in others)
    result = "a" + ("" if kept is None else axes[kept]) + "..."
    return np.einsum(f"a{axes}...{operands}->{result}", tensor, *(policies[i] for i in others), optimize=True)


def soft_values(game: MarkovGame, policies: Sequence[Array], alphas: Sequence[float]) -> tuple[Array, Array]:
    """Joint soft policy evaluation, by solving its linear equations (equation 2).

    ``V = E_pi[Q(s, a) - sum_i alpha_i log pi_i]`` and ``Q = r + gamma E[V(s')]``; with alphas of 0 the plain values.

    Returns:
        V ``(n_states,)`` and Q ``(n_states, n_actions_1, …, n_actions_n)``.
    """
    gain = over_actions(game.reward, policies)
    for policy, alpha in zip(policies, alphas, strict=True):
        gain = gain + alpha * entropy(policy)
    transition = over_actions(game.transition, policies)
    values = np.linalg.solve(np.eye(len(gain)) - game.gamma * transition, gain)
    return values, game.reward + game.gamma * game.transition @ values


def entropy(policy: Array) -> Array:
    """In nats, over the last axis."""
    return -np.sum(policy * np.log(np.where(policy > 0, policy, 1.0)), axis=-1)


def objective(game: MarkovGame, policies: Sequence[Array], alphas: Sequence[float]) -> float:
    """Maximum-entropy objective J(pi), equation 1; with alphas of 0 the expected return, which is the social value."""
    return float(game.start @ soft_values(game, policies, alphas)[0])


def residual(game: MarkovGame, policies: Sequence[Array], alphas: Sequence[float]) -> float:
    """Largest total variation distance, over agents and states, of a policy to its quantal response; 0 at a QRE.

    A quantal response is ``pi_i(a_i|s) ∝ exp(E_{a_-i}[Q(s, a)] / alpha_i)`` with the soft Q of the joint policy
    (equation 3).
    """
    _, q = soft_values(game, policies, alphas)
    distances = []
    for agent, alpha in enumerate(alphas):
        response = soft_max(over_actions(q, policies, agent), alpha)
        distances.append(0.5 * np.abs(response - policies[agent]).sum(-1).max())
    return float(max(distances))


@dataclass(frozen=True)
class Iteration:
    """Outcome of :func:`heterogeneous_soft_policy_iteration`.

    Attributes:
        policies: the last ones.
        objectives: J before the first sweep and after each.
        residual: of the last policies.
        sweeps: number of sweeps.
    """

    policies: Policies
    objectives: list[float]
    residual: float
    sweeps: int


def heterogeneous_soft_policy_iteration(
    game: MarkovGame,
    alphas: Sequence[float],
    start: Sequence[Array] | None = None,
    *,
    order: np.random.Generator | Sequence[int] | None = None,
    drift: Drift | None = None,
    neighbourhood: Neighbourhood | None = None,
    sequential: bool = True,
    tolerance: float = 1e-10,
    max_sweeps: int = 10_000,
) -> Iteration:
    """Evaluate, then let every agent make its mirror step in turn, until nobody moves.

    The paper's heterogeneous-agent soft policy iteration (HASPI, equation 4), and with a drift or neighbourhood MEHAML
    (equation 5).

    Args:
        game: small enough to enumerate.
        alphas: one positive temperature per agent.
        start: first policies, uniform by default.
        order: of the agents: a generator (random every time), a fixed permutation, or 0…n-1.
        drift: of a MEHAML instance; ``None`` is HASAC's, whose step is the quantal response.
        neighbourhood: of a MEHAML instance; ``None`` is HASAC's.
        sequential: off: everybody responds to the old policies of all others, for which no theorem holds.
        tolerance: on the residual.
        max_sweeps: at most.
    """
    policies = game.uniform() if start is None else [np.array(policy, dtype=np.float64) for policy in start]
    objectives = [objective(game, policies, alphas)]
    distance, sweeps = residual(game, policies, alphas), 0
    while distance > tolerance and sweeps < max_sweeps:
        policies = sweep(game, policies, alphas, order, drift, neighbourhood, sequential)[-1]
        objectives.append(objective(game, policies, alphas))
        distance, sweeps = residual(game, policies, alphas), sweeps + 1
    return Iteration(policies, objectives, distance, sweeps)


def sweep(
    game: MarkovGame,
    policies: Sequence[Array],
    alphas: Sequence[float],
    order: np.random.Generator | Sequence[int] | None = None,
    drift: Drift | None = None,
    neighbourhood: Neighbourhood | None = None,
    sequential: bool = True,
) -> list[Policies]:
    """One sweep of :func:`heterogeneous_soft_policy_iteration`: the joint policies after each agent's step."""
    agents: Sequence[int] = range(game.n_agents)
    if isinstance(order, np.random.Generator):
        agents = order.permutation(game.n_agents).tolist()
    elif order is not None:
        agents = order
    _, q = soft_values(game, policies, alphas)
    current, seen = list(policies), []
    for agent in agents:
        values = over_actions(q, current if sequential else policies, agent)
        current[agent] = mirror_step(values, policies[agent], alphas[agent], drift, neighbourhood)
        seen.append(list(current))
    return seen
