"""``hasac qre``: equilibria, figures, comparison, and what it says to bad input."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from rich.console import Console
from rich.progress import Progress

from plugin_hasac.cli import qre_compare
from plugin_hasac.cli.main import main
from plugin_hasac.cli.qre import comparison_table
from plugin_hasac.envs.matrix_game import payoff_tensor
from plugin_hasac.equilibria.dynamics import payoffs, policy_gradient, soft_iteration
from plugin_hasac.equilibria.matrix_games import qre_residual
from plugin_hasac.equilibria.quantal import temperature_path


def test_files_and_table(cli: Cli) -> None:
    done = cli("qre", "climbing", "--alpha", "1,10", "--json", "values/qre.json", "--out", "figures")
    assert done.code == 0
    assert "2.51" not in done.stdout
    for word in ("alpha", "residual", "stable", "saddle", "written to figures"):
        assert word in done.stdout
    written = json.loads((done.folder / "values/qre.json").read_text())
    assert written["payoff"] == payoff_tensor("climbing").tolist()
    expected = temperature_path(payoff_tensor("climbing"), [1.0, 10.0])
    assert len(written["equilibria"]) == len(expected) == 4
    for ours, each in zip(written["equilibria"], expected, strict=True):
        np.testing.assert_allclose(np.concatenate(ours["policies"]), np.concatenate(each.policies), atol=1e-8)
        policies = [np.array(policy) for policy in ours["policies"]]
        assert qre_residual(payoff_tensor("climbing"), policies, [ours["alpha"]] * 2) < 1e-9
    lines = list(csv.DictReader((done.folder / "figures/equilibria.csv").open()))
    assert [float(line["alpha"]) for line in lines] == [each.alpha for each in expected]
    assert float(lines[0]["agent_0_action_0"]) == pytest.approx(expected[0].policies[0][0])
    for figure in ("equilibria.png", "learning.png"):
        assert (done.folder / "figures" / figure).read_bytes().startswith(b"\x89PNG")


def test_own_games_from_files(cli: Cli, tmp_path: Path) -> None:
    three_agents = np.random.default_rng(0).normal(size=(2, 3, 2))
    np.save(tmp_path / "cube.npy", three_agents)
    (tmp_path / "match.yaml").write_text("payoff: [[1, 0], [0, 1]]\n")
    done = cli("qre", str(tmp_path / "cube.npy"), "--alpha", "0.5", "--json", "cube.json")
    assert done.code == 0
    assert json.loads((done.folder / "cube.json").read_text())["payoff"] == three_agents.tolist()
    assert (done.folder / "results/qre/cube/equilibria.png").is_file()
    words = ["--alpha", "0.2:2:5", "--json", "match.json", "--start", "0.7,0.3"]
    done = cli("qre", str(tmp_path / "match.yaml"), *words)
    assert done.code == 0
    found = json.loads((done.folder / "match.json").read_text())["equilibria"]
    np.testing.assert_allclose(sorted({each["alpha"] for each in found}), np.geomspace(0.2, 2, 5))
    assert list(Counter(each["alpha"] for each in found).values()) == [3, 3, 1, 1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["climbin"], "game 'climbin' is neither a file nor one of climbing, penalty, peaks."),
        (["ragged.yaml"], "is not a tensor of finite numbers"),
        (["text.yaml"], "holds str; expected nested lists"),
        (["other.yaml"], "has no 'payoff'"),
        (["broken.yaml"], "cannot be read as a payoff tensor"),
        (["nan.npy"], "is not a tensor of finite numbers"),
        (["fake.npy"], "cannot be read as a payoff tensor"),
        (["climbing", "--alpha", "cold"], "--alpha: 'cold' is not a positive number"),
        (["climbing", "--alpha", "1,0"], "--alpha: '1,0' is not a positive number"),
        (["climbing", "--alpha=-1:3:4"], "--alpha: '-1:3:4' is not"),
        (["climbing", "--start", "0.5,0.5"], "one for each of the 3 actions"),
        (["climbing", "--start", "0.9,0.1,0.1"], "with sum 1"),
        (["climbing", "--compare", "--seeds", "0"], "--seeds: 0 is not a whole number of at least 1"),
    ],
)
def test_bad_input_gets_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ragged.yaml").write_text("[[1, 2], [3]]")
    (tmp_path / "text.yaml").write_text("hello")
    (tmp_path / "other.yaml").write_text("game: [[1]]")
    (tmp_path / "broken.yaml").write_text("[[1, 2")
    np.save(tmp_path / "nan.npy", np.array([[1.0, np.nan]]))
    (tmp_path / "fake.npy").write_text("not numpy")
    with pytest.raises(SystemExit) as ending:
        main(["qre", *words, "--json", "out.json"])
    assert ending.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "results").exists()


# -------------------------------------------------------------------- learners


def test_entropy_escapes_where_gradients_are_caught() -> None:
    """From policies that lean to the worst of three equilibria; the figures in the spirit of the paper's 1 and 4."""
    payoff, start = payoff_tensor("peaks"), [np.array([0.6, 0.2, 0.2])] * 2
    for sequential in (True, False):
        seen = policy_gradient(payoff, start, iterations=3000, step=1.0, sequential=sequential)
        assert payoffs(payoff, seen)[-1] == pytest.approx(5.0, abs=0.1)
    assert payoffs(payoff, soft_iteration(payoff, start, [0.3] * 40))[-1] == pytest.approx(5.0, abs=0.1)
    cooled = soft_iteration(payoff, start, np.geomspace(30, 0.3, 40).tolist())
    assert payoffs(payoff, cooled)[-1] == pytest.approx(20.0, abs=1e-3)


def test_policy_gradient_is_the_derivative() -> None:
    payoff = np.random.default_rng(0).normal(size=(3, 2))
    start = [np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.6])]
    small = 1e-4
    after = policy_gradient(payoff, start, iterations=1, step=small * np.ptp(payoff), sequential=False)[1]

    def value(logits: np.ndarray) -> float:
        weights = np.exp(logits)
        return float((weights / weights.sum()) @ payoff @ start[1])

    logits = np.log(start[0])
    slope = [(value(logits + 1e-5 * row) - value(logits - 1e-5 * row)) / 2e-5 for row in np.eye(3)]
    moved = np.exp(logits + small * np.array(slope))
    np.testing.assert_allclose(after[0], moved / moved.sum(), atol=1e-10)


@pytest.mark.parametrize(("game", "alpha"), [("peaks", 5.0), ("climbing", 5.0), ("penalty", 30.0)])
def test_deep_learner_ends_near_an_equilibrium(game: str, alpha: float) -> None:
    payoff = payoff_tensor(game)
    policies = qre_compare.train(payoff, alpha, seed=1, sequential=True)
    found = temperature_path(payoff, [alpha])
    distances = [max(0.5 * np.abs(p - q).sum() for p, q in zip(policies, e.policies, strict=True)) for e in found]
    assert min(distances) < 0.02


def test_a_baseline_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qre_compare, "BASELINE_STEPS", 400)
    payoff = np.array([[3.0, 1.0], [0.0, 2.0]])
    assert payoff.min() <= qre_compare.train_in_host(payoff, "maddpg", seed=1) <= payoff.max()


def test_comparison_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qre_compare, "BASELINES", ("no_such_algorithm",))
    monkeypatch.setattr(qre_compare, "UPDATES", 40)
    payoff = np.array([[3.0, 1.0], [0.0, 2.0]])
    rows = qre_compare.compare(payoff, [2.0], temperature_path(payoff, [2.0]), 1, Progress(disable=True))
    assert [row["algorithm"] for row in rows] == ["hasac", "masac", "no_such_algorithm"]
    assert all(0 <= row["distance"] <= 1 for row in rows[:2])
    assert rows[0]["test_payoff"] in payoff
    assert "no_such_algorithm failed in the host" in rows[2]["problem"]
    Console(file=io.StringIO()).print(comparison_table("mine", rows))
