"""Env steps per second of whole training runs in a real host: stepping, acting, replay, updates, the host's loop.

    python benchmarks/end_to_end.py [--device cuda] [--workers 16] [--overlap] [--official HARL] [--json FILE] \
        [scenario=simple_spread …]

20 parallel envs, one update per step of all of them, batch 1000, hidden layers [256, 256]; the warm-up and the first
half of the rest are left out. With ``--official`` the official runner (a checkout of PKU-MARL/HARL, see
harl_runner.py) trains on the same env in turns with ours, its envs in one process each as it has them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from learner import processor
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
N_ENVS, WARMUP, BLOCK = 20, 2_000, 1000  # BLOCK: env steps between two calls of the learner


def ours(options: argparse.Namespace, values: dict[str, Any]) -> float:
    """Env steps per second of one run of ``hasac run``."""
    settings: dict[str, Any] = {
        "batch_size_run": N_ENVS,
        "replay_batch_size": 1000,
        "hidden_sizes": "[256,256]",
        "warmup_steps": WARMUP,
        "train_interval": BLOCK // N_ENVS,
        "update_per_train": 1,
        "tuned": False,
        "t_max": WARMUP + options.steps,
        "test_interval": 10**9,
        "test_nepisode": N_ENVS,
        "runner_log_interval": BLOCK,
        "env_workers": options.workers,
        "use_cuda": options.device == "cuda",
        "overlap": options.overlap,
        "matmul_precision": options.precision,
        "actor_gradient": options.actor_gradient,
    }
    if options.threads:
        settings["cpu_threads"] = options.threads
    settings |= {f"env_args.{key}": value for key, value in values.items()}
    command = [sys.executable, str(ROOT / "main.py"), "--config=hasac", f"--env-config={options.env}"]
    with tempfile.TemporaryDirectory() as folder:
        words = [f"{key}={value}" for key, value in settings.items()]
        done = subprocess.run([*command, "with", *words], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the run failed:\n{done.stdout[-500:]}\n{done.stderr[-2000:]}")
        info = json.loads(next(Path(folder).rglob("info.json")).read_text())
    rates = [float(v["value"] if isinstance(v, dict) else v) for v in info["env_steps_per_second"]]
    later = [r for r, t in zip(rates, info["env_steps_per_second_T"]) if t > WARMUP + options.steps / 2]
    return 1 / float(np.mean(1 / np.array(later)))


class Enough(Exception):  # noqa: N818 (not an error)
    """The official run has been timed."""


def official(options: argparse.Namespace, values: dict[str, Any]) -> float:
    """Env steps per second of the official runner."""
    from harl_runner import default_settings, make_runner
    from official_harl import OFFICIAL_ENVS, OfficialEnv

    from plugin_hasac.envs import REGISTRY

    settings = default_settings(options.official)
    cuda = options.device == "cuda"
    settings["device"] |= {"cuda": cuda, "cuda_deterministic": False}
    if options.threads:
        settings["device"]["torch_threads"] = options.threads
    settings["algo"] |= {"batch_size": 1000}
    settings["model"] |= {"hidden_sizes": [256, 256]}
    settings["train"] |= {
        "n_rollout_threads": N_ENVS,
        "warmup_steps": WARMUP,
        "train_interval": BLOCK // N_ENVS,
        "update_per_train": 1,
        "num_env_steps": 10**9,
    }
    settings["eval"]["use_eval"] = False
    clock: list[float] = []  # at the beginning of each update
    updates = options.official_steps // N_ENVS

    def envs(count: int, first_seed: int) -> Any:
        from harl.envs.env_wrappers import ShareSubprocVecEnv

        def make(seed: int) -> OfficialEnv:
            return OfficialEnv(REGISTRY[options.env](**values, seed=seed), standardize=options.env == "mamujoco")

        return ShareSubprocVecEnv([lambda seed=first_seed + i: make(seed) for i in range(count)])

    def timed(runner: type) -> type:
        class Runner(runner):  # type: ignore[misc]
            """The official runner, stopped after some updates."""

            def train(self) -> None:
                clock.append(time.perf_counter())
                if len(clock) > updates:
                    raise Enough
                super().train()

        return Runner

    env_args = {"scenario": "simple_spread", "agent_conf": "", "continuous_actions": False, **values}
    official_env = OFFICIAL_ENVS[options.env]
    runner, _ = make_runner(options.official, official_env, env_args, settings, envs, envs, wrap=timed)
    try:
        runner.run()
    except Enough:
        runner.close()
    block = BLOCK // N_ENVS
    starts = clock[::block]  # of the blocks of updates; between two of them lies one block of stepping and learning
    return (len(starts) - 2) * BLOCK / (starts[-1] - starts[1])


def report(rates: dict[str, list[float]], options: argparse.Namespace, values: dict[str, Any]) -> None:
    """Print the table, write the JSON file."""
    where = f"{processor()}, {len(os.sched_getaffinity(0))} cores"
    if options.device == "cuda":
        import torch

        where += f", {torch.cuda.get_device_name()}"
    table = Table("who", "env steps/s", "lowest to highest", title=f"Training end to end on {where}")
    rows = []
    for who, measured in rates.items():
        median = float(np.median(measured))
        table.add_row(who, f"{median:,.0f}", f"{min(measured):,.0f} to {max(measured):,.0f}")
        row = {"who": who, "steps_per_second": round(median, 1), "all": [round(rate, 1) for rate in measured]}
        about = {key: getattr(options, key) for key in ("env", "device", "precision", "actor_gradient", "workers")}
        rows.append(row | about | {"overlap": options.overlap, "env_args": values, "machine": where})
    if options.official:
        ratio = np.median(rates["ours"]) / np.median(rates["official"])
        rows[0]["ratio"] = round(float(ratio), 3)
        table.caption = f"ratio {ratio:.2f}"
    Console(width=120).print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    """Measure both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=["mpe", "mamujoco"], default="mpe")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest")
    parser.add_argument(
        "--actor-gradient", choices=["exact", "gumbel"], default="gumbel", help="the official is gumbel"
    )
    parser.add_argument("--workers", type=int, default=2, help="env processes of ours")
    parser.add_argument("--threads", type=int, help="of the arithmetic on a CPU (default: its cores)")
    parser.add_argument("--overlap", action="store_true", help="step envs while a GPU computes updates")
    parser.add_argument("--steps", type=int, default=40_000, help="env steps of ours after the warm-up")
    parser.add_argument("--official-steps", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--official", type=Path, metavar="HARL", help="checkout of PKU-MARL/HARL to measure beside")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-official", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("env_args", nargs="*", metavar="KEY=VALUE", help="the env's arguments")
    options = parser.parse_args()
    if options.device == "cpu" and options.threads is None:
        options.threads = len(os.sched_getaffinity(0))
    values = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in options.env_args)}
    if options.only_official:
        print(f"rate {official(options, values)}")
        return
    rates: dict[str, list[float]] = {"ours": []}
    if options.official:
        rates["official"] = []
    for _ in range(options.repeats):
        rates["ours"].append(ours(options, values))
        if options.official:  # in a process of its own: it changes the process's state
            command = [sys.executable, *sys.argv, "--only-official"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = [line for line in done.stdout.splitlines() if line.startswith("rate ")]
            if not found:
                raise SystemExit(f"the official run failed:\n{done.stderr[-2000:]}")
            rates["official"].append(float(found[0].split()[1]))
    report(rates, options, values)


if __name__ == "__main__":
    main()
