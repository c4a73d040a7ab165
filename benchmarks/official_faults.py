"""What known faults of the official code (a checkout of PKU-MARL/HARL) do to games whose solutions are known.

    python benchmarks/official_faults.py --harl HARL [--updates 3000] [--json FILE]

One-step games, uniformly random experience, the same settings and number of updates for the official update,
unmodified, and for ours:

- *scale of the temperature*: the climbing game at a fixed temperature, with and without value normalisation. The error
  is the total variation between the learned policies and the exact quantal response equilibrium. The official actor
  compares a normalised Q with an unscaled entropy, so its temperature is multiplied by the spread of the returns.
- *target of the temperature*: the same game with an automatic temperature. The official target entropy of Discrete
  actions is 0 for any number of actions, and its temperature starts at 1 whatever ``alpha`` says.
- *bounds of a Box*: two agents with actions in [-4, 1] whose best joint action is (-3, -3), of return 0. The official
  policy takes the upper bound for the size of both.

Both sides estimate the actors' gradient of Discrete actions by a straight-through Gumbel-softmax (ours too, to compare
the same estimator), whose own error is small at this temperature.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from harl_runner import official_update
from official_harl import OfficialEnv
from rich.console import Console
from rich.progress import track
from rich.table import Table

from plugin_hasac.components.replay import StepData, StepReplay
from plugin_hasac.config import HasacConfig
from plugin_hasac.envs.matrix_game import MatrixGame
from plugin_hasac.equilibria.matrix_games import soft_policy_iteration
from plugin_hasac.hosts.envs import HostEnv
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.updaters import make_updater

ALPHA, FRACTION, N_ENVS, STEPS = 20.0, 0.5, 20, 100
SIZES = {"replay_batch_size": 256, "hidden_sizes": [32, 32]}
RATES = {"lr": 1e-3, "critic_lr": 3e-3}


class QuadraticGame(MatrixGame):
    """Two agents with one number each in [-4, 1]; the return is -(x + 3)^2 - (y + 3)^2."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.action_spaces = [Box(-4.0, 1.0, (1,))] * 2

    def step(self, actions: Sequence[Any]) -> tuple[float, bool, dict[str, Any]]:
        """See :class:`PluginEnv`; like robots, the game takes the nearest action it knows."""
        x = np.clip(np.array(actions, dtype=np.float64).flatten(), -4.0, 1.0)
        return self.worth(x), True, {"episode_limit": False}

    @staticmethod
    def worth(x: np.ndarray) -> float:
        """The return of a joint action."""
        return float(-np.square(x + 3.0).sum())


class Ours:
    """The algorithm of this plugin and a replay of random actions.

    Args:
        make_game: makes an env.
        values: of the config.
    """

    def __init__(self, make_game: Callable[[], MatrixGame], values: dict[str, Any]) -> None:
        game = make_game()
        task = HostEnv("game", game, True).task
        shown = [game.observations() for _ in range(N_ENVS)]
        now = StepData(
            np.array(shown, np.float32),
            np.ones((N_ENVS, 1), np.float32),
            np.ones((N_ENVS, task.n_agents, task.avail_dim), bool),
        )
        replay = StepReplay(task, 4 * N_ENVS * STEPS, N_ENVS, torch.device("cpu"), seed=0)
        replay.start(now)
        rng, over = np.random.default_rng(0), np.ones(N_ENVS, bool)
        for _ in range(STEPS):
            actions = task.uniform_actions(rng, now.avail)
            reward = np.array([game.step(joint[:, 0])[0] for joint in actions])
            replay.add(actions, reward, over, over, now, now)
        replay.flush()
        config = HasacConfig.from_mapping({"n_step": 1, "actor_gradient": "gumbel", **SIZES, **RATES, **values})
        self.hasac = Hasac(task, config, torch.device("cpu"), seed=0)
        self.train = make_updater(self.hasac, replay).step
        self._obs, self._avail = (torch.from_numpy(each[:1]).transpose(0, 1) for each in (now.obs, now.avail))

    def policies(self) -> list[np.ndarray]:
        """Probabilities of each agent's actions."""
        (distribution,) = self.hasac.policies.of_groups(self._obs, self._avail)
        return list(distribution.log_probs.exp()[:, 0].numpy().astype(float))

    def alphas(self) -> list[float]:
        """Temperatures."""
        return self.hasac.temperatures.values().tolist()

    def best(self) -> np.ndarray:
        """The greedy joint action."""
        generator = torch.Generator()
        return self.hasac.policies.act(self._obs, self._avail, greedy=True, generator=generator).flatten().numpy()


class Official:
    """The official runner, filled with random actions.

    Args:
        harl: checkout.
        make_game: makes an env.
        values: official settings.
    """

    def __init__(self, harl: Path, make_game: Callable[[], MatrixGame], values: dict[str, Any]) -> None:
        def env(_seed: int) -> OfficialEnv:
            return OfficialEnv(make_game(), standardize=False)

        settings = {"use_policy_active_masks": False, "use_huber_loss": False, **RATES, **values}
        self.runner = official_update(harl, env, SIZES, cuda=False, algo=settings)
        self.train = self.runner.train
        self._one = np.ones((1, 1), np.float32)

    def policies(self) -> list[np.ndarray]:
        """Probabilities of each agent's actions."""
        with torch.no_grad():
            logits = [actor.actor.get_logits(self._one) for actor in self.runner.actor]
        return [own.softmax(-1)[0].numpy().astype(float) for own in logits]

    def alphas(self) -> list[float]:
        """Temperatures."""
        return [float(alpha) for alpha in self.runner.alpha]

    def best(self) -> np.ndarray:
        """The greedy joint action."""
        return np.array([float(actor.get_actions(self._one, stochastic=False)) for actor in self.runner.actor])


def climbing() -> MatrixGame:
    """The climbing game."""
    return MatrixGame("climbing")


def learn(side: Ours | Official, updates: int, label: str) -> list[np.ndarray]:
    """Make the updates; returns the mean policies over the last quarter of them."""
    tail = []
    for k in track(range(updates), label, console=Console(stderr=True)):
        side.train()
        if k >= 3 * updates // 4:
            tail.append(side.policies())
    return [np.mean([policies[agent] for policies in tail], axis=0) for agent in range(2)]


def scale_of_the_temperature(harl: Path, updates: int) -> list[dict[str, Any]]:
    """Distance from the exact equilibrium, with and without value normalisation."""
    payoff, rows = climbing().payoff, []
    for normalised in (False, True):
        common = {"auto_alpha": False, "alpha": ALPHA, "use_valuenorm": normalised}
        for who, side in (("official", Official(harl, climbing, common)), ("ours", Ours(climbing, common))):
            learned = learn(side, updates, f"scale of the temperature, {who}")
            exact = soft_policy_iteration(payoff, [ALPHA] * 2, start=learned)
            error = max(0.5 * np.abs(one - other).sum() for one, other in zip(learned, exact))
            what = f"error at alpha {ALPHA:g}, value normalisation {'on' if normalised else 'off'}"
            rows.append({"what": what, "who": who, "value": round(float(error), 3), "right": 0.0})
    return rows


def target_of_the_temperature(harl: Path, updates: int) -> list[dict[str, Any]]:
    """Entropy of the policies, and where the temperature starts."""
    right, rows = FRACTION * np.log(3), []
    common = {"auto_alpha": True, "alpha": ALPHA, "alpha_lr": 5e-3, "use_valuenorm": False}
    own = {**common, "target_entropy": "auto", "target_entropy_fraction": FRACTION}
    for who, side in (("official", Official(harl, climbing, common)), ("ours", Ours(climbing, own))):
        start = float(np.mean(side.alphas()))
        learned = learn(side, updates, f"target of the temperature, {who}")
        entropy = float(np.mean([-(p * np.log(p + 1e-12)).sum() for p in learned]))
        rows.append({"what": "alpha at the start", "who": who, "value": round(start, 3), "right": ALPHA})
        rows.append({"what": "entropy reached", "who": who, "value": round(entropy, 3), "right": round(right, 3)})
    return rows


def bounds_of_a_box(harl: Path, updates: int) -> list[dict[str, Any]]:
    """Return of the greedy joint action."""
    common = {"auto_alpha": False, "alpha": 0.01, "use_valuenorm": False}
    rows = []
    for who, side in (("official", Official(harl, QuadraticGame, common)), ("ours", Ours(QuadraticGame, common))):
        for _ in track(range(updates), f"bounds of a box, {who}", console=Console(stderr=True)):
            side.train()
        worth = QuadraticGame.worth(np.clip(side.best(), -4.0, 1.0))
        rows.append({"what": "return with actions in [-4, 1]", "who": who, "value": round(worth, 3), "right": 0.0})
    return rows


def main() -> None:
    """Parse the command line, measure, print a table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harl", type=Path, required=True, help="checkout of PKU-MARL/HARL")
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for demonstrate in (scale_of_the_temperature, target_of_the_temperature, bounds_of_a_box):
        rows += demonstrate(options.harl, options.updates)
    values: dict[str, dict[str, Any]] = {}
    for row in rows:
        values.setdefault(row["what"], {"right": row["right"]})[row["who"]] = row["value"]
    table = Table("", "right", "official", "ours", title=f"After {options.updates:,} updates")
    for what, each in values.items():
        table.add_row(what, *(f"{each[column]:g}" for column in ("right", "official", "ours")))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([{"updates": options.updates, **row} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
