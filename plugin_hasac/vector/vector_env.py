"""Parallel envs: in this process, or several per worker process over shared memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np

from plugin_hasac.components.task import Task
from plugin_hasac.vector.contract import StepEnv
from plugin_hasac.vector.line import Line, patience
from plugin_hasac.vector.slots import EnvArrays, EnvSlot, preserved_randomness

MakeEnv = Callable[[], StepEnv]
# Words between the main process and a worker. _CALL and _REPORT announce an object.
_STEP, _CALL, _DONE, _REPORT = range(1, 5)
_DIED = "env worker {} died (out of memory, or ended from outside?); its envs cannot go on"


class VectorEnv:
    """Steps several envs with one call; results do not depend on the number of workers.

    Args:
        task: shapes, equal for all envs.
        make_envs: one constructor per env; sent to workers by cloudpickle.
        seeds: one per env, of its own randomness.
        workers: number of processes; 0 steps the envs in this process.
        auto_reset: begin the next episode at once when one ends.
        preload: modules that every worker needs; imported once and shared instead of once per worker.

    Raises:
        RuntimeError: from any method, if an env in a worker raised or its process died.
    """

    def __init__(
        self,
        task: Task,
        make_envs: Sequence[MakeEnv],
        seeds: Sequence[int],
        *,
        workers: int,
        auto_reset: bool,
        preload: Sequence[str] = (),
    ) -> None:
        self.task = task
        self.n_envs = len(make_envs)
        self._backend: _InProcess | _Workers
        if workers == 0:
            self.arrays = EnvArrays(task, self.n_envs, np.zeros)
            self._backend = _InProcess(make_envs, seeds, self.arrays, range(self.n_envs), auto_reset)
        else:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(list(preload))
            shared = _SharedArrays(context)
            self.arrays = EnvArrays(task, self.n_envs, shared.allocate)
            self._backend = _Workers(context, shared, task, make_envs, seeds, min(workers, self.n_envs), auto_reset)

    def reset(self, seeds: Sequence[int] | None = None) -> None:
        """Begin an episode in every env; its first observation is in ``arrays.now``."""
        self.arrays.active[:] = True
        self._backend.reset(list(seeds) if seeds is not None else [None] * self.n_envs)

    def step(self, actions: np.ndarray) -> list[tuple[int, dict[str, Any]]]:
        """Take one action in every active env (``arrays.active``) and fill ``arrays``.

        Args:
            actions: ``(n_envs, n_agents, action_width)``.

        Returns:
            Index and statistics of each env whose episode ended, by index.
        """
        self.arrays.actions[:] = actions
        return self._backend.step()

    def close(self) -> None:
        """Close every env and end the workers."""
        self._backend.close()


class _InProcess:
    """Some of the envs, stepped one after the other in this process."""

    def __init__(
        self,
        make_envs: Sequence[MakeEnv],
        seeds: Sequence[int],
        arrays: EnvArrays,
        indices: Sequence[int],
        auto_reset: bool,
    ) -> None:
        self.arrays = arrays
        self.slots: list[EnvSlot] = []
        try:
            for i in indices:
                self.slots.append(EnvSlot(make_envs[i], seeds[i], arrays, i, auto_reset))
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int | None]) -> None:
        with preserved_randomness():
            for slot in self.slots:
                slot.reset(seeds[slot.index])

    def step(self) -> list[tuple[int, dict[str, Any]]]:
        if not any(slot.draws_globally for slot in self.slots):
            return self._step()
        with preserved_randomness():
            return self._step()

    def _step(self) -> list[tuple[int, dict[str, Any]]]:
        ended = []
        for slot in self.slots:
            if self.arrays.active[slot.index]:
                info = slot.step()
                if info is not None:
                    ended.append((slot.index, info))
        return ended

    def close(self) -> None:
        for slot in self.slots:
            slot.close()
        self.slots = []


class _SharedArrays:
    """Allocates numpy arrays in memory that workers share, and rebuilds them there in the same order."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.blocks: list[Any] = []

    def allocate(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.blocks.append(self.context.RawArray("b", size))
        return self._view(self.blocks[-1], shape, dtype)

    @staticmethod
    def _view(block: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.frombuffer(block, dtype=dtype, count=int(np.prod(shape))).reshape(shape)

    @classmethod
    def attach(cls, blocks: Sequence[Any], task: Task, n_envs: int) -> EnvArrays:
        remaining = iter(blocks)
        return EnvArrays(task, n_envs, lambda shape, dtype: cls._view(next(remaining), shape, dtype))


class _Workers:
    """Processes with a share of the envs each.

    A step costs one word there and one back; only the statistics of episodes that ended travel as objects.
    """

    def __init__(
        self,
        context: Any,
        shared: _SharedArrays,
        task: Task,
        make_envs: Sequence[MakeEnv],
        seeds: Sequence[int],
        n_workers: int,
        auto_reset: bool,
    ) -> None:
        n_envs, awake = len(make_envs), patience(n_workers)
        self.lines: list[Line] = []
        self.processes = []
        envs = cloudpickle.dumps((list(make_envs), list(seeds)))
        for share in np.array_split(np.arange(n_envs), n_workers):
            line, remote = Line.between(context, awake)
            process = context.Process(
                target=_serve,
                args=(remote, shared.blocks, task, n_envs, envs, [int(i) for i in share], auto_reset),
                daemon=True,
            )
            process.start()
            remote.close()
            self.lines.append(line)
            self.processes.append(process)
        try:
            self._gather()  # every worker reports once its envs stand
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int | None]) -> None:
        self._tell_all(_CALL, ("reset", (seeds,)))
        self._gather()

    def step(self) -> list[tuple[int, dict[str, Any]]]:
        self._tell_all(_STEP)
        return self._gather()

    def close(self) -> None:
        for line, process in zip(self.lines, self.processes):
            with contextlib.suppress(OSError):
                line.tell(_CALL, ("close", ()))
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
            line.close()
        self.lines, self.processes = [], []

    def _tell_all(self, word: int, message: Any = None) -> None:
        for worker, line in enumerate(self.lines):
            try:
                line.tell(word, message)
            except BrokenPipeError:
                raise RuntimeError(_DIED.format(worker)) from None

    def _gather(self) -> list[tuple[int, dict[str, Any]]]:
        ended: list[tuple[int, dict[str, Any]]] = []
        for worker, line in enumerate(self.lines):
            try:
                word = line.hear()
                result, error = line.receive() if word == _REPORT else ([], None)
            except (EOFError, ConnectionResetError):
                raise RuntimeError(_DIED.format(worker)) from None
            if error:
                raise RuntimeError(f"an env in worker {worker} failed:\n{error}")
            ended += result
        return ended


def _serve(
    line: Line, blocks: Sequence[Any], task: Task, n_envs: int, envs: bytes, indices: list[int], auto_reset: bool
) -> None:
    """Main function of a worker."""
    try:
        make_envs, seeds = cloudpickle.loads(envs)
        arrays = _SharedArrays.attach(blocks, task, n_envs)
        share = _InProcess(make_envs, seeds, arrays, indices, auto_reset)
        line.tell(_DONE)
        while True:
            if line.hear() == _STEP:
                ended = share.step()
                line.tell(_REPORT, (ended, None)) if ended else line.tell(_DONE)
                continue
            method, args = line.receive()
            getattr(share, method)(*args)
            if method == "close":
                return
            line.tell(_DONE)
    except (EOFError, KeyboardInterrupt):
        return
    except BaseException:
        line.tell(_REPORT, (None, traceback.format_exc()))
