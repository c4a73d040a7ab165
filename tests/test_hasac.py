"""The algorithm against closed forms, finite differences and exact quantal response equilibria."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, blank, matrix_game_replay

from plugin_hasac.components.action_spaces import Categorical
from plugin_hasac.components.replay import StepReplay, TransitionBatch
from plugin_hasac.components.task import Task
from plugin_hasac.config import HasacConfig
from plugin_hasac.envs.matrix_game import payoff_tensor
from plugin_hasac.equilibria.matrix_games import qre_residual, soft_policy_iteration
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.updaters import make_updater
from plugin_hasac.modules.distributions import MaskedCategorical, draw_noise

TASK = Task.discrete(n_agents=3, obs_dim=4, state_dim=6, n_actions=4, episode_limit=10)
FOUR = Categorical((4,))


def log_probs_of(hasac: Hasac, obs: torch.Tensor, avail: torch.Tensor) -> torch.Tensor:
    """All agents' log-probabilities ``(n_agents, batch, n_actions)`` in a task of equal discrete agents."""
    (policies,) = hasac.policies.of_groups(obs, avail)
    assert isinstance(policies, MaskedCategorical)
    return policies.log_probs


def make(task: Task = TASK, seed: int = 0, **values: Any) -> Hasac:
    defaults = {
        "hidden_sizes": [32, 32],
        "lr": 2e-3,
        "critic_lr": 2e-3,
        "use_feature_normalization": False,
        "gamma": 0.99,
    }
    return Hasac(task, HasacConfig.from_mapping(defaults | values), CPU, seed)


def random_batch(task: Task = TASK, size: int = 64, seed: int = 0) -> TransitionBatch:
    g = torch.Generator().manual_seed(seed)

    def avail() -> torch.Tensor:
        mask = torch.rand(task.n_agents, size, task.avail_dim, generator=g) < 0.7
        mask[..., 0] = True
        return mask

    return TransitionBatch(
        obs=torch.randn(task.n_agents, size, task.obs_dim, generator=g),
        state=torch.randn(size, task.state_dim, generator=g),
        avail=avail(),
        actions=torch.zeros(task.n_agents, size, 1, dtype=torch.long),
        returns=torch.randn(size, generator=g),
        bootstrap=torch.full((size,), 0.9),
        next_obs=torch.randn(task.n_agents, size, task.obs_dim, generator=g),
        next_state=torch.randn(size, task.state_dim, generator=g),
        next_avail=avail(),
    )


def soft_target(hasac: Hasac, batch: TransitionBatch) -> torch.Tensor:
    return hasac.soft_target(batch, hasac.policies.noise(len(batch.returns), hasac.generator))


def update_critic(hasac: Hasac, batch: TransitionBatch) -> dict[str, torch.Tensor]:
    return hasac.update_critic(batch, hasac.policies.noise(len(batch.returns), hasac.generator))


def update_actors(hasac: Hasac, batch: TransitionBatch) -> dict[str, torch.Tensor]:
    return hasac.update_actors(batch, hasac.draw_noise(len(batch.returns)), hasac.draw_order())


# -------------------------------------------------------------------- soft target


def test_soft_target_equals_the_equation() -> None:
    """Policies forced onto one action each make the target computable by hand."""
    hasac, batch = make(auto_alpha=False, alpha=[0.5, 1.0, 2.0]), random_batch()
    only = torch.tensor([1, 3, 0])
    forced = torch.zeros_like(batch.next_avail)
    for agent, action in enumerate(only):
        forced[agent, :, action] = True
    batch = TransitionBatch(**vars(batch) | {"next_avail": forced})
    joint = torch.nn.functional.one_hot(only, 4).flatten().float().expand(64, -1)
    q = hasac.target_critic.values(batch.next_state, joint).amin(0)
    assert torch.allclose(soft_target(hasac, batch), batch.returns + 0.9 * q, atol=1e-5)  # log pi = 0: no bonus


def test_soft_target_entropy_uses_each_agents_own_temperature() -> None:
    hasac, batch = make(auto_alpha=False, alpha=[0.5, 1.0, 2.0]), random_batch(size=40_000)
    for stack in hasac.target_critic.net.stacks:
        stack.zero_()  # Q = 0: what remains is the entropy bonus
    log_probs = log_probs_of(hasac, batch.next_obs, batch.next_avail)
    entropies = -(log_probs.exp() * log_probs).sum(-1).mean(1)
    bonus = (soft_target(hasac, batch) - batch.returns).mean() / 0.9
    assert bonus.item() == pytest.approx(float(torch.tensor([0.5, 1.0, 2.0]) @ entropies), abs=0.02)


def test_critic_loss_adds_the_twins() -> None:
    hasac, batch = make(use_valuenorm=False), random_batch()
    target = batch.returns
    batch = TransitionBatch(**vars(batch) | {"bootstrap": torch.zeros(64)})
    q = hasac.critic.values(batch.state, hasac.policies.encode(batch.actions)).detach()
    assert update_critic(hasac, batch)["critic_loss"].item() == pytest.approx(
        sum(((q[j] - target) ** 2).mean().item() for j in range(2)), rel=1e-5
    )


def test_huber_loss_is_linear_far_out() -> None:
    hasac, batch = make(use_valuenorm=False, use_huber_loss=True, huber_delta=1.0), random_batch()
    batch = TransitionBatch(**vars(batch) | {"bootstrap": torch.zeros(64), "returns": torch.full((64,), 1e4)})
    loss = update_critic(hasac, batch)["critic_loss"].item()
    assert loss == pytest.approx(2 * 1e4, rel=0.01)  # delta * |error| per twin; the squared loss would be 1e8


# -------------------------------------------------------------------- actor gradient


@pytest.mark.usefixtures("double_precision")
def test_exact_gradient_against_finite_differences() -> None:
    hasac, batch = make(auto_alpha=False, alpha=0.7), random_batch(size=16)
    generator = torch.Generator().manual_seed(3)
    for stack in (*hasac.critic.net.stacks, *hasac.policies.nets[0].stacks):
        stack.add_(0.2 * torch.randn(stack.shape, generator=generator))
    logits = torch.randn(16, 4, generator=generator, requires_grad=True)
    avail, weight = batch.avail[1], hasac.alive_weight(batch.avail)[1]
    noise = draw_noise(FOUR, (16,), CPU, generator)
    joint = hasac.policies.encode(torch.randint(4, (3, 16, 1), generator=generator))
    embedded = hasac.critic.embed_state(batch.state).detach()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return hasac.actor_objective(1, MaskedCategorical(FOUR, logits, avail), noise, embedded, joint, weight)[0]

    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-6, atol=1e-6)


def test_exact_objective_enumerates_the_agents_own_actions() -> None:
    hasac, batch = make(auto_alpha=False, alpha=0.7), random_batch(size=16)
    joint = hasac.policies.encode(torch.randint(4, (3, 16, 1), generator=torch.Generator().manual_seed(0)))
    policy = hasac.policies.of_agent(1, batch.obs[1], batch.avail[1])
    weight = torch.full((16,), 1 / 16)
    noise = draw_noise(FOUR, (16,), CPU, torch.Generator().manual_seed(1))
    loss, _ = hasac.actor_objective(1, policy, noise, hasac.critic.embed_state(batch.state), joint, weight)
    log_probs, by_hand = policy.log_probs, 0.0
    for action in range(4):
        tried = joint.clone()
        tried[:, 4:8] = torch.nn.functional.one_hot(torch.tensor(action), 4).float()
        q = hasac.critic.values(batch.state, tried).amin(0)
        by_hand -= (log_probs[:, action].exp() * (q - 0.7 * log_probs[:, action])).mean().item()
    assert loss.item() == pytest.approx(by_hand, abs=1e-5)


def test_gumbel_objective_is_an_unbiased_estimate_of_the_exact_one() -> None:
    exact, gumbel = make(auto_alpha=False, alpha=0.7), make(auto_alpha=False, alpha=0.7, actor_gradient="gumbel")
    batch = random_batch(size=8)
    joint = exact.policies.encode(torch.randint(4, (3, 8, 1), generator=torch.Generator().manual_seed(0)))

    def loss(hasac: Hasac, copies: int) -> float:
        obs, avail = batch.obs[1].repeat(copies, 1), batch.avail[1].repeat(copies, 1)
        policy = hasac.policies.of_agent(1, obs, avail)
        embedded = hasac.critic.embed_state(batch.state.repeat(copies, 1))
        weight = torch.full((8 * copies,), 1 / (8 * copies))
        noise = draw_noise(FOUR, (8 * copies,), CPU, torch.Generator().manual_seed(1))
        return hasac.actor_objective(1, policy, noise, embedded, joint.repeat(copies, 1), weight)[0].item()

    assert loss(gumbel, 4000) == pytest.approx(loss(exact, 1), abs=0.01)


def test_dead_rows_change_nothing() -> None:
    """Rows in which an agent has one action left carry no weight, whatever the critic says there."""
    batch = random_batch(size=32)
    alive = torch.arange(32) < 20
    avail = batch.avail.clone()
    avail[:, alive, 1] = True  # at least two
    avail[1, ~alive] = torch.tensor([True, False, False, False])
    full = TransitionBatch(**vars(batch) | {"avail": avail})
    part = TransitionBatch(
        **vars(batch) | {"obs": batch.obs[:, alive], "state": batch.state[alive], "avail": avail[:, alive]}
    )
    losses = []
    for data in (full, part):
        hasac = make()
        policy = hasac.policies.of_agent(1, data.obs[1], data.avail[1])
        joint = torch.zeros(data.state.shape[0], 12)
        weight = hasac.alive_weight(data.avail)[1]
        noise = torch.zeros(data.state.shape[0], 4)
        losses.append(hasac.actor_objective(1, policy, noise, hasac.critic.embed_state(data.state), joint, weight)[0])
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    averaged = make(use_policy_active_masks=False).alive_weight(full.avail)[1]
    assert averaged.unique().tolist() == pytest.approx([1 / 32])


# -------------------------------------------------------------------- the sequential update


class Descent:
    """Plain gradient steps of one agent's policy."""

    def __init__(self, hasac: Hasac, agent: int) -> None:
        net, member = hasac.policies.member(agent)
        self.weights, self.grads = net.flat[member], net.grads[member]

    def step(self) -> None:
        self.weights -= 1e3 * self.grads


def coordination(sequential: bool) -> np.ndarray:
    """Two agents that both start on action 0 of a game where (1, 1) is best, (0, 0) fair and a mismatch bad.

    One huge step per agent: the second one sees the first at its new action only if the update is sequential.
    """
    payoff = np.array([[0.0, -1.0], [0.5, 10.0]])
    task, replay = matrix_game_replay(payoff)
    hasac = make(task, sequential_update=sequential, fixed_order=True, auto_alpha=False, alpha=0.01, lr=2e-3)
    for _ in range(400):
        update_critic(hasac, replay.sample(256, 1, 0.99))
    bias = hasac.policies.nets[0].stacks[-1]
    bias.copy_(torch.tensor([2.0, -2.0]))  # both agents: action 0 almost surely
    hasac.actor_optimizers = [Descent(hasac, agent) for agent in range(2)]
    hasac.config = HasacConfig.from_mapping(
        {"sequential_update": sequential, "fixed_order": True, "auto_alpha": False, "grad_norm_clip": None}
    )
    update_actors(hasac, replay.sample(256, 1, 0.99))
    ones, avail = torch.ones(2, 1, 1), torch.ones(2, 1, 2, dtype=torch.bool)
    return log_probs_of(hasac, ones, avail).exp()[:, 0].numpy()


def test_later_agents_respond_to_updated_ones() -> None:
    """Agent 0 gains by moving to action 1 (0.5 > 0). For agent 1 that makes action 1 worth 10 instead of -1."""
    first, second = coordination(sequential=True)
    assert first[1] > 0.99
    assert second[1] > 0.5
    first, second = coordination(sequential=False)
    assert first[1] > 0.99
    assert second[1] < 0.01  # a simultaneous update still answers the old action 0


def test_order_is_random_unless_fixed() -> None:
    def orders(hasac: Hasac) -> set[tuple[int, ...]]:
        return {tuple(hasac.draw_order()) for _ in range(60)}

    assert len(orders(make())) == 6
    assert orders(make(fixed_order=True)) == {(0, 1, 2)}


def test_each_agent_steps_its_own_parameters_once() -> None:
    hasac = make()
    before = [stack.clone() for stack in hasac.policies.nets[0].stacks]
    critic = [stack.clone() for stack in hasac.critic.net.stacks]
    update_actors(hasac, random_batch())
    weight = hasac.policies.nets[0].stacks[0]
    assert all((weight[agent] != before[0][agent]).any() for agent in range(3))
    assert all(torch.equal(old, new) for old, new in zip(critic, hasac.critic.net.stacks, strict=True))


# -------------------------------------------------------------------- fixed points


@pytest.mark.parametrize(
    ("game", "alpha", "options"),
    [
        ("climbing", 3.0, {}),
        ("climbing", 10.0, {}),
        ("climbing", 10.0, {"share_param": True, "use_feature_normalization": True}),
        ("penalty", 20.0, {}),
        # The straight-through gradient is biased: its fixed point is off the equilibrium, the less the higher alpha is.
        ("climbing", 40.0, {"actor_gradient": "gumbel"}),
        ("climbing", 10.0, {"drift": "kl", "drift_args": {"strength": 2.0}, "anchor_interval": 20}),
        ("penalty", 20.0, {"drift": "clipped", "neighbourhood": "kl_ball", "anchor_interval": 20}),
    ],
)
def test_fixed_point_is_a_quantal_response_equilibrium(game: str, alpha: float, options: dict[str, Any]) -> None:
    """After learning, each agent's policy is within total variation 0.02 of a QRE of the game."""
    payoff = payoff_tensor(game)
    task, replay = matrix_game_replay(payoff)
    options = {"share_param": False} | options
    if options["share_param"]:
        options["use_feature_normalization"] = False  # a LayerNorm would hide the constant observation, not the id
    hasac = make(task, auto_alpha=False, alpha=alpha, **options)
    policies = train_and_average(hasac, replay, updates=1200)
    equilibrium = soft_policy_iteration(payoff, [alpha] * 2, start=policies)
    assert qre_residual(payoff, equilibrium, [alpha] * 2) < 1e-10
    for learned, exact in zip(policies, equilibrium, strict=True):
        assert 0.5 * np.abs(learned - exact).sum() < 0.02


def test_three_agents_with_unequal_action_sets() -> None:
    payoff = np.random.default_rng(0).normal(size=(2, 3, 4)) * 5
    task, replay = matrix_game_replay(payoff)
    hasac = make(task, auto_alpha=False, alpha=[2.0, 3.0, 4.0])
    policies = train_and_average(hasac, replay, updates=1200)
    policies = [policy[:size] for policy, size in zip(policies, payoff.shape, strict=True)]
    equilibrium = soft_policy_iteration(payoff, [2.0, 3.0, 4.0], start=policies)
    for learned, exact in zip(policies, equilibrium, strict=True):
        assert 0.5 * np.abs(learned - exact).sum() < 0.02


def train_and_average(hasac: Hasac, replay: StepReplay, updates: int) -> list[np.ndarray]:
    """Learn with a decaying learning rate and return the policies' mean over the last quarter."""
    task, tail, updater = hasac.task, [], make_updater(hasac, replay)
    now = blank(task, 1, 1.0)
    avail = replay.sample(1, 1, 0.99).avail
    obs = torch.from_numpy(now.obs).transpose(0, 1)
    for k in range(updates):
        for optimizer in hasac.actor_optimizers:
            optimizer.lr = 4e-3 * (1 - k / updates) + 1e-4
        updater.step()
        if k >= 3 * updates // 4:
            tail.append(log_probs_of(hasac, obs, avail).exp()[:, 0].double().numpy())
    return list(np.mean(tail, axis=0))


# -------------------------------------------------------------------- temperature


@pytest.mark.parametrize(
    ("options", "target"), [({"target_entropy_fraction": 0.5}, None), ({"target_entropy": 0.4}, 0.4)]
)
def test_temperature_reaches_its_target_entropy(options: dict[str, Any], target: float | None) -> None:
    payoff = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    task, replay = matrix_game_replay(payoff)
    hasac = make(task, alpha=3.0, alpha_lr=0.005, **options)
    policies = train_and_average(hasac, replay, updates=1500)
    wanted = 0.5 * np.log(3) if target is None else target
    for policy in policies:
        assert -(policy @ np.log(policy)) == pytest.approx(wanted, abs=0.06)
    assert (hasac.temperatures.values() != 3.0).all()


def test_target_entropy_counts_available_actions_only() -> None:
    avail = torch.tensor([[True, True, True, True], [True, True, False, False], [True, False, False, False]])
    target = make(target_entropy_fraction=0.3).temperatures.target_entropy(avail.expand(3, -1, -1))
    assert torch.allclose(target[0], 0.3 * torch.tensor([4.0, 2.0, 1.0]).log())


def test_fixed_temperature_stays() -> None:
    hasac = make(auto_alpha=False, alpha=[0.1, 0.2, 0.3])
    hasac.update(random_batch())
    assert torch.allclose(hasac.temperatures.values(), torch.tensor([0.1, 0.2, 0.3]))


# -------------------------------------------------------------------- target networks, value normalisation


def test_polyak() -> None:
    hasac = make(polyak=0.25, use_valuenorm=False)
    old = [stack.clone() for stack in hasac.target_critic.net.stacks]
    hasac.update(random_batch())
    for before, target, online in zip(old, hasac.target_critic.net.stacks, hasac.critic.net.stacks, strict=True):
        assert torch.allclose(target, 0.75 * before + 0.25 * online, atol=1e-6)


def test_value_normalisation_keeps_what_the_critics_say() -> None:
    hasac, batch = make(), random_batch()
    joint = hasac.policies.encode(batch.actions)

    def says() -> torch.Tensor:
        return torch.stack(
            [hasac.value_norm.denormalize(c.values(batch.state, joint)) for c in (hasac.critic, hasac.target_critic)]
        )

    before = says()
    hasac.value_norm.update(torch.randn(256) * 40 - 300)
    assert torch.allclose(says(), before, atol=1e-2)
    assert hasac.value_norm.mean.item() == pytest.approx(-300, abs=10)
    assert hasac.value_norm.std.item() == pytest.approx(40, rel=0.15)


def test_value_normalisation_does_not_change_the_solution() -> None:
    """With rewards far from zero, the policies still solve the game at the configured temperature."""
    payoff = payoff_tensor("climbing") * 10 - 500
    task, replay = matrix_game_replay(payoff)
    policies = train_and_average(make(task, auto_alpha=False, alpha=100.0), replay, updates=1200)
    equilibrium = soft_policy_iteration(payoff, [100.0] * 2, start=policies)
    for learned, exact in zip(policies, equilibrium, strict=True):
        assert 0.5 * np.abs(learned - exact).sum() < 0.02


# -------------------------------------------------------------------- reproducibility


def test_same_seed_same_bits() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        task, replay = matrix_game_replay(payoff_tensor("climbing"))
        hasac = make(task, seed=seed)
        for _ in range(20):
            hasac.update(replay.sample(64, 1, 0.99))
        return hasac.policies.nets[0].stacks + hasac.critic.net.stacks

    same = [torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True)]
    assert all(same)
    assert not all(other)
