"""What makes the gradient updates of a run, and how fast: the reference, the fast update, or that as CUDA graphs."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch

from plugin_hasac import native
from plugin_hasac.components.replay import StepReplay, TransitionBatch
from plugin_hasac.learners.fast_update import FastUpdate
from plugin_hasac.learners.hasac import Hasac, UpdateNoise
from plugin_hasac.learners.metrics import MetricMeans

MOST_ORDERS = 24  # of the agents, that get a CUDA graph each
EAGER_UPDATES = 3  # before graphs are captured: libraries and optimisers set themselves up in the first ones


class Updater(ABC):
    """Samples from the replay and updates the algorithm.

    Args:
        hasac: the algorithm.
        replay: what it learns from.

    Attributes:
        means: of the metrics.
        description: which path this is and why, for the log.
    """

    description: str

    def __init__(self, hasac: Hasac, replay: StepReplay) -> None:
        self.hasac, self.replay, self.config = hasac, replay, hasac.config
        self.means = MetricMeans(hasac.task.n_agents, hasac.device)

    @abstractmethod
    def step(self) -> None:
        """Draw a batch from what the replay has flushed and make one update."""

    def finish(self) -> None:
        """Wait for the device to finish the updates."""
        if self.hasac.device.type == "cuda":
            done = torch.cuda.Event(blocking=True)  # sleeps: spinning would take a core from the envs
            done.record()
            done.synchronize()

    def _sample(self) -> TransitionBatch:
        config = self.config
        batch = self.replay.draw(config.replay_batch_size, config.n_step, config.gamma)
        return batch if self.replay.device == self.hasac.device else batch.to(self.hasac.device)


class ReferenceUpdater(Updater):
    """:meth:`Hasac.update`."""

    def step(self) -> None:
        """See :class:`Updater`."""
        metrics = self.hasac.update(self._sample())
        self.means.sums += self.means.vector(metrics)
        self.means.updates += 1


class FastUpdater(Updater):
    """:class:`FastUpdate`."""

    def __init__(self, hasac: Hasac, replay: StepReplay) -> None:
        super().__init__(hasac, replay)
        library = native.load() if hasac.device.type == "cpu" else None
        self.update = FastUpdate(hasac, self.config.replay_batch_size, library)

    def step(self) -> None:
        """See :class:`Updater`."""
        batch = self._sample()
        noise = self.hasac.draw_noise(self.config.replay_batch_size)
        self.means.sums += self.update(batch, noise, self.hasac.draw_order())
        self.means.updates += 1


class GraphUpdater(FastUpdater):
    """:class:`FastUpdate` recorded as CUDA graphs, so that an update costs a few launches instead of hundreds.

    With few agents there is one graph per order of them, and an update is one launch. Otherwise one graph draws the
    batch and the noise and updates the critics, one per agent makes its step (a second one without the new sample, for
    the turn at the end), one finishes; they are replayed in the order that was drawn.
    """

    def __init__(self, hasac: Hasac, replay: StepReplay) -> None:
        super().__init__(hasac, replay)
        self.stream = torch.cuda.Stream(hasac.device)
        self.graphs: dict[str, torch.cuda.CUDAGraph] = {}
        self.batch: TransitionBatch | None = None  # where batches that come from the host are put
        self.pool = torch.cuda.graph_pool_handle()

    def step(self) -> None:
        """See :class:`Updater`."""
        if self.means.updates < EAGER_UPDATES and not self.graphs:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                super().step()
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.replay.device != self.hasac.device:
            batch = self._sample()
            if self.batch is None:
                self.batch = batch
            else:
                self.batch.copy_from(batch)
        if not self.graphs:
            self._capture_all()
        order = self.hasac.draw_order()
        for name in [str(order)] if str(order) in self.graphs else self._parts(order):
            self.graphs[name].replay()
        self.means.updates += 1

    @staticmethod
    def _parts(order: list[int]) -> list[str]:
        return ["begin", *(f"agent {agent}" for agent in order[:-1]), f"agent {order[-1]} last", "finish"]

    @torch.no_grad()
    def _capture_all(self) -> None:
        update, config = self.update, self.config
        rows = config.replay_batch_size

        def begin() -> None:
            batch = self.batch or self.replay.draw(rows, config.n_step, config.gamma)
            noise: UpdateNoise = self.hasac.draw_noise(rows)
            update.update_critic(batch, noise)
            update.begin_actors(batch, noise)

        def finish() -> None:
            update.finish()
            self.means.sums += update.metrics

        n_agents = self.hasac.task.n_agents
        if math.factorial(n_agents) <= MOST_ORDERS:

            def whole(order: tuple[int, ...]) -> None:
                begin()
                for agent in order:
                    update.update_actor(agent, resample=config.sequential_update and agent != order[-1])
                finish()

            for order in itertools.permutations(range(n_agents)):
                self._capture(str(list(order)), partial(whole, order))
        else:
            self._capture("begin", begin)
            for agent in range(n_agents):
                self._capture(f"agent {agent}", partial(update.update_actor, agent, resample=config.sequential_update))
                self._capture(f"agent {agent} last", partial(update.update_actor, agent, resample=False))
            self._capture("finish", finish)
        # Each capture first resets the generators' offset on its stream; a replay sets it on the current one.
        torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self, name: str, work: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in (self.hasac.generator, self.replay.generator):
            if generator.device.type == "cuda":
                graph.register_generator_state(generator)
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            work()
        self.graphs[name] = graph


def make_updater(hasac: Hasac, replay: StepReplay) -> Updater:
    """The fastest updater for this device and these options; its ``description`` says which and why."""
    if not hasac.config.fast_update:
        updater: Updater = ReferenceUpdater(hasac, replay)
        updater.description = "reference update (fast_update=False)"
    elif hasac.mirror.active:
        updater = ReferenceUpdater(hasac, replay)
        updater.description = "reference update: the fast ones know no drift or neighbourhood"
    elif hasac.device.type == "cuda":
        updater = GraphUpdater(hasac, replay)
        where = "on the GPU" if replay.device == hasac.device else "in pinned host memory: it is too large for the GPU"
        updater.description = f"CUDA graphs on {torch.cuda.get_device_name(hasac.device)}, replay {where}"
    else:
        updater = FastUpdater(hasac, replay)
        products, threads = products_on_cpu(hasac.config.matmul_precision), torch.get_num_threads()
        passes = "compiled" if native.load() else f"PyTorch's, which are slower: {native.problem()}"
        updater.description = f"gradients by hand on the CPU, {threads} threads, {products}, passes {passes}"
    return updater


def products_on_cpu(precision: str) -> str:
    """What a ``matmul_precision`` comes to on this processor, for the log."""
    if precision == "highest":
        return "float32 products"
    if precision == "high":
        return "float32 products ('high' concerns GPUs; a CPU knows 'medium')"
    library = native.load()
    if library is not None and library.bfloat16:
        return "bfloat16 products"
    if library is None and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return "bfloat16 products"
    return "float32 products (this processor has no bfloat16 matrix units for 'medium')"
