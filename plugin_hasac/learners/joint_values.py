"""The smaller of the twin critics at the joint action, kept up to date row by row while agents take their turns."""

from __future__ import annotations

import torch
from torch import Tensor

from plugin_hasac.modules.passes import activate, deactivate, product
from plugin_hasac.modules.stacked import StackedMLP

FEW = 0.5  # of the rows: more are evaluated all together, without gathering them


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
        self.net, self.rows = net, rows
        hidden = net.sizes[1:-1]
        self.first = torch.empty(2, rows, hidden[0])
        self.q = torch.empty(rows)
        self._of_first_twin = torch.empty(rows, 1, dtype=torch.bool)
        self._slope = torch.empty(rows, hidden[0])
        self._stale = torch.ones(rows, dtype=torch.bool)
        self._posts = [torch.empty(2, rows, size) for size in hidden]
        separate = net.activation_name == "silu"  # the others are computed in place: less memory is touched
        self._pres = [torch.empty_like(post) if separate else post for post in self._posts]

    def restart(self) -> None:
        """All rows of ``first`` are new."""
        self._stale.fill_(True)

    def move(self, change: Tensor, weight: Tensor) -> None:
        """Add ``change @ weight`` to ``first``.

        Args:
            change: of a part of the joint action, ``(rows, size)``.
            weight: of this part, ``(2, size, hidden)``.
        """
        moved = (change != 0).any(1)
        rows = moved.nonzero().squeeze(1)
        if len(rows) > FEW * self.rows:
            product(change.expand(2, -1, -1), weight, self.first, add=True)
        else:
            change = change.index_select(0, rows)
            for first, own in zip(self.first, weight):
                first.index_add_(0, rows, change @ own)
        self._stale |= moved

    def slope_in(self, weight: Tensor) -> Tensor:
        """Slope of ``q`` in the part of the joint action with this ``weight``, ``(rows, size)``; renews ``q``."""
        self._renew()
        first, second = (self._slope @ own.t() for own in weight)
        return torch.where(self._of_first_twin, first, second)

    def _renew(self) -> None:
        rows = self._stale.nonzero().squeeze(1)
        if len(rows) > FEW * self.rows:
            self.q, self._of_first_twin = self._evaluate(self.first, self._slope)
        elif len(rows):
            slope = torch.empty(len(rows), self._slope.shape[1])
            self.q[rows], self._of_first_twin[rows] = self._evaluate(self.first.index_select(1, rows), slope)
            self._slope[rows] = slope
        self._stale.zero_()

    def _evaluate(self, first: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The smaller Q and whether it is the first twin's, for some rows; fills ``slope``."""
        one, other = (self._forward(twin, pre) for twin, pre in enumerate(first))
        smaller = one <= other
        for twin, rows in enumerate((smaller.nonzero().squeeze(1), (~smaller).nonzero().squeeze(1))):
            slope[rows] = self._backward(twin, rows, first[twin])
        return torch.minimum(one, other), smaller[:, None]

    def _layers(self, twin: int) -> list[tuple[Tensor, Tensor]]:
        return [(weight[twin], bias[twin]) for weight, bias in self.net.layers(self.net.stacks)[1:]]

    def _forward(self, twin: int, pre: Tensor) -> Tensor:
        *hidden, (weight, bias) = self._layers(twin)
        for k, posts in enumerate(self._posts):
            post = posts[twin, : len(pre)]
            activate(self.net.activation_name, pre, post)
            if k < len(hidden):
                pre = torch.addmm(hidden[k][1], post, hidden[k][0], out=self._pres[k + 1][twin, : len(pre)])
        return post @ weight[:, 0] + bias[0]

    def _backward(self, twin: int, rows: Tensor, first: Tensor) -> Tensor:
        layers = self._layers(twin)
        slope = layers[-1][0].t().repeat(len(rows), 1)
        for k in range(len(layers) - 1, -1, -1):
            if k < len(layers) - 1:
                slope = slope @ layers[k][0].t()
            pre = first if k == 0 else self._pres[k][twin]
            post = self._posts[k][twin].index_select(0, rows)
            seen = post if self._pres[k] is self._posts[k] else pre.index_select(0, rows)
            deactivate(self.net.activation_name, slope, seen, post)
        return slope
