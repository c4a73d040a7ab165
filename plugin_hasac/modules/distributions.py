"""Distributions over one agent's actions, in the encoding that the critics see."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_hasac.components.action_spaces import ActionSpace, Box, Categorical

# Finite, so that probability x log-probability of an unavailable action is 0 and not NaN; far beyond any logit.
UNAVAILABLE = -1e9
# Of log(standard deviation) before squashing; wide enough for a nearly deterministic and a nearly uniform policy.
LOG_STD_RANGE = (-20.0, 2.0)
# An action nearer to a bound than this, on the [-1, 1] scale, is indistinguishable from it in float32.
EDGE = 1e-6


class Distribution(Protocol):
    """What every policy's distribution offers; leading dimensions ``…`` are batch dimensions."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Encoded action ``(…, encoded_dim)``, without gradient."""

    def rsample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Encoded action and its log-probability ``(…)``, both with gradient."""

    def mode(self) -> Tensor:
        """The greedy encoded action ``(…, encoded_dim)``."""

    def log_prob(self, encoded: Tensor) -> Tensor:
        """Log-probability (density in the env's units for Box) of encoded actions, ``(…)``."""


class MaskedCategorical:
    """Independent categorical distributions, one per factor of a (Multi)Discrete action.

    Args:
        space: the action space.
        logits: ``(…, encoded_dim)``.
        avail: ``(…, encoded_dim)`` bool; unavailable choices have probability 0.
    """

    def __init__(self, space: Categorical, logits: Tensor, avail: Tensor) -> None:
        self.factors = space.factors()
        logits = logits.masked_fill(~avail, UNAVAILABLE)
        self.log_probs = self._each(logits, lambda part: F.log_softmax(part, dim=-1))

    def _each(self, values: Tensor, function) -> Tensor:  # type: ignore[no-untyped-def]
        if len(self.factors) == 1:
            return function(values)
        return torch.cat([function(values[..., factor]) for factor in self.factors], dim=-1)

    def _gumbel(self, generator: torch.Generator) -> Tensor:
        return self.log_probs - torch.empty_like(self.log_probs).exponential_(generator=generator).log()

    def sample(self, generator: torch.Generator) -> Tensor:
        """By the Gumbel-max trick; an unavailable choice is never drawn."""
        with torch.no_grad():
            return self._each(self._gumbel(generator), _one_hot_of_largest)

    def rsample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Straight-through Gumbel-softmax, temperature 1 (Jang et al., 2017)."""
        soft = self._each(self._gumbel(generator), lambda part: F.softmax(part, dim=-1))
        action = self._each(soft, _one_hot_of_largest) + (soft - soft.detach())
        return action, self.log_prob(action)

    def mode(self) -> Tensor:
        """The most probable choice of each factor."""
        return self._each(self.log_probs, _one_hot_of_largest)

    def log_prob(self, encoded: Tensor) -> Tensor:
        """Sum of the factors' log-probabilities."""
        return (encoded * self.log_probs).sum(-1)

    def entropy(self) -> Tensor:
        """In nats, exact, ``(…)``."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


class SquashedGaussian:
    """``middle + half * tanh(u)``, u normal with diagonal covariance (Haarnoja et al., 2018, appendix C).

    Args:
        space: the bounds.
        output: mean and log standard deviation of u, ``(…, 2 * encoded_dim)``.
    """

    def __init__(self, space: Box, output: Tensor) -> None:
        self.log_scale = space.log_scale
        self.mean, log_std = output.chunk(2, dim=-1)
        self.log_std = log_std.clamp(*LOG_STD_RANGE)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Without gradient."""
        with torch.no_grad():
            return torch.tanh(self._draw(generator)[0])

    def rsample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparameterised."""
        u, noise = self._draw(generator)
        return torch.tanh(u), self._log_density(u, noise)

    def mode(self) -> Tensor:
        """The squashed mean: hosts' greedy tests use it (the density's maximum may lie elsewhere)."""
        return torch.tanh(self.mean)

    def log_prob(self, encoded: Tensor) -> Tensor:
        """Density in the env's units; actions are first moved off the bounds by :data:`EDGE`."""
        u = torch.atanh(encoded.clamp(-1 + EDGE, 1 - EDGE))
        return self._log_density(u, (u - self.mean) * torch.exp(-self.log_std))

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.log_std.exp() * noise, noise

    def _log_density(self, u: Tensor, noise: Tensor) -> Tensor:
        gaussian = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) without cancellation: tanh is 1 in float32 from |u| = 9 on.
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
        return (gaussian - log_slope).sum(-1) - self.log_scale


def _one_hot_of_largest(values: Tensor) -> Tensor:
    return F.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)


def output_dim(space: ActionSpace) -> int:
    """Numbers that a policy network has to give for a distribution over ``space``."""
    return space.encoded_dim * (2 if isinstance(space, Box) else 1)


def distribution(space: ActionSpace, output: Tensor, avail: Tensor) -> MaskedCategorical | SquashedGaussian:
    """The distribution that a policy network's output stands for.

    Args:
        space: of the agent.
        output: ``(…, output_dim)``.
        avail: ``(…, avail_dim)`` bool.
    """
    if isinstance(space, Box):
        return SquashedGaussian(space, output)
    if isinstance(space, Categorical):
        return MaskedCategorical(space, output, avail)
    raise TypeError(f"no policy for {space}")
