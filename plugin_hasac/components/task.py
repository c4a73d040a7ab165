"""What a task looks like to the algorithm: its agents, and the shapes that flow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from plugin_hasac.components.action_spaces import ActionSpace, Categorical


@dataclass(frozen=True)
class AgentSpec:
    """One agent.

    Attributes:
        obs_dim: length of its local observation o_i.
        action: its action space.
    """

    obs_dim: int
    action: ActionSpace


@dataclass(frozen=True)
class Task:
    """One cooperative task (a Dec-POMDP).

    Arrays that hold all agents are padded to the largest agent; networks read an agent's own part only.

    Attributes:
        agents: the agents, 1…n.
        state_dim: length of the global state s that the critics see.
        episode_limit: time limit of an episode, in env steps.
    """

    agents: tuple[AgentSpec, ...]
    state_dim: int
    episode_limit: int

    @classmethod
    def discrete(cls, n_agents: int, obs_dim: int, state_dim: int, n_actions: int, episode_limit: int) -> Task:
        """Equal agents with Discrete actions, as hosts' own envs have (padded and masked where agents differ)."""
        return cls((AgentSpec(obs_dim, Categorical((n_actions,))),) * n_agents, state_dim, episode_limit)

    @property
    def n_agents(self) -> int:
        """Number of agents, n."""
        return len(self.agents)

    @cached_property
    def obs_dim(self) -> int:
        """Padded length of an observation."""
        return max(agent.obs_dim for agent in self.agents)

    @cached_property
    def avail_dim(self) -> int:
        """Padded length of an availability mask."""
        return max(agent.action.avail_dim for agent in self.agents)

    @cached_property
    def action_width(self) -> int:
        """Padded length of an action."""
        return max(agent.action.width for agent in self.agents)

    @cached_property
    def is_discrete(self) -> bool:
        """Whether every action is made of indices."""
        return all(isinstance(agent.action, Categorical) for agent in self.agents)

    @cached_property
    def joint_action_dim(self) -> int:
        """Length of the concatenated encoded actions, the critics' second input."""
        return self.own_blocks[-1].stop

    @cached_property
    def own_blocks(self) -> list[slice]:
        """Where each agent's encoded action lies in the joint action."""
        ends = np.cumsum([agent.action.encoded_dim for agent in self.agents]).tolist()
        return [slice(end - agent.action.encoded_dim, end) for end, agent in zip(ends, self.agents)]

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """The agents by equal spec: those whose networks have one shape and can be evaluated together."""
        members: dict[AgentSpec, list[int]] = {}
        for index, agent in enumerate(self.agents):
            members.setdefault(agent, []).append(index)
        return [tuple(indices) for indices in members.values()]

    def uniform_actions(self, rng: np.random.Generator, avail: np.ndarray) -> np.ndarray:
        """Uniformly random legal actions: ``(n_envs, n_agents, avail_dim) -> (n_envs, n_agents, action_width)``."""
        noise_dim = max(agent.action.encoded_dim for agent in self.agents)
        noise = rng.random((len(avail), self.n_agents, noise_dim))
        actions = np.zeros((len(avail), self.n_agents, self.action_width), np.int64 if self.is_discrete else float)
        for i, space in enumerate(agent.action for agent in self.agents):
            own = space.uniform(noise[:, i, : space.encoded_dim], avail[:, i, : space.avail_dim])
            actions[:, i, : space.width] = own
        return actions
