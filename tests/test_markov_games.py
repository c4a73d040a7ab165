"""Heterogeneous-agent soft policy iteration and MEHAML on games small enough to enumerate: the paper's theorems."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_hasac.equilibria import matrix_games
from plugin_hasac.equilibria.markov_games import (
    MarkovGame,
    entropy,
    heterogeneous_soft_policy_iteration,
    objective,
    over_actions,
    residual,
    soft_values,
    sweep,
)
from plugin_hasac.mehaml.drifts import ClippedDrift, Drift, KLDrift, SquaredLogRatioDrift
from plugin_hasac.mehaml.neighbourhoods import KLBall, Neighbourhood

ROUNDING = 1e-10
seeds = st.integers(0, 2**31)
temperatures = st.floats(0.3, 5.0)
drifts = st.sampled_from([None, KLDrift(0.5), KLDrift(4.0), SquaredLogRatioDrift(0.7), ClippedDrift(0.2)])
neighbourhoods = st.sampled_from([None, KLBall(0.05), KLBall(0.5)])
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


def random_game(
    seed: int, shape: tuple[int, ...], n_states: int, gamma: float = 0.8
) -> tuple[MarkovGame, list[np.ndarray], np.random.Generator]:
    """A game, policies to start from, and a generator for orders."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(n_states), size=(n_states, *shape))
    game = MarkovGame(
        2 * rng.normal(size=(n_states, *shape)),
        transition,
        gamma if n_states > 1 else 0.0,
        rng.dirichlet(np.ones(n_states)),
    )
    return game, [rng.dirichlet(np.ones(size), size=n_states) for size in shape], rng


# -------------------------------------------------------------------- evaluation


def test_evaluation_by_simulation_of_the_equations() -> None:
    """The linear solution is the fixed point of the soft Bellman equation, iterated by hand."""
    game, policies, _ = random_game(0, (2, 3), 4)
    alphas = [0.7, 1.4]
    values, q = soft_values(game, policies, alphas)
    expected = np.zeros(4)
    for _ in range(300):
        q_by_hand = game.reward + 0.8 * np.einsum("sabt,t->sab", game.transition, expected)
        expected = np.einsum("sab,sa,sb->s", q_by_hand, *policies)
        expected += 0.7 * entropy(policies[0]) + 1.4 * entropy(policies[1])
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    np.testing.assert_allclose(q, q_by_hand, rtol=1e-10)


def test_matrix_games_agree() -> None:
    game, policies, _ = random_game(1, (2, 3, 2), 1)
    flat, alphas = [policy[0] for policy in policies], [0.5, 1.0, 2.0]
    payoff = game.reward[0]
    assert objective(game, policies, alphas) == pytest.approx(matrix_games.soft_objective(payoff, flat, alphas))
    assert residual(game, policies, alphas) == pytest.approx(matrix_games.qre_residual(payoff, flat, alphas))
    np.testing.assert_allclose(
        over_actions(game.reward, policies, 1)[0], matrix_games.expected_payoffs(payoff, flat, 1)
    )
    theirs = matrix_games.soft_policy_iteration(payoff, alphas, flat)
    ours = heterogeneous_soft_policy_iteration(game, alphas, policies).policies
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a[0], b, atol=1e-8)
    same = MarkovGame.from_payoff(payoff)
    assert objective(same, same.uniform(), [0.0] * 3) == pytest.approx(payoff.mean())


def test_one_agent_is_soft_value_iteration() -> None:
    game, _, _ = random_game(2, (4,), 3)
    policy = heterogeneous_soft_policy_iteration(game, [0.6]).policies[0]
    values = np.zeros(3)
    for _ in range(400):
        q = game.reward + 0.8 * game.transition @ values
        values = 0.6 * np.log(np.exp(q / 0.6).sum(-1))
    np.testing.assert_allclose(policy, np.exp((q - values[:, None]) / 0.6), atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": np.ones((2, 2, 3))}, "expected transition"),
        ({"transition": np.ones((2, 2, 2))}, "sum to 1"),
        ({"gamma": 1.0}, "gamma"),
        ({"start": np.array([0.5, 0.6])}, "sum to 1"),
    ],
)
def test_malformed_games_are_refused(change: dict, message: str) -> None:
    good = {"reward": np.zeros((2, 2)), "transition": np.full((2, 2, 2), 0.5), "gamma": 0.9, "start": np.ones(2) / 2}
    MarkovGame(**good)
    with pytest.raises(ValueError, match=message):
        MarkovGame(**(good | change))


# -------------------------------------------------------------------- the theorems


@settings(max_examples=40, deadline=None)
@given(seeds, shapes, temperatures, drifts, neighbourhoods)
def test_every_step_in_a_matrix_game_improves_the_joint_objective(
    seed: int, shape: tuple[int, ...], alpha: float, drift: Drift | None, neighbourhood: Neighbourhood | None
) -> None:
    game, policies, rng = random_game(seed, shape, 1)
    alphas = (alpha * rng.uniform(0.5, 2.0, len(shape))).tolist()
    before = objective(game, policies, alphas)
    for after in (objective(game, each, alphas) for each in sweep(game, policies, alphas, rng, drift, neighbourhood)):
        assert after >= before - ROUNDING
        before = after


@settings(max_examples=30, deadline=None)
@given(seeds, shapes, st.integers(2, 4), temperatures, drifts, neighbourhoods)
def test_every_sweep_of_a_markov_game_improves_every_state(
    seed: int,
    shape: tuple[int, ...],
    n_states: int,
    alpha: float,
    drift: Drift | None,
    neighbourhood: Neighbourhood | None,
) -> None:
    """Also what the first m agents alone have changed is an improvement on where the sweep began."""
    game, policies, rng = random_game(seed, shape, n_states)
    alphas = [alpha] * len(shape)
    for _ in range(3):
        before, _ = soft_values(game, policies, alphas)
        for joint in sweep(game, policies, alphas, rng, drift, neighbourhood):
            after, _ = soft_values(game, joint, alphas)
            assert (after >= before - ROUNDING).all()
        policies = joint


@settings(max_examples=12, deadline=None)
@given(seeds, st.integers(1, 3), st.floats(0.5, 3.0), drifts, neighbourhoods)
def test_iteration_converges_to_an_equilibrium(
    seed: int, n_states: int, alpha: float, drift: Drift | None, neighbourhood: Neighbourhood | None
) -> None:
    game, policies, rng = random_game(seed, (2, 3), n_states, gamma=0.7)
    end = heterogeneous_soft_policy_iteration(
        game,
        [alpha, 1.3 * alpha],
        policies,
        order=rng,
        drift=drift,
        neighbourhood=neighbourhood,
        tolerance=5e-9,
    )
    assert end.residual < 1e-8
    assert np.diff(end.objectives).min(initial=0.0) >= -ROUNDING


def test_simultaneous_updates_can_make_it_worse() -> None:
    """Two agents should pick different actions; both lean to the first, so both flee to the second."""
    game = MarkovGame.from_payoff(np.array([[0.0, 1.0], [1.0, 0.0]]))
    start, alphas = [np.array([[0.6, 0.4]])] * 2, [0.02, 0.02]
    together = sweep(game, start, alphas, sequential=False)[-1]
    in_turn = sweep(game, start, alphas)[-1]
    assert objective(game, start, alphas) > 0.48
    assert objective(game, together, alphas) < 0.02
    assert objective(game, in_turn, alphas) > 0.99
    cycle = heterogeneous_soft_policy_iteration(game, alphas, start, sequential=False, max_sweeps=50)
    assert np.diff(cycle.objectives).min() < -0.4
    assert cycle.residual > 0.4


def test_order_decides_which_equilibrium() -> None:
    """Who moves first keeps its action: one equilibrium each."""
    game = MarkovGame.from_payoff(np.array([[0.0, 1.0], [1.0, 0.0]]))
    start = [np.array([[0.6, 0.4]])] * 2
    first, second = (
        heterogeneous_soft_policy_iteration(game, [0.05, 0.05], start, order=order).policies[0][0]
        for order in ((0, 1), (1, 0))
    )
    assert first[1] > 0.99
    assert second[0] > 0.99
