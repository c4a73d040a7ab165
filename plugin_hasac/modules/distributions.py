"""Distributions over one agent's actions, in the encoding that the critics see."""

from __future__ import annotations

import math
from typing import Any, Protocol

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
# Uniform noise below this is not drawn, so that its Gumbel transform stays finite.
TINY = 1e-8


class Distribution(Protocol):
    """What every policy's distribution offers; leading dimensions ``…`` are batch dimensions.

    Samples are functions of noise ``(…, encoded_dim)`` that :func:`draw_noise` makes, so that two implementations can
    be given the same.
    """

    def sample(self, noise: Tensor) -> Tensor:
        """Encoded action ``(…, encoded_dim)``, without gradient."""

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded action and its log-probability ``(…)``, both with gradient."""

    def mode(self) -> Tensor:
        """The greedy encoded action ``(…, encoded_dim)``."""

    def log_prob(self, encoded: Tensor) -> Tensor:
        """Log-probability (density in the env's units for Box) of encoded actions, ``(…)``."""

    def kl(self, other: Any) -> Tensor:
        """KL(this || other) in nats, ``(…)``, for another distribution of the same kind."""


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

    def sample(self, noise: Tensor) -> Tensor:
        """By the Gumbel-max trick; an unavailable choice is never drawn."""
        with torch.no_grad():
            return self._each(self.log_probs + noise, _one_hot_of_largest)

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Straight-through Gumbel-softmax, temperature 1 (Jang et al., 2017)."""
        soft = self._soft(noise)
        action = self._each(soft, _one_hot_of_largest) + (soft - soft.detach())
        return action, self.log_prob(action)

    def _soft(self, noise: Tensor) -> Tensor:
        return self._each(self.log_probs + noise, lambda part: F.softmax(part, dim=-1))

    def mode(self) -> Tensor:
        """The most probable choice of each factor."""
        return self._each(self.log_probs, _one_hot_of_largest)

    def log_prob(self, encoded: Tensor) -> Tensor:
        """Sum of the factors' log-probabilities."""
        return (encoded * self.log_probs).sum(-1)

    def entropy(self) -> Tensor:
        """In nats, exact, ``(…)``."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: MaskedCategorical) -> Tensor:
        """Exact."""
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

    def advantage(self, values: Tensor, alpha: Tensor | float) -> Tensor:
        """Soft advantage of each choice: ``values - alpha log pi`` minus its mean under pi, ``(…, encoded_dim)``."""
        soft = values - alpha * self.log_probs
        return soft - self._each(self.log_probs.exp() * soft, _spread_sum)

    def exact_gradient(self, values: Tensor, alpha: Tensor) -> Tensor:
        """Gradient of ``sum_a pi(a) (values(a) - alpha log pi(a))`` with respect to the logits, ``(…, encoded_dim)``.

        Args:
            values: of each choice, ``(…, encoded_dim)``.
            alpha: the temperature.
        """
        probs = self.log_probs.exp()
        gain = probs * (values - alpha * self.log_probs)
        return gain - probs * self._each(gain, _spread_sum)

    def sampled_gradient(self, noise: Tensor, action: Tensor, slope: Tensor, alpha: Tensor) -> Tensor:
        """Gradient of ``Q(a) - alpha log pi(a)`` through :meth:`rsample`'s straight-through sample, for the logits.

        Args:
            noise: of the sample.
            action: the sample, ``(…, encoded_dim)``.
            slope: dQ/da, ``(…, encoded_dim)``.
            alpha: the temperature.
        """
        soft = self._soft(noise)
        gain = soft * (slope - alpha * self.log_probs)
        through_sample = gain - soft * self._each(gain, _spread_sum)
        return through_sample - alpha * (action - self.log_probs.exp())


class SquashedGaussian:
    """``middle + half * tanh(u)``, u normal with diagonal covariance (Haarnoja et al., 2018, appendix C).

    Args:
        space: the bounds.
        output: mean and log standard deviation of u, ``(…, 2 * encoded_dim)``.
    """

    def __init__(self, space: Box, output: Tensor) -> None:
        self.log_scale = space.log_scale
        self.mean, self.unclamped = output.chunk(2, dim=-1)
        self.log_std = self.unclamped.clamp(*LOG_STD_RANGE)

    def sample(self, noise: Tensor) -> Tensor:
        """Without gradient."""
        with torch.no_grad():
            return torch.tanh(self.mean + self.log_std.exp() * noise)

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised."""
        u = self.mean + self.log_std.exp() * noise
        return torch.tanh(u), self._log_density(u, noise)

    def mode(self) -> Tensor:
        """The squashed mean: hosts' greedy tests use it (the density's maximum may lie elsewhere)."""
        return torch.tanh(self.mean)

    def log_prob(self, encoded: Tensor) -> Tensor:
        """Density in the env's units; actions are first moved off the bounds by :data:`EDGE`."""
        u = torch.atanh(encoded.clamp(-1 + EDGE, 1 - EDGE))
        return self._log_density(u, (u - self.mean) * torch.exp(-self.log_std))

    def kl(self, other: SquashedGaussian) -> Tensor:
        """That of the Gaussians before squashing, which is the same: the map to actions is one to one."""
        log_ratio = other.log_std - self.log_std
        squares = torch.exp(-2 * log_ratio) + ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return (log_ratio + 0.5 * (squares - 1)).sum(-1)

    def sampled_gradient(self, noise: Tensor, action: Tensor, slope: Tensor, alpha: Tensor) -> Tensor:
        """Gradient of ``Q(a) - alpha log pi(a)`` through :meth:`rsample`, for the output, ``(…, 2 * encoded_dim)``.

        With ``a = tanh(u)`` and ``u = mean + std * noise``: da/du = 1 - a^2 and d log pi / du = 2 a, while log_std also
        enters log pi itself, with slope -1. Arguments as in :meth:`MaskedCategorical.sampled_gradient`.
        """
        through_u = slope * (1 - action.square()) - 2 * alpha * action
        through_log_std = through_u * (self.log_std.exp() * noise) + alpha
        inside = (self.unclamped >= LOG_STD_RANGE[0]) & (self.unclamped <= LOG_STD_RANGE[1])
        return torch.cat([through_u, through_log_std * inside], dim=-1)

    def _log_density(self, u: Tensor, noise: Tensor) -> Tensor:
        gaussian = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) without cancellation: tanh is 1 in float32 from |u| = 9 on.
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
        return (gaussian - log_slope).sum(-1) - self.log_scale


def _one_hot_of_largest(values: Tensor) -> Tensor:
    return F.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)


def _spread_sum(values: Tensor) -> Tensor:
    return values.sum(-1, keepdim=True).expand_as(values)


def draw_noise(space: ActionSpace, shape: tuple[int, ...], device: torch.device, generator: torch.Generator) -> Tensor:
    """Noise ``(*shape, encoded_dim)`` of samples: standard normal for Box, standard Gumbel for Categorical."""
    noise = torch.empty(*shape, space.encoded_dim, device=device)
    if isinstance(space, Box):
        return noise.normal_(generator=generator)
    return noise.uniform_(TINY, 1.0, generator=generator).log_().neg_().log_().neg_()


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
