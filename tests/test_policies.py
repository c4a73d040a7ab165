"""Masked categorical policies, stacked and single."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU

from plugin_hasac.components.task import Task
from plugin_hasac.modules.policies import (
    CategoricalPolicies,
    entropy,
    gumbel_softmax,
    masked_log_softmax,
    sample,
)

TASK = Task(n_agents=3, obs_dim=4, state_dim=6, n_actions=5, episode_limit=10)


def policies(share: bool = False, normalize: bool = True) -> CategoricalPolicies:
    made = CategoricalPolicies(
        TASK,
        hidden_sizes=(16, 16),
        activation="relu",
        normalize_input=normalize,
        share_param=share,
        device=CPU,
        generator=torch.Generator().manual_seed(0),
    )
    for stack in made.net.stacks:
        stack.add_(0.3 * torch.randn(stack.shape, generator=torch.Generator().manual_seed(1)))
    return made


def random_avail(batch: int, generator: torch.Generator) -> torch.Tensor:
    avail = torch.rand(3, batch, 5, generator=generator) < 0.4
    avail[..., 0] |= ~avail.any(-1)
    return avail


def test_never_an_illegal_action() -> None:
    generator = torch.Generator().manual_seed(0)
    avail = random_avail(20_000, generator)
    logits = 50 * torch.randn(3, 20_000, 5, generator=generator)
    log_probs = masked_log_softmax(logits, avail)
    for chosen in (
        sample(log_probs, generator),
        log_probs.argmax(-1),
        gumbel_softmax(log_probs, generator).argmax(-1),
    ):
        assert avail.gather(-1, chosen[..., None]).all()
    assert (log_probs.exp()[~avail] == 0).all()


def test_probabilities_match_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    avail = random_avail(500, generator)
    logits = torch.randn(3, 500, 5, generator=generator)
    log_probs = masked_log_softmax(logits, avail)
    reference = torch.distributions.Categorical(logits=logits.masked_fill(~avail, -torch.inf))
    assert torch.allclose(log_probs.exp(), reference.probs, atol=1e-6)
    assert torch.allclose(entropy(log_probs), torch.special.entr(reference.probs).sum(-1), atol=1e-5)


def test_samples_follow_the_probabilities() -> None:
    log_probs = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).clamp_min(1e-30).log()
    for draw in (sample, lambda lp, g: gumbel_softmax(lp, g).argmax(-1)):
        drawn = draw(log_probs.expand(200_000, -1), torch.Generator().manual_seed(0))
        share = drawn.bincount(minlength=5) / 200_000
        assert torch.allclose(share, log_probs.exp(), atol=0.006)  # five standard deviations


def test_straight_through_sample_is_one_hot_with_a_gradient() -> None:
    logits = torch.randn(64, 5, requires_grad=True)
    action = gumbel_softmax(masked_log_softmax(logits, torch.ones(64, 5, dtype=torch.bool)), torch.Generator())
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
    together = made.log_probs(obs, avail)
    for agent in range(3):
        assert torch.allclose(together[agent], made.agent_log_probs(agent, obs[agent], avail[agent]), atol=1e-5)


def test_parameters_are_slices_of_the_stack() -> None:
    made = policies()
    obs, avail = torch.randn(3, 7, 4), torch.ones(3, 7, 5, dtype=torch.bool)
    before = made.log_probs(obs, avail)
    with torch.no_grad():
        for parameter in made.parameters(1):
            parameter.add_(0.1 * torch.randn_like(parameter))
    changed = (made.log_probs(obs, avail) - before).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == [False, True, False]


def test_shared_network_tells_agents_apart() -> None:
    made = policies(share=True)
    obs = torch.randn(1, 7, 4).expand(3, -1, -1)
    log_probs = made.log_probs(obs, torch.ones(3, 7, 5, dtype=torch.bool))
    assert (log_probs[0] - log_probs[1]).abs().max() > 1e-3
    assert made.parameters(0) is made.parameters(2)
