"""What a task looks like to the algorithm: how many agents, and the shapes that flow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Shapes of one cooperative task (a Dec-POMDP with discrete actions).

    Hosts pad observations and action sets to equal length for all agents; actions that an agent does not have
    are unavailable to it at all times.

    Attributes:
        n_agents: number of agents, n.
        obs_dim: length of each agent's local observation o_i.
        state_dim: length of the global state s that the critics see.
        n_actions: size of each agent's (padded) action set.
        episode_limit: time limit of an episode, in env steps.
    """

    n_agents: int
    obs_dim: int
    state_dim: int
    n_actions: int
    episode_limit: int

    @property
    def joint_action_dim(self) -> int:
        """Length of the concatenated one-hot joint action, the critics' second input."""
        return self.n_agents * self.n_actions

    def own_block(self, agent: int) -> slice:
        """Where an agent's one-hot action lies in the joint action."""
        return slice(agent * self.n_actions, (agent + 1) * self.n_actions)
