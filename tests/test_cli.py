"""Mistakes on the command line: one clear line, exit code 2, and nothing written."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli

from plugin_hasac.cli.main import main
from plugin_hasac.config import HasacConfig
from plugin_hasac.errors import UserError
from plugin_hasac.hosts import find_host

SPREAD = ("--config=hasac", "--env-config=simple_spread")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config=hasca", "--env-config=simple_spread"), "unknown --config 'hasca'. Did you mean 'hasac'?"),
        (("--config=hasac", "--env-config=simple_sprad"), "Did you mean 'simple_spread'?"),
        ((*SPREAD, "with", "n_stpe=3"), "unknown key 'n_stpe' after 'with'. Did you mean 'n_step'?"),
        ((*SPREAD, "with", "n_step=0"), "n_step: 0 is not a whole number of at least 1"),
        ((*SPREAD, "with", "n_step=two"), "n_step: 'two' is not"),
        ((*SPREAD, "with", "alpha=-1"), "alpha: -1 is not"),
        ((*SPREAD, "with", "hidden_sizes=[]"), "hidden_sizes: [] is not"),
        ((*SPREAD, "with", "actor_gradient=reinforce"), "'exact' or 'gumbel'"),
        ((*SPREAD, "with", "alpha=0"), "cannot start at 0"),
        ((*SPREAD, "with", "replay_size=20"), "replay_size: 20 leaves too few steps"),
        ((*SPREAD, "with", "warmup_steps=2000000"), "learning would never start"),
        ((*SPREAD, "with", "t_max=-5"), "t_max: -5 is not a positive number"),
        ((*SPREAD, "with", "n_step"), "'n_step' is not understood"),
        ((*SPREAD, "with", "checkpoint_path=nowhere"), "checkpoint_path: nowhere is not"),
        ((*SPREAD, "with", "env=simple"), "env 'simple' is not in the host's registry"),
        (("--config=hasac", "--env-config=gymma"), "leaves open which task"),
        (("--config=hasac", "--env-config=mamujoco", "with", "env_args.scenario=Antt"), "Did you mean 'Ant'?"),
        (("--config=hasac", "--env-config=mamujoco", "with", "n_step=0"), "n_step: 0 is not"),
        ((*SPREAD, "with", "drift=kll"), "drift: unknown name 'kll'. Did you mean 'kl'?"),
        ((*SPREAD, "with", "drift=kl", "drift_args.force=2"), "unknown key 'force' in drift_args"),
        ((*SPREAD, "with", "drift=kl", "drift_args.epsilon=2"), "drift_args: 'kl' takes"),
        ((*SPREAD, "with", "neighbourhood_args=3"), "neighbourhood_args: 3 is not a mapping"),
        ((*SPREAD, "--host=rllib"), "host rllib does not exist; expected 'pymarlzooplus' or the path"),
    ],
)
def test_one_clear_line(capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert refused(capfd, *arguments, message=message)


def refused(capfd: pytest.CaptureFixture[str], *arguments: str, message: str) -> bool:
    """The command, in this process, exits with 2 and one line that holds the message."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    output = capfd.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("hasac: ")]
    assert stop.value.code == 2, output.err
    assert len(lines) == 1, output.err
    assert "Traceback" not in output.err + output.out
    assert message in lines[0]
    return True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("env_args.key=mpe:SimpleSpread-33-v0",), "env 'gymma' does not start"),
        (("alpha=[1,2]",), "2 temperatures for 3 agents"),
    ],
)
def test_one_clear_line_from_inside_the_hosts_loop(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    done = cli(*SPREAD, "with", *arguments)
    assert done.code == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("hasac: ")]
    assert message in line
    assert "Traceback" not in done.stderr + done.stdout


def test_unknown_key_in_a_config_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("name: mine\nlearner: hasac_learner\nn_stepz: 3\n")
    assert refused(capfd, f"--config={config}", SPREAD[1], message="unknown key 'n_stepz' in")


def test_broken_yaml(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("name: [mine\n")
    assert refused(capfd, f"--config={config}", SPREAD[1], message="is not valid YAML")


def test_a_run_that_breaks_off(cli: Cli) -> None:
    """A baseline that cannot take its settings fails inside the host, with the reason on one line."""
    done = cli("--config=qmix", *SPREAD[1:], "with", "mixer=qmx", "t_max=100")
    assert done.code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("hasac: ")]
    assert "the run failed with ValueError" in line
    log = Path(line.split("console output: ")[1].rstrip(")"))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_missing_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'pymarlzooplus' is not installed; run \./install\.sh"):
        find_host()


def test_the_hosts_configs_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "algs").mkdir()
    (tmp_path / "algs" / "qmix.yaml").write_text("name: ours\n")
    (tmp_path / "algs" / "extra.yaml").write_text("name: ours\n")
    monkeypatch.setattr("plugin_hasac.hosts.base.PLUGIN_CONFIG", tmp_path)
    host = find_host()
    assert host.config_path("algs", "qmix").parent == host.root / "config" / "algs"
    assert host.config_path("algs", "extra").parent == tmp_path / "algs"


def test_help(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    assert "hasac run --config=hasac --env-config=simple_spread" in done.stdout
    for entry in (("-m", "plugin_hasac"), ("-c", "from plugin_hasac.cli.main import main; main()")):
        assert cli("--help", entry=entry).stdout == done.stdout


def test_listings(cli: Cli) -> None:
    names = cli("configs").stdout
    assert {"hasac", "masac", "qmix", "simple_spread", "gymma"} <= set(names.split())
    options = cli("options").stdout
    assert "n_step" in options


@pytest.mark.parametrize("arguments", [("options",), ("bench", "ci", "--dry-run")])
def test_a_reader_who_has_read_enough(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "plugin_hasac", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_shipped_configs_hold_defaults_and_known_keys() -> None:
    import yaml

    from plugin_hasac.hosts.base import PLUGIN_CONFIG

    host = find_host()
    for path in (PLUGIN_CONFIG / "algs").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        HasacConfig.from_mapping(values)
        unknown = set(values) - set(HasacConfig.__dataclass_fields__) - set(host.defaults) - {"name", "learner"}
        assert not unknown, path
    stock = HasacConfig.from_mapping(yaml.safe_load((PLUGIN_CONFIG / "algs" / "hasac.yaml").read_text()))
    arguments = {"drift_args": None, "neighbourhood_args": None}  # spelled out in the file, for the command line
    assert dataclasses.replace(stock, **arguments) == HasacConfig()
