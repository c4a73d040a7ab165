"""The smaller of the twin critics at the joint action, kept up to date row by row while agents take their turns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_hasac.modules.passes import activate, deactivate
from plugin_hasac.modules.stacked import StackedMLP

FEW = 0.5  # of the rows: more are evaluated all together, without gathering them
GRAIN = 16  # some rows are evaluated in multiples of it: libraries build a kernel for every shape of a product


def padded(count: int) -> int:
    """The number of rows that are evaluated where ``count`` are wanted."""
    return -(-count // GRAIN) * GRAIN


class JointValues:
    """min_j Q_j at a joint action, and its slope in the output of the critics' first layer, for a CPU.

    Where an agent's new sample is what it was before, as most samples of a discrete action are, nothing changes for the
    agents behind it. So only rows that moved are evaluated again.

    Args:
        net: the twin critics.
        rows: batch size.

    Attributes:
        first: output of the first layer at the joint action, ``(2, rows, hidden)``.
        q: normalised min_j Q_j, ``(rows,)``.
    """

    def __init__(self, net: StackedMLP, rows: int) -> None:
        self.activation, self.rows, room = net.activation_name, rows, padded(rows)
        hidden = net.sizes[1:-1]
        self.first = torch.empty(2, rows, hidden[0])
        self._firsts = self.first.unbind()
        self.q = torch.empty(rows)
        self._of_first_twin = torch.empty(rows, dtype=torch.bool)
        self._slope = torch.empty(rows, hidden[0])
        self._stale, self._all_stale = torch.zeros(rows, dtype=torch.bool), True
        layers = net.layers(net.stacks)[1:]
        self._layers = [[(weight[twin], bias[twin, 0]) for weight, bias in layers] for twin in range(2)]

        def buffers() -> list[Tensor]:  # what is worked on: an update allocates nothing of this size
            return [torch.zeros(room, size) for size in hidden]

        self._moved = [torch.zeros(room, hidden[0]) for _ in range(2)]
        self._moved_slope = torch.zeros(room, hidden[0])
        self._values = [torch.zeros(room) for _ in range(2)]
        self._posts = [buffers(), buffers()]
        self._in_place = net.activation_name != "silu"  # so that less memory is touched
        self._pres = self._posts if self._in_place else [buffers(), buffers()]
        self._slopes, self._own_posts, self._own_pres = buffers(), buffers(), buffers()

    def restart(self) -> None:
        """All rows of ``first`` are new."""
        self._all_stale = True

    def move(self, change: Tensor, weight: Tensor, *, everywhere: bool) -> None:
        """Add ``change @ weight`` to ``first``.

        Args:
            change: of a part of the joint action, ``(rows, size)``.
            weight: of this part, ``(2, size, hidden)``.
            everywhere: no row is expected to stay what it was.
        """
        if not everywhere:
            moved = (change != 0).any(1)
            rows = moved.nonzero().squeeze(1)
            if rows.numel() <= FEW * self.rows:
                self._stale.logical_or_(moved)
                change = change.index_select(0, rows)
                for first, own in zip(self._firsts, weight.unbind()):
                    first.index_add_(0, rows, change @ own)
                return
        self._all_stale = True
        for first, own in zip(self._firsts, weight.unbind()):
            if change.shape[1] > 1:
                first.addmm_(change, own)
            else:
                first.addcmul_(change, own)

    def slope_in(self, weight: Tensor) -> Tensor:
        """Slope of ``q`` in the part of the joint action with this ``weight``, ``(rows, size)``; renews ``q``."""
        self._renew()
        first, second = (self._slope @ weight.flatten(0, 1).t()).chunk(2, dim=1)
        return torch.where(self._of_first_twin[:, None], first, second)

    def _renew(self) -> None:
        if not self._all_stale:
            rows = self._stale.nonzero().squeeze(1)
            count = rows.numel()
            if count > FEW * self.rows:
                self._all_stale = True
            elif count:
                self._renew_some(rows, count)
        if self._all_stale:
            torch.minimum(*self._evaluate(self._firsts, self._of_first_twin, self._slope), out=self.q)
        self._stale.zero_()
        self._all_stale = False

    def _renew_some(self, rows: Tensor, count: int) -> None:
        some = padded(count)
        moved, slope = [buffer[:some] for buffer in self._moved], self._moved_slope[:some]
        for first, buffer in zip(self._firsts, moved):
            torch.index_select(first, 0, rows, out=buffer[:count])
        of_first_twin = torch.empty(some, dtype=torch.bool)
        q = torch.minimum(*self._evaluate(moved, of_first_twin, slope))
        for whole, part in ((self.q, q), (self._of_first_twin, of_first_twin), (self._slope, slope)):
            whole.index_copy_(0, rows, part[:count])

    def _evaluate(self, first: Sequence[Tensor], of_first_twin: Tensor, slope: Tensor) -> list[Tensor]:
        """Both twins' Q of some rows, given their ``first``; fills in which is the smaller, and its slope."""
        values = [out[: slope.shape[0]] for out in self._values]
        for twin, pre in enumerate(first):
            self._forward(twin, pre, values[twin])
        torch.le(*values, out=of_first_twin)
        for twin, own in enumerate((of_first_twin, ~of_first_twin)):
            rows = own.nonzero().squeeze(1)
            slope.index_copy_(0, rows, self._backward(twin, rows, first[twin]))
        return values

    def _forward(self, twin: int, pre: Tensor, out: Tensor) -> None:
        layers, count = self._layers[twin], pre.shape[0]
        for k, (weight, bias) in enumerate(layers):
            post = self._posts[twin][k][:count]
            activate(self.activation, pre, post)
            if k < len(layers) - 1:
                pre = torch.addmm(bias, post, weight, out=self._pres[twin][k + 1][:count])
            else:
                torch.addmv(bias, post, weight[:, 0], out=out)

    def _backward(self, twin: int, rows: Tensor, first: Tensor) -> Tensor:
        layers, count = self._layers[twin], rows.numel()
        some, last = padded(count), len(layers) - 1
        slope = self._slopes[last][:some].copy_(layers[last][0].t())
        for k in range(last, -1, -1):
            if k < last:
                slope = torch.mm(slope, layers[k][0].t(), out=self._slopes[k][:some])
            post = pre = self._own_posts[k][:some]
            torch.index_select(self._posts[twin][k], 0, rows, out=post[:count])
            if not self._in_place:
                pre = self._own_pres[k][:some]
                torch.index_select(self._pres[twin][k] if k else first, 0, rows, out=pre[:count])
            deactivate(self.activation, slope, pre, post)
        return slope[:count]
