"""Masked categorical policies, stacked and single."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU

from plugin_hasac.components.action_spaces import Categorical
from plugin_hasac.components.task import Task
from plugin_hasac.modules.distributions import MaskedCategorical, draw_noise
from plugin_hasac.modules.policies import Policies

TASK = Task.discrete(n_agents=3, obs_dim=4, state_dim=6, n_actions=5, episode_limit=10)
FIVE = Categorical((5,))


def policies(share: bool = False, normalize: bool = True) -> Policies:
    made = Policies(
        TASK,
        hidden_sizes=(16, 16),
        activation="relu",
        normalize_input=normalize,
        share_param=share,
        device=CPU,
        generator=torch.Generator().manual_seed(0),
    )
    for stack in made.nets[0].stacks:
        stack.add_(0.3 * torch.randn(stack.shape, generator=torch.Generator().manual_seed(1)))
    return made


def log_probs_of(made: Policies, obs: torch.Tensor, avail: torch.Tensor) -> torch.Tensor:
    (together,) = made.of_groups(obs, avail)
    assert isinstance(together, MaskedCategorical)
    return together.log_probs


def random_avail(batch: int, generator: torch.Generator) -> torch.Tensor:
    avail = torch.rand(3, batch, 5, generator=generator) < 0.4
    avail[..., 0] |= ~avail.any(-1)
    return avail


def test_never_an_illegal_action() -> None:
    generator = torch.Generator().manual_seed(0)
    avail = random_avail(20_000, generator)
    logits = 50 * torch.randn(3, 20_000, 5, generator=generator)
    policy = MaskedCategorical(FIVE, logits, avail)
    noise = draw_noise(FIVE, (3, 20_000), CPU, generator)
    for chosen in (policy.sample(noise), policy.mode(), policy.rsample(noise)[0]):
        assert avail.gather(-1, FIVE.decode(chosen)).all()
    assert (policy.log_probs.exp()[~avail] == 0).all()


def test_probabilities_match_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    avail = random_avail(500, generator)
    logits = torch.randn(3, 500, 5, generator=generator)
    policy = MaskedCategorical(FIVE, logits, avail)
    reference = torch.distributions.Categorical(logits=logits.masked_fill(~avail, -torch.inf))
    assert torch.allclose(policy.log_probs.exp(), reference.probs, atol=1e-6)
    assert torch.allclose(policy.entropy(), torch.special.entr(reference.probs).sum(-1), atol=1e-5)


def test_samples_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    logits = probabilities.clamp_min(1e-30).log().expand(200_000, -1)
    policy = MaskedCategorical(FIVE, logits, torch.ones(200_000, 5, dtype=torch.bool))
    noise = draw_noise(FIVE, (200_000,), CPU, torch.Generator().manual_seed(0))
    for drawn in (policy.sample(noise), policy.rsample(noise)[0]):
        assert torch.allclose(drawn.mean(0), probabilities, atol=0.006)  # five standard deviations


def test_straight_through_sample_is_one_hot_with_a_gradient() -> None:
    logits = torch.randn(64, 5, requires_grad=True)
    policy = MaskedCategorical(FIVE, logits, torch.ones(64, 5, dtype=torch.bool))
    action, _ = policy.rsample(draw_noise(FIVE, (64,), CPU, torch.Generator()))
    assert torch.allclose(action.sum(-1), torch.ones(64))
    assert torch.allclose(action.max(-1).values, torch.ones(64))
    (gradient,) = torch.autograd.grad((action * torch.arange(5.0)).sum(), logits)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_stacked_equals_single(share: bool, normalize: bool) -> None:
    made = policies(share, normalize)
    generator = torch.Generator().manual_seed(2)
    obs, avail = torch.randn(3, 7, 4, generator=generator), random_avail(7, generator)
    together = log_probs_of(made, obs, avail)
    for agent in range(3):
        assert torch.allclose(together[agent], made.of_agent(agent, obs[agent], avail[agent]).log_probs, atol=1e-5)


def test_parameters_are_slices_of_the_stack() -> None:
    made = policies()
    obs, avail = torch.randn(3, 7, 4), torch.ones(3, 7, 5, dtype=torch.bool)
    before = log_probs_of(made, obs, avail)
    with torch.no_grad():
        made.weights(1).add_(0.1 * torch.randn_like(made.weights(1)))
    changed = (log_probs_of(made, obs, avail) - before).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == [False, True, False]


def test_shared_network_tells_agents_apart() -> None:
    made = policies(share=True)
    obs = torch.randn(1, 7, 4).expand(3, -1, -1)
    log_probs = log_probs_of(made, obs, torch.ones(3, 7, 5, dtype=torch.bool))
    assert (log_probs[0] - log_probs[1]).abs().max() > 1e-3
    assert made.weights(0).data_ptr() == made.weights(2).data_ptr()
