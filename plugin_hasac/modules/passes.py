"""Forward and backward passes of stacked MLPs with the gradients worked by hand, in buffers that are made once.

Automatic differentiation records every operation and allocates every result anew; on small networks that costs as much
as the arithmetic. These passes write into fixed buffers, which also lets a CUDA graph replay them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_hasac.modules.fusion import fused
from plugin_hasac.modules.stacked import StackedMLP

aten = torch.ops.aten
Slot = int | None  # None: all slots
EPSILON = 1e-5  # of LayerNorm
NARROW = 10  # up to so many columns, a CPU is faster with the transposed matrix


def product(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
    """``a @ b`` into ``out``, for matrices or stacks of them; with ``add`` on top of what it holds."""
    if out.dim() == 3 and out.device.type == "cpu":  # batched products are several times slower there
        for each in zip(a, b, out):
            product(*each, add=add)
    elif add:
        (out.addmm_ if out.dim() == 2 else out.baddbmm_)(a, b)
    else:
        (torch.mm if out.dim() == 2 else torch.bmm)(a, b, out=out)
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


def norm_gradients(
    inner: Tensor, bias_grad: Tensor, weight: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the first layer's weight and of LayerNorm's scale and shift, without its input's slope.

    With x the normalised input, the layer sees ``x * scale + shift``. From ``x^T slope`` follow the weight's gradient
    ``scale^T * x^T slope + shift^T bias_grad``, and by exchanging sums those of scale and shift.

    Args:
        inner: ``x^T slope``, ``(…, in, out)``.
        bias_grad: the sum of the slopes, ``(…, 1, out)``.
        weight: of the layer, ``(…, in, out)``.
        scale: ``(…, 1, in)``.
        shift: ``(…, 1, in)``.
    """
    weight_grad = scale.transpose(-1, -2) * inner + shift.transpose(-1, -2) * bias_grad
    return weight_grad, (weight * inner).sum(-1).unsqueeze(-2), (weight * bias_grad).sum(-1).unsqueeze(-2)


def normalize(x: Tensor) -> Tensor:
    """LayerNorm over the last dimension, without scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def normalize_on_cpu(x: Tensor, out: Tensor) -> None:
    """The same into ``out``: there, up to three times as fast as the library's."""
    torch.sub(x, x.mean(-1, keepdim=True), out=out)
    length = torch.linalg.vector_norm(out, dim=-1, keepdim=True)
    out.mul_(length.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_())


class Layer(NamedTuple):
    """One linear layer of one slot, or of all: views of weights, gradients and buffers.

    Attributes:
        weight: ``(…, in, out)``.
        transposed: the same, ``(…, out, in)``.
        bias: ``(…, 1, out)``.
        weight_grad, bias_grad: where their gradients go.
        extended: weight with the bias as its last row, ``(…, in + 1, out)``.
        extended_grad: where the gradient of both goes.
        seen: on a GPU its input with a 1 behind, ``(…, rows, in + 1)``, so that one product does it all.
        post: its input alone: the activation of the layer before.
        pre: its output.
        slope: gradient with respect to its output.
    """

    weight: Tensor
    transposed: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor
    extended: Tensor
    extended_grad: Tensor
    seen: Tensor
    post: Tensor
    pre: Tensor
    slope: Tensor


class Normalization(NamedTuple):
    """LayerNorm before the first layer, of one slot or of all.

    Attributes:
        scale, shift: ``(…, 1, in)``.
        scale_grad, shift_grad: where their gradients go.
        seen: the input before scale and shift, on a GPU with a 1 behind.
        post: the input alone, ``(…, rows, in)``.
    """

    scale: Tensor
    shift: Tensor
    scale_grad: Tensor
    shift_grad: Tensor
    seen: Tensor
    post: Tensor


class MLPPass:
    """Evaluations of a :class:`StackedMLP` in several slots, kept for their gradients.

    A GPU evaluates all slots together. A CPU does so one after the other: what it works on stays in its cache.

    Args:
        net: the networks.
        slots: number of evaluations side by side. Slot k is member k's, or everybody's if there is one member only.
        rows: batch size.
        shared_input: all slots see the same.
    """

    def __init__(self, net: StackedMLP, slots: int, rows: int, *, shared_input: bool = False) -> None:
        self.net, self.slots = net, slots
        self.activation = net.activation_name
        device = net.flat.device
        self._on_cpu = device.type == "cpu"

        def inputs(count: int, size: int) -> Tensor:
            if self._on_cpu:
                return torch.empty(count, rows, size).expand(slots, -1, -1)
            stride = -(-(size + 1) // 4) * 4  # rows begin at multiples of 16 bytes
            return torch.ones(count, rows, stride, device=device)[..., : size + 1].expand(slots, -1, -1)

        self.seen = [inputs(1 if shared_input and k == 0 else slots, size) for k, size in enumerate(net.sizes[:-1])]
        self.posts = [seen[..., :size] for seen, size in zip(self.seen, net.sizes)]
        self.pre = [torch.empty(slots, rows, size, device=device) for size in net.sizes[1:]]
        if self._on_cpu and self.activation != "silu":  # in place: less memory is touched
            self.pre[:-1] = self.posts[1:]
        alive = 1 if self._on_cpu else slots  # slopes are needed while their own slot is at work
        self.slopes = [torch.empty(alive, rows, size, device=device).expand(slots, -1, -1) for size in net.sizes[1:]]
        if net.normalize_input:  # the input before LayerNorm's scale and shift
            self.normalized = inputs(slots, net.sizes[0])
        self._normalize = fused(normalize, device)
        self._norm_gradients = fused(norm_gradients, device)
        # On a GPU, weights' gradients are computed beside the slopes of the layers below.
        self._side = None if self._on_cpu else torch.cuda.Stream(device)
        self._layers: dict[tuple[int, Slot], list[Layer]] = {}
        self._normalizations: dict[tuple[int, Slot], Normalization] = {}

    @property
    def output(self) -> Tensor:
        """``(slots, rows, out)``."""
        return self.pre[-1]

    def layers(self, slot: Slot = None, net: StackedMLP | None = None) -> list[Layer]:
        """The layers of a slot or all, with the weights of another network of the same shape if given."""
        net = net or self.net
        key = (id(net), slot)
        if key not in self._layers:
            pick = partial(self._pick, slot)
            weights, grads = net.layers(net.stacks), net.layers(net.grad_stacks)
            parts = [[weight, weight.mT, bias, *grad] for (weight, bias), grad in zip(weights, grads)]
            extended = zip(net.extended(net.flat), net.extended(net.grads))
            buffers = zip(self.seen, self.posts, self.pre, self.slopes)
            self._layers[key] = [
                Layer(*map(pick, [*part, *both, *own])) for part, both, own in zip(parts, extended, buffers)
            ]
        return self._layers[key]

    def normalization(self, slot: Slot = None, net: StackedMLP | None = None) -> Normalization:
        """That of a slot or all, with the weights of another network of the same shape if given."""
        net = net or self.net
        key = (id(net), slot)
        if key not in self._normalizations:
            parts = [*net.stacks[:2], *net.grad_stacks[:2], self.normalized, self.normalized[..., : net.sizes[0]]]
            self._normalizations[key] = Normalization(*(self._pick(slot, part) for part in parts))
        return self._normalizations[key]

    def _pick(self, slot: Slot, stack: Tensor) -> Tensor:
        if slot is None:
            return stack.expand(self.slots, -1, -1)
        return stack[slot if len(stack) > 1 else 0]

    def observe(self, x: Tensor) -> None:
        """Take in the inputs of all slots, ``(slots, rows, in)``."""
        if self.net.normalize_input:
            normalized = self.normalized[..., : x.shape[-1]]
            if self._on_cpu:
                normalize_on_cpu(x, normalized)
            else:
                normalized.copy_(self._normalize(x))
        else:
            self.posts[0].copy_(x)

    def observe_together(self, first: Tensor, second: Tensor) -> None:
        """Take in one input for all slots, given in two pieces ``(rows, size)``."""
        post = self.posts[0][0]
        post[:, : first.shape[1]] = first
        post[:, first.shape[1] :] = second

    def forward(self, slot: Slot = None, net: StackedMLP | None = None, *, keep: bool = True) -> Tensor:
        """Evaluate one slot or all on what was observed; with another network's weights if given.

        Args:
            slot: all by default.
            net: of the same sizes.
            keep: a gradient of this will be wanted; here, what it needs is kept in any case.
        """
        if slot is None and self._on_cpu:
            for each in range(self.slots):
                self.forward(each, net)
            return self.output
        first = self.layers(slot, net)[0]
        if self.net.normalize_input:
            norm = self.normalization(slot, net)
            torch.addcmul(norm.shift, norm.post, norm.scale, out=first.post)
        return self.forward_from(self._affine(first, first.pre), slot, net)

    def first_layer(self, out: Tensor) -> None:
        """The first layer of all slots on what was observed into ``out``, ``(slots, rows, hidden)``."""
        if self._on_cpu:
            for slot in range(self.slots):
                self._affine(self.layers(slot)[0], out[slot])
        else:
            self._affine(self.layers()[0], out)

    def forward_from(self, pre: Tensor, slot: Slot = None, net: StackedMLP | None = None, skip: int = 0) -> Tensor:
        """Everything after the first linear layer, given its output ``pre``, but for the last ``skip`` layers.

        Returns:
            The output of the last linear layer that was evaluated.
        """
        if slot is None and self._on_cpu:
            for each in range(self.slots):
                self.forward_from(pre[each], each, net, skip)
            return self.pre[-1 - skip]
        layers = self.layers(slot, net)
        for layer in layers[1 : len(layers) - skip]:
            activate(self.activation, pre, layer.post)
            pre = self._affine(layer, layer.pre)
        return pre

    def forward_shifted(self, pre: Tensor, shift: Tensor) -> Tensor:
        """On a CPU, everything after the first linear layer, given ``pre + shift`` as its output.

        Args:
            pre: ``(slots, rows, hidden)``.
            shift: the same for all rows, ``(slots, hidden)``.

        Returns:
            ``(slots, rows, out)``.
        """
        return self.forward_from(torch.add(pre, shift[:, None], out=self.pre[0]))

    def backward(self, slope: Tensor, slot: Slot = None) -> None:
        """Write the gradient of every weight into the network's ``grads``, given that of the output."""
        if slot is None and self._on_cpu:
            for each in range(self.slots):
                self.backward(slope[each], each)
            return
        layers = self.layers(slot)
        given = slope  # kept until the side stream has read it: its memory must not be handed out again before
        for k in range(len(layers) - 1, -1, -1):
            with self._beside():
                self._weight_gradients(k, slope, slot)
            if k > 0:
                layer, below = layers[k], layers[k - 1]
                slope = product(slope, layer.transposed, below.slope)
                deactivate(self.activation, slope, below.pre, layer.post)
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        del given

    def _affine(self, layer: Layer, out: Tensor) -> Tensor:
        if not self._on_cpu:
            return product(layer.seen, layer.extended, out)
        weight = layer.weight
        if weight.shape[1] <= NARROW:
            weight = layer.transposed.contiguous().t()
        return torch.addmm(layer.bias, layer.post, weight, out=out)

    def _weight_gradients(self, k: int, slope: Tensor, slot: Slot) -> None:
        layer = self.layers(slot)[k]
        if k > 0 or not self.net.normalize_input:
            if self._on_cpu:
                self._inner(layer.post, slope, layer.weight_grad)
                torch.sum(slope, 0, keepdim=True, out=layer.bias_grad)
            else:
                product(layer.seen.transpose(-1, -2), slope, layer.extended_grad)
            return
        norm = self.normalization(slot)
        if self._on_cpu:
            inner = self._inner(norm.post, slope, layer.weight_grad)
            torch.sum(slope, 0, keepdim=True, out=layer.bias_grad)
        else:
            both = norm.seen.mT @ slope
            inner = both[..., :-1, :]
            layer.bias_grad.copy_(both[..., -1:, :])
        gradients = self._norm_gradients(inner, layer.bias_grad, layer.weight, norm.scale, norm.shift)
        for grad, value in zip((layer.weight_grad, norm.scale_grad, norm.shift_grad), gradients):
            grad.copy_(value)

    @staticmethod
    def _inner(post: Tensor, slope: Tensor, out: Tensor) -> Tensor:
        """``post^T slope`` into ``out``."""
        if slope.shape[1] <= NARROW:
            return out.copy_((slope.t() @ post).t())
        return torch.mm(post.t(), slope, out=out)

    def _beside(self) -> AbstractContextManager[object]:
        if self._side is None:
            return nullcontext()
        self._side.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._side)
