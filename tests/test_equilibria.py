"""Exact quantal response equilibria of matrix games."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_hasac.envs.matrix_game import payoff_tensor
from plugin_hasac.equilibria.matrix_games import (
    expected_payoffs,
    qre_residual,
    quantal_response,
    soft_objective,
    soft_policy_iteration,
)

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
games = st.tuples(shapes, st.integers(0, 2**31), st.floats(0.5, 20.0))


def make(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=shape), [rng.dirichlet(np.ones(size)) for size in shape]


def test_one_agent_is_a_softmax() -> None:
    payoff = np.array([1.0, 2.0, 4.0])
    (policy,) = soft_policy_iteration(payoff, [2.0])
    np.testing.assert_allclose(policy, np.exp(payoff / 2) / np.exp(payoff / 2).sum(), rtol=1e-12)


def test_expected_payoffs_by_enumeration() -> None:
    payoff, policies = make((2, 3, 4), 0)
    by_hand = np.einsum("abc,a,c->b", payoff, policies[0], policies[2])
    np.testing.assert_allclose(expected_payoffs(payoff, policies, 1), by_hand)


@settings(max_examples=60, deadline=None)
@given(games)
def test_every_response_raises_the_joint_objective(game: tuple[tuple[int, ...], int, float]) -> None:
    shape, seed, alpha = game
    payoff, policies = make(shape, seed)
    alphas = [alpha] * len(shape)
    value = soft_objective(payoff, policies, alphas)
    for agent in np.random.default_rng(seed).permutation(len(shape)):
        policies[agent] = quantal_response(payoff, policies, agent, alpha)
        new = soft_objective(payoff, policies, alphas)
        assert new >= value - 1e-9
        value = new


@settings(max_examples=30, deadline=None)
@given(games)
def test_iteration_converges_to_an_equilibrium(game: tuple[tuple[int, ...], int, float]) -> None:
    shape, seed, alpha = game
    payoff, start = make(shape, seed)
    alphas = [alpha] * len(shape)
    assert qre_residual(payoff, soft_policy_iteration(payoff, alphas, start, tolerance=1e-9), alphas) < 1e-8


def test_temperature_decides_which_equilibrium() -> None:
    """Climbing: hot agents avoid the punished optimum; cold agents that start there stay."""
    payoff = payoff_tensor("climbing")
    at_the_optimum = [np.array([1.0, 0.0, 0.0])] * 2
    cold = soft_policy_iteration(payoff, [0.1, 0.1], at_the_optimum)
    hot = soft_policy_iteration(payoff, [10.0, 10.0], at_the_optimum)
    assert min(policy[0] for policy in cold) > 0.99
    assert max(policy[0] for policy in hot) < 0.2


def test_residual_is_positive_off_equilibrium() -> None:
    payoff = payoff_tensor("penalty")
    assert qre_residual(payoff, [np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])], [1.0, 1.0]) > 0.9


def test_no_convergence_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no QRE within 1 sweeps"):
        soft_policy_iteration(payoff_tensor("climbing"), [3.0, 3.0], max_sweeps=1)
