"""Regression of scores: the statistical rule, JUnit, the command line, the README's recipe."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, Cli
from junitparser import Failure, Skipped
from junitparser.xunit2 import JUnitXml
from test_reference import GOOD, write_yaml

from plugin_hasac.bench.junit import explain
from plugin_hasac.bench.records import Record, write_records
from plugin_hasac.bench.reference import Entry, read_references
from plugin_hasac.bench.regression import LEVEL, Outcome, Verdict, drop_p_value, exit_code, holm, judge, smallest_drop
from plugin_hasac.cli.main import main

MEASURED = ROOT / "tests" / "regress_runs"  # of the ci suite, see README.md there
REFERENCE = Entry("hasac", "game", "test_return_mean", "here", 10.0, 1000, 1.0, 5)


def run(seed: int, score: float, algorithm: str = "hasac", last: int = 1000, **settings: Any) -> Record:
    """A run with tests at 0 and at its last step."""
    return Record(algorithm, "game", seed, [0, last], [0.0, score], settings, {"python": "3.11", "cpu": "x"})


def runs(*scores: float, algorithm: str = "hasac", last: int = 1000) -> list[Record]:
    return [run(seed, score, algorithm, last) for seed, score in enumerate(scores, start=1)]


def only(records: list[Record], entry: Entry, min_seeds: int = 3) -> Verdict:
    (verdict,) = judge(records, [entry], min_seeds)
    return verdict


def changed(**changes: Any) -> Entry:
    return Entry(**{**vars(REFERENCE), **changes})


def hasac(*arguments: object) -> int:
    """Exit code of the command line, in this process."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# The rule


def test_outcomes_of_a_reference() -> None:
    assert only(runs(9, 10, 11), REFERENCE).outcome == Outcome.OK
    assert only(runs(19, 20, 21), REFERENCE).outcome == Outcome.OK
    low = only(runs(5, 6, 7), REFERENCE)
    assert low.outcome == Outcome.REGRESSION
    # Worked by hand: pooled variance (2 + 4) / 6 = 1, error sqrt(1/3 + 1/5), t = -4 / 0.7303 = -5.477 with 6 degrees.
    assert low.p_value == pytest.approx(0.000774, rel=1e-2)
    assert only(runs(5, 6, 7), changed(tolerance=4.0)).outcome == Outcome.OK
    assert only(runs(13, 14, 15), changed(direction="lower-is-better")).outcome == Outcome.REGRESSION
    assert only(runs(5, 6, 7), changed(direction="lower-is-better")).outcome == Outcome.OK


def test_not_enough_data() -> None:
    for records, reason in (
        ([], "no run"),
        (runs(10, 10, algorithm="qmix"), "no run"),
        (runs(1, 2), "2 of at least 3 seeds"),
        (runs(10, 10, 10, last=900), "ended at step 900 of 1,000 (seed 1, 2, 3)"),
        (runs(10, 10, 10, last=5000), "no test within 2% of step 1,000"),
        ([*runs(10, 10, 10), run(3, 11)], "different scores 10 and 11 (seed 3)"),
        ([*runs(9, 10, 11), run(4, 10, last=500)], "ended at step 500 of 1,000 (seed 4)"),  # may be what is wrong
        ([*runs(9, 10), run(3, 10, env_args={"n": 2})], "env_args.n of seed 3 is 2, the reference's is 1"),
    ):
        verdict = only(records, changed(settings={"env_args": {"n": 1}}))
        assert verdict.outcome == Outcome.NOT_ENOUGH_DATA
        assert reason in verdict.reason
    assert "no test_battle_won_mean" in only(runs(1, 1, 1), changed(metric="test_battle_won_mean")).reason
    assert only([*runs(5, 6, 7), run(4, 10, last=500)], REFERENCE).outcome == Outcome.REGRESSION
    repeated = [*runs(9, 10, 11), run(3, 0.0, last=500), run(2, 10)]  # broken off and made again; copied
    assert only(repeated, REFERENCE).outcome == Outcome.OK
    assert only(runs(1, 2), REFERENCE, min_seeds=2).outcome == Outcome.REGRESSION


def test_no_spread_few_seeds_and_broken_scores() -> None:
    constant = changed(spread=0.0)
    assert only(runs(10, 10, 10), constant).outcome == Outcome.OK
    assert only(runs(9.9, 9.9, 9.9), constant).outcome == Outcome.REGRESSION
    assert only(runs(9.9, 9.9, 9.9), changed(spread=0.0, tolerance=0.2)).outcome == Outcome.OK
    assert only(runs(10, 10, 9), constant).outcome == Outcome.OK  # one seed of three shows nothing yet
    diverged = only(runs(10, 10, math.nan), REFERENCE)
    assert (diverged.outcome, explain(diverged)) == (
        Outcome.REGRESSION,
        "seed 3 diverged: test_return_mean is nan",
    )
    one = changed(seeds=1, spread=None)
    # The reference's own noise counts: its lone score could be a lucky one.
    assert only(runs(8, 8.5, 9), one).outcome == Outcome.OK
    assert only(runs(8, 8.5, 9), changed(seeds=None, spread=None)).outcome == Outcome.REGRESSION  # an exact threshold


def test_bars_are_never_regressions() -> None:
    bar = changed(algorithm="hatd3", role="bar", seeds=None, spread=None)
    records = [*runs(4, 5, 6), *runs(19, 20, 21, algorithm="masac"), *runs(9, 10, 12, algorithm="qmix")]
    outcomes = {verdict.algorithm: verdict.outcome for verdict in judge(records, [bar])}
    assert outcomes == {"hasac": Outcome.BELOW, "masac": Outcome.ABOVE, "qmix": Outcome.UNDECIDED}
    assert exit_code(judge(records, [bar])) == 0
    assert judge(records, [changed(role="bar", task="elsewhere")]) == []
    # Passed with fewer env steps: passed. Not yet reached: open.
    assert only(runs(19, 20, 21, last=400), bar).outcome == Outcome.ABOVE
    assert only(runs(4, 5, 6, last=400), bar).outcome == Outcome.NOT_ENOUGH_DATA


def test_bars_and_references_are_corrected_apart() -> None:
    records = runs(7.4, 8.4, 9.2)
    alone = only(records, REFERENCE)
    bars = [changed(algorithm=f"bar {number}", role="bar") for number in range(20)]
    beside = judge(records, [*bars, REFERENCE])
    assert beside[0].p_value == alone.p_value
    assert alone.p_value is not None
    assert beside[1].p_value == pytest.approx(min(1.0, 40 * alone.p_value))


def test_unavailable_scores_are_shown_and_not_compared() -> None:
    verdict = only(runs(1, 1, 1), changed(value=None, spread=None, seeds=None, why="not published"))
    assert (verdict.outcome, verdict.reason) == (Outcome.NOT_AVAILABLE, "not published")


def test_exit_codes() -> None:
    missing = changed(task="elsewhere")
    assert exit_code(judge(runs(9, 10, 11), [REFERENCE])) == 0
    assert exit_code(judge(runs(9, 10, 11), [REFERENCE, missing])) == 2
    assert exit_code(judge(runs(5, 6, 7), [REFERENCE, missing])) == 1
    assert exit_code(judge(runs(9, 10, 11), [changed(value=None, why="x")])) == 2
    assert exit_code([]) == 2


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def simulated(rng: np.random.Generator, n: int, m: int, drop: float, count: int = 40_000) -> np.ndarray:
    """p-values of n reference seeds against m measured ones, whose mean is lower by some standard deviations."""
    before, after = rng.normal(0, 1, (count, n)), rng.normal(-drop, 1, (count, m))
    spreads = before.std(1, ddof=1), after.std(1, ddof=1)
    return drop_p_value(after.mean(1), spreads[1], m, before.mean(1), spreads[0], n)


def test_false_alarms_and_power_are_as_documented() -> None:
    table = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+)% \| (\d+)% \| ([\d.]+) σ \|$", readme(), flags=re.M)
    assert {(n, m) for n, m, *_ in table} >= {("3", "3"), ("5", "3"), ("5", "5")}
    rng = np.random.default_rng(0)
    for n, m, comparisons, at_2, at_3, found in table:
        level = LEVEL / int(comparisons)
        sizes = int(n), int(m)
        assert (simulated(rng, *sizes, 0.0) <= level).mean() == pytest.approx(level, abs=0.004)
        assert (simulated(rng, *sizes, 2.0) <= level).mean() == pytest.approx(int(at_2) / 100, abs=0.015)
        assert (simulated(rng, *sizes, 3.0) <= level).mean() == pytest.approx(int(at_3) / 100, abs=0.015)
        assert (simulated(rng, *sizes, float(found)) <= level).mean() == pytest.approx(0.8, abs=0.015)
        assert smallest_drop(1.0, sizes[1], sizes[0], level) == pytest.approx(float(found), abs=0.006)


def test_false_alarms_of_a_whole_call() -> None:
    """Ten references, nothing changed: any alarm at all in at most 5% of the calls; also if a fifth of seeds fails."""
    rng = np.random.default_rng(1)
    gaussian = simulated(rng, 5, 3, 0.0, 20_000).reshape(-1, 10)
    before, after = (np.where(rng.random((20_000, k)) < 0.2, -5.0, 0) + rng.normal(0, 0.3, (20_000, k)) for k in (5, 3))
    spreads = before.std(1, ddof=1), after.std(1, ddof=1)
    failing = drop_p_value(after.mean(1), spreads[1], 3, before.mean(1), spreads[0], 5).reshape(-1, 10)
    for family in (gaussian, failing):
        assert np.mean([min(holm(row)) <= LEVEL for row in family]) <= 0.06
    assert (failing <= LEVEL).mean() <= 0.055


def test_documented_price_of_pooling() -> None:
    (stated,) = re.findall(r"3 seeds against 5 raise the alarm in (\d+)% of", " ".join(readme().split()))
    rng = np.random.default_rng(2)
    before, after = rng.normal(0, 1, (40_000, 5)), rng.normal(0, 3, (40_000, 3))
    alarms = drop_p_value(after.mean(1), after.std(1, ddof=1), 3, before.mean(1), before.std(1, ddof=1), 5) <= LEVEL
    assert alarms.mean() == pytest.approx(int(stated) / 100, abs=0.01)


def readme() -> str:
    return (ROOT / "results" / "reference" / "README.md").read_text()


# The command line


def test_exit_codes_and_files_of_the_real_command(cli: Cli, tmp_path: Path) -> None:
    reference = write_yaml(
        tmp_path, {**GOOD, "value": 10.0, "spread": 1.0, "seeds": 5}, {**GOOD, "task": "b", "value": 1}
    )
    write_records(runs(5, 6, 7), tmp_path / "runs.json")
    done = cli("regress", "runs.json", "--reference", reference.name, "--junit", "out/r.xml", "--json", "r.json")
    assert done.code == 1, done.stderr  # a regression wins over missing data
    assert "regression: hasac on game: 6 over 3 seeds is 4 worse than 10 (p = 0.00077)" in done.stdout
    suite = next(iter(JUnitXml.fromfile(str(tmp_path / "out" / "r.xml"))))
    assert (suite.tests, suite.failures, suite.skipped, suite.errors) == (2, 1, 1, 0)
    failed, skipped = suite
    assert isinstance(failed.result[0], Failure)
    assert isinstance(skipped.result[0], Skipped)
    assert "4 worse than 10" in failed.result[0].message
    assert skipped.result[0].message == "no run"
    properties = {each.name: each.value for each in failed.properties()}
    assert (properties["mean"], properties["reference_value"], properties["seeds"]) == ("6", "10", "3")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["exit_code"] == 1
    assert content["verdicts"][0]["scores"] == {"1": 5.0, "2": 6.0, "3": 7.0}
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["r.json", "r.xml", "reference.yaml", "runs.json"]
    done = cli("regress", "runs.json", "--reference", reference.name, "--task", "b")
    assert done.code == 2
    write_records(runs(9, 10, 11), tmp_path / "runs.json")
    assert cli("regress", "runs.json", "--reference", reference.name, "--task", "game").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs.json"], "needs --reference"),
        (["--reference", "ci"], "needs folders with runs, before --reference"),
        (["nowhere", "--reference", "ci"], "no folder or file 'nowhere'"),
        (["runs.json", "--reference", "discret"], "Did you mean 'discrete'?"),
        (["runs.json", "--reference", "ci", "--algorithm", "hasca"], "Did you mean 'hasac'?"),
        (["runs.json", "--reference", "ci", "--task", "nothing"], "--task: neither runs nor references have 'nothing'"),
        (["runs.json", "--reference", "published_mpe"], "nothing to compare: no bar is on a task of the runs"),
        (["runs.json", "--reference", "ci", "--min-seeds", "1"], "--min-seeds must be 2 or more"),
        (["runs.json", "--reference", "ci", "--junit", "runs.json/x.xml"], "runs.json/x.xml cannot be written"),
        (["runs.json", "--reference", "ci", "--tolerance", "1"], "--tolerance is only for hasac regress --record"),
        (["runs.json", "--record", "--out", "x.yaml"], "needs --out FILE.yaml and --command"),
        (["runs.json", "--record", "--out", "x.yaml", "--command", "x", "--bar"], "--bar is not for"),
        (["runs.json", "--record", "--out", "runs.json", "--command", "x"], "runs.json exists already"),
        (["runs.json", "--record", "--out", "x.yaml", "--command", "x", "--at-step", "9000"], "ended at step 1,000"),
        (["runs.json", "--record", "--out", "x.yaml", "--command", "x", "--tolerance", "-1"], "'tolerance' must be"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_records(runs(9, 10, 11), Path("runs.json"))
    assert hasac("regress", *arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.json"]


def test_runs_that_cannot_be_read_are_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_yaml(tmp_path, {**GOOD, "value": 10.0, "spread": 1.0, "seeds": 5})
    write_records(runs(9, 10, 11), tmp_path / "runs.json")
    assert hasac("regress", tmp_path / "runs.json", "--reference", reference) == 0
    broken = tmp_path / "sacred" / "1"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    assert hasac("regress", tmp_path / "runs.json", tmp_path / "sacred", "--reference", reference) == 2
    assert "left out: " in capsys.readouterr().out


def test_nothing_to_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [*runs(9, 10, 11), replace(run(1, 2.0, "qmix"), task="other")]
    write_records(records, tmp_path / "runs.json")
    given = ["--out", tmp_path / "x.yaml", "--command", "x", "--algorithm", "hasac", "--task", "other"]
    assert hasac("regress", tmp_path / "runs.json", "--record", *given) == 2
    assert "nothing to record" in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()


def test_record_and_compare_with_bars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded benchmarks: the runs hold their own scores, and QMIX's are a bar for HASAC."""
    recorded, benchmark = tmp_path / "own.yaml", ROOT / "results" / "benchmarks" / "discrete" / "runs.json"
    tasks = ["lbforaging:Foraging-2s-8x8-3p-2f-coop-v3", "mpe:SimpleSpread-3-v0", "mpe:SimpleSpeakerListener-v0"]
    given = ["--command", "hasac run …", "--at-step", 300000, "--algorithm", "hasac", "qmix", "--tolerance", "1%"]
    given += ["--task", *tasks]
    assert hasac("regress", benchmark, "--record", "--out", recorded, *given) == 0
    entries = read_references([recorded])
    assert len(entries) == 6
    assert {(entry.algorithm, entry.seeds) for entry in entries} == {("hasac", 5), ("qmix", 5)}
    assert isinstance(entries[0].source, dict)
    assert entries[0].source["command"] == "hasac run …"
    assert re.match(r"[0-9a-f]{7,}(\+changes)?$|unknown$", entries[0].source["commit"])
    assert hasac("regress", benchmark, "--reference", recorded) == 0
    spread = ["--task", "mpe:SimpleSpread-3-v0", "--algorithm", "hasac"]
    capsys.readouterr()
    assert hasac("regress", benchmark, "--reference", recorded, "--bar", *spread) == 0
    told = capsys.readouterr().out
    assert re.search(r"hasac .* qmix -519.3 ± 11 \(5\) .* above the bar", told)
    assert "regression: " not in told


def test_measured_suite_holds_and_a_broken_learner_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real runs of the ci suite: the same code with other seeds, and one that does not learn (lr=1e-12)."""
    assert hasac("regress", MEASURED / "other_seeds.json", "--reference", "ci") == 0
    assert hasac("regress", MEASURED / "broken.json", "--reference", "ci", "--json", tmp_path / "r.json") == 1
    outcomes = [verdict["outcome"] for verdict in json.loads((tmp_path / "r.json").read_text())["verdicts"]]
    assert outcomes == ["regression", "regression"]


# The README's recipe


def recipe() -> tuple[str, str, dict[str, Any]]:
    """The README's two blocks of shell commands and its workflow."""
    section = (ROOT / "README.md").read_text().split("### Scores in CI\n")[1].split("\n### ")[0]
    make, check = re.findall(r"```bash\n(.*?)```", section, flags=re.S)
    (workflow,) = re.findall(r"```yaml\n(.*?)```", section, flags=re.S)
    return make, check, yaml.safe_load(workflow)


def shell(commands: str, folder: Path, seeds: str) -> int:
    """Run commands as they are, but for a smaller task (5 if it is learnt, 0 if not) and other seeds."""
    game = "matrix_game with env_args.map_name=ramp env_args.payoff=[[0,1,2],[1,2,3],[2,3,5]]"
    for old, new in {
        "simple_spread with": game,
        "t_max=20500 test_interval=10000": "t_max=1000 test_interval=1000 warmup_steps=200 lr=0.005",
        r"seq \d \| xargs -P 2": f"seq {seeds} | xargs -P 3",
    }.items():
        commands, count = re.subn(old, new, commands)
        assert count == 1
    command = folder / "bin" / "hasac"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "main.py"}" "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-e", "-c", commands], cwd=folder, env=environment, timeout=300, check=False
    ).returncode


def test_readme_recipe(tmp_path: Path) -> None:
    """References from two seeds hold for three others; the workflow runs the same commands."""
    make, check, workflow = recipe()
    (job,) = workflow["jobs"].values()
    assert check in [step.get("run") for step in job["steps"]]
    assert workflow[True] == ["pull_request"]  # YAML 1.1 reads 'on' as true
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    trusted, changed = tmp_path / "trusted", tmp_path / "changed"
    trusted.mkdir()
    changed.mkdir()
    assert shell(make, trusted, "2") == 0
    (entry,) = read_references([trusted / "scores.yaml"])
    assert entry.values == (5.0, 5.0)
    assert isinstance(entry.source, dict)
    assert entry.source["host"].startswith("pymarlzooplus ")
    assert "torch" in entry.source["packages"]
    (trusted / "scores.yaml").rename(changed / "scores.yaml")
    assert shell(check, changed, "11 13") == 0
    (suite,) = JUnitXml.fromfile(str(changed / "regress.xml"))
    assert (suite.tests, suite.failures, suite.skipped) == (1, 0, 0)
