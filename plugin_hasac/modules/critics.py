"""Twin centralised soft critics Q_1, Q_2(s, a_1, …, a_n)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plugin_hasac.components.action_spaces import Categorical
from plugin_hasac.components.task import Task
from plugin_hasac.modules.stacked import StackedMLP


class TwinCritic:
    """Two Q-networks evaluated together; the joint action enters as the agents' concatenated encoded actions.

    The first layer is linear in (s, a_1, …, a_n), so its state part (:meth:`embed_state`) is computed once per batch
    and each agent's turn in the sequential update only adds the actions.

    Args:
        task: shapes.
        hidden_sizes, activation: of the networks.
        device, generator: see :class:`StackedMLP`.
    """

    def __init__(
        self,
        task: Task,
        *,
        hidden_sizes: Sequence[int],
        activation: str,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.task = task
        self.state_dim = task.state_dim
        self.net = StackedMLP(
            2,
            (task.state_dim + task.joint_action_dim, *hidden_sizes, 1),
            activation=activation,
            output_gain=1.0,
            normalize_input=False,
            device=device,
            generator=generator,
        )
        # The twins always step together, so their parameters are the stacks themselves.
        self.params = [nn.Parameter(stack) for stack in self.net.stacks]

    def embed_state(self, state: Tensor) -> Tensor:
        """First layer without its action part: ``(batch, state_dim) -> (2, batch, hidden)``."""
        weight, bias = self.params[0], self.params[1]
        return torch.baddbmm(bias, state.expand(2, -1, -1), weight[:, : self.state_dim])

    def embed_actions(self, joint: Tensor) -> Tensor:
        """Action part of the first layer: ``(batch, joint_action_dim) -> (2, batch, hidden)``."""
        return torch.matmul(joint, self.params[0][:, self.state_dim :])

    def head(self, embedded: Tensor) -> Tensor:
        """Everything after the first layer: ``(2, rows, hidden) -> (2, rows)``."""
        hidden, layers = embedded, self.net.layers(self.params)
        for weight, bias in layers[1:]:
            hidden = torch.baddbmm(bias, self.net.activation(hidden), weight)
        return hidden.squeeze(-1)

    def values(self, state: Tensor, joint: Tensor) -> Tensor:
        """Q_1 and Q_2 ``(2, batch)`` of a state ``(batch, state_dim)`` and encoded joint action."""
        return self.head(self.embed_state(state) + self.embed_actions(joint))

    def own_action_values(self, agent: int, embedded_state: Tensor, joint: Tensor) -> Tensor:
        """Q_1 and Q_2 of each choice of one agent with discrete actions, all else as given.

        With several factors, a choice replaces its own factor's; the agent's other factors stay as in ``joint``.

        Args:
            agent: index i.
            embedded_state: :meth:`embed_state` of the batch.
            joint: ``(batch, joint_action_dim)``.

        Returns:
            ``(2, batch, encoded_dim)``.
        """
        own, space = self.task.own_blocks[agent], self.task.agents[agent].action
        assert isinstance(space, Categorical)
        others = joint.clone()
        others[:, own] = 0.0
        context = embedded_state + self.embed_actions(others)
        weight = self.params[0][:, self.state_dim :][:, own]
        rows = context[:, :, None] + weight[:, None]
        factors = space.factors()
        if len(factors) > 1:
            parts = [torch.matmul(joint[:, own][:, factor], weight[:, factor]) for factor in factors]
            whole = torch.stack(parts).sum(0)
            rest = [(whole - part)[:, :, None].expand(-1, -1, n, -1) for part, n in zip(parts, space.nvec)]
            rows = rows + torch.cat(rest, dim=2)
        return self.head(rows.flatten(1, 2)).unflatten(1, (-1, space.encoded_dim))

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return self.net.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError if the shapes do not fit."""
        self.net.load_state_dict(state)

    @torch.no_grad()
    def copy_from(self, other: TwinCritic) -> None:
        """Become equal to ``other``."""
        for mine, theirs in zip(self.net.stacks, other.net.stacks):
            mine.copy_(theirs)

    @torch.no_grad()
    def polyak_from(self, other: TwinCritic, polyak: float) -> None:
        """Target update: mine <- (1 - polyak) mine + polyak other."""
        torch._foreach_lerp_(self.net.stacks, other.net.stacks, polyak)

    @torch.no_grad()
    def rescale_output(self, scale: Tensor, shift: Tensor) -> None:
        """Replace every output q by ``scale * q + shift`` through the last layer's weights."""
        weight, bias = self.net.stacks[-2], self.net.stacks[-1]
        weight.mul_(scale)
        bias.mul_(scale).add_(shift)
