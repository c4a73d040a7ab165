"""Several MLPs of one shape in one set of tensors.

The weights of all members lie in one tensor per layer, so evaluating every member is one batched matrix product,
while each member's parameters are slices of it that an optimiser can step on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relu(x: Tensor) -> Tensor:
    """ReLU, in place where no gradient is recorded (layers own their inputs)."""
    return F.relu(x, inplace=not torch.is_grad_enabled())


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "tanh": torch.tanh, "silu": F.silu}


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Affine map of one member, ``(batch, in) -> (batch, out)``, or of all, ``(count, batch, in) -> (…, out)``."""
    if weight.dim() == 3:
        return torch.baddbmm(bias, x, weight)
    return torch.addmm(bias, x, weight)


class StackedMLP:
    """``count`` multi-layer perceptrons with equal layer sizes and separate weights.

    Args:
        count: number of members.
        sizes: layer widths ``(in, hidden…, out)``.
        activation: key of :data:`ACTIVATIONS`, applied between layers.
        output_gain: gain of the orthogonal initialisation of the last layer (hidden layers use sqrt(2)).
        normalize_input: put a LayerNorm with learned scale and shift before the first layer.
        device: where the weights live; they are never moved, so that slices keep sharing memory with the stack.
        generator: CPU random generator of the initialisation.
    """

    def __init__(
        self,
        count: int,
        sizes: Sequence[int],
        *,
        activation: str,
        output_gain: float,
        normalize_input: bool,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.count = count
        self.activation = ACTIVATIONS[activation]
        self.normalize_input = normalize_input
        self.stacks: list[Tensor] = []
        if normalize_input:
            self.stacks += [torch.ones(count, 1, sizes[0]), torch.zeros(count, 1, sizes[0])]
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            last = layer == len(sizes) - 2
            gain = output_gain if last else nn.init.calculate_gain("relu")
            weight = torch.empty(count, fan_in, fan_out)
            for member in weight:
                nn.init.orthogonal_(member, gain=gain, generator=generator)
            self.stacks += [weight, torch.zeros(count, 1, fan_out)]
        self.stacks = [stack.to(device) for stack in self.stacks]
        self.members: list[list[nn.Parameter]] = [
            [nn.Parameter(stack[index]) for stack in self.stacks] for index in range(count)
        ]

    def forward(self, params: Sequence[Tensor], x: Tensor) -> Tensor:
        """Evaluate one member (its slices) or all (the stacks); see :func:`linear` for the shapes."""
        hidden, layers = self.normalized(params, x), self.layers(params)
        for weight, bias in layers[:-1]:
            hidden = self.activation(linear(hidden, weight, bias))
        return linear(hidden, *layers[-1])

    def normalized(self, params: Sequence[Tensor], x: Tensor) -> Tensor:
        """The input after the optional LayerNorm."""
        if not self.normalize_input:
            return x
        return F.layer_norm(x, x.shape[-1:]) * params[0] + params[1]

    def layers(self, params: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The (weight, bias) pairs of all layers, first to last."""
        start = 2 if self.normalize_input else 0
        return list(zip(params[start::2], params[start + 1 :: 2]))

    def state_dict(self) -> dict[str, Tensor]:
        """The stacks by index, for a checkpoint."""
        return {str(index): stack.detach().clone() for index, stack in enumerate(self.stacks)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a checkpoint's stacks into place.

        Raises:
            ValueError: if the number of tensors or a shape differs.
        """
        if len(state) != len(self.stacks):
            raise ValueError(f"{len(state)} tensors, expected {len(self.stacks)}")
        for index, stack in enumerate(self.stacks):
            saved = state[str(index)]
            if saved.shape != stack.shape:
                raise ValueError(f"shape {tuple(saved.shape)}, expected {tuple(stack.shape)}")
            stack.copy_(saved)
