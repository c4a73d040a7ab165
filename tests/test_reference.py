"""The format of reference scores, and the shipped files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from plugin_hasac.bench.reference import SHIPPED, find_reference, parse_entry, read_references
from plugin_hasac.errors import UserError

GOOD = {"algorithm": "hasac", "task": "game", "metric": "test_return_mean", "source": "here", "env_steps": 1000}


def write_yaml(folder: Path, *entries: dict[str, Any], **top: Any) -> Path:
    file = folder / "reference.yaml"
    file.write_text(yaml.safe_dump({"entries": list(entries), **top}))
    return file


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"spred": 1}, "'spred' is not a field. Did you mean 'spread'?"),
        ({"value": "1e3"}, "'value' must be a finite number, got '1e3'"),
        ({"value": float("nan")}, "'value' must be a finite number"),
        ({"env_steps": 0.5}, "'env_steps' must be a whole number above 0"),
        ({"seeds": True}, "'seeds' must be a whole number above 0"),
        ({"direction": "up"}, "'direction' must be higher-is-better or lower-is-better, got 'up'"),
        ({"role": "baseline"}, "'role' must be reference or bar"),
        ({"tolerance": -1}, "'tolerance' must be a number from 0 on, or a percentage"),
        ({"tolerance": "3 percent"}, "'tolerance' must be"),
        ({"metric": None}, "'metric' is missing"),
        ({"metric": "return"}, "'metric' must be the full name of a test's metric"),
        ({"source": ""}, "'source' is missing"),
        ({"value": None}, "'value' is not given: say in 'why'"),
        ({"env_steps": None}, "'env_steps' is not given: say in 'why'"),
        ({"why": "no idea"}, "both are given; use 'note'"),
        ({"seeds": 3}, "'spread' is missing: 3 seeds have one"),
        ({"seeds": 1, "spread": 1}, "'spread' is given, but one seed has none"),
        ({"spread": -1, "seeds": 2}, "'spread' must not be negative"),
        ({"values": [1, 2], "value": 2.0}, "'value' is 2, but that of 'values' is 1.5"),
        ({"values": [1, 2], "value": 1.5, "seeds": 3}, "'seeds' is 3, but that of 'values' is 2"),
        ({"values": []}, "'values' must be a list of finite numbers"),
        ({"settings": "greedy"}, "'settings' must be a mapping"),
    ],
)
def test_each_mistake_is_one_line(changes: dict[str, Any], mistake: str) -> None:
    entry, mistakes = parse_entry({**GOOD, "value": 10.0, **changes})
    assert entry is None
    assert any(mistake in line for line in mistakes), mistakes
    assert len(mistakes) == 1
    assert "\n" not in mistakes[0]


def test_all_mistakes_of_a_file_are_told(tmp_path: Path) -> None:
    same = {**GOOD, "value": 10.0}
    file = write_yaml(tmp_path, same, {**same, "value": "x"}, {**same, "sede": 1}, same, about="x", default={})
    with pytest.raises(UserError) as caught:
        read_references([file])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "'default' is not a field. Did you mean 'defaults'?" in lines[0]
    assert "entry 2 (hasac on game): 'value' must be" in lines[1]
    assert "entry 4 (hasac on game): the same as entry 1" in lines[3]
    assert all(line.startswith(str(file)) for line in lines)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("entries: [", "not valid YAML in line"),
        ("[1, 2]", "a list 'entries'"),
        ("entries: []", "a list 'entries'"),
        ("entries: [{algorithm: a, algorithm: b}]", "'algorithm' is given twice"),
        ("entries: [{[1, 2]: b}]", "not valid YAML in line 1"),
        ("entries: [hasac]", "entry 1: expected a mapping"),
        ("defaults: 3\nentries: [{}]", "'defaults' must be a mapping"),
    ],
)
def test_files_of_another_shape(tmp_path: Path, text: str, mistake: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(mistake)):
        read_references([tmp_path / "x.yaml"])


def test_what_follows_from_an_entry(tmp_path: Path) -> None:
    first, second = {**GOOD, "values": [9.0, 10.0, 14.0]}, {**GOOD, "task": "other", "value": -200, "tolerance": "3%"}
    file = write_yaml(tmp_path, first, second, defaults={"role": "bar"})
    entries = read_references([file])
    assert (entries[0].value, entries[0].seeds, entries[0].role) == (11.0, 3, "bar")
    assert entries[0].spread == pytest.approx(math.sqrt(7))
    assert entries[1].tolerance == pytest.approx(6.0)
    assert entries[1].seeds is None


def test_shipped_references_are_sound_and_found_by_name() -> None:
    entries = {file.stem: read_references([find_reference(file.stem)]) for file in SHIPPED.glob("*.yaml")}
    published = [entry for name, found in entries.items() if name.startswith("published") for entry in found]
    assert all(entry.role == "bar" for entry in published)  # nobody's HASAC is called a regression of these
    assert len(entries["published_smac"]) == 60
    assert all(0 <= entry.value <= 1 for entry in entries["published_smac"] if entry.value is not None)
    assert all(entry.value is None and entry.why for entry in entries["published_hasac"])
    assert all(entry.role == "reference" and entry.seeds for name in ("ci", "discrete") for entry in entries[name])
    with pytest.raises(UserError, match="Did you mean 'published_smac'"):
        find_reference("published_smack")


def test_documented_format_is_accepted(tmp_path: Path) -> None:
    text = (ROOT / "results" / "reference" / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.S)
    (tmp_path / "example.yaml").write_text(example)
    first, bar, missing = read_references([tmp_path / "example.yaml"])
    assert first.seeds == 3
    assert bar.role == "bar"
    assert not missing.comparable
    shipped = {file.stem for file in SHIPPED.glob("*.yaml")}
    assert shipped == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text.split("##")[0], re.M))))
