"""Checkouts of hosts: the patch, hosts' env dialects, and HASAC in the real hosts where their paths are given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Cli
from sacred.utils import IntervalTimer
from starcraft_stand_in import install

from plugin_hasac.errors import UserError
from plugin_hasac.hosts import compat, hook, patching
from plugin_hasac.hosts.checkout import Checkout, checkout_at
from plugin_hasac.hosts.envs import STARCRAFT, HostEnv

# -------------------------------------------------------------------- install and uninstall

STAND_IN_MAIN = "import sys\n\nfrom run import run\n\nif __name__ == '__main__':\n    run(sys.argv)\n"


@pytest.fixture
def stand_in(tmp_path: Path) -> Checkout:
    """A stand-in for a PyMARL fork, committed to git; enough for files to be patched, not to train."""
    (tmp_path / "src" / "runners").mkdir(parents=True)
    (tmp_path / "src" / "run.py").write_text("")
    (tmp_path / "src" / "main.py").write_text(STAND_IN_MAIN)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "fork")
    return checkout_at(tmp_path)


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True).stdout


def test_install_and_uninstall_are_idempotent_and_restore_every_byte(stand_in: Checkout) -> None:
    stand_in.main.chmod(0o751)
    assert patching.install(stand_in, force=True)  # the mode counts as a change
    lines = stand_in.main.read_text().splitlines()
    assert lines[2:5] == [*patching.LINES, "from run import run"]
    assert stand_in.main.stat().st_mode & 0o777 == 0o751
    assert not patching.install(stand_in)
    assert stand_in.main.read_text().splitlines() == lines
    assert patching.uninstall(stand_in)
    assert stand_in.main.read_text() == STAND_IN_MAIN
    assert not patching.uninstall(stand_in)
    assert [path.name for path in stand_in.root.iterdir() if path.is_file()] in (
        ["run.py", "main.py"],
        ["main.py", "run.py"],
    )


def test_install_keeps_windows_line_ends(stand_in: Checkout) -> None:
    original = STAND_IN_MAIN.replace("\n", "\r\n").encode()
    stand_in.main.write_bytes(original)
    patching.install(stand_in, force=True)
    assert (
        stand_in.main.read_bytes().count(b"\r\n")
        == stand_in.main.read_bytes().count(b"\n")
        == original.count(b"\n") + 2
    )
    patching.uninstall(stand_in)
    assert stand_in.main.read_bytes() == original


def test_install_refuses_a_dirty_tree_unless_forced(stand_in: Checkout) -> None:
    (stand_in.root / "run.py").write_text("changed")
    with pytest.raises(UserError, match=r"changes that are not committed \(src/run.py"):
        patching.install(stand_in)
    assert stand_in.main.read_text() == STAND_IN_MAIN
    assert patching.install(stand_in, force=True)


def test_install_refuses_a_tree_without_version_control(stand_in: Checkout) -> None:
    shutil.rmtree(stand_in.path / ".git")
    with pytest.raises(UserError, match="no version control"):
        patching.install(stand_in)
    assert patching.install(stand_in, force=True)


def test_install_refuses_a_main_program_without_its_anchor(stand_in: Checkout) -> None:
    stand_in.main.write_text("import run\n")
    with pytest.raises(UserError, match=r"0 lines 'from run import"):
        patching.install(stand_in, force=True)
    assert stand_in.main.read_text() == "import run\n"


def test_changed_lines_are_left_alone(stand_in: Checkout) -> None:
    patching.install(stand_in)
    edited = stand_in.main.read_text().replace("hook.prepare(__file__)", "hook.prepare('x')")
    stand_in.main.write_text(edited)
    for change in (patching.install, patching.uninstall):
        with pytest.raises(UserError, match="did not write"):
            change(stand_in)
    assert stand_in.main.read_text() == edited


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: p, "is not a checkout of EPyMARL, PyMARL2, PyMARL"),
    ],
)
def test_wrong_path_gets_one_line(cli: Cli, tmp_path: Path, make: Any, message: str) -> None:
    done = cli("hosts", "check", str(make(tmp_path)))
    assert done.code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_command_line_is_completed_for_our_algorithms_alone(
    stand_in: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stand_in.root / "config" / "algs").mkdir(parents=True)
    (stand_in.root / "config" / "envs").mkdir()
    keys = ["runner", "mac", "buffer_size", "batch_size", "batch_size_run", "env", "env_args"]
    keys += ["t_max", "test_interval", "test_nepisode"]
    (stand_in.root / "config" / "default.yaml").write_text("".join(f"{key}: 1\n" for key in keys))
    (stand_in.root / "config" / "algs" / "qmix.yaml").write_text("name: qmix\nlearner: q_learner\n")
    monkeypatch.setattr(type(stand_in), "env_names", lambda _self: {"mpe"})
    shipped = ROOT / "config"
    assert hook.completed(stand_in, ["--help"]) == ["--help"]
    assert hook.completed(stand_in, ["--config=qmix", "--env-config=mpe", "-l", "INFO", "with", "no_key=1"]) == [
        f"--config={stand_in.root / 'config' / 'algs' / 'qmix'}",
        f"--env-config={shipped / 'envs' / 'mpe'}",
        *("-l", "INFO", "with", "no_key=1"),
    ]
    ours = hook.completed(stand_in, ["--config=hasac", "--env-config=mpe", "-l", "INFO", "with", "n_step=3"])
    assert ours[:5] == [
        f"--config={shipped / 'algs' / 'hasac'}",
        f"--env-config={shipped / 'envs' / 'mpe'}",
        *("-l", "INFO", "with"),
    ]
    assert "env_args.map_name=simple_spread-discrete" in ours
    assert "replay_batch_size=1000" in ours  # the authors' settings
    assert [word for word in ours if word.startswith("n_step=")] == ["n_step=3"]
    assert hook.completed(stand_in, ours) == ours
    with pytest.raises(UserError, match="n_stpe"):
        hook.completed(stand_in, ["--config=hasac", "--env-config=mpe", "with", "n_stpe=3"])


# -------------------------------------------------------------------- dialects of the env contract


class StubEnv:
    """Answers ``step`` with what it is told; the contract's shapes are those of a tiny task."""

    def __init__(self, *answer: Any) -> None:
        self.answer = answer

    def get_env_info(self) -> dict[str, int]:
        return {"n_agents": 2, "obs_shape": 3, "state_shape": 4, "n_actions": 5, "episode_limit": 2}

    def reset(self) -> None:
        pass

    def step(self, actions: np.ndarray) -> Any:
        assert actions.shape == (2,)
        return self.answer


@pytest.mark.parametrize(
    ("name", "answer", "steps", "proper", "expected"),
    [  # expected: terminated, truncated, dropped
        ("a", (1.0, False, {}), 1, True, (False, False, False)),
        ("a", (1.0, True, {}), 1, True, (True, False, False)),
        ("a", (1.0, True, {}), 2, True, (False, True, False)),
        ("a", (1.0, True, {}), 2, False, (True, False, False)),
        ("a", (1.0, True, {"episode_limit": True}), 1, False, (False, True, False)),
        ("a", (1.0, True, {"episode_limit": False}), 2, True, (True, False, False)),
        ("a", (None, 1.0, True, False, {}), 1, True, (True, False, False)),
        ("a", (None, 1.0, False, True, {}), 1, True, (False, True, False)),
        ("a", (None, 1.0, True, True, {}), 1, True, (False, True, False)),  # PettingZoo behind EPyMARL
        ("a", (None, 1.0, False, True, {}), 1, False, (True, False, False)),
        ("sc2", (0, True, {}), 1, True, (False, False, True)),  # StarCraft II crashed
        ("sc2", (None, 0, True, False, {}), 1, True, (False, False, True)),
        ("sc2", (1.0, True, {"battle_won": True, "dead_allies": 0}), 2, True, (True, False, False)),
        ("sc2", (1.0, True, {"battle_won": False, "dead_allies": 2}), 2, True, (True, False, False)),
        ("sc2", (1.0, True, {"battle_won": False, "dead_allies": 1}), 2, True, (False, True, False)),
    ],
)
def test_ends_of_episodes(
    name: str, answer: tuple[Any, ...], steps: int, proper: bool, expected: tuple[bool, bool, bool]
) -> None:
    env = HostEnv(name, StubEnv(*answer), proper)
    env.reset()
    for _ in range(steps):
        outcome = env.step(np.zeros((2, 1), np.int64))
    assert (outcome.terminated, outcome.truncated, outcome.dropped) == expected


# -------------------------------------------------------------------- what old hosts miss


def test_os_exit_returns_in_the_hosts_module_alone() -> None:
    module = types.ModuleType("run")
    vars(module)["os"] = os
    compat.finish_sacred_records([module])
    assert module.os._exit(3) is None
    assert module.os.path is os.path
    assert os._exit.__name__ == "_exit"
    assert module.os is not os


def test_a_host_that_waits_for_records_has_them_written_instead() -> None:
    module, written = types.ModuleType("run"), []
    vars(module)["time"] = time
    compat.write_instead_of_waiting(module, lambda: written.append(1))
    started = time.monotonic()
    module.time.sleep(60)
    assert written == [1]
    assert module.time.monotonic() - started < 30
    event, timer = IntervalTimer.create(lambda: None, interval=60)
    timer.start()
    try:
        assert timer in threading.enumerate()
        assert module.threading.enumerate() == [thread for thread in threading.enumerate() if thread is not timer]
    finally:
        event.set()
        timer.join()
    assert time.sleep is not module.time.sleep


def test_processes_that_hosts_spawn_import_the_command_whichever_way_it_was_called() -> None:
    code = """
import multiprocessing, runpy
import plugin_hasac.cli.main as command

def main():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(eval, ("'plugin_hasac.cli.main' in __import__('sys').modules",)))

command.main = main
runpy.run_module("plugin_hasac", run_name="__main__", alter_sys=True)  # python -m plugin_hasac
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_yaml_load_takes_no_loader(tmp_path: Path) -> None:
    code = (
        "import collections, yaml; from plugin_hasac.hosts import compat\n"
        "compat.restore_yaml_load(); compat.restore_yaml_load(); compat.restore_collections()\n"
        "assert yaml.load('a: 1') == {'a': 1}\n"
        "assert yaml.load('a: 1', Loader=yaml.SafeLoader) == yaml.safe_load('a: 1')\n"
        "assert isinstance({}, collections.Mapping)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -------------------------------------------------------------------- the real hosts

FORAGING = ["env_args.key=lbforaging:Foraging-5x5-2p-1f-coop-v3", "env_args.time_limit=25"]
SPREAD = ["env_args.key=pz-mpe-simple-spread-v3", "env_args.time_limit=25"]
WAREHOUSE = ["env_args.key=rware:rware-tiny-2ag-v2", "env_args.time_limit=30"]
CLIMBING = ["env_args.key=matrixgames:climbing-nostate-v0", "env_args.time_limit=5"]
STAGS = ["env_args.world_shape=[5,5]", "env_args.episode_limit=30"]
MARINES = ["env_args.map_name=3m"]
TASKS = {  # host, variable with its path, env, the env's arguments
    "epymarl-foraging": ("epymarl", "EPYMARL_PATH", "gymma", FORAGING),
    "epymarl-spread": ("epymarl", "EPYMARL_PATH", "gymma", SPREAD),
    "epymarl-warehouse": ("epymarl", "EPYMARL_PATH", "gymma", WAREHOUSE),
    "epymarl-climbing": ("epymarl", "EPYMARL_PATH", "gymma", CLIMBING),
    "epymarl-penalty": ("epymarl", "EPYMARL_PATH", "matrix_game", ["env_args.map_name=penalty"]),
    "epymarl-marines": ("epymarl", "EPYMARL_PATH", "sc2", MARINES),
    "epymarl-zerg": ("epymarl", "EPYMARL_PATH", "sc2v2", ["env_args.map_name=zerg_5_vs_5"]),
    "pymarl2-stags": ("pymarl2", "PYMARL2_PATH", "stag_hunt", STAGS),
    "pymarl2-marines": ("pymarl2", "PYMARL2_PATH", "sc2", MARINES),
    "pymarl-marines": ("pymarl", "PYMARL_PATH", "sc2", MARINES),
    "pymarl-penalty": ("pymarl", "PYMARL_PATH", "matrix_game", ["env_args.map_name=penalty"]),
}
ONE_PER_HOST = ["epymarl-foraging", "pymarl2-stags", "pymarl-penalty"]
SHORT = ["t_max=1200", "test_interval=500", "test_nepisode=4", "seed=3", "use_cuda=False"]
SHORT += ["runner_log_interval=100", "learner_log_interval=100", "log_interval=500"]


@pytest.fixture
def real(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Checkout, str, list[str]]:
    """A fresh clone of a real host, its env and that env's arguments."""
    name, variable, env, words = TASKS[request.param]
    if variable not in os.environ:
        pytest.skip(f"set {variable} to a checkout of {name} to test in it")
    if env in STARCRAFT:  # smac, smacv2 and pysc2 are real; the game's executable is a stand-in
        package = {"sc2": "SMAC_PATH", "sc2v2": "SMACV2_PATH"}[env]
        if package not in os.environ:
            pytest.skip(f"set {package} too")
        monkeypatch.setenv("SC2PATH", str(install(tmp_path / "StarCraftII", ["3m", "32x32_flat"])))
    # PyMARL and PyMARL2 import smac whatever the env.
    paths = [os.environ[variable] for variable in ("SMAC_PATH", "SMACV2_PATH") if variable in os.environ]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    git(tmp_path, "clone", "-q", os.environ[variable], "host")
    host = checkout_at(tmp_path / "host")
    assert host.commit() == host.tested_commit
    return host, env, words


def main_program(host: Checkout, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "src/main.py", *words], check=False, cwd=host.path, capture_output=True, text=True
    )


def records(host: Checkout) -> list[Path]:
    return sorted((host.path / "results" / "sacred").rglob("run.json"), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("real", ONE_PER_HOST, indirect=True)
def test_patch_file_is_what_install_does(real: tuple[Checkout, str, list[str]]) -> None:
    host, _, _ = real
    file = ROOT / "patches" / f"{host.family.lower()}.patch"
    assert file.read_text() == patching.patch(host)
    git(host.path, "apply", "--unidiff-zero", str(file))
    by_hand = host.main.read_bytes()
    git(host.path, "checkout", "-q", ".")
    patching.install(host)
    assert host.main.read_bytes() == by_hand
    patching.uninstall(host)
    assert git(host.path, "status", "--porcelain") == ""


@pytest.mark.parametrize("real", sorted(TASKS), indirect=True)
def test_train_save_load_and_evaluate_in_the_real_host(real: tuple[Checkout, str, list[str]]) -> None:
    host, env, words = real
    patching.install(host)
    hasac = ["--config=hasac", f"--env-config={env}", "with", *SHORT, *words, "warmup_steps=300", "batch_size_run=4"]
    trained = main_program(host, *hasac, "save_model=True", "save_model_interval=500")
    assert trained.returncode == 0, trained.stderr[-2000:]
    (record,) = records(host)
    info = json.loads(record.with_name("info.json").read_text())
    assert json.loads(record.read_text())["status"] == "COMPLETED"
    assert len(info["test_return_mean"]) == len(info["test_return_mean_T"]) >= 2
    assert {"return_mean", "ep_length_mean", "test_ep_length_mean", "critic_loss", "q_mean"} <= set(info)

    (models,) = (host.path / "results" / "models").iterdir()
    step = max(int(folder.name) for folder in models.iterdir())
    assert main_program(host, *hasac, f"checkpoint_path={models}", "evaluate=True").returncode == 0
    evaluated = json.loads(records(host)[-1].with_name("info.json").read_text())
    logged = dict(zip(info["test_return_mean_T"], info["test_return_mean"], strict=True))
    if env in STARCRAFT:  # the game draws its own random numbers
        assert "test_battle_won_mean" in evaluated
    elif step in logged:
        assert evaluated["test_return_mean"] == [logged[step]]

    qmix = main_program(host, "--config=qmix", f"--env-config={env}", "with", *SHORT, *words)
    assert qmix.returncode == 0, qmix.stderr[-2000:]
    assert json.loads(records(host)[-1].read_text())["status"] == "COMPLETED"
    baseline = json.loads(records(host)[-1].with_name("info.json").read_text())
    tested = {name for name in baseline if name.startswith("test_") and not name.endswith("_T")}
    assert tested == {name for name in info if name.startswith("test_") and not name.endswith("_T")}
    assert (
        abs(len(baseline["test_return_mean"]) - len(info["test_return_mean"])) <= 1
    )  # tests drift with episode lengths


@pytest.mark.parametrize("real", ONE_PER_HOST, indirect=True)
def test_wrong_key_in_the_real_host(real: tuple[Checkout, str, list[str]]) -> None:
    host, env, words = real
    patching.install(host)
    done = main_program(host, "--config=hasac", f"--env-config={env}", "with", *words, "n_stpe=3")
    assert done.returncode == 2
    assert "Did you mean 'n_step'?" in done.stderr
    assert not records(host)


@pytest.mark.parametrize("real", ONE_PER_HOST, indirect=True)
def test_workers_and_no_edit_at_all(cli: Cli, real: tuple[Checkout, str, list[str]]) -> None:
    """``hasac run --host`` leaves the checkout as it is, and env workers find its modules."""
    host, env, words = real
    command = ["run", f"--host={host.path}", "--config=hasac", f"--env-config={env}", "with", *SHORT, *words]
    done = cli(*command, "env_workers=2", "batch_size_run=4", "warmup_steps=300", entry=("-m", "plugin_hasac"))
    assert done.code == 0, done.stderr
    assert "final test return" in done.stdout
    assert git(host.path, "status", "--porcelain", "--untracked-files=no") == ""
