"""What the fast update uses on a CPU in place of :class:`MLPPass` and :class:`JointValues`, with the same methods."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_void_p

import torch
from torch import Tensor

from plugin_hasac.modules.stacked import StackedMLP
from plugin_hasac.native.library import ACTIVATIONS, Change, Layer, Library, Network, address

FEW = 0.5  # of the rows: if more have moved, all are evaluated


class NativePass:
    """Evaluations of a :class:`StackedMLP` in several slots, kept for their gradients; see :class:`MLPPass`.

    Args:
        library: what computes them.
        net: the networks.
        slots: number of evaluations side by side. Slot k is member k's, or everybody's if there is one member only.
        rows: batch size.
        shared_input: all slots see the same.
    """

    def __init__(self, library: Library, net: StackedMLP, slots: int, rows: int, *, shared_input: bool = False) -> None:
        self.library, self.net, self.slots, self.rows = library, net, slots, rows
        self.activation = net.activation_name
        self.output = torch.empty(slots, rows, net.sizes[-1])
        self._together = torch.empty(rows, net.sizes[0]) if shared_input else None
        self._posts = [torch.empty(slots, rows, size) for size in net.sizes[1:-1]]
        self._pres = [torch.empty_like(post) for post in self._posts] if self.activation == "silu" else None
        self._normalized = torch.empty(slots, rows, net.sizes[0]) if net.normalize_input else None
        self._networks: dict[tuple[int, int], Network] = {}
        self._inputs: list[Tensor] = []

    def observe(self, x: Tensor) -> None:
        """Take in the inputs of all slots, ``(slots, rows, in)``; they are read until others are taken in."""
        self._inputs = list(x.unbind())

    def observe_together(self, first: Tensor, second: Tensor) -> None:
        """Take in one input for all slots, given in two pieces ``(rows, size)``."""
        assert self._together is not None
        torch.cat([first, second], dim=1, out=self._together)
        self._inputs = [self._together] * self.slots

    def forward(self, slot: int | None = None, net: StackedMLP | None = None, *, keep: bool = True) -> Tensor:
        """Evaluate one slot or all on what was observed; with another network's weights if given.

        Args:
            slot: all by default.
            net: of the same sizes.
            keep: a gradient of this will be wanted.
        """
        for each in range(self.slots) if slot is None else (slot,):
            self._forward(each, self._inputs[each], None, net, keep)
        return self.output if slot is None else self.output[slot]

    def first_layer(self, out: Tensor) -> None:
        """The first layer of all slots on what was observed into ``out``, ``(slots, rows, hidden)``."""
        weights, biases = self.net.layers(self.net.stacks)[0]
        for slot, x in enumerate(self._inputs):
            member = slot % self.net.count
            self.library.product(x, weights[member], out[slot], biases[member, 0])

    def forward_shifted(self, pre: Tensor, shift: Tensor) -> Tensor:
        """Everything after the first linear layer, given ``pre + shift`` as its output.

        Args:
            pre: ``(slots, rows, hidden)``.
            shift: the same for all rows, ``(slots, hidden)``.

        Returns:
            ``(slots, rows, out)``.
        """
        for slot in range(self.slots):
            self._forward(slot, pre[slot], shift[slot], None, keep=False)
        return self.output

    def backward(self, slope: Tensor, slot: int | None = None) -> None:
        """Write the gradient of every weight into the network's ``grads``, given that of the output."""
        if slot is None:
            for each in range(self.slots):
                self.backward(slope[each], each)
            return
        x, slope = self._inputs[slot], slope.contiguous()
        self.library.backward(
            byref(self._network(slot, self.net)),
            x.data_ptr(),
            x.stride(0),
            slope.data_ptr(),
            slope.stride(0),
            self.rows,
            self.library.half,
            torch.get_num_threads(),
        )

    def _forward(self, slot: int, x: Tensor, shift: Tensor | None, net: StackedMLP | None, keep: bool) -> None:
        out = self.output[slot]
        self.library.forward(
            byref(self._network(slot, net or self.net)),
            x.data_ptr(),
            x.stride(0),
            address(shift),
            self.rows,
            out.data_ptr(),
            out.stride(0),
            keep,
            self.library.half,
            torch.get_num_threads(),
        )

    def _network(self, slot: int, net: StackedMLP) -> Network:
        key = (id(net), slot)
        if key not in self._networks:
            kept = self._normalized[slot] if self._normalized is not None else None
            posts = [None, *(post[slot] for post in self._posts)]
            pres = [*(pre[slot] for pre in self._pres), None] if self._pres else [None] * len(posts)
            self._networks[key] = network(net, slot % net.count, posts, pres, kept)
        return self._networks[key]


class NativeJointValues:
    """min_j Q_j at a joint action, and its slope in the output of the critics' first layer; see :class:`JointValues`.

    Args:
        library: what computes it.
        net: the twin critics.
        rows: batch size.

    Attributes:
        first: output of the first layer at the joint action, ``(2, rows, hidden)``.
        q: normalised min_j Q_j, ``(rows,)``.
    """

    def __init__(self, library: Library, net: StackedMLP, rows: int) -> None:
        self.library, self.rows = library, rows
        hidden = net.sizes[1]
        self.first = torch.empty(2, rows, hidden)
        self._firsts = self.first.unbind()
        self.q = torch.empty(rows)
        self._of_first_twin = torch.empty(rows, dtype=torch.bool)
        self._slope = torch.empty(rows, hidden)
        self._stale, self._all_stale = torch.zeros(rows, dtype=torch.bool), True
        nothing: list[Tensor | None] = [None] * (len(net.sizes) - 1)
        self._twins = [network(net, twin, nothing, nothing, None) for twin in range(2)]
        self._packed = torch.empty(library.packed_size(*map(byref, self._twins)))
        self._packed_as: bool | None = None  # in bfloat16, in full, or not yet
        self._pending: tuple[Tensor, Tensor] | None = None  # a move of all rows that is still to be made

    def restart(self) -> None:
        """All rows of ``first`` are new, and so are the critics' weights."""
        self._all_stale, self._packed_as, self._pending = True, None, None

    def move(self, change: Tensor, weight: Tensor, *, everywhere: bool) -> None:
        """Add ``change @ weight`` to ``first``; if it is everywhere, only when it is needed (see :meth:`settle`).

        Args:
            change: of a part of the joint action, ``(rows, size)``.
            weight: of this part, ``(2, size, hidden)``.
            everywhere: no row is expected to stay what it was.
        """
        self.settle()
        rows = None
        if everywhere:
            self._pending, self._all_stale = (change, weight), True
            return
        moved = (change != 0).any(1)
        some = moved.nonzero().squeeze(1)
        if some.numel() <= FEW * self.rows:
            self._stale.logical_or_(moved)
            rows, change = some, change.index_select(0, some)
        self._all_stale |= rows is None
        for first, own in zip(self._firsts, weight.unbind()):
            self.library.product(change, own, first, rows=rows)

    def settle(self) -> None:
        """Make moves that are still to be made: now ``first`` is right."""
        if self._pending is not None:
            change, weight = self._pending
            for first, own in zip(self._firsts, weight.unbind()):
                self.library.product(change, own, first)
            self._pending = None

    def slope_in(self, weight: Tensor) -> Tensor:
        """Slope of ``q`` in the part of the joint action with this ``weight``, ``(rows, size)``; renews ``q``."""
        self._renew()
        size, hidden = weight.shape[1:]
        out = torch.empty(self.rows, size)
        self.library.slope_in(
            self._slope.data_ptr(),
            self._of_first_twin.data_ptr(),
            weight[0].data_ptr(),
            weight[1].data_ptr(),
            weight.stride(1),
            out.data_ptr(),
            self.rows,
            hidden,
            size,
            torch.get_num_threads(),
        )
        return out

    def _renew(self) -> None:
        rows = None
        if not self._all_stale:
            rows = self._stale.nonzero().squeeze(1)
            if rows.numel() > FEW * self.rows:
                rows = None
        if rows is None or rows.numel():
            self._evaluate(rows)
        self._stale.zero_()
        self._all_stale = False

    def _evaluate(self, rows: Tensor | None) -> None:
        """Make ``q``, which twin it is of, and its slope anew in some rows, or in all."""
        half, move = self.library.half, None
        if self._pending is not None:  # then all rows are stale
            change, weight = self._pending
            parts = (c_void_p * 2)(weight[0].data_ptr(), weight[1].data_ptr())
            move = byref(Change(change.data_ptr(), parts, change.shape[1], weight.stride(1)))
        self.library.smaller(
            byref(self._twins[0]),
            byref(self._twins[1]),
            self._firsts[0].data_ptr(),
            self._firsts[1].data_ptr(),
            move,
            address(rows),
            self.rows if rows is None else rows.numel(),
            self._packed.data_ptr(),
            self._packed_as is not half,
            self.q.data_ptr(),
            self._of_first_twin.data_ptr(),
            self._slope.data_ptr(),
            half,
            torch.get_num_threads(),
        )
        self._packed_as, self._pending = half, None


def network(
    net: StackedMLP,
    member: int,
    posts: Sequence[Tensor | None],
    pres: Sequence[Tensor | None],
    normalized: Tensor | None,
) -> Network:
    """A member's weights and buffers for the library. None of them may move while it is used.

    Args:
        net: the networks.
        member: which.
        posts: where the input of each layer is kept, ``(rows, in)``.
        pres: where the output of each layer before the activation is kept, ``(rows, out)``.
        normalized: where the normalised input is kept, ``(rows, in)``.
    """
    weights, grads = net.layers(net.stacks), net.layers(net.grad_stacks)
    layers = [
        Layer(
            *weight.shape[1:],
            *(part[member].data_ptr() for part in (weight, bias, weight_grad, bias_grad)),
            address(post),
            address(pre),
        )
        for (weight, bias), (weight_grad, bias_grad), post, pre in zip(weights, grads, posts, pres)
    ]
    norm = [part[member].data_ptr() for part in (*net.stacks[:2], *net.grad_stacks[:2])]
    return Network(
        len(layers),
        (Layer * len(layers))(*layers),
        *(norm if net.normalize_input else [None] * 4),
        address(normalized),
        ACTIVATIONS[net.activation_name],
    )
