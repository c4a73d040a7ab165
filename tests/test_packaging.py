"""The wheel works outside the checkout, and the README's commands are the ones that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import ROOT


def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, so that building leaves nothing behind in the checkout
    source.mkdir()
    for name in (
        "plugin_hasac",
        "config",
        "results/reference",
        "setup.py",
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        subprocess.run(["cp", "-r", "--parents", name, str(source)], cwd=ROOT, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("plugin_hasac-*.whl")
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    packed = {path.relative_to(installed / "plugin_hasac").as_posix() for path in installed.rglob("*.yaml")}
    shipped = {f"configs/{path.relative_to(ROOT / 'config').as_posix()}" for path in (ROOT / "config").rglob("*.yaml")}
    shipped |= {f"references/{path.name}" for path in (ROOT / "results" / "reference").glob("*.yaml")}
    assert packed == shipped
    for name in ("bench/templates/report.html", "native/kernels.cpp"):
        assert (installed / "plugin_hasac" / name).is_file()
    code = """
from plugin_hasac.bench.reference import find_reference, read_references
from plugin_hasac.hosts import find_host

assert read_references([find_reference("ci")])
print(find_host().config_path("algs", "hasac"), find_reference("ci"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    package = installed / "plugin_hasac"
    expected = [package / "configs" / "algs" / "hasac.yaml", package / "references" / "ci.yaml"]
    assert [Path(name) for name in done.stdout.split()] == expected


def test_readme_commands() -> None:
    main_job, tests = re.findall(r"```bash\n(.*?)\n```", (ROOT / "README.md").read_text(), flags=re.S)[:2]
    assert "\n" not in main_job
    assert "hasac run --config=hasac --env-config=simple_spread" in main_job
    assert tests in (ROOT / ".ci" / "run").read_text()
