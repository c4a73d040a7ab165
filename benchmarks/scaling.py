"""How costs grow: one update over agents, batch and state, and one step of all envs over their number; as a plot.

    python benchmarks/scaling.py [--device cuda] [--axes agents,batch,state,envs] [--workers 15] --json FILE --plot FILE

Everything but the axis that varies is shape (d) of learner.py: 5 agents with observations of 72, a state of 98 and 12
actions, batch 1000, hidden layers [256, 256]. Envs are MPE spread, all agents' actions picked in one batched call.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learner import Setting, measure, processor
from stepping import make, steps_per_second

from plugin_hasac.components.task import Task
from plugin_hasac.config import HasacConfig
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.vector.vector_env import VectorEnv

AXES: dict[str, tuple[str, list[int]]] = {
    "agents": ("agents", [2, 4, 16, 64]),
    "batch": ("batch size", [256, 1024, 4096, 16384]),
    "state": ("length of the state", [50, 300, 2000]),
    "envs": ("parallel envs", [1, 4, 16, 64, 256, 1024]),
}


def update(axis: str, value: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Time of one update, and of the reference update in the same turns."""
    shape = {"agents": 5, "state": 98, "batch": 1000} | {axis: value}
    task = Task.discrete(shape["agents"], 72, shape["state"], 12, 70)
    values = {"replay_batch_size": shape["batch"], "hidden_sizes": [256, 256], "actor_gradient": "gumbel"}
    setting = Setting(task, values, device, torch.get_num_threads(), "highest", None)
    return measure(setting, repeats, 20 if device.type == "cuda" else 2)


def step(n_envs: int, workers: int, repeats: int) -> dict[str, Any]:
    """Time of picking everybody's actions and stepping all envs."""
    task = make("spread", 0).task
    policies = Hasac(task, HasacConfig(hidden_sizes=(256, 256)), torch.device("cpu"), seed=0).policies
    generator = torch.Generator().manual_seed(0)
    makers = [partial(make, "spread", seed) for seed in range(n_envs)]
    envs = VectorEnv(task, makers, range(n_envs), workers=min(workers, n_envs), auto_reset=True)
    envs.reset()

    def act_and_step() -> int:
        now = envs.arrays.now
        obs, avail = (torch.from_numpy(each).transpose(0, 1) for each in (now.obs, now.avail))
        envs.step(policies.act(obs, avail, greedy=False, generator=generator).transpose(0, 1).numpy())
        return n_envs

    rates = [steps_per_second(act_and_step, 0.3) for _ in range(repeats + 1)][1:]
    envs.close()
    low, median, high = np.percentile([1e3 * n_envs / rate for rate in rates], [25, 50, 75])
    return {"ms": round(median, 4), "ms_low": round(low, 4), "ms_high": round(high, 4), "workers": workers}


def plot(rows: list[dict[str, Any]], title: str, target: Path) -> None:
    """One panel per axis, both scales logarithmic."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure(figsize=(3.6 * len(axes), 3.4), layout="constrained")
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes):
        own = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in own]
        panel.plot(values, [row["ms"] for row in own], marker="o", label="this plugin")
        if "reference_ms" in own[0]:
            panel.plot(
                values, [row["reference_ms"] for row in own], marker="s", linestyle="--", label="reference update"
            )
            panel.legend(fontsize="small")
        panel.set(xlabel=AXES[axis][0], ylabel="ms per update" if axis != "envs" else "ms per step of all envs")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(values, [str(value) for value in values], rotation=45)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)


def main() -> None:
    """Measure the axes that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the updates")
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--workers", type=int, default=0, help="env processes on the axis envs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="of all measurements; read instead of measuring with --axes ''")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    where = f"{processor()}, {len(os.sched_getaffinity(0))} cores"
    if device.type == "cuda":
        where += f", {torch.cuda.get_device_name()}"
    rows: list[dict[str, Any]] = []
    for axis in filter(None, options.axes.split(",")):
        if axis not in AXES:
            parser.error(f"--axes: {axis!r} is not one of {', '.join(AXES)}")
        work: Callable[[int], dict[str, Any]] = (
            partial(step, workers=options.workers, repeats=options.repeats)
            if axis == "envs"
            else partial(update, axis, device=device, repeats=options.repeats)
        )
        for value in AXES[axis][1]:
            rows.append({"axis": axis, "value": value, "machine": where} | work(value))
            print(f"{axis} {value}: {rows[-1]['ms']:.2f} ms", flush=True)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not rows and options.json:
        rows = json.loads(options.json.read_text())
    if options.plot:
        plot(rows, f"{rows[0]['machine']}: float32, hidden layers [256, 256]", options.plot)


if __name__ == "__main__":
    main()
