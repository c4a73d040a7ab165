"""The agents' policies pi_i(a_i | o_i)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plugin_hasac.components.task import Task
from plugin_hasac.modules.distributions import MaskedCategorical, SquashedGaussian, distribution, output_dim
from plugin_hasac.modules.stacked import StackedMLP


class Policies:
    """One policy per agent. Agents with equal spaces form a group, whose networks are evaluated together.

    Args:
        task: the agents.
        hidden_sizes: widths of the hidden layers.
        activation: name of the activation.
        normalize_input: LayerNorm on the observation (``use_feature_normalization``).
        share_param: one network for all agents of a group, with the agent's one-hot id appended to its observation.
        device, generator: see :class:`StackedMLP`.
    """

    def __init__(
        self,
        task: Task,
        *,
        hidden_sizes: Sequence[int],
        activation: str,
        normalize_input: bool,
        share_param: bool,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.task = task
        self.share_param = share_param
        self.agent_ids = torch.eye(task.n_agents, device=device)
        self.nets = []
        self.place = {agent: (g, m) for g, group in enumerate(task.groups) for m, agent in enumerate(group)}
        for group in task.groups:
            spec = task.agents[group[0]]
            obs_dim = spec.obs_dim + (task.n_agents if share_param else 0)
            self.nets.append(
                StackedMLP(
                    1 if share_param else len(group),
                    (obs_dim, *hidden_sizes, output_dim(spec.action)),
                    activation=activation,
                    output_gain=0.01,  # close to uniform at the start
                    normalize_input=normalize_input,
                    device=device,
                    generator=generator,
                )
            )

    def network(self, agent: int) -> int:
        """Index of the agent's network among all; agents that share parameters have the same one."""
        group, member = self.place[agent]
        return sum(net.count for net in self.nets[:group]) + (0 if self.share_param else member)

    def parameters(self, agent: int) -> list[nn.Parameter]:
        """The parameters theta_i that ``agent``'s optimiser steps."""
        group, member = self.place[agent]
        return self.nets[group].members[0 if self.share_param else member]

    def of_agent(self, agent: int, obs: Tensor, avail: Tensor) -> MaskedCategorical | SquashedGaussian:
        """One agent's distribution, with gradient: ``(batch, obs_dim), (batch, avail_dim)``, padded or not."""
        spec = self.task.agents[agent]
        obs = obs[..., : spec.obs_dim]
        if self.share_param:
            obs = torch.cat([obs, self.agent_ids[agent].expand(obs.shape[0], -1)], dim=-1)
        output = self.nets[self.place[agent][0]].forward(self.parameters(agent), obs)
        return distribution(spec.action, output, avail[..., : spec.action.avail_dim])

    def of_groups(self, obs: Tensor, avail: Tensor) -> list[MaskedCategorical | SquashedGaussian]:
        """The distributions of each group's agents, stacked, without gradient.

        Args:
            obs: ``(n_agents, batch, obs_dim)``.
            avail: ``(n_agents, batch, avail_dim)``, bool.
        """
        result = []
        for group, net in zip(self.task.groups, self.nets):
            spec, everyone = self.task.agents[group[0]], len(group) == self.task.n_agents
            own_obs = (obs if everyone else obs[list(group)])[..., : spec.obs_dim]
            own_avail = (avail if everyone else avail[list(group)])[..., : spec.action.avail_dim]
            stacks: Sequence[Tensor] = net.stacks
            if self.share_param:
                ids = self.agent_ids[list(group), None].expand(-1, obs.shape[1], -1)
                own_obs = torch.cat([own_obs, ids], dim=-1)
                stacks = [stack.expand(len(group), -1, -1) for stack in stacks]
            result.append(distribution(spec.action, net.forward(stacks, own_obs), own_avail))
        return result

    @torch.no_grad()
    def sample(self, obs: Tensor, avail: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw everybody's action.

        Returns:
            The encoded joint action ``(batch, joint_action_dim)`` and the log-probabilities ``(n_agents, batch)``.
        """
        distributions = self.of_groups(obs, avail)
        encoded = [each.sample(generator) for each in distributions]
        log_probs = [each.log_prob(action) for each, action in zip(distributions, encoded)]
        if len(encoded) == 1:
            return encoded[0].transpose(0, 1).flatten(1), log_probs[0]
        joined = torch.empty(self.task.n_agents, obs.shape[1], device=obs.device)
        for group, values in zip(self.task.groups, log_probs):
            joined[list(group)] = values
        return self._join([action.unbind(0) for action in encoded]), joined

    @torch.no_grad()
    def act(self, obs: Tensor, avail: Tensor, *, greedy: bool, generator: torch.Generator) -> Tensor:
        """Everybody's action in the env's units (greedy: the mode), ``(n_agents, batch, action_width)``."""
        chosen = [each.mode() if greedy else each.sample(generator) for each in self.of_groups(obs, avail)]
        if len(chosen) == 1:
            return self.task.agents[0].action.decode(chosen[0])
        shape = (self.task.n_agents, obs.shape[1], self.task.action_width)
        actions = torch.zeros(shape, dtype=torch.int64 if self.task.is_discrete else torch.float32, device=obs.device)
        for group, encoded in zip(self.task.groups, chosen):
            space = self.task.agents[group[0]].action
            actions[list(group), :, : space.width] = space.decode(encoded).to(actions.dtype)
        return actions

    def encode(self, actions: Tensor) -> Tensor:
        """Actions ``(n_agents, batch, action_width)`` to the critics' input ``(batch, joint_action_dim)``."""
        encoded = []
        for group in self.task.groups:
            space, everyone = self.task.agents[group[0]].action, len(group) == self.task.n_agents
            own = (actions if everyone else actions[list(group)])[..., : space.width]
            encoded.append(space.encode(own))
        if len(encoded) == 1:
            return encoded[0].transpose(0, 1).flatten(1)
        return self._join([action.unbind(0) for action in encoded])

    def _join(self, encoded: Sequence[Sequence[Tensor]]) -> Tensor:
        """Per group and member ``(batch, encoded_dim)`` to the joint action, agents in their order."""
        by_agent = [encoded[group][member] for group, member in (self.place[i] for i in range(self.task.n_agents))]
        return torch.cat(by_agent, dim=-1)

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The groups' networks, for a checkpoint."""
        return [net.state_dict() for net in self.nets]

    def load_state_dict(self, state: list[dict[str, Tensor]]) -> None:
        """Raises ValueError if the groups or shapes do not fit."""
        if len(state) != len(self.nets):
            raise ValueError(f"{len(state)} groups of agents, expected {len(self.nets)}")
        for net, saved in zip(self.nets, state):
            net.load_state_dict(saved)
