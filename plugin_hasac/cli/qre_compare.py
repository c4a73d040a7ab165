"""The comparison of ``hasac qre``: deep learners on a matrix game, ours at fixed temperatures and the host's own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from plugin_hasac.components.action_spaces import Categorical
from plugin_hasac.components.replay import StepData, StepReplay
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.config import HasacConfig
from plugin_hasac.equilibria.matrix_games import Array
from plugin_hasac.equilibria.quantal import Equilibrium
from plugin_hasac.errors import RunFailedError
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.updaters import make_updater
from plugin_hasac.modules.distributions import MaskedCategorical

BASELINES = ("mappo", "happo", "maddpg", "qmix")
BASELINE_STEPS = 25_000
REPETITIONS = 5  # of the game per episode of a baseline: PyMARLzoo+'s HAPPO fails on episodes of one step
MAX_TEMPERATURES = 3
UPDATES = 1200
CPU = torch.device("cpu")


def compare(
    payoff: Array, alphas: Sequence[float], found: Sequence[Equilibrium], seeds: int, progress: Progress
) -> list[dict[str, Any]]:
    """Train HASAC and MASAC at up to three of the temperatures, and the default host's baselines in the host.

    Args:
        payoff: one axis per agent.
        alphas: temperatures; the lowest, middle and highest are taken.
        found: the equilibria at these.
        seeds: runs each.
        progress: to show.

    Returns:
        Rows with algorithm, alpha, seed, payoff in a test (ours greedy), and for ours the policies and their total
        variation distance to the nearest QRE. A baseline whose run failed has a ``problem`` instead of a payoff.
    """
    chosen = sorted(alphas)
    if len(chosen) > MAX_TEMPERATURES:
        chosen = [chosen[0], chosen[len(chosen) // 2], chosen[-1]]
    total = seeds * (2 * len(chosen) + len(BASELINES))
    task, rows = progress.add_task("training", total=total), []
    for seed in range(1, seeds + 1):
        for alpha in chosen:
            for algorithm in ("hasac", "masac"):
                progress.update(task, description=f"training {algorithm}, alpha {alpha:.3g}, seed {seed}")
                policies = train(payoff, alpha, seed, sequential=algorithm == "hasac")
                rows.append(_row(payoff, algorithm, alpha, seed, policies, found))
                progress.advance(task)
        for algorithm in BASELINES:
            progress.update(task, description=f"training {algorithm} in the host, seed {seed}")
            row: dict[str, Any] = {"algorithm": algorithm, "alpha": None, "seed": seed}
            try:
                row["test_payoff"] = train_in_host(payoff, algorithm, seed)
            except RunFailedError as error:
                row["problem"] = str(error)
            rows.append(row)
            progress.advance(task)
    return rows


def _row(
    payoff: Array, algorithm: str, alpha: float, seed: int, policies: list[Array], found: Sequence[Equilibrium]
) -> dict[str, Any]:
    distances = [
        max(0.5 * np.abs(p - q).sum() for p, q in zip(policies, each.policies)) for each in found if each.alpha == alpha
    ]
    return {
        "algorithm": algorithm,
        "alpha": alpha,
        "seed": seed,
        "test_payoff": float(payoff[tuple(int(policy.argmax()) for policy in policies)]),
        "distance": float(min(distances)) if distances else None,
        "policies": [policy.tolist() for policy in policies],
    }


def train(payoff: Array, alpha: float, seed: int, *, sequential: bool) -> list[Array]:
    """HASAC, or MASAC, on uniformly drawn joint actions with a decaying learning rate.

    Returns:
        The policies, averaged over the last quarter of the updates.
    """
    task = Task(tuple(AgentSpec(1, Categorical((size,))) for size in payoff.shape), 1, 1)
    n_envs, n_steps = 20, 100
    replay = StepReplay(task, 2 * n_envs * n_steps + 2 * n_envs, n_envs, CPU, seed)
    ones, over = np.ones((n_envs, payoff.ndim, 1), np.float32), np.ones(n_envs, bool)
    avail = np.zeros((n_envs, payoff.ndim, task.avail_dim), bool)
    for agent, size in enumerate(payoff.shape):
        avail[:, agent, :size] = True
    now = StepData(ones, np.ones((n_envs, 1), np.float32), avail)
    replay.start(now)
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        actions = task.uniform_actions(rng, avail)
        replay.add(actions, payoff[tuple(actions[..., 0].T)], over, over, now, now)
    replay.flush()
    values = {"hidden_sizes": [64, 64], "auto_alpha": False, "alpha": alpha, "sequential_update": sequential}
    values |= {"use_feature_normalization": False, "lr": 4e-3, "critic_lr": 2e-3, "replay_batch_size": 256}
    hasac = Hasac(task, HasacConfig.from_mapping(values), CPU, seed)
    updater, tail = make_updater(hasac, replay), []
    obs, mask = torch.ones(payoff.ndim, 1, 1), torch.from_numpy(avail[:1]).transpose(0, 1)
    for update in range(UPDATES):
        for optimizer in hasac.actor_optimizers:
            optimizer.lr = 4e-3 * (1 - update / UPDATES) + 1e-4
        updater.step()
        if update >= 3 * UPDATES // 4:
            tail.append([_probabilities(hasac, agent, obs[agent], mask[agent]) for agent in range(payoff.ndim)])
    return [np.mean(own, axis=0) for own in zip(*tail)]


@torch.no_grad()
def _probabilities(hasac: Hasac, agent: int, obs: torch.Tensor, avail: torch.Tensor) -> Array:
    policy = hasac.policies.of_agent(agent, obs, avail)
    assert isinstance(policy, MaskedCategorical)
    return policy.log_probs[0].exp().double().numpy()


def train_in_host(payoff: Array, algorithm: str, seed: int) -> float:
    """Mean payoff in the last test of one of the default host's own algorithms, trained there with stock settings.

    Raises:
        RunFailedError: if the run fails.
    """
    command = [sys.executable, "-m", "plugin_hasac", "run", f"--config={algorithm}", "--env-config=matrix_game"]
    words = [f"env_args.payoff={json.dumps(payoff.tolist())}", f"seed={seed}", f"t_max={BASELINE_STEPS}"]
    words += [f"test_interval={BASELINE_STEPS // 2}", f"env_args.episode_limit={REPETITIONS}"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, "with", *words], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise RunFailedError(f"{algorithm} failed in the host: {said[-1]}")
        info = json.loads(next(Path(folder).rglob("info.json")).read_text())
    last = info["test_return_mean"][-1]
    return float(last["value"] if isinstance(last, dict) else last) / REPETITIONS
