"""Records, tables and figures from sacred folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugin_hasac.bench.records import find_records, read_sacred
from plugin_hasac.bench.tables import final_scores, markdown_table
from plugin_hasac.cli.report import report
from plugin_hasac.errors import UserError


def write_run(root: Path, algorithm: str, number: int, returns: list[float], steps: list[int] | None = None) -> Path:
    """A sacred folder as hosts lay it out (numbers as sacred writes numpy scalars, and plain)."""
    folder = root / "results" / "sacred" / algorithm / "game" / str(number)
    folder.mkdir(parents=True)
    config = {"name": algorithm, "seed": number, "t_max": 1000, "env_args": {"key": "game"}}
    wrapped = [{"dtype": "float64", "py/object": "numpy.float64", "value": value} for value in returns]
    info = {"test_return_mean": wrapped if number % 2 else returns, "test_return_mean_T": steps or [0, 500, 1010]}
    for name, content in {"config": config, "info": info, "run": {"host": {"python_version": "3.11"}}}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_final_scores_and_table(tmp_path: Path) -> None:
    write_run(tmp_path, "hasac", 1, [0.0, 1.0, 3.0])
    write_run(tmp_path, "hasac", 2, [0.0, 1.0, 5.0])
    write_run(tmp_path, "qmix", 1, [0.0, 9.0, 2.0])
    write_run(tmp_path, "qmix", 2, [0.0, 7.0], steps=[0, 500])  # broke off half-way: not a final score
    records, problems = find_records([tmp_path])
    assert not problems
    assert final_scores(records, 1000) == {"game": {"hasac": [3.0, 5.0], "qmix": [2.0]}}
    assert markdown_table(records, 1000).splitlines()[-1] == "| game | **4.00 ± 1.00 (2)** | 2.00 ± 0.00 (1) |"


def test_report_writes_files_that_it_can_read_again(tmp_path: Path) -> None:
    for number in (1, 2):
        write_run(tmp_path, "hasac", number, [0.0, 1.0, 3.0])
    report([str(tmp_path / "results")], str(tmp_path / "out"), 1000)
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    report([str(tmp_path / "out" / "runs.json")], str(tmp_path / "again"), 1000)
    for name in ("runs.json", "table.md"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "out" / name).read_text()


def test_unreadable_runs_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "hasac", 1, [0.0, 1.0, 3.0])
    (write_run(tmp_path, "qmix", 1, [0.0, 1.0, 3.0]) / "info.json").write_text("{")
    records, problems = find_records([tmp_path])
    assert [record.algorithm for record in records] == ["hasac"]
    assert len(problems) == 1
    assert "qmix" in problems[0]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no sacred runs"):
        report([str(tmp_path)], str(tmp_path / "out"), 1000)
    with pytest.raises(UserError, match="no test_return_mean"):
        read_sacred(write_run(tmp_path, "hasac", 1, [], steps=[]))
