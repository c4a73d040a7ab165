"""``hasac qre``: the quantal response equilibria of a matrix game along a path of temperatures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from plugin_hasac.cli.qre_compare import compare
from plugin_hasac.cli.qre_figures import plot_equilibria, plot_learning
from plugin_hasac.envs.matrix_game import GAMES, payoff_tensor
from plugin_hasac.equilibria.matrix_games import Array
from plugin_hasac.equilibria.quantal import Equilibrium, temperature_path
from plugin_hasac.errors import UserError

MAX_JOINT_ACTIONS = 100_000
ROWS_SHOWN = 12  # temperatures in the printed table; the files have them all


def qre(
    game: str,
    alpha: str,
    out: str | None,
    json_file: str | None,
    start: str | None,
    seeds: int,
    *,
    comparison: bool,
) -> None:
    """Find the equilibria, print a table, write figures and files.

    Args:
        game: name of a game, or a file with a payoff tensor.
        alpha: temperatures, see :func:`temperatures`.
        out: folder of the files, by default ``results/qre/GAME``.
        json_file: where to write policies, values and residuals per temperature.
        start: probabilities that every agent of the learning curves starts from; uniform by default.
        seeds: runs per algorithm of the comparison.
        comparison: also train the deep learner and the host's baselines.

    Raises:
        UserError: for a malformed game, temperature or start.
    """
    name, payoff = read_game(game)
    alphas = temperatures(alpha)
    first = starting_policies(payoff, start)
    if seeds < 1:
        raise UserError(f"--seeds: {seeds} is not a whole number of at least 1.")
    folder = Path(out) if out else Path("results") / "qre" / name
    console = Console()
    with _progress() as progress:
        task = progress.add_task("equilibria", total=len(alphas))
        found = temperature_path(payoff, alphas, progress=lambda _alpha: progress.advance(task))
    console.print(summary_table(name, payoff, alphas, found))
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(found, folder / "equilibria.csv")
    plot_equilibria(name, found, folder / "equilibria.png")
    plot_learning(name, payoff, alphas, first, folder / "learning.png")
    written = ["equilibria.csv", "equilibria.png", "learning.png"]
    if comparison:
        with _progress() as progress:
            rows = compare(payoff, alphas, found, seeds, progress)
        console.print(comparison_table(name, rows))
        (folder / "comparison.json").write_text(json.dumps(rows, indent=1) + "\n")
        written.append("comparison.json")
    if json_file:
        target = Path(json_file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(as_json(name, payoff, found), indent=1) + "\n")
        written.append(str(target.resolve()))
    console.print(f"written to {folder}: {', '.join(written)}")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


# -------------------------------------------------------------------- input


def read_game(game: str) -> tuple[str, Array]:
    """Name and payoff tensor of a game by name, ``.npy`` file, or YAML file (nested lists, or those under ``payoff``).

    Raises:
        UserError: if there is no such game or file, or it holds no payoff tensor.
    """
    if game in GAMES:
        return game, payoff_tensor(game)
    path = Path(game)
    if not path.is_file():
        raise UserError(f"game '{game}' is neither a file nor one of {', '.join(GAMES)}.")
    try:
        if path.suffix == ".npy":
            content: Any = np.load(path, allow_pickle=False).tolist()
        else:
            content = yaml.safe_load(path.read_text())
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a payoff tensor: {' '.join(str(error).split())}") from error
    if isinstance(content, dict):
        if "payoff" not in content:
            raise UserError(f"{path} has no 'payoff'; expected nested lists, one level per agent, alone or under it.")
        content = content["payoff"]
    if not isinstance(content, list):
        raise UserError(f"{path} holds {type(content).__name__}; expected nested lists, one level per agent.")
    try:
        payoff = payoff_tensor(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if payoff.size == 0 or payoff.size > MAX_JOINT_ACTIONS:
        raise UserError(f"{path} has {payoff.size} joint actions; expected 1 to {MAX_JOINT_ACTIONS:,}.")
    return path.stem, payoff


def temperatures(words: str) -> list[float]:
    """A number, a list ``0.5,1,2``, or a path ``FROM:TO:COUNT`` with equal ratios.

    Raises:
        UserError: if it is something else, or a temperature is not positive.
    """
    try:
        if ":" in words:
            low, high, count = words.split(":")
            path = np.geomspace(float(low), float(high), int(count)) if float(low) * float(high) > 0 else [0.0]
            values = [float(value) for value in path]
        else:
            values = [float(word) for word in words.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise UserError(
            f"--alpha: '{words}' is not a positive number, a list such as 0.5,1,2 or a path such as 0.1:30:40."
        )
    return list(dict.fromkeys(values))


def starting_policies(payoff: Array, words: str | None) -> list[Array]:
    """Where the learning curves begin, one policy per agent.

    Raises:
        UserError: if the numbers are not positive probabilities, or not as many as every agent has actions.
    """
    if words is None:
        return [np.full(size, 1.0 / size) for size in payoff.shape]
    try:
        policy = np.array([float(word) for word in words.split(",")])
    except ValueError:
        policy = np.zeros(0)
    if any(size != len(policy) for size in payoff.shape) or not (policy > 0).all() or abs(policy.sum() - 1) > 1e-6:
        raise UserError(
            f"--start: '{words}' is not a list of positive probabilities with sum 1, one for each of the "
            f"{' or '.join(str(size) for size in sorted(set(payoff.shape)))} actions."
        )
    return [policy / policy.sum() for _ in payoff.shape]


# -------------------------------------------------------------------- output


def summary_table(name: str, payoff: Array, alphas: Sequence[float], found: Sequence[Equilibrium]) -> Table:
    """The equilibria of some temperatures."""
    title = (
        f"{name}: quantal response equilibria of {payoff.ndim} agents ({' x '.join(map(str, payoff.shape))} actions)"
    )
    table = Table("alpha", "policies", "payoff", "soft value", "residual", "kind", title=title)
    shown = alphas
    if len(alphas) > ROWS_SHOWN:
        shown = [alphas[round(i * (len(alphas) - 1) / (ROWS_SHOWN - 1))] for i in range(ROWS_SHOWN)]
        table.caption = f"{len(shown)} of {len(alphas)} temperatures"
    for alpha in shown:
        for each in (e for e in found if e.alpha == alpha):
            policies = "  ".join(" ".join(f"{p:.3f}" for p in policy) for policy in each.policies)
            values = f"{each.social_value:.3f}", f"{each.soft_value:.3f}", f"{each.residual:.0e}"
            table.add_row(f"{alpha:.3g}", policies, *values, "stable" if each.stable else "saddle")
    return table


def comparison_table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Trained learners."""
    table = Table("algorithm", "alpha", "seed", "test payoff", "distance to a QRE", title=f"{name}: learners")
    for row in rows:
        distance = row.get("distance")
        cells = row["algorithm"], "" if row["alpha"] is None else f"{row['alpha']:.3g}", str(row["seed"])
        payoff = row["problem"] if "problem" in row else f"{row['test_payoff']:.2f}"
        table.add_row(*cells, payoff, "" if distance is None else f"{distance:.4f}")
    return table


def as_json(name: str, payoff: Array, found: Sequence[Equilibrium]) -> dict[str, Any]:
    """Everything, in plain containers."""
    return {
        "game": name,
        "payoff": payoff.tolist(),
        "equilibria": [
            {
                "alpha": each.alpha,
                "policies": [policy.tolist() for policy in each.policies],
                "social_value": each.social_value,
                "soft_value": each.soft_value,
                "residual": each.residual,
                "stable": each.stable,
            }
            for each in found
        ],
    }


def write_csv(found: Sequence[Equilibrium], target: Path) -> None:
    """One line per equilibrium."""
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        sizes = [len(policy) for policy in found[0].policies] if found else []
        names = [f"agent_{agent}_action_{action}" for agent, size in enumerate(sizes) for action in range(size)]
        writer.writerow(["alpha", "stable", "social_value", "soft_value", "residual", *names])
        for each in found:
            probabilities = np.concatenate(each.policies).tolist()
            writer.writerow(
                [each.alpha, each.stable, each.social_value, each.soft_value, each.residual, *probabilities]
            )
