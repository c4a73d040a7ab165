"""MEHAML: drifts, neighbourhoods, and the learner's mirror step."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from test_hasac import CPU, make, matrix_game_replay, random_batch

from plugin_hasac.components.action_spaces import Box, Categorical
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.equilibria.mirror import mirror_step
from plugin_hasac.errors import UserError
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.updaters import make_updater
from plugin_hasac.mehaml.drifts import ClippedDrift, Drift, KLDrift, SquaredLogRatioDrift
from plugin_hasac.mehaml.neighbourhoods import KLBall
from plugin_hasac.mehaml.registry import check_drift, make_drift, make_neighbourhood
from plugin_hasac.modules.distributions import SquashedGaussian

INSTANCES = [KLDrift(0.7), SquaredLogRatioDrift(1.3), ClippedDrift(0.1)]


def policies(seed: int, shape: tuple[int, ...] = (50, 4)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(*shape, generator=generator, dtype=torch.float64), -1)


# -------------------------------------------------------------------- drift functionals


@pytest.mark.parametrize("drift", INSTANCES)
def test_shipped_drifts_are_valid(drift: Drift) -> None:
    for seed in range(3):
        check_drift(drift, "shipped", seed)


def test_drifts_by_their_definitions() -> None:
    new, old = policies(0), policies(1)
    p, q, nothing = new.exp().numpy(), old.exp().numpy(), torch.zeros_like(new)
    log_ratio = np.log(p / q)
    np.testing.assert_allclose(KLDrift(0.7).exact(new, old, nothing), 0.7 * (p * log_ratio).sum(-1))
    np.testing.assert_allclose(SquaredLogRatioDrift(1.3).exact(new, old, nothing), 0.65 * (q * log_ratio**2).sum(-1))
    advantage = policies(2)
    ratio, gain = p / q, advantage.numpy()
    # PPO's objective is min(rho A, clip(rho) A): the drift is what clipping takes away.
    clipped = np.minimum(ratio * gain, np.clip(ratio, 0.9, 1.1) * gain)
    expected = (q * (ratio * gain - clipped)).sum(-1)
    np.testing.assert_allclose(ClippedDrift(0.1).exact(new, old, advantage), expected, atol=1e-12)


class Negative(Drift):
    def integrand(self, log_ratio: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
        return -log_ratio.square()


class NotZeroAtHome(Drift):
    def integrand(self, log_ratio: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
        return log_ratio.square() + 0.25


class SlopeAtHome(Drift):
    uses_advantage = True

    def integrand(self, log_ratio: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
        return log_ratio.exp() * advantage


class NotANumber(Drift):
    def integrand(self, log_ratio: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
        return log_ratio / log_ratio


@pytest.mark.parametrize(
    ("drift", "why"),
    [
        (Negative(), "must never be negative"),
        (NotZeroAtHome(), "0.25 instead of 0 at the current policy"),
        (SlopeAtHome(), "its gradient at the current policy"),
        (NotANumber(), "nan instead of 0"),
    ],
)
def test_what_is_no_drift_functional_is_refused(drift: Drift, why: str) -> None:
    with pytest.raises(UserError, match=why):
        check_drift(drift, "mine")


def test_a_users_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_drifts.py").write_text(
        "from plugin_hasac.mehaml.drifts import Drift\n"
        "class Cosh(Drift):\n"
        "    def __init__(self, scale=1.0):\n        self.scale = scale\n"
        "    def integrand(self, log_ratio, advantage):\n        return self.scale * (log_ratio.cosh() - 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    drift = make_drift("lab_drifts.Cosh", {"scale": 2.0})
    assert drift is not None
    one = torch.zeros(1)
    assert drift.integrand(one + 1.0, one).item() == pytest.approx(2 * (np.cosh(1.0) - 1))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("kll", {}, "unknown name 'kll'. Did you mean 'kl'"),
        ("kl", {"force": 1}, "drift_args: 'kl' takes .*strength.* but was given"),
        ("no_such_module.Drift", {}, "cannot import 'no_such_module.Drift'"),
        ("pathlib.Path", {}, "is not a subclass"),
        ("kl", {"strength": -1.0}, "must never be negative"),
        ("kl", {"strength": "strong"}, "drift_args: 'kl' takes"),
    ],
)
def test_impossible_drifts_say_why(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_drift(name, arguments)


def test_hasac_is_the_instance_without_both() -> None:
    assert make_drift("none", {}) is None
    assert make_neighbourhood("everything", None) is None
    assert isinstance(make_neighbourhood("kl_ball", {"radius": 0.1}), KLBall)
    with pytest.raises(UserError, match="radius 0 is not positive"):
        make_neighbourhood("kl_ball", {"radius": 0})
    assert make_drift("kl", {"strength": None, "epsilon": None}).strength == 1.0  # type: ignore[union-attr]
    assert not make().mirror.active


# -------------------------------------------------------------------- the exact mirror step


class SearchedKL(KLDrift):
    def solution(self, values: torch.Tensor, log_old: torch.Tensor, alpha: float) -> None:  # type: ignore[override]
        return None


def test_ascent_finds_the_known_solution() -> None:
    values, old = np.random.default_rng(0).normal(size=(40, 5)), policies(3, (40, 5)).exp().numpy()
    known = mirror_step(values, old, 0.5, KLDrift(0.8))
    logits = (values + 0.8 * np.log(old)) / 1.3
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(known, expected, rtol=1e-10)
    np.testing.assert_allclose(mirror_step(values, old, 0.5, SearchedKL(0.8)), expected, rtol=1e-7)


@pytest.mark.parametrize("drift", [None, *INSTANCES])
def test_step_stays_in_the_ball_and_gains(drift: Drift | None) -> None:
    values, old = 3 * np.random.default_rng(1).normal(size=(40, 5)), policies(4, (40, 5)).exp().numpy()
    new = mirror_step(values, old, 0.5, drift, KLBall(0.03))
    divergence = (new * np.log(new / old)).sum(-1)
    assert (divergence <= 0.03 + 1e-12).all()
    assert (divergence > 1e-4).all()

    def gain(p: np.ndarray) -> np.ndarray:
        return (p * (values - 0.5 * np.log(p))).sum(-1)

    assert (gain(new) > gain(old)).all()


# -------------------------------------------------------------------- the learner

BOXES = Task((AgentSpec(3, Box((-1.0, 0.0), (1.0, 1.0))),) * 2, 4, 25)
FACTORS = Task((AgentSpec(3, Categorical((2, 3))),) * 2, 4, 25)


def box_batch(rows: int) -> Any:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    none = torch.zeros(2, rows, 0, dtype=torch.bool)
    actions = torch.rand(2, rows, 2, generator=generator)
    everything = {"obs": normal(2, rows, 3), "state": normal(rows, 4), "avail": none, "actions": actions}
    everything |= {"returns": normal(rows), "bootstrap": torch.full((rows,), 0.9)}
    everything |= {"next_obs": normal(2, rows, 3), "next_state": normal(rows, 4), "next_avail": none}
    return type(random_batch())(**everything)


def drift_of_first_agent(hasac: Hasac, batch: Any) -> tuple[torch.Tensor, Any, Any]:
    """Drift per row after the first agent was moved from the anchor, and both policies."""
    noise = hasac.draw_noise(len(batch.returns))
    with torch.no_grad():
        joint, _ = hasac.policies.sample(batch.obs, batch.avail, noise.joint)
    obs, avail = batch.obs[0], batch.avail[0]
    embedded = hasac.critic.embed_state(batch.state).detach()
    own = hasac.policies.own(noise.joint, 0)
    at_anchor = hasac.actor_drift(0, hasac.policies.of_agent(0, obs, avail), own, obs, avail, embedded, joint)
    assert at_anchor.abs().mean() < 1e-6
    assert at_anchor.abs().max() < 1e-3  # float32, through atanh near the bounds
    weights = hasac.policies.weights(0)
    weights.add_(0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(3)))
    policy, old = hasac.policies.of_agent(0, obs, avail), hasac.mirror.old_policy(0, obs, avail)
    with torch.no_grad():
        return hasac.actor_drift(0, policy, own, obs, avail, embedded, joint), policy, old


def test_discrete_drift_is_exact() -> None:
    hasac = make(drift="kl", drift_args={"strength": 0.5})
    value, policy, old = drift_of_first_agent(hasac, random_batch())
    assert value.max() > 1e-3
    torch.testing.assert_close(value, 0.5 * policy.kl(old).detach())


def test_several_factors_add_up() -> None:
    hasac = make(FACTORS, drift="squared_log_ratio")
    batch = random_batch(FACTORS)
    value, policy, old = drift_of_first_agent(hasac, batch)
    by_hand = (old.log_probs.exp() * 0.5 * (policy.log_probs - old.log_probs).square()).sum(-1)
    torch.testing.assert_close(value, by_hand.detach())


@pytest.mark.parametrize("name", ["kl", "squared_log_ratio"])
def test_box_drift_is_unbiased(name: str) -> None:
    """Its mean over many samples is the closed form between the Gaussians before squashing."""
    hasac = make(BOXES, drift=name)
    value, policy, old = drift_of_first_agent(hasac, box_batch(40_000))
    if name == "kl":
        expected = policy.kl(old).mean().item()
    else:
        # the log ratio at u = mean + std z of the old Gaussian, squared and averaged over z by quadrature
        nodes, node_weights = np.polynomial.hermite_e.hermegauss(40)
        node_weights = node_weights / node_weights.sum()
        z = torch.from_numpy(nodes).float()[:, None, None]
        u = old.mean + old.log_std.exp() * z
        ratio = 0.5 * z.square() - 0.5 * ((u - policy.mean) * torch.exp(-policy.log_std)).square()
        ratio = (ratio + old.log_std - policy.log_std).detach()
        w = torch.from_numpy(node_weights).float()[:, None]
        first, second = (w[..., None] * ratio).sum(0), (w[..., None] * ratio.square()).sum(0)
        variance = (second - first.square()).sum(-1)  # dimensions are independent
        expected = (0.5 * (variance + first.sum(-1).square())).mean().item()
    assert expected > 1e-3
    assert value.mean().item() == pytest.approx(expected, rel=0.08)


def test_clipped_box_drift_is_never_negative() -> None:
    value, _, _ = drift_of_first_agent(make(BOXES, drift="clipped"), box_batch(2000))
    assert value.min() >= 0
    assert value.max() > 0


def test_gaussian_divergence_against_torch() -> None:
    new, old = (SquashedGaussian(BOXES.agents[0].action, torch.randn(6, 4)) for _ in range(2))
    theirs = torch.distributions.kl_divergence(
        *(torch.distributions.Normal(each.mean, each.log_std.exp()) for each in (new, old))
    )
    torch.testing.assert_close(new.kl(old), theirs.sum(-1))


def test_steps_end_in_the_ball() -> None:
    """Learning rates far too large: the policies move, and no update leaves the ball around the anchor."""
    hasac = make(lr=0.1, neighbourhood="kl_ball", neighbourhood_args={"radius": 0.01}, anchor_interval=10)
    batch, seen = random_batch(), []
    for _ in range(10):
        hasac.update(batch)
        for agent in range(3):
            obs, avail = batch.obs[agent], batch.avail[agent]
            new, old = hasac.policies.of_agent(agent, obs, avail), hasac.mirror.old_policy(agent, obs, avail)
            seen.append(float((hasac.alive_weight(batch.avail)[agent] * new.kl(old)).sum()))
    assert max(seen) <= 0.01 + 1e-6
    assert max(seen) > 1e-3


def test_drift_holds_the_policies_back() -> None:
    """The stronger the drift, the nearer to the anchor the policies stay."""
    distances = []
    for strength in (0.0, 2.0, 50.0):
        hasac = make(lr=5e-3, drift="kl", drift_args={"strength": strength}, anchor_interval=100)
        batch = random_batch(size=256)
        for _ in range(40):
            hasac.update(batch)
        new = hasac.policies.of_agent(0, batch.obs[0], batch.avail[0])
        distances.append(float(new.kl(hasac.mirror.old_policy(0, batch.obs[0], batch.avail[0])).mean()))
    assert distances[0] > 2 * distances[1] > 4 * distances[2] > 0


def test_anchor_is_renewed_and_saved() -> None:
    hasac = make(drift="kl", anchor_interval=3)
    batch, anchors = random_batch(), []
    for _ in range(4):
        hasac.update(batch)
        anchors.append(hasac.mirror.anchor[0].clone())
    assert torch.equal(anchors[0], anchors[2])
    assert not torch.equal(anchors[2], anchors[3])
    twin = make(seed=5, drift="kl", anchor_interval=3)
    twin.load_state_dict(copy.deepcopy(hasac.state_dict()))
    noise, order = hasac.draw_noise(64), [0, 1, 2]
    for each in (hasac, twin):
        each.update(batch, noise, order)
    assert torch.equal(hasac.policies.nets[0].flat, twin.policies.nets[0].flat)
    assert torch.equal(hasac.mirror.anchor[0], twin.mirror.anchor[0])


def test_the_path_that_runs_is_named() -> None:
    task, replay = matrix_game_replay(np.eye(2))
    assert "no drift or neighbourhood" in make_updater(make(task, drift="kl"), replay).description
    assert CPU.type == "cpu"
    assert "gradients by hand" in make_updater(make(task), replay).description


def test_an_instance_trains_in_the_host(cli: Cli) -> None:
    """With continuous actions, a saved model, and its evaluation."""
    small = [
        "batch_size_run=4",
        "hidden_sizes=[16]",
        "replay_batch_size=32",
        "warmup_steps=100",
        "t_max=400",
        "tuned=False",
    ]
    small += ["test_interval=200", "test_nepisode=4", "env_args.continuous_actions=True", "train_interval=10", "seed=1"]
    small += ["neighbourhood=kl_ball", "neighbourhood_args.radius=0.1", "anchor_interval=5"]
    words = ("--config=hasac_kl", "--env-config=mpe", "with", *small)
    done = cli(*words, "save_model=True", "save_model_interval=200", "runner_log_interval=100")
    assert done.code == 0, done.stderr
    config = json.loads((done.runs("hasac_kl")[-1] / "config.json").read_text())
    assert config["drift_args"] == {"strength": 0.5, "epsilon": None}
    assert config["neighbourhood_args"] == {"radius": 0.1}
    models = done.runs("hasac_kl")[-1] / "models"
    step = max(int(path.name) for path in models.iterdir())
    again = cli(*words, f"checkpoint_path={models}", f"load_step={step}", "evaluate=True")
    assert again.code == 0, again.stderr
    steps = done.info("hasac_kl")["test_return_mean_T"]
    assert step in steps
    value = done.info("hasac_kl")["test_return_mean"][steps.index(step)]
    assert again.info("hasac_kl")["test_return_mean"][-1] == value
