"""The agents' policies pi_i(a_i | o_i)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_hasac.components.task import Task
from plugin_hasac.modules.distributions import (
    MaskedCategorical,
    SquashedGaussian,
    distribution,
    draw_noise,
    output_dim,
)
from plugin_hasac.modules.stacked import StackedMLP

# What samples of everybody's action are made of: per group of agents ``(members, batch, encoded_dim)``.
JointNoise = list[Tensor]


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
        self.device = device
        self.agent_ids = torch.eye(task.n_agents, device=device)
        self.nets: list[StackedMLP] = []
        self.members = [torch.tensor(group, device=device) for group in task.groups]
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

        self._network_settings: dict[str, Any] = {
            "hidden_sizes": hidden_sizes,
            "activation": activation,
            "normalize_input": normalize_input,
            "share_param": share_param,
        }

    def twin(self, device: torch.device) -> Policies:
        """Policies of the same shape on another device, to copy to."""
        return Policies(self.task, **self._network_settings, device=device, generator=torch.Generator())

    def copy_from(self, other: Policies) -> None:
        """Take over the weights of policies of the same shape."""
        for mine, theirs in zip(self.nets, other.nets):
            mine.flat.copy_(theirs.flat)

    @property
    def parameters_in_use(self) -> int:
        """Weights that picking one action for everybody takes, those that agents share counted for each."""
        return sum(net.flat.shape[1] * len(group) for net, group in zip(self.nets, self.task.groups))

    def network(self, agent: int) -> int:
        """Index of the agent's network among all; agents that share parameters have the same one."""
        group, member = self.place[agent]
        return sum(net.count for net in self.nets[:group]) + (0 if self.share_param else member)

    def member(self, agent: int) -> tuple[StackedMLP, int]:
        """The agent's networks and its place among them."""
        group, member = self.place[agent]
        return self.nets[group], 0 if self.share_param else member

    def weights(self, agent: int) -> Tensor:
        """The parameters theta_i, ``(n_parameters,)``."""
        net, member = self.member(agent)
        return net.flat[member]

    def noise(self, rows: int, generator: torch.Generator, samples: int | None = None) -> JointNoise:
        """Fresh noise for a sample of everybody's action in each of ``rows`` rows; for several with them in front."""
        result = []
        for group in self.task.groups:
            shape = (len(group), rows) if samples is None else (samples, len(group), rows)
            result.append(draw_noise(self.task.agents[group[0]].action, shape, self.device, generator))
        return result

    def own(self, noise: JointNoise, agent: int) -> Tensor:
        """One agent's part, ``(batch, encoded_dim)``."""
        group, member = self.place[agent]
        return noise[group][member]

    def of_agent(
        self, agent: int, obs: Tensor, avail: Tensor, weights: Tensor | None = None
    ) -> MaskedCategorical | SquashedGaussian:
        """One agent's distribution.

        Args:
            agent: index i.
            obs: ``(batch, obs_dim)``, padded or not.
            avail: ``(batch, avail_dim)``, padded or not.
            weights: to use instead of the agent's own, ``(n_parameters,)``, for a gradient.
        """
        spec, net = self.task.agents[agent], self.member(agent)[0]
        output = net.forward(self.weights(agent) if weights is None else weights, self.own_obs(agent, obs))
        return distribution(spec.action, output, avail[..., : spec.action.avail_dim])

    def own_obs(self, agent: int, obs: Tensor) -> Tensor:
        """The input of an agent's network from its padded observation ``(batch, obs_dim)``."""
        obs = obs[..., : self.task.agents[agent].obs_dim]
        if self.share_param:
            obs = torch.cat([obs, self.agent_ids[agent].expand(obs.shape[0], -1)], dim=-1)
        return obs

    def group_inputs(self, group: int, obs: Tensor, avail: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs and masks of a group's networks, ``(members, batch, …)``, from those of all agents."""
        members, spec = self.members[group], self.task.agents[self.task.groups[group][0]]
        everyone = len(self.members) == 1
        own_obs = (obs if everyone else obs[members])[..., : spec.obs_dim]
        own_avail = (avail if everyone else avail[members])[..., : spec.action.avail_dim]
        if self.share_param:
            ids = self.agent_ids[members][:, None].expand(-1, obs.shape[1], -1)
            own_obs = torch.cat([own_obs, ids], dim=-1)
        return own_obs, own_avail

    def of_groups(self, obs: Tensor, avail: Tensor) -> list[MaskedCategorical | SquashedGaussian]:
        """The distributions of each group's agents, stacked, without gradient.

        Args:
            obs: ``(n_agents, batch, obs_dim)``.
            avail: ``(n_agents, batch, avail_dim)``, bool.
        """
        result = []
        for index, (group, net) in enumerate(zip(self.task.groups, self.nets)):
            own_obs, own_avail = self.group_inputs(index, obs, avail)
            result.append(distribution(self.task.agents[group[0]].action, net.evaluate(own_obs), own_avail))
        return result

    @torch.no_grad()
    def sample(self, obs: Tensor, avail: Tensor, noise: JointNoise) -> tuple[Tensor, Tensor]:
        """Draw everybody's action.

        Returns:
            The encoded joint action ``(batch, joint_action_dim)`` and the log-probabilities ``(n_agents, batch)``.
        """
        distributions = self.of_groups(obs, avail)
        samples = [each.rsample(own) for each, own in zip(distributions, noise)]
        return self.join([action for action, _ in samples]), self.by_agent([log_prob for _, log_prob in samples])

    @torch.no_grad()
    def act(self, obs: Tensor, avail: Tensor, *, greedy: bool, generator: torch.Generator) -> Tensor:
        """Everybody's action in the env's units (greedy: the mode), ``(n_agents, batch, action_width)``."""
        distributions = self.of_groups(obs, avail)
        if greedy:
            chosen = [each.mode() for each in distributions]
        else:
            chosen = [each.sample(own) for each, own in zip(distributions, self.noise(obs.shape[1], generator))]
        if len(chosen) == 1:
            return self.task.agents[0].action.decode(chosen[0])
        shape = (self.task.n_agents, obs.shape[1], self.task.action_width)
        actions = torch.zeros(shape, dtype=torch.int64 if self.task.is_discrete else torch.float32, device=obs.device)
        for group, members, encoded in zip(self.task.groups, self.members, chosen):
            space = self.task.agents[group[0]].action
            actions[members, :, : space.width] = space.decode(encoded).to(actions.dtype)
        return actions

    def encode(self, actions: Tensor) -> Tensor:
        """Actions ``(n_agents, batch, action_width)`` to the critics' input ``(batch, joint_action_dim)``."""
        encoded = []
        for group, members in zip(self.task.groups, self.members):
            space = self.task.agents[group[0]].action
            own = (actions if len(self.members) == 1 else actions[members])[..., : space.width]
            encoded.append(space.encode(own))
        return self.join(encoded)

    def join(self, encoded: Sequence[Tensor]) -> Tensor:
        """Per group ``(members, batch, encoded_dim)`` to the joint action ``(batch, joint_action_dim)``, by agent."""
        if len(encoded) == 1:
            return encoded[0].transpose(0, 1).flatten(1)
        by_agent = [encoded[group][member] for group, member in (self.place[i] for i in range(self.task.n_agents))]
        return torch.cat(by_agent, dim=-1)

    def by_agent(self, values: Sequence[Tensor]) -> Tensor:
        """Per group ``(members, batch)`` to ``(n_agents, batch)``."""
        if len(values) == 1:
            return values[0]
        joined = values[0].new_empty(self.task.n_agents, *values[0].shape[1:])
        for members, own in zip(self.members, values):
            joined[members] = own
        return joined

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The groups' networks, for a checkpoint."""
        return [net.state_dict() for net in self.nets]

    def load_state_dict(self, state: list[dict[str, Tensor]]) -> None:
        """Raises ValueError if the groups or shapes do not fit."""
        if len(state) != len(self.nets):
            raise ValueError(f"{len(state)} groups of agents, expected {len(self.nets)}")
        for net, saved in zip(self.nets, state):
            net.load_state_dict(saved)
