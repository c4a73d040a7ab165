"""Forward and backward passes of stacked MLPs with the gradients worked by hand, in buffers that are made once.

Automatic differentiation records every operation and allocates every result anew; on small networks that costs as much
as the arithmetic. These passes write into fixed buffers, which also lets a CUDA graph replay them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_hasac.modules.stacked import StackedMLP

aten = torch.ops.aten
Slot = int | slice
ALL = slice(None)


def product(a: Tensor, b: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b + bias`` into ``out``, for matrices or stacks of them."""
    if out.dim() == 3 and out.device.type == "cpu":  # batched products are several times slower there
        for index in range(len(out)):
            product(a[index], b[index], out[index], None if bias is None else bias[index])
    elif bias is None:
        (torch.mm if out.dim() == 2 else torch.bmm)(a, b, out=out)
    else:
        (torch.addmm if out.dim() == 2 else torch.baddbmm)(bias, a, b, out=out)
    return out


def activate(name: str, pre: Tensor, out: Tensor) -> None:
    """The activation of ``pre`` into ``out``, which may be the same unless it is silu."""
    if name == "relu":
        torch.clamp_min(pre, 0.0, out=out)
    elif name == "tanh":
        torch.tanh(pre, out=out)
    else:
        aten.silu.out(pre, out=out)


def deactivate(name: str, slope: Tensor, pre: Tensor, post: Tensor) -> None:
    """Turn the gradient with respect to ``post = activation(pre)`` into that with respect to ``pre``, in place."""
    if name == "relu":
        aten.threshold_backward.grad_input(slope, post, 0.0, grad_input=slope)
    elif name == "tanh":
        aten.tanh_backward.grad_input(slope, post, grad_input=slope)
    else:
        aten.silu_backward.grad_input(slope, pre, grad_input=slope)


class MLPPass:
    """Evaluations of a :class:`StackedMLP` in several slots, kept for their gradients.

    Args:
        net: the networks.
        slots: number of evaluations side by side. Slot k is member k's, or everybody's if there is one member only.
        rows: batch size.

    Attributes:
        post: input of each linear layer, ``(slots, rows, size)``.
        pre: output of each linear layer; the last one is the network's.
        slopes: gradients with respect to ``pre``.
    """

    def __init__(self, net: StackedMLP, slots: int, rows: int) -> None:
        self.net, self.slots = net, slots

        def buffers(sizes: Sequence[int]) -> list[Tensor]:
            return [torch.empty(slots, rows, size, device=net.flat.device) for size in sizes]

        self.post, self.slopes = buffers(net.sizes[:-1]), buffers(net.sizes[1:])
        # Only silu's derivative needs what the activation saw; the others overwrite it.
        hidden = buffers(net.sizes[1:-1]) if net.activation_name == "silu" else self.post[1:]
        self.pre = [*hidden, *buffers(net.sizes[-1:])]
        self.seen = self.post[0]

    @property
    def output(self) -> Tensor:
        """``(slots, rows, out)``."""
        return self.pre[-1]

    def parts(self, stacks: Sequence[Tensor], slot: Slot) -> list[Tensor]:
        """The weights that a slot uses, or all slots."""
        if isinstance(slot, int):
            return [stack[slot if len(stack) > 1 else 0] for stack in stacks]
        return [stack.expand(self.slots, -1, -1) for stack in stacks]

    def observe(self, x: Tensor) -> None:
        """Take in the inputs of all slots, ``(slots, rows, in)``."""
        self.seen = F.layer_norm(x, x.shape[-1:]) if self.net.normalize_input else x

    def forward(self, slot: Slot = ALL, net: StackedMLP | None = None) -> Tensor:
        """Evaluate one slot or all on what was observed; with another network's weights if given."""
        parts = self.parts((net or self.net).stacks, slot)
        if self.net.normalize_input:
            torch.addcmul(parts[1], self.seen[slot], parts[0], out=self.post[0][slot])
        else:
            self.post[0] = self.seen
        weight, bias = self.net.layers(parts)[0]
        first = product(self.post[0][slot], weight, self.pre[0][slot], bias)
        return self.forward_from(first, slot, net)

    def forward_from(self, first: Tensor, slot: Slot = ALL, net: StackedMLP | None = None) -> Tensor:
        """Everything after the first linear layer, whose output is given (and overwritten only if it is ``pre[0]``)."""
        layers = self.net.layers(self.parts((net or self.net).stacks, slot))
        seen = first
        for k, (weight, bias) in enumerate(layers[1:], start=1):
            activate(self.net.activation_name, seen, self.post[k][slot])
            seen = product(self.post[k][slot], weight, self.pre[k][slot], bias)
        return seen

    def slope_of_first(self, slope: Tensor, slot: Slot = ALL, first: Tensor | None = None) -> Tensor:
        """Gradient with respect to the first linear layer's output from that of the network's output.

        Args:
            slope: ``(…, rows, out)``.
            slot: which.
            first: the first layer's output, if it was given to :meth:`forward_from`.
        """
        layers = self.net.layers(self.parts(self.net.stacks, slot))
        for k in range(len(layers) - 1, 0, -1):
            pre = self.pre[k - 1][slot] if k > 1 or first is None else first
            slope = product(slope, layers[k][0].transpose(-1, -2), self.slopes[k - 1][slot])
            deactivate(self.net.activation_name, slope, pre, self.post[k][slot])
        return slope

    def backward(self, slope: Tensor, slot: Slot = ALL) -> None:
        """Write the gradient of every weight into the network's ``grads``, given that of the output."""
        parts = self.parts(self.net.stacks, slot)
        grads = [grad[slot if self.net.count > 1 else 0] for grad in self.net.grad_stacks]
        layers, grad_layers = self.net.layers(parts), self.net.layers(grads)
        for k in range(len(layers) - 1, -1, -1):
            grad_weight, grad_bias = grad_layers[k]
            product(self.post[k][slot].transpose(-1, -2), slope, grad_weight)
            torch.sum(slope, -2, keepdim=True, out=grad_bias)
            if k > 0:
                slope = product(slope, layers[k][0].transpose(-1, -2), self.slopes[k - 1][slot])
                deactivate(self.net.activation_name, slope, self.pre[k - 1][slot], self.post[k][slot])
        if self.net.normalize_input:
            back = slope @ layers[0][0].transpose(-1, -2)
            torch.sum(back * self.seen[slot], -2, keepdim=True, out=grads[0])
            torch.sum(back, -2, keepdim=True, out=grads[1])
