"""What the fast update asks of policies' distributions, in place of the chains of small operations."""

from __future__ import annotations

from ctypes import byref, c_int64
from typing import Any, NoReturn

import torch
from torch import Tensor

from plugin_hasac.components.action_spaces import ActionSpace, Box, Categorical
from plugin_hasac.modules.distributions import LOG_STD_RANGE
from plugin_hasac.native.library import Choices, Library


class GaussianHead:
    """A :class:`SquashedGaussian`; methods as the functions of the same name in :mod:`fast_update`.

    Args:
        library: what computes it.
        space: the bounds.
    """

    def __init__(self, library: Library, space: Box) -> None:
        self.library, self.size, self.log_scale = library, space.encoded_dim, space.log_scale

    def draw(self, output: Tensor, avail: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sample, its log-probability, and minus that as an estimate of the entropy."""
        action, log_prob = torch.empty_like(noise), output.new_empty(output.shape[:-1])
        self._draw(output, noise, action, log_prob)
        return action, log_prob, -log_prob

    def draw_again(self, output: Tensor, avail: Tensor, noise: Tensor) -> Tensor:
        """A sample alone."""
        action = torch.empty_like(noise)
        self._draw(output, noise, action, None)
        return action

    def sampled_gradient(
        self,
        output: Tensor,
        avail: Tensor,
        noise: Tensor,
        action: Tensor,
        slope: Tensor,
        scale: Tensor,
        alpha: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Gradient of the loss for the network's output from the normalised Q's slope in the sample."""
        out = torch.empty_like(output)
        self.library.gaussian_slope(
            *(output.data_ptr(), noise.data_ptr(), action.data_ptr(), action.stride(0), slope.data_ptr()),
            *(output.shape[0], self.size, *LOG_STD_RANGE),
            *(scale.data_ptr(), alpha.data_ptr(), weight.data_ptr(), out.data_ptr()),
            torch.get_num_threads(),
        )
        return out

    def exact_gradient(self, *_: Any) -> NoReturn:
        """There is none: an expectation over real numbers has no closed form."""
        raise TypeError("Box actions have no exact gradient")

    def _draw(self, output: Tensor, noise: Tensor, action: Tensor, log_prob: Tensor | None) -> None:
        self.library.gaussian_draw(
            *(output.data_ptr(), noise.data_ptr(), noise.numel() // self.size, self.size),
            *(*LOG_STD_RANGE, self.log_scale),
            *(action.data_ptr(), None if log_prob is None else log_prob.data_ptr()),
            torch.get_num_threads(),
        )


class CategoricalHead:
    """A :class:`MaskedCategorical`; methods as the functions of the same name in :mod:`fast_update`.

    Args:
        library: what computes it.
        space: the choices.
    """

    def __init__(self, library: Library, space: Categorical) -> None:
        self.library = library
        self._choices = Choices(len(space.nvec), (c_int64 * len(space.nvec))(*space.nvec))

    def draw(self, output: Tensor, avail: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sample, its log-probability, and the entropy."""
        action = torch.empty_like(noise)
        log_prob, entropy = (output.new_empty(output.shape[:-1]) for _ in range(2))
        self._draw(output, avail, noise, action, log_prob.data_ptr(), entropy.data_ptr())
        return action, log_prob, entropy

    def draw_again(self, output: Tensor, avail: Tensor, noise: Tensor) -> Tensor:
        """A sample alone."""
        action = torch.empty_like(noise)
        self._draw(output, avail, noise, action, None, None)
        return action

    def sampled_gradient(
        self,
        output: Tensor,
        avail: Tensor,
        noise: Tensor,
        action: Tensor,
        slope: Tensor,
        scale: Tensor,
        alpha: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Gradient of the loss for the network's output from the normalised Q's slope in the sample."""
        out, avail = torch.empty_like(output), avail.contiguous()
        self.library.categorical_slope(
            *(byref(self._choices), output.data_ptr(), avail.data_ptr(), noise.data_ptr()),
            *(action.data_ptr(), action.stride(0), slope.data_ptr(), output.shape[0]),
            *(scale.data_ptr(), alpha.data_ptr(), weight.data_ptr(), out.data_ptr()),
            torch.get_num_threads(),
        )
        return out

    def exact_gradient(
        self, output: Tensor, avail: Tensor, q: Tensor, scale: Tensor, alpha: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient of the loss for the network's output, and the objective, from the twins' normalised Q."""
        out, objective = torch.empty_like(output), output.new_empty(output.shape[0])
        avail, q = avail.contiguous(), q.contiguous()
        self.library.categorical_exact(
            *(byref(self._choices), output.data_ptr(), avail.data_ptr(), q.data_ptr(), output.shape[0]),
            *(scale.data_ptr(), alpha.data_ptr(), weight.data_ptr(), out.data_ptr(), objective.data_ptr()),
            torch.get_num_threads(),
        )
        return out, objective

    def _draw(
        self, output: Tensor, avail: Tensor, noise: Tensor, action: Tensor, log_prob: int | None, entropy: int | None
    ) -> None:
        avail = avail.contiguous()
        self.library.categorical_draw(
            *(byref(self._choices), output.data_ptr(), avail.data_ptr(), noise.data_ptr()),
            *(noise.numel() // noise.shape[-1], action.data_ptr(), log_prob, entropy),
            torch.get_num_threads(),
        )


def head(library: Library, space: ActionSpace) -> GaussianHead | CategoricalHead:
    """The head of a space."""
    if isinstance(space, Box):
        return GaussianHead(library, space)
    assert isinstance(space, Categorical)
    return CategoricalHead(library, space)
