"""Step-level replay that stores each observation once and hands out n-step transitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plugin_hasac.components.task import Task


@dataclass(frozen=True)
class StepData:
    """What every parallel env shows at one moment, as numpy arrays with the envs in front.

    Attributes:
        obs: ``(n_envs, n_agents, obs_dim)`` float32.
        state: ``(n_envs, state_dim)`` float32.
        avail: ``(n_envs, n_agents, avail_dim)`` bool.
    """

    obs: np.ndarray
    state: np.ndarray
    avail: np.ndarray


@dataclass(frozen=True)
class TransitionBatch:
    """A batch of n-step transitions, agents in front where there are agents.

    Attributes:
        obs, next_obs: ``(n_agents, batch, obs_dim)``.
        state, next_state: ``(batch, state_dim)``.
        avail, next_avail: ``(n_agents, batch, avail_dim)`` bool.
        actions: ``(n_agents, batch, action_width)``, in the env's units; int64 if all are indices, else float32.
        returns: ``(batch,)``, R_k' = sum of gamma^j r_{t+j} over the k' steps really taken, in reward units.
        bootstrap: ``(batch,)``, gamma^k', or 0 where the k'-th step terminated the episode.
    """

    obs: Tensor
    state: Tensor
    avail: Tensor
    actions: Tensor
    returns: Tensor
    bootstrap: Tensor
    next_obs: Tensor
    next_state: Tensor
    next_avail: Tensor


class StepReplay:
    """Ring buffer of rows, one ring per parallel env.

    A row holds one observation of all agents and, once it was taken, the action and its outcome. The successor of a
    row is the next row of its ring, so nothing is stored twice. The last observation of an episode gets a row without
    an action. Time limits therefore bootstrap from the observation that the episode really ended with.

    Args:
        task: shapes.
        capacity: rows in all (about the number of env steps that it remembers).
        n_envs: number of parallel envs.
        device: where the rows and the sampled batches live.
        seed: of the sampling.
    """

    def __init__(self, task: Task, capacity: int, n_envs: int, device: torch.device, seed: int) -> None:
        self.n_envs = n_envs
        self.rows = capacity // n_envs
        if self.rows < 3:
            raise ValueError(f"replay_size {capacity} is too small for {n_envs} parallel envs")
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        total = n_envs * self.rows

        def column(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(total, *shape, dtype=dtype, device=device)

        self.obs = column(task.n_agents, task.obs_dim, dtype=torch.float32)
        self.state = column(task.state_dim, dtype=torch.float32)
        self.avail = column(task.n_agents, task.avail_dim, dtype=torch.bool)
        self.actions = column(
            task.n_agents, task.action_width, dtype=torch.int16 if task.is_discrete else torch.float32
        )
        self.reward = column(dtype=torch.float32)
        self.terminated = column(dtype=torch.bool)
        self.acted = column(dtype=torch.bool)  # the row has an action: it can start a transition
        self.continues = column(dtype=torch.bool)  # so has its successor, in the same episode

        self.head = np.zeros(n_envs, dtype=np.int64)  # the row that waits for its action, within the ring
        self.linked = np.zeros(n_envs, dtype=bool)  # the row before head leads to it
        self.written = 1  # highest number of rows in use in any ring
        self._acted = np.zeros((n_envs, self.rows), dtype=bool)  # host copy, for counting
        self.size = 0

    def __len__(self) -> int:
        """Number of transitions that can be sampled."""
        return self.size

    def start(self, now: StepData) -> None:
        """Write the first observations of all envs; call once, before the first :meth:`add`."""
        self._observe(np.arange(self.n_envs), self.head, now)

    def add(
        self,
        actions: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        ended: np.ndarray,
        successor: StepData,
        now: StepData,
        dropped: np.ndarray | None = None,
    ) -> None:
        """Write one vector step.

        Args:
            actions: ``(n_envs, n_agents, action_width)``, taken in the rows that wait.
            reward: ``(n_envs,)``.
            terminated: ``(n_envs,)`` bool: the task ended, nothing is bootstrapped. A time limit is not termination.
            ended: ``(n_envs,)`` bool: the episode ended, for whatever reason.
            successor: what the actions led to; for an ended episode its last observation.
            now: what the envs show now; differs from ``successor`` where an ended episode was reset.
            dropped: ``(n_envs,)`` bool: forget these actions, as if the episode had been cut off before them.
        """
        kept = np.ones(self.n_envs, dtype=bool) if dropped is None else ~dropped
        envs = np.flatnonzero(kept)
        current = self._flat(envs, self.head[envs])
        self.actions[current] = self._tensor(actions[envs], self.actions.dtype)
        self.reward[current] = self._tensor(reward[envs], torch.float32)
        self.terminated[current] = self._tensor(terminated[envs], torch.bool)
        self.continues[current] = False
        self._set_acted(envs, self.head[envs], True)
        linked = np.flatnonzero(kept & self.linked)
        self.continues[self._flat(linked, (self.head[linked] - 1) % self.rows)] = True

        self._advance(envs)
        self._observe(envs, self.head[envs], successor)
        over = np.flatnonzero(ended | ~kept)
        self._advance(over)
        self._observe(over, self.head[over], now)
        self.linked = kept & ~ended

    def sample(self, batch_size: int, n_step: int, gamma: float) -> TransitionBatch:
        """Draw transitions uniformly, with replacement.

        A transition spans up to ``n_step`` steps: fewer where the episode, or what is known of it so far, ends.
        """
        env, row = self._draw(batch_size)
        while not (ready := self.acted[env * self.rows + row]).all():
            new_env, new_row = self._draw(batch_size)
            env, row = torch.where(ready, env, new_env), torch.where(ready, row, new_row)
        return self.gather(env, row, n_step, gamma)

    def gather(self, env: Tensor, row: Tensor, n_step: int, gamma: float) -> TransitionBatch:
        """The transitions that start at the given rows ``(batch,)``."""
        base = env * self.rows
        offsets = torch.arange(n_step, device=self.device)
        span = base[:, None] + (row[:, None] + offsets) % self.rows  # (batch, n_step)
        reached = torch.ones(span.shape, device=self.device)
        reached[:, 1:] = self.continues[span[:, :-1]].cumprod(1)
        steps = reached.sum(1).long()  # k'
        last = span.gather(1, steps[:, None] - 1).squeeze(1)
        start, end = span[:, 0], base + (row + steps) % self.rows
        return TransitionBatch(
            obs=self.obs[start].transpose(0, 1),
            state=self.state[start],
            avail=self.avail[start].transpose(0, 1),
            actions=self._wide(self.actions[start].transpose(0, 1)),
            returns=(reached * gamma**offsets * self.reward[span]).sum(1),
            bootstrap=gamma**steps * ~self.terminated[last],
            next_obs=self.obs[end].transpose(0, 1),
            next_state=self.state[end],
            next_avail=self.avail[end].transpose(0, 1),
        )

    @staticmethod
    def _wide(actions: Tensor) -> Tensor:
        return actions if actions.is_floating_point() else actions.long()

    def _draw(self, batch_size: int) -> tuple[Tensor, Tensor]:
        def draw(high: int) -> Tensor:
            return torch.randint(high, (batch_size,), device=self.device, generator=self.generator)

        return draw(self.n_envs), draw(self.written)

    def _tensor(self, values: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(values).to(device=self.device, dtype=dtype)

    def _flat(self, envs: np.ndarray, rows: np.ndarray) -> Tensor:
        return self._tensor(envs * self.rows + rows, torch.int64)

    def _set_acted(self, envs: np.ndarray, rows: np.ndarray, acted: bool) -> None:
        self.size += int((acted ^ self._acted[envs, rows]).sum()) * (1 if acted else -1)
        self._acted[envs, rows] = acted
        self.acted[self._flat(envs, rows)] = acted

    def _advance(self, envs: np.ndarray) -> None:
        self.head[envs] = (self.head[envs] + 1) % self.rows
        self.written = max(self.written, int(self.head.max()) + 1)

    def _observe(self, envs: np.ndarray, rows: np.ndarray, what: StepData) -> None:
        target = self._flat(envs, rows)
        self.obs[target] = self._tensor(what.obs[envs], torch.float32)
        self.state[target] = self._tensor(what.state[envs], torch.float32)
        # An env may offer no action at all once an episode is over; a policy is only defined over at least one.
        avail = what.avail[envs]
        self.avail[target] = self._tensor(avail | ~avail.any(-1, keepdims=True), torch.bool)
        self._set_acted(envs, rows, False)
