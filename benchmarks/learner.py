"""Time of one HASAC update, sampling included: the path that trains, and the reference update beside it in one run.

    python benchmarks/learner.py [--shapes a,b,c,d] [--device cuda] [--precision medium] [--official HARL] [--json FILE]

Prints medians and the middle half of the repeats in milliseconds. Machines drift: only ratios measured in one run
compare two implementations, and two commits are compared by their ratios to the reference. With ``--official`` the
official update (a checkout of PKU-MARL/HARL, see harl_runner.py) is measured in the same turns, in its own float32.
Each has a process of its own, as in a training: automatic differentiation leaves threads behind that slow down what
follows in the same process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from harl_runner import RandomEnv, official_update
from rich.console import Console
from rich.table import Table

from plugin_hasac.components.action_spaces import Box
from plugin_hasac.components.replay import StepData, StepReplay
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.config import HasacConfig
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.updaters import ReferenceUpdater, make_updater

SHAPES = {
    "a": ("MPE simple spread", Task.discrete(3, 18, 54, 5, 25)),
    "b": ("HalfCheetah 6x1", Task((AgentSpec(23, Box((-1.0,), (1.0,))),) * 6, 23, 1000)),
    "c": ("MMM2-like", Task.discrete(10, 176, 322, 18, 180)),
    "d": ("5m_vs_6m-like", Task.discrete(5, 72, 98, 12, 70)),
}


def filled_replay(task: Task, device: torch.device, n_envs: int = 20, n_steps: int = 100) -> StepReplay:
    """Random transitions of the task's shapes."""
    rng = np.random.default_rng(0)
    replay = StepReplay(task, n_envs * (n_steps + 10), n_envs, device, seed=0)

    def show() -> StepData:
        return StepData(
            obs=rng.normal(size=(n_envs, task.n_agents, task.obs_dim)).astype(np.float32),
            state=rng.normal(size=(n_envs, task.state_dim)).astype(np.float32),
            avail=np.ones((n_envs, task.n_agents, task.avail_dim), bool),
        )

    now, never = show(), np.zeros(n_envs, bool)
    replay.start(now)
    for _ in range(n_steps):
        actions, now = task.uniform_actions(rng, now.avail), show()
        replay.add(actions, rng.normal(size=n_envs), never, never, now, now)
    replay.flush()
    return replay


def milliseconds(step: Callable[[], Any], device: torch.device, count: int) -> float:
    """Mean wall time of ``count`` updates in a row."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started) / count


def random_env(task: Task, seed: int) -> RandomEnv:
    """The task's shapes for the official code."""

    def flat(size: int) -> Any:
        return gymnasium.spaces.Box(-np.inf, np.inf, (size,))

    spaces: list[Any] = []
    for agent in task.agents:
        if isinstance(agent.action, Box):
            spaces.append(gymnasium.spaces.Box(np.array(agent.action.low), np.array(agent.action.high)))
        else:
            spaces.append(gymnasium.spaces.Discrete(agent.action.encoded_dim))
    return RandomEnv([flat(agent.obs_dim) for agent in task.agents], flat(task.state_dim), spaces, seed)


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        task: shapes.
        values: of the algorithm's config.
        device: where.
        threads: of a CPU.
        precision: of ours and the reference; the official code has its own.
        official: checkout of the official code.
    """

    task: Task
    values: dict[str, Any]
    device: torch.device
    threads: int
    precision: str
    official: Path | None


def make_step(kind: str, setting: Setting) -> tuple[Callable[[], Any], str]:
    """One update of a kind ("ours", "reference", "official") as a function, and which path it takes."""
    torch.set_num_threads(setting.threads)
    task, values, device = setting.task, setting.values, setting.device
    if kind == "official":
        assert setting.official is not None
        runner = official_update(setting.official, partial(random_env, task), values, device.type == "cuda")
        torch.set_num_threads(setting.threads)
        return runner.train, "official"
    torch.set_float32_matmul_precision(setting.precision)
    hasac, replay = Hasac(task, HasacConfig.from_mapping(values), device, seed=0), filled_replay(task, device)
    updater = make_updater(hasac, replay) if kind == "ours" else ReferenceUpdater(hasac, replay)
    return updater.step, getattr(updater, "description", kind)


def serve(pipe: Connection, kind: str, setting: Setting) -> None:
    """In a process of its own: measure whenever a number of updates comes in."""
    step, description = make_step(kind, setting)
    milliseconds(step, setting.device, 6)  # graphs are recorded, buffers allocated
    pipe.send(description)
    while (count := pipe.recv()) is not None:
        pipe.send(milliseconds(step, setting.device, count))


def measure(setting: Setting, repeats: int, count: int) -> dict[str, float | str]:
    """Medians and quartiles of the path that trains, the reference, and perhaps the official code, measured in turns.

    Args:
        setting: what is measured.
        repeats: number of measurements of each.
        count: updates per measurement of ours; of the others a tenth.
    """
    kinds = ["ours", "reference", *(["official"] if setting.official else [])]
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for kind in kinds:
        pipes[kind], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, kind, setting)))
        processes[-1].start()
        theirs.close()
    paths = {kind: pipes[kind].recv() for kind in kinds}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind in kinds:
            pipes[kind].send(count if kind == "ours" else max(2, count // 10))
            times[kind].append(pipes[kind].recv())
    for pipe, process in zip(pipes.values(), processes):
        pipe.send(None)
        process.join()
    low, median, high = np.percentile(times["ours"], [25, 50, 75])
    result: dict[str, float | str] = {"path": paths["ours"]}
    result |= {"ms": round(float(median), 4), "ms_low": round(float(low), 4), "ms_high": round(float(high), 4)}
    for kind, ratio in (("reference", "ratio"), ("official", "official_ratio")):
        if kind in kinds:
            other = float(np.median(times[kind]))
            result |= {f"{kind}_ms": round(other, 4), ratio: round(other / float(median), 3)}
    return result


def processor() -> str:
    """The machine's own name for its CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    """Measure the shapes that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", default="a,b,c,d", help="; ".join(f"{k}: {name}" for k, (name, _) in SHAPES.items())
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest")
    parser.add_argument("--actor-gradient", default="gumbel", help="exact, gumbel or both; Box has one only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--official", type=Path, metavar="HARL", help="checkout of PKU-MARL/HARL to measure beside")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.precision)
    device = torch.device(options.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{processor()}, {options.threads} threads"
    title = f"One update on {where}, batch {options.batch}, {options.hidden}, precision {options.precision}"
    table = Table("shape", "actor gradient", "ms", "25% to 75%", "reference ms", "ratio", title=title)
    if options.official:
        table.add_column("official ms")
        table.add_column("ratio")
    rows = []
    for shape in options.shapes.split(","):
        if shape not in SHAPES:
            parser.error(f"--shapes: {shape!r} is not one of {', '.join(SHAPES)}")
        name, task = SHAPES[shape]
        gradients = ["exact", "gumbel"] if options.actor_gradient == "both" else [options.actor_gradient]
        for gradient in gradients if task.is_discrete else ["reparameterised"]:
            values = {"replay_batch_size": options.batch, "hidden_sizes": options.hidden}
            values["matmul_precision"] = options.precision
            if task.is_discrete:
                values["actor_gradient"] = gradient
            setting = Setting(task, values, device, options.threads, options.precision, options.official)
            result = measure(setting, options.repeats, count=50 if device.type == "cuda" else 10)
            spread = f"{result['ms_low']:.2f} to {result['ms_high']:.2f}"
            numbers = [f"{result['reference_ms']:.1f}", f"{result['ratio']:.1f}"]
            if options.official:
                numbers += [f"{result['official_ms']:.1f}", f"{result['official_ratio']:.1f}"]
            table.add_row(f"({shape}) {name}", gradient, f"{result['ms']:.2f}", spread, *numbers)
            about = {"shape": shape, "task": name, "actor_gradient": gradient, "device": where}
            about |= {"precision": options.precision, "batch": options.batch, "hidden": options.hidden}
            rows.append(about | result | {"torch": torch.__version__})
    Console(width=140).print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
