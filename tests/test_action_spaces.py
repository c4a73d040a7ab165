"""Box, MultiDiscrete and unequal agents, against closed forms, integrals, and equivalent discrete games."""

from __future__ import annotations

import math
from typing import Any

import gymnasium.spaces
import numpy as np
import pytest
import torch
from conftest import CPU

from plugin_hasac.components.action_spaces import Box, Categorical, from_gymnasium
from plugin_hasac.components.replay import StepData, StepReplay, TransitionBatch
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.config import HasacConfig
from plugin_hasac.equilibria.matrix_games import soft_policy_iteration
from plugin_hasac.errors import UserError
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.updaters import make_updater
from plugin_hasac.modules.distributions import MaskedCategorical, SquashedGaussian, draw_noise

SKEWED = Box((-0.4, 0.0), (0.4, 3.0))  # one symmetric, one asymmetric dimension


def gaussian(mean: float, log_std: float, space: Box, dtype: torch.dtype = torch.float64) -> SquashedGaussian:
    ones = torch.ones(space.width, dtype=dtype)
    return SquashedGaussian(space, torch.cat([mean * ones, log_std * ones]))


# -------------------------------------------------------------------- spaces


def test_box_encoding_inverts_and_reaches_the_bounds() -> None:
    actions = torch.tensor([[-0.4, 0.0], [0.4, 3.0], [0.0, 1.5], [0.1, 2.0]])
    assert torch.allclose(SKEWED.encode(actions)[:3], torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert torch.allclose(SKEWED.decode(SKEWED.encode(actions)), actions)


def test_multidiscrete_encoding_inverts() -> None:
    space = Categorical((2, 3, 4))
    actions = torch.cartesian_prod(*(torch.arange(n) for n in space.nvec))
    encoded = space.encode(actions)
    assert encoded.shape == (24, 9)
    assert (encoded.sum(-1) == 3).all()
    assert torch.equal(space.decode(encoded), actions)


def test_gymnasium_spaces() -> None:
    s = gymnasium.spaces
    assert from_gymnasium(s.Discrete(4), "x") == Categorical((4,))
    assert from_gymnasium(s.MultiDiscrete([2, 3]), "x") == Categorical((2, 3))
    box = s.Box(np.array([-1.0, 0.0]), np.array([1.0, 2.0]), dtype=np.float64)
    assert from_gymnasium(box, "x") == Box((-1.0, 0.0), (1.0, 2.0))


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)]), "Tuple"),
        (gymnasium.spaces.Dict({"move": gymnasium.spaces.Discrete(2)}), "Dict"),
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,)), "inf"),
        (gymnasium.spaces.Box(0, 1, (2, 2)), "Box"),
        (gymnasium.spaces.Discrete(3, start=1), "start=1"),
    ],
)
def test_unsupported_spaces_are_named(space: gymnasium.Space, named: str) -> None:
    with pytest.raises(UserError, match=named) as error:
        from_gymnasium(space, "agent 1 of env 'mine'")
    assert "agent 1 of env 'mine'" in str(error.value)


def test_random_actions_are_uniform_and_legal() -> None:
    task = Task((AgentSpec(1, SKEWED), AgentSpec(1, Categorical((2, 3))), AgentSpec(1, Categorical((4,)))), 1, 10)
    avail = np.ones((60_000, 3, 5), bool)
    avail[:, 2] = [True, False, True, False, False]
    actions = task.uniform_actions(np.random.default_rng(0), avail)
    assert actions[:, 0].min(0) == pytest.approx([-0.4, 0.0], abs=1e-3)
    assert actions[:, 0].max(0) == pytest.approx([0.4, 3.0], abs=1e-3)
    assert actions[:, 0].mean(0) == pytest.approx([0.0, 1.5], abs=0.02)
    assert np.bincount(actions[:, 1, 1].astype(int)) / 60_000 == pytest.approx([1 / 3] * 3, abs=0.01)
    assert np.bincount(actions[:, 2, 0].astype(int)) / 60_000 == pytest.approx([0.5, 0.0, 0.5], abs=0.012)


# -------------------------------------------------------------------- densities


def test_density_matches_torch_distributions() -> None:
    output = torch.randn(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    policy = SquashedGaussian(SKEWED, output)
    action, log_prob = policy.rsample(
        torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    mean, log_std = output[:, :2], output[:, 2:].clamp_max(2.0)  # the policy's own limit
    t = torch.distributions.transforms
    low, high = torch.tensor(SKEWED.low, dtype=torch.float64), torch.tensor(SKEWED.high, dtype=torch.float64)
    squash = [t.TanhTransform(), t.AffineTransform((low + high) / 2, (high - low) / 2)]
    reference = torch.distributions.TransformedDistribution(
        torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1),
        [t.ComposeTransform(squash)],
    )
    expected = reference.log_prob(SKEWED.decode(action))
    inside = (action.abs() < 1 - 1e-5).all(-1)
    assert inside.sum() > 450
    assert torch.allclose(log_prob[inside], expected[inside], atol=1e-5)
    assert torch.allclose(policy.log_prob(action)[inside], expected[inside], atol=1e-5)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-0.5, 0.3)])
def test_density_integrates_to_one_in_the_envs_units(mean: float, log_std: float) -> None:
    space = Box((0.0,), (3.0,))
    u = torch.linspace(-9, 9, 400_001, dtype=torch.float64)  # substitution keeps the integrand smooth at the bounds
    encoded = torch.tanh(u)[:, None]
    density = gaussian(mean, log_std, space).log_prob(encoded).exp()
    inside = encoded[:, 0].abs() < 1 - 1e-6
    slope = 1.5 * (1 - encoded[:, 0].square())  # d action / d u
    assert torch.trapezoid((density * slope)[inside], u[inside]).item() == pytest.approx(1.0, abs=1e-3)


def test_entropy_in_the_envs_units() -> None:
    """Twice as wide a box: log 2 more nats per dimension, for the same network output."""
    narrow, wide = Box((-1.0,) * 3, (1.0,) * 3), Box((0.0,) * 3, (4.0,) * 3)
    output = torch.zeros(10, 6, dtype=torch.float64)
    noise = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = (SquashedGaussian(space, output).rsample(noise)[1] for space in (narrow, wide))
    assert torch.allclose(one - other, torch.full((10,), 3 * math.log(2), dtype=torch.float64))


@pytest.mark.parametrize("mean", [20.0, -60.0, 300.0])
def test_stable_far_in_the_tails(mean: float) -> None:
    """Saturated in float32, where 1 - tanh(u)^2 is exactly 0, the density agrees with float64 arithmetic."""
    output = torch.tensor([[mean, mean, 0.5, 0.5]], requires_grad=True)
    noise = torch.randn(1, 2, generator=torch.Generator().manual_seed(0))
    action, log_prob = SquashedGaussian(SKEWED, output).rsample(noise)
    assert (action.abs() == 1).all()
    noise = noise.double()
    u = mean + math.exp(0.5) * noise
    slope = math.log(4) - 2 * u.abs()  # log(1 - tanh(u)^2) for large |u|
    normal = -0.5 * noise.square() - 0.5 - 0.5 * math.log(2 * math.pi)
    expected = (normal - slope).sum().item() - SKEWED.log_scale
    assert log_prob.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(log_prob.sum(), output)
    assert gradient.isfinite().all()
    assert gradient[0, :2].tolist() == pytest.approx([2 * math.copysign(1, mean)] * 2, abs=1e-4)


def test_reparameterised_gradient_against_finite_differences() -> None:
    noise = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def objective(output: torch.Tensor) -> torch.Tensor:
        action, log_prob = SquashedGaussian(SKEWED, output).rsample(noise)
        return (action.square().sum(-1) - 0.3 * log_prob).sum()

    output = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(objective, (output,), eps=1e-6, atol=1e-6)


def test_multidiscrete_is_a_product_of_categoricals() -> None:
    space, generator = Categorical((2, 3)), torch.Generator().manual_seed(0)
    logits = torch.randn(100, 5, generator=generator)
    avail = torch.ones(100, 5, dtype=torch.bool)
    avail[:, 3] = False
    policy = MaskedCategorical(space, logits, avail)
    masked = logits.masked_fill(~avail, -torch.inf)
    parts = [torch.distributions.Categorical(logits=masked[:, f]) for f in space.factors()]
    assert torch.allclose(policy.entropy(), sum(torch.special.entr(p.probs).sum(-1) for p in parts), atol=1e-5)
    action = policy.sample(draw_noise(space, (100,), CPU, generator))
    indices = space.decode(action)
    expected = sum(part.log_prob(indices[:, k]) for k, part in enumerate(parts))
    assert torch.allclose(policy.log_prob(action), expected, atol=1e-5)
    assert (indices[:, 1] != 1).all()


# -------------------------------------------------------------------- learning


def one_step_replay(task: Task, reward: Any, steps: int = 200, n_envs: int = 50) -> StepReplay:
    """Uniformly random actions in a game that ends after one step; ``reward`` maps actions to ``(n_envs,)``."""
    replay = StepReplay(task, 4 * steps * n_envs, n_envs, CPU, seed=0)
    avail = np.zeros((n_envs, task.n_agents, task.avail_dim), bool)
    for i, agent in enumerate(task.agents):
        avail[:, i, : agent.action.avail_dim] = True
    now = StepData(
        np.ones((n_envs, task.n_agents, task.obs_dim), np.float32), np.ones((n_envs, task.state_dim), np.float32), avail
    )
    replay.start(now)
    rng, over = np.random.default_rng(0), np.ones(n_envs, bool)
    for _ in range(steps):
        actions = task.uniform_actions(rng, avail)
        replay.add(actions, reward(actions), over, over, now, now)
    replay.flush()
    return replay


def learn(task: Task, replay: StepReplay, updates: int, **values: Any) -> Hasac:
    defaults = {"hidden_sizes": [32, 32], "use_feature_normalization": False, "critic_lr": 3e-3, "gamma": 0.99}
    hasac = Hasac(task, HasacConfig.from_mapping(defaults | values), CPU, seed=0)
    updater = make_updater(hasac, replay)
    for k in range(updates):
        for optimizer in (*hasac.actor_optimizers, hasac.critic_optimizer):
            optimizer.lr = 3e-3 * (1 - k / updates) + 5e-5
        updater.step()
    return hasac


def quadratic(actions: np.ndarray) -> np.ndarray:
    """-(x + y - 3)^2 - (x - 0.5)^2 for x in [0, 1], y in [0, 4]; the optimum 0 lies at (0.5, 2.5)."""
    x, y = actions[:, 0, 0], actions[:, 1, 0]
    return -np.square(x + y - 3) - np.square(x - 0.5)


CONTINUOUS = Task((AgentSpec(1, Box((0.0,), (1.0,))), AgentSpec(1, Box((0.0,), (4.0,)))), 1, 1)
ONE, NONE = torch.ones(2, 1, 1), torch.ones(2, 1, 0, dtype=torch.bool)


def test_continuous_game_reaches_its_optimum() -> None:
    replay = one_step_replay(CONTINUOUS, quadratic)
    hasac = learn(CONTINUOUS, replay, 1500, auto_alpha=False, alpha=0.01)
    greedy = hasac.policies.act(ONE, NONE, greedy=True, generator=torch.Generator())
    assert greedy.flatten().tolist() == pytest.approx([0.5, 2.5], abs=0.12)
    assert quadratic(greedy.transpose(0, 1).numpy())[0] > -0.02


def test_continuous_game_reaches_its_entropy_regularised_solution() -> None:
    """QRE of the quadratic game at alpha 0.5: given E[x], y is a normal density cut to [0, 4], and the reverse.

    The squashed Gaussian can only approximate these truncated normals, so moments are compared, not densities.
    """
    alpha = 0.5
    x, y = np.linspace(0, 1, 1001), np.linspace(0, 4, 1001)
    payoff = -np.square(x[:, None] + y - 3) - np.square(x[:, None] - 0.5)
    p_x, p_y = np.full(1001, 1 / 1001), np.full(1001, 1 / 1001)
    for _ in range(200):  # soft best responses on a fine grid
        p_x = np.exp((payoff @ p_y) / alpha)
        p_x /= p_x.sum()
        p_y = np.exp((p_x @ payoff) / alpha)
        p_y /= p_y.sum()
    hasac = learn(CONTINUOUS, one_step_replay(CONTINUOUS, quadratic), 2000, auto_alpha=False, alpha=alpha)
    ones, none = ONE.expand(2, 20_000, 1), NONE.expand(2, 20_000, 0)
    drawn = hasac.policies.act(ones, none, greedy=False, generator=torch.Generator().manual_seed(0))[..., 0].numpy()
    exact = [(p_x @ x, p_x @ x**2), (p_y @ y, p_y @ y**2)]
    for sample, (first, second) in zip(drawn, exact, strict=True):
        assert sample.mean() == pytest.approx(first, abs=0.1)
        assert sample.std() == pytest.approx(math.sqrt(second - first**2), rel=0.15)


def test_automatic_temperature_reaches_the_box_target() -> None:
    hasac = learn(CONTINUOUS, one_step_replay(CONTINUOUS, quadratic), 2500, alpha=1.0, alpha_lr=5e-3)
    _joint, log_probs = hasac.policies.sample(
        ONE.expand(2, 20_000, 1),
        NONE.expand(2, 20_000, 0),
        hasac.policies.noise(20_000, torch.Generator().manual_seed(0)),
    )
    targets = [-1 + math.log(0.5), -1 + math.log(2.0)]  # minus one dimension, in units of the boxes' half widths
    assert (-log_probs.mean(1)).tolist() == pytest.approx(targets, abs=0.12)


def test_box_and_discrete_agents_together() -> None:
    """A listener with a Box must hit the number that fits the discrete agent's choice, which has its own worth."""
    task = Task((AgentSpec(3, Categorical((3,))), AgentSpec(1, Box((-2.0,), (2.0,)))), 1, 1)
    goals = np.array([-1.5, 0.0, 1.5])

    def reward(actions: np.ndarray) -> np.ndarray:
        choice = actions[:, 0, 0].astype(int)
        return choice - 0.2 * np.square(actions[:, 1, 0] - goals[choice])  # 2 is best whatever the number

    hasac = learn(task, one_step_replay(task, reward), 2000, auto_alpha=False, alpha=0.02)
    greedy = hasac.policies.act(
        torch.ones(2, 1, 3), torch.ones(2, 1, 3, dtype=torch.bool), greedy=True, generator=torch.Generator()
    )
    assert greedy[0, 0, 0].item() == 2
    assert greedy[1, 0, 0].item() == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize("gradient", ["exact", "gumbel"])
def test_multidiscrete_equals_the_product_game(gradient: str) -> None:
    """One agent with two factors has the QRE of two agents with one factor each: a product policy of equal alpha."""
    payoff = np.random.default_rng(1).normal(size=(3, 2)) * 3
    task = Task((AgentSpec(1, Categorical((3, 2))), AgentSpec(1, Categorical((2,)))), 1, 1)

    def reward(actions: np.ndarray) -> np.ndarray:
        index = actions.astype(int)
        return payoff[index[:, 0, 0], index[:, 0, 1]] + index[:, 1, 0]

    hasac = learn(task, one_step_replay(task, reward), 1500, auto_alpha=False, alpha=2.0, actor_gradient=gradient)
    policy = hasac.policies.of_agent(0, torch.ones(1, 1), torch.ones(1, 5, dtype=torch.bool))
    assert isinstance(policy, MaskedCategorical)
    learned = [policy.log_probs[0, f].exp().detach().double().numpy() for f in Categorical((3, 2)).factors()]
    exact = soft_policy_iteration(payoff, [2.0, 2.0], start=learned)
    for ours, theirs in zip(learned, exact, strict=True):
        assert 0.5 * np.abs(ours - theirs).sum() < (0.02 if gradient == "exact" else 0.05)


def test_own_action_values_of_factors_by_hand() -> None:
    task = Task((AgentSpec(1, Categorical((3, 2))), AgentSpec(1, Box((0.0,), (1.0,)))), 4, 1)
    hasac = Hasac(task, HasacConfig.from_mapping({"hidden_sizes": [16]}), CPU, 0)
    state = torch.randn(7, 4)
    joint = torch.cat([Categorical((3, 2)).encode(torch.tensor([[2, 1]]).expand(7, -1)), torch.rand(7, 1)], -1)
    values = hasac.critic.own_action_values(0, hasac.critic.embed_state(state), joint)
    for column, (first, second) in enumerate([(0, 1), (1, 1), (2, 1), (2, 0), (2, 1)]):
        tried = joint.clone()
        tried[:, :5] = Categorical((3, 2)).encode(torch.tensor([first, second]))
        assert torch.allclose(values[..., column], hasac.critic.values(state, tried), atol=1e-5)


def test_unequal_agents_see_their_own_part_only() -> None:
    """Padding beyond an agent's own observation changes nothing, and stacked equals single evaluation."""
    task = Task(
        (AgentSpec(2, Box((0.0,), (1.0,))), AgentSpec(5, Categorical((3,))), AgentSpec(2, Box((0.0,), (1.0,)))), 4, 10
    )
    for share in (False, True):
        hasac = Hasac(task, HasacConfig.from_mapping({"hidden_sizes": [16], "share_param": share}), CPU, 0)
        assert task.groups == [(0, 2), (1,)]
        assert len(hasac.actor_optimizers) == (2 if share else 3)
        obs, avail = torch.randn(3, 7, 5), torch.ones(3, 7, 3, dtype=torch.bool)
        padded = obs.clone()
        padded[[0, 2], :, 2:] = 99.0
        one = hasac.policies.act(obs, avail, greedy=True, generator=torch.Generator())
        other = hasac.policies.act(padded, avail, greedy=True, generator=torch.Generator())
        assert torch.equal(one, other)
        single = hasac.policies.of_agent(2, obs[2], avail[2]).mode()
        assert torch.allclose(Box((0.0,), (1.0,)).decode(single)[:, 0], one[2, :, 0], atol=1e-6)


def test_mixed_batches_flow_through_an_update() -> None:
    task = Task((AgentSpec(2, SKEWED), AgentSpec(3, Categorical((3,))), AgentSpec(3, Categorical((2, 4)))), 4, 10)
    hasac = Hasac(task, HasacConfig.from_mapping({"hidden_sizes": [16]}), CPU, 0)
    replay = one_step_replay(task, lambda actions: actions.sum((1, 2)), steps=10)
    batch: TransitionBatch = replay.sample(32, 3, 0.9)
    assert batch.actions.shape == (3, 32, 2)
    assert torch.allclose(hasac.policies.encode(batch.actions)[:, :2], SKEWED.encode(batch.actions[0]))
    metrics = hasac.update(batch)
    assert all(value.isfinite().all() for value in metrics.values())
    assert {f"agent_{i}_entropy" for i in range(3)} <= set(metrics)
