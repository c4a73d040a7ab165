"""Twin centralised soft critics Q_1, Q_2(s, a_1, …, a_n)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_hasac.components.action_spaces import Categorical
from plugin_hasac.components.task import Task
from plugin_hasac.modules.stacked import StackedMLP, affine


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
        self.weights = self.net.flat.detach().requires_grad_()  # shares the memory; for automatic differentiation

    def embed_state(self, state: Tensor) -> Tensor:
        """First layer without its action part: ``(batch, state_dim) -> (2, batch, hidden)``."""
        weight, bias = self.net.layers(self.net.unpack(self.weights))[0]
        return affine(state.expand(2, -1, -1), weight[:, : self.state_dim], bias)

    def embed_actions(self, joint: Tensor) -> Tensor:
        """Action part of the first layer: ``(batch, joint_action_dim) -> (2, batch, hidden)``."""
        weight, _ = self.net.layers(self.net.unpack(self.weights))[0]
        return torch.matmul(joint, weight[:, self.state_dim :])

    def head(self, embedded: Tensor) -> Tensor:
        """Everything after the first layer: ``(2, rows, hidden) -> (2, rows)``."""
        hidden, layers = embedded, self.net.layers(self.net.unpack(self.weights))
        for weight, bias in layers[1:]:
            hidden = affine(self.net.activation(hidden), weight, bias)
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
        weight = self.net.layers(self.net.unpack(self.weights))[0][0][:, self.state_dim :]
        embedded = embedded_state + self.embed_actions(joint)
        rows = []
        for factor in space.factors():
            place = slice(own.start + factor.start, own.start + factor.stop)
            others = embedded - torch.matmul(joint[:, place], weight[:, place])
            rows.append(others[:, :, None] + weight[:, None, place])
        return self.head(torch.cat(rows, dim=2).flatten(1, 2)).unflatten(1, (-1, space.encoded_dim))

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return self.net.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError if the shapes do not fit."""
        self.net.load_state_dict(state)

    @torch.no_grad()
    def copy_from(self, other: TwinCritic) -> None:
        """Become equal to ``other``."""
        self.net.flat.copy_(other.net.flat)

    @torch.no_grad()
    def polyak_from(self, other: TwinCritic, polyak: float) -> None:
        """Target update: mine <- (1 - polyak) mine + polyak other."""
        self.net.flat.lerp_(other.net.flat, polyak)

    @torch.no_grad()
    def rescale_output(self, scale: Tensor, shift: Tensor) -> None:
        """Replace every output q by ``scale * q + shift`` through the last layer's weights."""
        weight, bias = self.net.stacks[-2], self.net.stacks[-1]
        weight.mul_(scale)
        bias.mul_(scale).add_(shift)
