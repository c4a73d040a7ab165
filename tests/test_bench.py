"""Suites: checked before anything starts, made by real runs, resumed, interrupted, on Ray and as a Slurm array."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Cli, Finished

from plugin_hasac.bench.ledger import State, locked, look
from plugin_hasac.bench.resources import Resources
from plugin_hasac.bench.suite import Suite, read_suite
from plugin_hasac.cli.main import main
from plugin_hasac.errors import UserError

TINY: dict[str, Any] = {
    "algorithms": ["hasac"],
    "tasks": [{"env": "matrix_game", "env_args": {"map_name": "penalty", "episode_limit": 5}}],
    "settings": {
        "t_max": 2000,
        "test_interval": 1000,
        "test_nepisode": 2,
        "runner_log_interval": 100,
        "learner_log_interval": 100,
    },
}
HASAC: dict[str, Any] = {
    "config": "hasac",
    "settings": {
        "batch_size_run": 2,
        "warmup_steps": 100,
        "replay_batch_size": 16,
        "hidden_sizes": [8],
    },
}


def write(folder: Path, /, **changes: Any) -> Path:
    """A suite's file: ``TINY`` with other entries."""
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**TINY, "folder": str(folder / "out"), **changes}))
    return path


def states(suite: Suite) -> list[State]:
    return [look(suite.folder / run.folder, run.identity).state for run in suite.runs]


# ---------------------------------------------------------------- what a suite says


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algoritms": []}, "unknown key 'algoritms' in"),
        ({"resources": {3: 4}}, "unknown key '3' in resources"),
        ({"algorithms": []}, "[] is not a list with at least one entry"),
        ({"algorithms": ["hasca"]}, "unknown --config 'hasca'. Did you mean 'hasac'?"),
        ({"algorithms": ["hasac", "hasac"]}, "'hasac' is there 2 times"),
        ({"algorithms": [{"config": "hasac", "setings": {}}]}, "unknown key 'setings' in algorithms"),
        ({"algorithms": [{"config": "hasac", "settings": {"n_stpe": 3}}]}, "Did you mean 'n_step'?"),
        ({"algorithms": [{"config": "hasac", "settings": {"n_step": 0}}]}, "n_step: 0 is not a whole number"),
        ({"algorithms": [{"config": "hasac", "name": "a/b"}]}, "name 'a/b'"),
        ({"algorithms": [3]}, "3 is not a name"),
        ({"tasks": ["simple_sprad"]}, "Did you mean 'simple_spread'?"),
        ({"tasks": ["gymma"]}, "leaves open which task"),
        ({"tasks": [{"env_args": {}}]}, "has no 'env'"),
        (
            {"tasks": ["simple_spread", {"env": "simple_spread", "name": "b"}]},
            "both recorded as 'mpe:SimpleSpread-3-v0'",
        ),
        ({"tasks": [{"env": "matrix_game", "env_args": [1]}]}, "env_args of matrix_game: [1] is not a mapping"),
        ({"algorithms": ["qmix", {"config": "qmix", "name": "b"}]}, "'qmix' and 'b' are both recorded as 'qmix'"),
        ({"seeds": 0}, "seeds in"),
        ({"seeds": [1, 1]}, "neither a number of seeds nor a list of different whole numbers"),
        ({"seeds": "three"}, "'three' is neither"),
        ({"settings": {"seed": 3}}, "'seed' is set by seeds"),
        ({"settings": {"t_max": -1}}, "t_max: -1 is not a positive number"),
        ({"settings": 3}, "3 is not a mapping"),
        ({"host": "rllib"}, "host rllib does not exist"),
        ({"folder": 3}, "folder in"),
        ({"resources": {"workers": 0}}, "workers: 0 is not a whole number of at least 1"),
        ({"resources": {"gpus": 1.5}}, "gpus: 1.5 is neither"),
        ({"resources": {"cores": 2}}, "unknown key 'cores' in resources"),
    ],
)
def test_one_clear_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(write(tmp_path, **changes))])
    assert stop.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("hasac: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_unknown_suites_and_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no suite 'benchmrak'\. Did you mean 'benchmark'\?"):
        read_suite("benchmrak")
    with pytest.raises(UserError, match=r"--only 7: .* an index from 0 to 0"):
        read_suite(str(write(tmp_path))).find("7")
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(write(tmp_path)), "--only", "0", "--slurm"])
    assert stop.value.code == 2


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Common settings, then the task's, then the algorithm's; texts stay texts; every first seed comes first."""
    path = write(
        tmp_path,
        algorithms=[{"config": "hasac", "name": "slow", "settings": {"lr": "1e-4", "t_max": 70}, "seeds": [4]}, "qmix"],
        tasks=["simple_spread", {"env": "sc2", "env_args": {"map_name": "3m", "difficulty": "7"}}],
        seeds=2,
        settings={"t_max": 50},
    )
    suite = read_suite(str(path))
    assert [run.name for run in suite.runs][:3] == [
        "slow on simple_spread, seed 4",
        "qmix on simple_spread, seed 1",
        "slow on 3m, seed 4",
    ]
    assert len(suite.runs) == 6
    main(["bench", str(path), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    words = shlex.split(lines[2].split(maxsplit=3)[3])
    assert words[:5] == ["hasac", "run", "--config=hasac", "--env-config=sc2", "with"]
    assert set(words[5:-1]) == {
        "cpu_threads=1",
        "name=slow",
        "t_max=70",
        "lr=1e-4",
        "env_args.map_name=3m",
        "env_args.difficulty='7'",
    }
    assert words[-1] == "seed=4"
    assert lines[-1].startswith("6 missing; results in")


def test_identity_is_all_settings(tmp_path: Path) -> None:
    """More threads are no other run, anything that changes what is computed is; of the others none changes."""

    def identities(**changes: Any) -> list[str]:
        return [
            run.identity
            for run in read_suite(str(write(tmp_path, **{"algorithms": ["hasac", "qmix"], **changes}))).runs
        ]

    first = identities()
    assert len(set(first)) == 2
    assert identities(resources={"threads": 2, "workers": 7}) == first
    assert not set(identities(settings={**TINY["settings"], "t_max": 500})) & set(first)
    changed = identities(algorithms=[{"config": "hasac", "settings": {"gamma": 0.5}}, "qmix"])
    assert (changed[0] == first[0], changed[1] == first[1]) == (False, True)
    own = tmp_path / "mine.yaml"
    own.write_text((ROOT / "config" / "algs" / "hasac.yaml").read_text())
    before = identities(algorithms=[str(own)])
    own.write_text(own.read_text().replace("gamma: 0.95", "gamma: 0.9"))
    assert identities(algorithms=[str(own)]) != before


def test_shipped_suites() -> None:
    ci, benchmark = read_suite("ci"), read_suite("benchmark")
    assert {run.algorithm for run in ci.runs} == {"hasac"}
    seeds: dict[tuple[str, str], int] = {}
    for run in benchmark.runs:
        seeds[run.algorithm, run.task] = seeds.get((run.algorithm, run.task), 0) + 1
        assert {"t_max=305000", "test_interval=30000"} <= set(run.command)
    assert {algorithm: count for (algorithm, _task), count in seeds.items()} == {
        "hasac": 5,
        "masac": 3,
        "qmix": 5,
        "mappo": 3,
        "happo": 3,
        "maddpg": 5,
    }
    assert len({task for _algorithm, task in seeds}) >= 4


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert len(Resources(threads=3).places()) == 2
    visible = [place["CUDA_VISIBLE_DEVICES"] for place in Resources(gpus=0.5).places()]
    assert visible == ["3", "3", "5", "5"]
    assert Resources(gpus=2).places() == [{"CUDA_VISIBLE_DEVICES": "3,5"}]
    with pytest.raises(UserError, match="this machine has 2"):
        Resources(gpus=3).places()


def test_what_counts_as_complete(tmp_path: Path) -> None:
    """Status file and sacred's record have to agree, and nobody may hold the lock."""
    (tmp_path / "1").mkdir()
    status = {"identity": "a", "state": "completed", "record": "1"}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert look(tmp_path, "a").state is State.MISSING
    (tmp_path / "1" / "run.json").write_text('{"status": "COMPLETED"}')
    assert look(tmp_path, "a").state is State.COMPLETED
    assert look(tmp_path, "b").state is State.MISSING
    with locked(tmp_path) as mine, locked(tmp_path) as too:
        assert (mine, too) == (True, False)
        assert look(tmp_path, "a").state is State.RUNNING
    (tmp_path / "status.json").write_text('{"identity": "a", "sta')
    assert look(tmp_path, "a").state is State.MISSING


# ---------------------------------------------------------------- real runs


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that name a folder, or that were started with it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if words[0] and int(process.name) != os.getpid() and str(folder).encode() in b"".join(words):
            found.append(words[0].decode(errors="replace").replace("\0", " "))
    return found


def started(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "main.py"), "bench", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not appear"
        time.sleep(0.1)


def interrupt(suite: Suite, bench: subprocess.Popen[str], number: signal.Signals, code: int) -> None:
    """Send a signal while the suite's first run trains: no process of it is left, and nothing half-recorded."""
    run = suite.folder / suite.runs[0].folder
    wait_for(run / "progress.json")
    assert states(suite)[0] is State.RUNNING
    assert len(processes_of(suite.folder)) >= 4  # supervisor, run, and what the run has started
    bench.send_signal(number)
    output, _ = bench.communicate(timeout=30)
    assert bench.returncode == code, output
    until = time.monotonic() + 10  # of SIGKILL the others hear a moment later
    while (left := processes_of(suite.folder)) and number == signal.SIGKILL and time.monotonic() < until:
        time.sleep(0.1)
    assert not [line for line in left if "plugin_hasac" in line or "tee" in line]
    assert states(suite)[0] is State.MISSING
    assert json.loads((run / "status.json").read_text())["state"] == "running"
    assert number == signal.SIGKILL or "1 missing" in output or "2 missing" in output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """A suite of a run that completes and one that fails inside the host: interrupted by Ctrl-C, then called again."""
    import conftest

    folder = tmp_path_factory.mktemp("suite")
    broken = {"config": "qmix", "name": "broken", "settings": {"mixer": "qmx"}}
    workers = {"config": "hasac", "settings": {**HASAC["settings"], "env_workers": 1}}
    path = write(folder, algorithms=[workers, broken], resources={"workers": 2})
    suite = read_suite(str(path))
    interrupt(suite, started(str(path), folder=folder), signal.SIGINT, 130)
    call = conftest.cli.__wrapped__(folder)  # type: ignore[attr-defined]
    return call("bench", str(path)), path


def test_a_failed_run_stops_no_other(made: tuple[Finished, Path]) -> None:
    done, path = made
    suite = read_suite(str(path))
    assert done.code == 1, done.stderr
    assert states(suite) == [State.COMPLETED, State.FAILED]
    log = suite.folder / suite.runs[1].folder / "console.log"
    assert f"log: {log}" in done.stdout
    assert "the run failed with ValueError" in log.read_text()
    assert "Traceback" in (log.parent / "host.log").read_text()
    assert "hasac: 1 of 2 runs are not complete" in done.stderr
    assert "completed  hasac on penalty, seed 1: test return" in done.stderr  # the plain log, line by line
    assert "failed     broken on penalty, seed 1: the run failed with ValueError" in done.stderr


def test_what_a_run_leaves_behind(made: tuple[Finished, Path], tmp_path: Path, cli: Cli) -> None:
    """A status file with the command, a sacred record, and a folder that ``hasac report`` reads."""
    done, path = made
    run = read_suite(str(path)).runs[0]
    folder = path.parent / "out" / run.folder
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["identity"], status["command"]) == ("completed", run.identity, run.command_line)
    record = folder / status["record"]
    assert json.loads((record / "run.json").read_text())["status"] == "COMPLETED"
    config = json.loads((record / "config.json").read_text())
    assert (config["name"], config["seed"], config["cpu_threads"]) == ("hasac", 1, 1)
    info = json.loads((record / "info.json").read_text())
    assert status["test_step"] == info["test_return_mean_T"][-1]
    (hint,) = [line for line in done.stdout.splitlines() if line.startswith("report: hasac report ")]
    report = cli("report", str(path.parent / "out"), "--out", str(tmp_path / "report"), *hint.split()[-2:])
    assert report.code == 0, report.stderr
    assert "hasac" in (tmp_path / "report" / "table.md").read_text()


def test_resumes_what_is_missing_or_failed(made: tuple[Finished, Path], capfd: pytest.CaptureFixture[str]) -> None:
    """A complete run is not made again; a run with other settings takes the place, and the old one moves aside."""
    _, path = made
    first = read_suite(str(path)).runs[0]
    status = path.parent / "out" / first.folder / "status.json"
    before = status.stat().st_mtime_ns
    main(["bench", str(path), "--only", first.identity])
    assert status.stat().st_mtime_ns == before
    assert "1 completed" in capfd.readouterr().out
    write(path.parent, algorithms=[{**HASAC, "settings": {**HASAC["settings"], "mac": "nonsense"}}])
    with pytest.raises(
        SystemExit
    ) as stop:  # in this process: signal handlers, exit codes, the same code as on the command line
        main(["bench", str(path)])
    assert stop.value.code == 1
    assert json.loads(status.read_text())["state"] == "failed"
    (aside,) = (path.parent / "out-superseded").glob("hasac/penalty/seed1-*/status.json")
    assert json.loads(aside.read_text())["identity"] == first.identity


def test_a_killed_suite_goes_on_as_a_slurm_array(tmp_path: Path) -> None:
    """After SIGTERM or SIGKILL nothing is left either, and every array task makes exactly one run that is missing."""
    suites = {}
    for number, code in {signal.SIGTERM: 143, signal.SIGKILL: -9}.items():
        folder = tmp_path / number.name
        folder.mkdir()
        suite = suites[number] = read_suite(str(write(folder, algorithms=[HASAC], seeds=2, resources={"workers": 1})))
        interrupt(suite, started(str(suite.path), folder=folder), number, code)
    suite = suites[signal.SIGTERM]
    printed = started(str(suite.path), "--slurm", folder=tmp_path).communicate()[0]
    script = tmp_path / "array.sh"
    script.write_text(printed[printed.index("#!/bin/bash") :])
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    task = subprocess.run(["bash", script], env=environment, check=False, capture_output=True, text=True)
    assert task.returncode == 0, task.stderr
    assert states(suite) == [State.MISSING, State.COMPLETED]
    assert not processes_of(suite.folder)


def test_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """One array task per missing run; every option of the suite; a clear line without Slurm."""
    path = write(tmp_path, seeds=3, resources={"threads": 2, "workers": 5, "gpus": 0.5, "sbatch": {"time": "1:00:00"}})
    suite = read_suite(str(path))
    main(["bench", str(path), "--slurm"])
    script = capfd.readouterr().out
    for option in ("array=0-2%5", "cpus-per-task=2", "gpus-per-task=1", "time=1:00:00"):
        assert f"#SBATCH --{option}\n" in script
    assert f"runs=({' '.join(run.identity for run in suite.runs)})" in script
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(path), "--slurm", "submit"])
    assert stop.value.code == 2
    assert "there is no 'sbatch' on PATH" in capfd.readouterr().err
    sbatch = tmp_path / "sbatch"  # takes the script as Slurm's does, and stops there
    sbatch.write_text(f"#!/bin/bash\n/bin/cat > {tmp_path}/submitted\necho Submitted batch job 42\n")
    sbatch.chmod(0o755)
    main(["bench", str(path), "--slurm", "submit"])
    assert capfd.readouterr().out.startswith("array job 42: 3 runs")
    assert (tmp_path / "submitted").read_text() == script


def test_ray(tmp_path: Path) -> None:
    """On a real cluster: an interrupted suite leaves nothing there, and a second call completes it."""
    pytest.importorskip("ray", reason="pip install 'plugin_hasac[ray]'")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    address = "127.0.0.1:6479"
    options = ["--port=6479", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats", "--block"]
    short = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets lie below it, and their names may not be long
    cluster = subprocess.Popen([*ray, "start", "--head", *options, f"--temp-dir={short}"], stdout=subprocess.DEVNULL)
    try:
        lasting = {**HASAC, "settings": {**HASAC["settings"], "t_max": 5000}}  # cancelling takes a cluster seconds
        suite = read_suite(str(write(tmp_path, algorithms=[lasting])))
        wait_for_port(6479)
        interrupt(suite, started(str(suite.path), "--ray", address, folder=tmp_path), signal.SIGINT, 130)
        second = started(str(suite.path), "--ray", address, folder=tmp_path)
        output, _ = second.communicate(timeout=300)
        assert second.returncode == 0, output
        assert states(suite) == [State.COMPLETED]
    finally:
        cluster.terminate()
        cluster.wait(timeout=30)
        shutil.rmtree(short, ignore_errors=True)
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        from plugin_hasac.bench.launchers.ray import Ray

        Ray(suite, address)


def wait_for_port(port: int, seconds: float = 180) -> None:
    import socket

    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.2)
