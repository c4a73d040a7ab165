"""Several MLPs of one shape in one tensor.

The weights of a member lie one after the other in its row of one matrix, so an optimiser steps a member as a single
vector, while evaluating every member is one batched matrix product over views of that matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "silu": F.silu}


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight + bias`` of one member, ``(batch, in) -> (batch, out)``, or of all, ``(count, batch, in) -> …``."""
    if weight.dim() == 2:
        return torch.addmm(bias, x, weight)
    if x.device.type == "cpu":  # batched products are several times slower there than one after the other
        return torch.stack([torch.addmm(*each) for each in zip(bias, x, weight)])
    return torch.baddbmm(bias, x, weight)


class StackedMLP:
    """``count`` multi-layer perceptrons with equal layer sizes and separate weights.

    Args:
        count: number of members.
        sizes: layer widths ``(in, hidden…, out)``.
        activation: key of :data:`ACTIVATIONS`, applied between layers.
        output_gain: gain of the orthogonal initialisation of the last layer (hidden layers use sqrt(2)).
        normalize_input: put a LayerNorm with learned scale and shift before the first layer.
        device: where the weights live; they are never moved, so that all views keep sharing memory.
        generator: CPU random generator of the initialisation.

    Attributes:
        flat: ``(count, n_parameters)``, all weights.
        grads: ``(count, n_parameters)``, what optimisers read.
        stacks: ``flat`` unpacked.
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
        self.count, self.sizes = count, tuple(sizes)
        self.activation_name, self.activation = activation, ACTIVATIONS[activation]
        self.normalize_input = normalize_input
        self.shapes = [(1, sizes[0])] * 2 if normalize_input else []
        for fan_in, fan_out in pairwise(sizes):
            self.shapes += [(fan_in, fan_out), (1, fan_out)]
        initial = torch.zeros(count, sum(rows * columns for rows, columns in self.shapes))
        layers = self.unpack(initial)
        if normalize_input:
            layers.pop(0).fill_(1.0)
            layers.pop(0)
        for weights in layers[::2]:
            gain = output_gain if weights is layers[-2] else nn.init.calculate_gain("relu")
            for weight in weights:
                nn.init.orthogonal_(weight, gain=gain, generator=generator)
        self.flat = initial.to(device)
        self.grads = torch.zeros_like(self.flat)
        self.stacks = self.unpack(self.flat)
        self.grad_stacks = self.unpack(self.grads)
        self._members = [self.unpack(own) for own in self.flat]

    def extended(self, flat: Tensor) -> list[Tensor]:
        """Views ``(…, in + 1, out)`` of each layer's weight and, as the last row, its bias, which lies behind it.

        With a 1 behind its input, a layer is one matrix product with this, and so is the gradient of both.
        """
        start = 2 * self.sizes[0] if self.normalize_input else 0
        shapes = [(fan_in + 1, fan_out) for fan_in, fan_out in pairwise(self.sizes)]
        parts = flat[..., start:].split([rows * columns for rows, columns in shapes], dim=-1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes)]

    def unpack(self, flat: Tensor) -> list[Tensor]:
        """Views of weights ``(…, n_parameters)``: LayerNorm's scale and shift, then weight and bias of each layer.

        Weights are ``(…, in, out)``, all others ``(…, 1, size)``.
        """
        sizes = [rows * columns for rows, columns in self.shapes]
        return [part.unflatten(-1, shape) for part, shape in zip(flat.split(sizes, dim=-1), self.shapes)]

    def forward(self, flat: Tensor, x: Tensor) -> Tensor:
        """Evaluate one member, ``(n_parameters,)`` on ``(batch, in)``, or all, on ``(count, batch, in)``."""
        return self._apply(self.unpack(flat), x)

    def evaluate(self, x: Tensor) -> Tensor:
        """``(slots, batch, in) -> (slots, batch, out)`` without gradient. Slot k is member k's or the only one's."""
        if x.device.type != "cpu":
            return self._apply([stack.expand(len(x), -1, -1) for stack in self.stacks], x)
        return torch.stack([self._apply(self._members[k % self.count], own) for k, own in enumerate(x)])

    def _apply(self, parts: Sequence[Tensor], x: Tensor) -> Tensor:
        hidden, layers = self.normalized(parts, x), self.layers(parts)
        for weight, bias in layers[:-1]:
            hidden = self.activation(affine(hidden, weight, bias))
        return affine(hidden, *layers[-1])

    def normalized(self, parts: Sequence[Tensor], x: Tensor) -> Tensor:
        """The input after the optional LayerNorm."""
        if not self.normalize_input:
            return x
        return F.layer_norm(x, x.shape[-1:]) * parts[0] + parts[1]

    def layers(self, parts: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The (weight, bias) pairs of all layers, first to last, of :meth:`unpack`'s views."""
        start = 2 if self.normalize_input else 0
        return list(zip(parts[start::2], parts[start + 1 :: 2]))

    def state_dict(self) -> dict[str, Tensor]:
        """The stacks by index, for a checkpoint."""
        return {str(index): stack.clone() for index, stack in enumerate(self.stacks)}

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
