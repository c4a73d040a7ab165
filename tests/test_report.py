"""Reading runs of real hosts and of HARL, choosing what is compared, and naming what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Cli, make_record

from plugin_hasac.bench.comparison import compare
from plugin_hasac.bench.records import find_records, read_sacred, write_records
from plugin_hasac.cli.main import main
from plugin_hasac.errors import UserError

HARL_LOGS = ROOT / "tests" / "harl_logs"  # of two short runs of the official code, one of each kind of runner
SHORT = ("t_max=700", "test_interval=200", "test_nepisode=4", "env_args.time_limit=10", "seed=2")
TINY_HASAC = ("batch_size_run=4", "hidden_sizes=[16]", "replay_batch_size=32", "warmup_steps=100")


def write_run(root: Path, number: int, returns: list[float], status: str = "COMPLETED", **config: object) -> Path:
    """A sacred folder as hosts lay it out (numbers as sacred writes numpy scalars, and plain)."""
    folder = root / "sacred" / str(number)
    folder.mkdir(parents=True)
    config = {"name": "qmix", "seed": number, "env_args": {"key": "game"}, **config}
    wrapped = [{"dtype": "float64", "py/object": "numpy.float64", "value": value} for value in returns]
    steps = [500 * count for count in range(len(returns))]
    info = {"test_return_mean": wrapped if number % 2 else returns, "test_return_mean_T": steps}
    info |= {"test_battle_won_mean": [0.25] * len(returns), "test_battle_won_mean_T": steps}
    info |= {"test_dead_mean": [1.0], "test_dead_mean_T": [0]}  # not logged at every test
    run = {"status": status, "host": {"python_version": "3.11"}, "experiment": {"base_dir": "/lab/epymarl/src"}}
    for name, content in {"config": config, "info": info, "run": run}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_real_runs_of_the_host_on_the_command_line(cli: Cli) -> None:
    for algorithm, extra in (("hasac", TINY_HASAC), ("qmix", ())):
        done = cli(f"--config={algorithm}", "--env-config=simple_spread", "with", *SHORT, *extra)
        assert done.code == 0, done.stderr
    done = cli("report", "results", "--out", "out", "--metric", "ep_length")
    assert done.code == 0, done.stderr
    records, problems = find_records([done.folder / "results"])
    assert not problems
    assert [(run.algorithm, run.status, run.host) for run in records] == [
        (name, "COMPLETED", "pymarlzooplus") for name in ("hasac", "qmix")
    ]
    for run in records:
        info = done.info(run.algorithm)
        assert run.steps == info["test_return_mean_T"]
        assert set(run.values("ep_length") or ()) == {10.0}
        assert len(run.metrics["return_std"]) == len(run.test_returns) >= 3
    assert "one seed: qmix on mpe:SimpleSpread-3-v0 has no interval" in (done.folder / "out/problems.txt").read_text()
    made = {path.name for path in (done.folder / "out").iterdir()}
    assert {"runs.json", "table.md", "table.tex", "table.csv", "marl_eval.json", "report.html", "curves.pdf"} <= made
    assert {"curves.png", "profiles.png", "improvement.png", "efficiency.png"} <= made


def test_sacred_folders_of_a_checkout(tmp_path: Path) -> None:
    write_run(tmp_path, 1, [0.0, 1.0, 3.0])
    write_run(tmp_path, 2, [0.0, 1.0], env_args={"map_name": "3s5z", "key": None}, env="sc2", status="RUNNING")
    (second, first), problems = find_records([tmp_path])
    assert not problems
    assert first.source == f"{tmp_path.name}/sacred/1"
    assert (first.task, first.test_returns, first.steps) == ("game", [0.0, 1.0, 3.0], [0, 500, 1000])
    assert (second.task, second.env, second.status, second.host) == ("3s5z", "sc2", "RUNNING", "epymarl")
    assert first.values("win_rate") == first.values("test_battle_won_mean") == [0.25] * 3
    assert first.values("dead") is None


def test_epymarl_without_a_common_reward(tmp_path: Path) -> None:
    folder = write_run(tmp_path, 1, [0.0, 1.0, 3.0])
    info = json.loads((folder / "info.json").read_text())
    renamed = {key.replace("test_return", "test_total_return"): value for key, value in info.items()}
    (folder / "info.json").write_text(json.dumps(renamed))
    assert read_sacred(folder).test_returns == [0.0, 1.0, 3.0]


def test_harl_logs(tmp_path: Path) -> None:
    (happo, hasac), problems = find_records([HARL_LOGS])
    assert not problems
    assert (happo.algorithm, happo.task, happo.seed) == ("happo (HARL)", "simple_spread_v2-discrete", 1)
    assert (happo.steps, happo.status, happo.metrics) == ([200, 400, 600, 800], "COMPLETED", {})
    assert (hasac.steps[-1], hasac.test_returns[-1]) == (600, -73.22684590029596)
    assert hasac.values("ep_length") == [25.0] * 8
    assert (hasac.env, hasac.settings["test_nepisode"]) == ("pettingzoo_mpe", 4)

    copy = tmp_path / "moved"  # and away from HARL's layout, on SMAC, killed while it wrote a line
    shutil.copytree(next(HARL_LOGS.rglob("hasac/short/*")), copy)
    config = json.loads((copy / "config.json").read_text())
    config["main_args"]["env"], config["env_args"] = "smac", {"map_name": "3s5z"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "progress.txt").write_text("250,9.5,30.0,0.25\n300,12.5,30.0,0.5\n350,1")
    ((run,), _) = find_records([copy])
    assert (run.task, run.steps, run.values("win_rate")) == ("3s5z", [250, 300], [0.25, 0.5])
    config["algo_args"]["train"]["num_env_steps"] = 5000
    (copy / "config.json").write_text(json.dumps(config))
    assert find_records([copy])[0][0].status == "UNFINISHED"
    config["algo_args"]["eval"]["use_eval"] = False
    (copy / "config.json").write_text(json.dumps(config))
    assert "use_eval False" in find_records([copy])[1][0]


def test_unreadable_runs_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, 1, [0.0, 1.0, 3.0])
    (write_run(tmp_path, 2, [0.0, 1.0, 3.0]) / "info.json").write_text("{")
    (write_run(tmp_path, 3, [0.0, 1.0, 3.0]) / "config.json").unlink()
    (write_run(tmp_path, 4, [0.0, 1.0, 3.0], status="FAILED") / "info.json").unlink()
    (write_run(tmp_path, 5, [0.0, 1.0, 3.0], env_args={})).joinpath("cout.txt").write_text("")
    (tmp_path / "HARL" / "seed-00001").mkdir(parents=True)
    (tmp_path / "HARL" / "seed-00001" / "progress.txt").write_text("100,1.0\n")
    records, problems = find_records([tmp_path])
    assert [record.seed for record in records] == [1]
    expected = (
        "info.json",
        "config.json",
        "no test_return_mean (status FAILED)",
        "map_name",
        "not a readable HARL run",
    )
    assert len(problems) == len(expected)
    for problem, word in zip(problems, expected):
        assert problem.startswith("left out: ")
        assert word in problem


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    runs = [
        make_record("qmix", 1, [0.0, 1.0], metrics={"ep_length_mean": [3.0, 4.0]}, status="FAILED", source="there"),
        make_record("qmix", 2, [0.0, 1.0]),
    ]
    write_records(runs, tmp_path / "runs.json")
    assert len((tmp_path / "runs.json").read_text().splitlines()) == 4  # one line a run
    assert find_records([tmp_path / "runs.json"])[0] == runs
    for committed in sorted((ROOT / "results" / "benchmarks").glob("*/runs.json")):
        assert find_records([committed])[0]
    (tmp_path / "runs.json").write_text('[{"algorithm": "qmix"}]')
    with pytest.raises(UserError, match="not a file of run records"):
        find_records([tmp_path / "runs.json"])


def test_the_default_step_is_what_all_complete_runs_reached() -> None:
    runs = [
        make_record("hasac", 1, [0.0, 1.0, 3.0, 9.0]),
        make_record("qmix", 1, [0.0, 9.0, 2.0], steps=[0, 500, 1010]),
        make_record("qmix", 2, [0.0, 7.0], status="FAILED"),
        make_record("mappo", 1, [0.0, 7.0, 8.0], status="RUNNING"),
    ]
    comparison = compare(runs)
    assert comparison.at_step == 1010
    assert comparison.algorithms == ["hasac", "mappo", "qmix"]
    assert [comparison.scores("game", name).tolist() for name in comparison.algorithms] == [[3.0], [8.0], [2.0]]
    reason = "where qmix on game, seed 1 ends; others go on to step 1,500 (--at-step)"
    assert f"short: compared at step 1,010, {reason}" in comparison.problems
    assert "left out: qmix on game, seed 2: ended at step 500 of 1,010 (FAILED)" in comparison.problems
    assert "used all the same: mappo on game, seed 1: RUNNING, but tested until step 1,000" in comparison.problems
    assert compare(runs, at_step=500).scores("game", "qmix").tolist() == [9.0, 7.0]
    assert (
        "early: qmix on game is scored at step 500, the next test comes too late" in compare(runs, at_step=900).problems
    )
    with pytest.raises(UserError, match="no run reached step 9,000"):
        compare(runs, at_step=9000)


def test_missing_packages(cli: Cli) -> None:
    code = "import sys; sys.modules['rliable'] = None; from plugin_hasac.cli.main import main; main()"
    runs = str(ROOT / "results" / "benchmarks" / "mehaml" / "runs.json")
    done = cli("report", runs, "--out", "out", entry=("-c", code))
    assert done.code == 2
    assert done.stderr.startswith("hasac: packages for reports are missing or too new")
    assert "pip install rliable==1.2.0" in done.stderr
    assert not (done.folder / "out").exists()


def test_everything_missing_is_named() -> None:
    nan = float("nan")
    runs = [
        *(make_record("hasac", seed, [0.0, 1.0], settings={"test_nepisode": 32}) for seed in (1, 2)),
        make_record("hasac", 2, [0.0, 5.0, 6.0], source="longer"),
        make_record("qmix", 1, [0.0, 1.0], settings={"test_nepisode": 100}, host="epymarl"),
        make_record("qmix", 1, [0.0, 1.0], source="copy"),
        make_record("qmix", 2, [0.0, nan]),
        make_record("mappo", 1, [0.0, 1.0], task="other", host="epymarl"),
        make_record("mappo", 2, [0.0, 1.0], task="other", host="pymarl"),
    ]
    comparison = compare(runs, ["left out: x"], at_step=500)
    assert comparison.scores("game", "hasac").tolist() == [1.0, 5.0]
    assert comparison.problems == [
        "left out: x",
        "left out: qmix on game, seed 2: diverged, return is not finite at step 500",
        "same seed twice: hasac on game, seed 2 (longer): used the one to step 1,000, left out another to step 500",
        "same run twice: qmix on game, seed 1 (copy): used the one to step 500, left out another to step 500",
        "missing: no run of mappo on game to compare",
        "fewer seeds: qmix on game has 1, others have up to 2",
        "missing: no run of hasac on other to compare",
        "missing: no run of qmix on other to compare",
        "not in the aggregate, because not every algorithm has runs there: game, other",
        "mixed: mappo on other has runs of epymarl and pymarl",
    ]
    assert "unequal tests: test_nepisode on game is 32 or 100" in compare(runs[:4], at_step=500).problems


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere holds no sacred runs"),
        (
            ["runs", "--metric", "win_rat"],
            "no run has usable values of 'win_rat' (--metric); the runs have: return, battle_won",
        ),
        (["runs", "--at-step", "0"], "--at-step 0 is not a number of env steps"),
        (["runs", "--range", "gme=0:1"], "no run is of the task 'gme'. Did you mean 'game'?"),
        (["runs", "--range", "game=1:0"], "--range game=1:0 is not TASK=LOW:HIGH"),
        (["runs", "--range", "game=0:1"], "--range game=0:1: its scores lie in [3, 3]"),
        (["runs", "--out", "runs/sacred/1/run.json"], "is not a folder that can be written to"),
    ],
)
def test_one_clear_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs", 1, [0.0, 1.0, 3.0])
    with pytest.raises(SystemExit) as stopped:
        main(["report", "--out", "out", *arguments])
    assert stopped.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line]
    assert line.startswith("hasac: ")
    assert message in line
    assert not Path("out").exists()
