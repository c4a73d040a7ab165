"""Whole runs through the real host: its loop, its envs, its logs, its checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Cli, Finished

TIMING = ("updates_per_second", "env_steps_per_second")
SMALL = (
    "batch_size_run=4",
    "hidden_sizes=[32,32]",
    "replay_batch_size=64",
    "warmup_steps=200",
    "train_interval=25",
    "t_max=1500",
    "test_interval=500",
    "test_nepisode=8",
    "runner_log_interval=200",
    "learner_log_interval=200",
    "env_args.time_limit=10",
    "seed=3",
)
SPREAD = ("--config=hasac", "--env-config=simple_spread", "with", *SMALL)


def series(info: dict, key: str) -> list[float]:
    return [value["value"] if isinstance(value, dict) else value for value in info[key]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One small run on simple spread that saves its models."""
    import conftest

    call = conftest.cli.__wrapped__(tmp_path_factory.mktemp("trained"))  # type: ignore[attr-defined]
    done: Finished = call(*SPREAD, "save_model=True", "save_model_interval=500")
    assert done.code == 0, done.stderr
    return done


def test_sacred_record_is_complete(trained: Finished) -> None:
    folder = trained.runs("hasac")[-1]
    assert folder.parent.name == "mpe:SimpleSpread-3-v0"
    assert json.loads((folder / "run.json").read_text())["status"] == "COMPLETED"
    config = json.loads((folder / "config.json").read_text())
    assert (config["name"], config["seed"], config["n_step"]) == ("hasac", 3, 1)
    info = trained.info("hasac")
    assert info["test_return_mean_T"] == [100, 600, 1100, 1600]
    assert series(info, "test_ep_length_mean") == [10.0] * 4
    for key in ("return_mean", "return_std", "ep_length_mean", "test_return_std", "env_steps_per_second"):
        assert np.isfinite(series(info, key)).all()
    for key in ("critic_loss", "critic_grad_norm", "q_mean", "entropy", "alpha", "actor_loss", "updates_per_second"):
        assert np.isfinite(series(info, key)).all()
    for agent in range(3):
        for key in ("entropy", "alpha", "actor_loss", "grad_norm"):
            assert len(series(info, f"agent_{agent}_{key}")) == len(series(info, "critic_loss"))


def test_summary_at_the_end(trained: Finished) -> None:
    folder = trained.runs("hasac")[-1]
    assert f"final test return  {series(trained.info('hasac'), 'test_return_mean')[-1]:.2f}" in trained.stdout
    assert str(folder / "learning_curve.png") in trained.stdout
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_loading_evaluates_to_the_same_return(trained: Finished, cli: Cli) -> None:
    folder = trained.runs("hasac")[-1]
    steps = sorted(int(path.name) for path in (folder / "models").iterdir())
    tested = dict(zip(trained.info("hasac")["test_return_mean_T"], series(trained.info("hasac"), "test_return_mean")))
    for load_step in (0, steps[1]):
        loaded = load_step or steps[-1]
        done = cli(*SPREAD, f"checkpoint_path={folder / 'models'}", f"load_step={load_step}", "evaluate=True")
        assert done.code == 0, done.stderr
        info = done.info("hasac")
        assert info["test_return_mean_T"] == [loaded]
        assert series(info, "test_return_mean") == [tested[loaded]]


def test_damaged_and_unfitting_checkpoints(trained: Finished, cli: Cli, tmp_path: Path) -> None:
    source = trained.runs("hasac")[-1] / "models"
    step = max(source.iterdir(), key=lambda path: int(path.name))
    damaged = tmp_path / "models" / step.name
    damaged.mkdir(parents=True)
    (damaged / "hasac.pt").write_bytes((step / "hasac.pt").read_bytes()[:1000])
    done = cli(*SPREAD, f"checkpoint_path={tmp_path / 'models'}", "evaluate=True")
    assert done.code == 2
    assert "is damaged and cannot be read" in done.stderr
    done = cli(*SPREAD, "hidden_sizes=[16]", f"checkpoint_path={source}", "evaluate=True")
    assert done.code == 2
    assert "does not fit this task or these network settings" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *SPREAD, "t_max=10000000", "env_workers=2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Shells start background jobs with interrupts ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads here)
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("results/sacred/hasac/*/1/info.json")) and time.monotonic() < deadline:
            time.sleep(0.5)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM), errors
        if number == signal.SIGINT:
            assert errors.splitlines()[-1] == "hasac: interrupted"
            (record,) = tmp_path.glob("results/sacred/hasac/*/1/run.json")
            assert json.loads(record.read_text())["status"] == "INTERRUPTED"
        deadline = time.monotonic() + 10
        while group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not group_lives(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def group_lives(group: int) -> bool:
    """Whether any process of a process group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("change", "left_out"),
    [("env_workers=0", ()), ("env_workers=2", ()), ("test_greedy=False", ("test_",))],
    ids=["same again", "in workers", "tests do not disturb training"],
)
def test_same_seed_same_metrics_to_the_last_bit(
    trained: Finished, cli: Cli, change: str, left_out: tuple[str, ...]
) -> None:
    done = cli(*SPREAD, change)
    assert done.code == 0, done.stderr
    ours, theirs = trained.info("hasac"), done.info("hasac")
    assert set(ours) == set(theirs)
    for key in ours:
        if not key.startswith((*TIMING, *left_out)):
            assert ours[key] == theirs[key], key


def test_baselines_of_the_host_run_by_the_same_command(cli: Cli) -> None:
    done = cli(
        "--config=qmix",
        "--env-config=matrix_game",
        "with",
        "t_max=300",
        "test_interval=100",
        "env_args.map_name=penalty",
        "seed=1",
    )
    assert done.code == 0, done.stderr
    info = done.info("qmix")
    assert info["test_return_mean_T"] == [1, 101, 201, 301]
    assert set(series(info, "test_return_mean")) <= {10.0, 2.0, 0.0, -100.0}  # greedy play of a matrix game


# Speaker-listener: random play returns about -170; with the goal understood and approached, about -60.
LISTENING = (
    "--config=hasac",
    "--env-config=simple_speaker_listener",
    "with",
    "hidden_sizes=[64,64]",
    "replay_batch_size=128",
    "warmup_steps=2000",
    "t_max=10000",
    "test_interval=10000",
    "seed=1",
)


@pytest.mark.parametrize(
    ("variant", "learns"),
    [((), True), (("lr=1e-9",), False), (("critic_lr=1e-9",), False), (("warmup_steps=20000",), False)],
    ids=["hasac", "frozen actors", "frozen critics", "no learning at all"],
)
def test_learns_to_speak_and_listen(cli: Cli, variant: tuple[str, ...], learns: bool) -> None:
    done = cli(*LISTENING, *variant)
    assert done.code == 0, done.stderr
    final = series(done.info("hasac"), "test_return_mean")[-1]
    assert (final > -100) == learns, final
