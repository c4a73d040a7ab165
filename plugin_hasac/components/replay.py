"""Step-level replay that stores each observation once and hands out n-step transitions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plugin_hasac.components.task import Task

FREE_MEMORY_SHARE = 0.8  # of a GPU, that a replay may take


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

    def to(self, device: torch.device) -> TransitionBatch:
        """The same on another device."""
        return TransitionBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def copy_from(self, other: TransitionBatch) -> None:
        """Overwrite with a batch of the same shapes."""
        for name, value in vars(self).items():
            value.copy_(getattr(other, name), non_blocking=True)


class StepReplay:
    """Ring buffer of rows, one ring per parallel env.

    A row holds one observation of all agents and, once it was taken, the action and its outcome. The successor of a
    row is the next row of its ring, so nothing is stored twice. The last observation of an episode gets a row without
    an action. Time limits therefore bootstrap from the observation that the episode really ended with.

    Args:
        task: shapes.
        capacity: rows in all (about the number of env steps that it remembers).
        n_envs: number of parallel envs.
        device: where the rows live and batches are drawn.
        seed: of the sampling.
        pin_memory: keep the rows where a GPU can fetch them from (CPU only).
    """

    def __init__(
        self, task: Task, capacity: int, n_envs: int, device: torch.device, seed: int, *, pin_memory: bool = False
    ) -> None:
        self.n_envs = n_envs
        self.rows = capacity // n_envs
        if self.rows < 3:
            raise ValueError(f"replay_size {capacity} is too small for {n_envs} parallel envs")
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        total = n_envs * self.rows
        self._columns = Columns(self.columns(task), total, device, pin_memory)

        self.head = np.zeros(n_envs, dtype=np.int64)  # the row that waits for its action, within the ring
        self.linked = np.zeros(n_envs, dtype=bool)  # the row before head leads to it
        # The rows with an action, in no order: they can start a transition. place[row] is its place there, or -1.
        self.startable = np.zeros(total, dtype=np.int64)
        self.place = np.full(total, -1, dtype=np.int64)
        self.size = 0
        self._size = torch.zeros((), dtype=torch.float64, device=device)  # the same for the device
        self._flushed = False

    @classmethod
    def fitting(cls, task: Task, capacity: int, n_envs: int, device: torch.device, seed: int) -> StepReplay:
        """On ``device`` if most of its free memory holds the replay, else in pinned memory of the host."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if capacity * cls.bytes_per_row(task) > FREE_MEMORY_SHARE * free:
                return cls(task, capacity, n_envs, torch.device("cpu"), seed, pin_memory=True)
        return cls(task, capacity, n_envs, device, seed)

    @classmethod
    def bytes_per_row(cls, task: Task) -> int:
        """Memory that one env step takes."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in cls.columns(task).values())

    @staticmethod
    def columns(task: Task) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of what a row holds, by name."""
        real = torch.get_default_dtype()
        action_type = torch.int16 if task.is_discrete else real
        return {
            "obs": ((task.n_agents, task.obs_dim), real),
            "state": ((task.state_dim,), real),
            "avail": ((task.n_agents, task.avail_dim), torch.bool),
            "actions": ((task.n_agents, task.action_width), action_type),
            "reward": ((), real),
            "terminated": ((), torch.bool),
            "continues": ((), torch.bool),  # the row and its successor have actions, in the same episode
            "startable": ((), torch.int64),
        }

    def __len__(self) -> int:
        """Number of transitions that can be sampled."""
        return self.size

    def start(self, now: StepData) -> None:
        """Write the first observations of all envs; call once, before the first :meth:`add`."""
        self._observe(np.arange(self.n_envs), now)

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
        current = self._waiting(envs)
        put = self._columns.put
        put("actions", current, actions[envs])
        put("reward", current, reward[envs])
        put("terminated", current, terminated[envs])
        put("continues", current, np.zeros(len(envs), dtype=bool))
        self._make_startable(current)
        linked = np.flatnonzero(kept & self.linked)
        put("continues", linked * self.rows + (self.head[linked] - 1) % self.rows, np.ones(len(linked), dtype=bool))

        self._advance(envs)
        self._observe(envs, successor)
        over = np.flatnonzero(ended | ~kept)
        if len(over):
            self._advance(over)
            self._observe(over, now)
        self.linked = kept & ~ended

    def sample(self, batch_size: int, n_step: int, gamma: float) -> TransitionBatch:
        """Draw transitions uniformly, with replacement.

        A transition spans up to ``n_step`` steps: fewer where the episode, or what is known of it so far, ends.
        """
        self.flush()
        return self.draw(batch_size, n_step, gamma)

    def flush(self) -> None:
        """Bring everything that was written to the device."""
        self._columns.flush()
        self._size.fill_(float(self.size))
        self._flushed = self.size > 0

    def reward_std(self) -> float:
        """Standard deviation of the rewards of all transitions that can be sampled."""
        self.flush()
        rewards = self._columns["reward"][self._columns["startable"][: self.size]]
        return float(rewards.double().std(correction=0))

    def draw(self, batch_size: int, n_step: int, gamma: float) -> TransitionBatch:
        """:meth:`sample` of what was flushed; runs on the device alone.

        Raises:
            RuntimeError: if nothing was flushed yet.
        """
        if not self._flushed:
            raise RuntimeError("the replay holds nothing that was flushed; call flush() or sample()")
        chance = torch.rand(batch_size, dtype=torch.float64, device=self.device, generator=self.generator)
        place = torch.minimum((chance * self._size).floor_(), self._size - 1).long()
        return self.gather(self._columns["startable"][place], n_step, gamma)

    def gather(self, start: Tensor, n_step: int, gamma: float) -> TransitionBatch:
        """The transitions that start at the given rows ``(batch,)``, counted through all rings."""
        column = self._columns
        row = start % self.rows
        base = start - row
        if n_step == 1:
            end, last = base + (row + 1) % self.rows, start
            returns, discount = column["reward"][start], torch.full_like(column["reward"][start], gamma)
        else:
            offsets = torch.arange(n_step, device=self.device)
            span = base[:, None] + (row[:, None] + offsets) % self.rows  # (batch, n_step)
            reached = torch.ones(span.shape, device=self.device)
            reached[:, 1:] = column["continues"][span[:, :-1]].cumprod(1)
            steps = reached.sum(1).long()  # k'
            last = span.gather(1, steps[:, None] - 1).squeeze(1)
            end = base + (row + steps) % self.rows
            returns, discount = (reached * gamma**offsets * column["reward"][span]).sum(1), gamma**steps

        def rows_of(name: str, rows: Tensor) -> Tensor:
            # Each the faster one on its device.
            return column[name][rows] if rows.is_cuda else column[name].index_select(0, rows)

        actions = rows_of("actions", start).transpose(0, 1)
        return TransitionBatch(
            obs=rows_of("obs", start).transpose(0, 1),
            state=rows_of("state", start),
            avail=rows_of("avail", start).transpose(0, 1),
            actions=actions if actions.is_floating_point() else actions.long(),
            returns=returns,
            bootstrap=discount * ~column["terminated"][last],
            next_obs=rows_of("obs", end).transpose(0, 1),
            next_state=rows_of("state", end),
            next_avail=rows_of("avail", end).transpose(0, 1),
        )

    def _waiting(self, envs: np.ndarray) -> np.ndarray:
        return envs * self.rows + self.head[envs]

    def _advance(self, envs: np.ndarray) -> None:
        self.head[envs] = (self.head[envs] + 1) % self.rows

    def _observe(self, envs: np.ndarray, what: StepData) -> None:
        target = self._waiting(envs)
        # An env may offer no action at all once an episode is over; a policy is only defined over at least one.
        avail = what.avail[envs]
        self._columns.put("obs", target, what.obs[envs])
        self._columns.put("state", target, what.state[envs])
        self._columns.put("avail", target, avail | ~avail.any(-1, keepdims=True))
        self._forget(target)

    def _make_startable(self, rows: np.ndarray) -> None:
        places = np.arange(self.size, self.size + len(rows))
        self._set_startable(places, rows)
        self.size += len(rows)

    def _forget(self, rows: np.ndarray) -> None:
        """Take rows out of ``startable``; those at its end move into the gaps."""
        gaps = self.place[rows]
        gaps = gaps[gaps >= 0]
        self.place[rows] = -1
        if not len(gaps):
            return
        self.size -= len(gaps)
        tail = np.arange(self.size, self.size + len(gaps))
        movers = tail[self.place[self.startable[tail]] >= 0]
        self._set_startable(gaps[gaps < self.size], self.startable[movers])

    def _set_startable(self, places: np.ndarray, rows: np.ndarray) -> None:
        self.startable[places] = rows
        self.place[rows] = places
        self._columns.put("startable", places, rows)


class Columns:
    """Tables of rows on a device, written from numpy.

    Rows on a CPU are written at once. Those for another device are collected, and cross over together in one copy per
    column at the next :meth:`flush`.

    Args:
        shapes: of one row and its type, by name.
        rows: number of rows.
        device: where they live.
        pin_memory: see :class:`StepReplay`.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]],
        rows: int,
        device: torch.device,
        pin_memory: bool,
    ) -> None:
        self._tensors = {
            name: torch.zeros(rows, *shape, dtype=dtype, device=device, pin_memory=pin_memory)
            for name, (shape, dtype) in shapes.items()
        }
        self._views = {name: tensor.numpy() for name, tensor in self._tensors.items()} if device.type == "cpu" else {}
        self._staged: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in shapes}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write ``values`` (which are copied) into ``rows`` of a column."""
        if self._views:
            self._views[name][rows] = values
        else:
            self._staged[name].append((rows, np.array(values)))

    def flush(self) -> None:
        """Carry out what was collected."""
        for name, staged in self._staged.items():
            if not staged:
                continue
            rows = np.concatenate([rows for rows, _ in staged])
            values = np.concatenate([values for _, values in staged])
            staged.clear()
            _, latest = np.unique(rows[::-1], return_index=True)  # a row may have been written more than once
            latest = len(rows) - 1 - latest
            tensor = self._tensors[name]
            where = torch.from_numpy(rows[latest]).to(tensor.device)
            tensor[where] = torch.from_numpy(values[latest]).to(device=tensor.device, dtype=tensor.dtype)
