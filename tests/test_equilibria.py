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
from plugin_hasac.equilibria.quantal import temperature_path

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


# -------------------------------------------------------------------- all equilibria along a path


def test_pitchfork_of_the_coordination_game() -> None:
    """Two agents, two actions, 1 for a match: p = sigmoid((2 p - 1) / alpha), whose roots split at alpha = 1/2."""
    path = temperature_path(np.eye(2), [0.3, 0.45, 0.55, 2.0], random_starts=20)
    counts = {alpha: [each for each in path if each.alpha == alpha] for alpha in (0.3, 0.45, 0.55, 2.0)}
    assert {alpha: len(found) for alpha, found in counts.items()} == {0.3: 3, 0.45: 3, 0.55: 1, 2.0: 1}
    assert [each.stable for each in counts[0.3]] == [True, True, False]
    assert counts[0.55][0].stable
    for alpha in (0.3, 0.45):
        p = counts[alpha][0].policies[0][0]
        assert p != pytest.approx(0.5, abs=0.1)
        assert p == pytest.approx(1 / (1 + np.exp(-(2 * p - 1) / alpha)), abs=1e-12)
    assert all(each.residual < 1e-10 for each in path)


def test_values_of_an_equilibrium() -> None:
    (hot,) = temperature_path(payoff_tensor("climbing"), [30.0], random_starts=10)
    joint = np.outer(*hot.policies)
    assert hot.social_value == pytest.approx((joint * payoff_tensor("climbing")).sum())
    entropy = -sum((p * np.log(p)).sum() for p in hot.policies)
    assert hot.soft_value == pytest.approx(hot.social_value + 30 * entropy)


def test_stable_equilibria_are_those_that_iteration_reaches() -> None:
    """From anywhere, sequential responses end in an equilibrium listed as stable, and every such one is reached."""
    payoff = payoff_tensor("climbing")
    found = [each for each in temperature_path(payoff, [2.0], random_starts=40) if each.stable]
    rng, reached = np.random.default_rng(0), set()
    for _ in range(40):
        end = soft_policy_iteration(payoff, [2.0, 2.0], [rng.dirichlet(np.ones(3) * 0.3) for _ in range(2)])
        distances = [max(np.abs(p - q).max() for p, q in zip(end, each.policies, strict=True)) for each in found]
        assert min(distances) < 1e-6
        reached.add(int(np.argmin(distances)))
    assert reached == set(range(len(found)))
    assert len(found) == 2


@pytest.mark.parametrize("game", ["climbing", "penalty", "peaks"])
def test_number_of_equilibria_is_odd(game: str) -> None:
    """So it is at almost every temperature, by the index theorem; one that was missed would make it even."""
    alphas = [0.5, 2.0, 6.0, 8.5, 12.0]
    path = temperature_path(payoff_tensor(game), alphas, random_starts=60)
    for alpha in alphas:
        found = [each for each in path if each.alpha == alpha]
        assert len(found) % 2 == 1
        assert any(each.stable for each in found)
