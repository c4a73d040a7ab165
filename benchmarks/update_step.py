"""Time of one HASAC update, sampling included, on the shapes of common tasks.

    python benchmarks/update_step.py [--device cuda] [--threads 2] [--batch 1000] [--hidden 256 256] [--json FILE]

Prints the median over repeats. Machines drift: compare two versions in one sitting, and quote ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from plugin_hasac.components.action_spaces import Box
from plugin_hasac.components.replay import StepData, StepReplay
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.config import HasacConfig
from plugin_hasac.learners.hasac import Hasac

SHAPES = {
    "MPE simple spread": Task.discrete(3, 18, 54, 5, 25),
    "HalfCheetah 6x1": Task((AgentSpec(23, Box((-1.0,), (1.0,))),) * 6, 23, 1000),
    "SMAC 5m_vs_6m": Task.discrete(5, 72, 98, 12, 70),
    "SMAC MMM2": Task.discrete(10, 176, 322, 18, 180),
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
    return replay


def milliseconds(hasac: Hasac, replay: StepReplay, repeats: int, warmup: int = 5) -> float:
    """Median wall time of sampling and one update."""
    config, times = hasac.config, []
    for repeat in range(warmup + repeats):
        started = time.perf_counter()
        hasac.update(replay.sample(config.replay_batch_size, config.n_step, config.gamma))
        if hasac.device.type == "cuda":
            torch.cuda.synchronize()
        if repeat >= warmup:
            times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure all shapes with both actor gradients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} x{options.threads}"
    table = Table("task", "actor gradient", "ms per update", title=f"{where}, batch {options.batch}")
    results = []
    for name, task in SHAPES.items():
        replay = filled_replay(task, device)
        for gradient in ("exact", "gumbel"):
            values = {"replay_batch_size": options.batch, "hidden_sizes": options.hidden, "actor_gradient": gradient}
            hasac = Hasac(task, HasacConfig.from_mapping(values), device, seed=0)
            median = milliseconds(hasac, replay, options.repeats)
            table.add_row(name, gradient, f"{median:.1f}")
            results.append({"task": name, **values, "device": where, "torch": torch.__version__, "ms": median})
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
