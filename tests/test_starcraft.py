"""SMAC and SMACv2: the unmodified packages and hosts, on a stand-in for the StarCraft II executable alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli
from starcraft_stand_in import install
from starcraft_stand_in.battle import ALLY, ASLEEP, ENEMY, KINDS, Battle, teams

from plugin_hasac.hosts.base import PLUGIN_CONFIG, read_yaml

# -------------------------------------------------------------------- the stand-in's battles


@pytest.mark.parametrize(
    ("name", "allies", "enemies"),
    [
        ("3m", {"marine": 3}, {"marine": 3}),
        ("5m_vs_6m", {"marine": 5}, {"marine": 6}),
        ("3s5z_vs_3s6z", {"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 6}),
        ("1c3s5z", {"colossus": 1, "stalker": 3, "zealot": 5}, {"colossus": 1, "stalker": 3, "zealot": 5}),
        ("2c_vs_64zg", {"colossus": 2}, {"zergling": 64}),
        ("2s_vs_1sc", {"stalker": 2}, {"spine_crawler": 1}),
    ],
)
def test_teams_follow_from_the_maps_name(name: str, allies: dict[str, int], enemies: dict[str, int]) -> None:
    assert teams(name) == (allies, enemies)


def test_battle_has_range_cooldown_damage_death_and_respawn() -> None:
    battle = Battle("32x32_flat", seed=0)
    marine = KINDS["marine"]
    battle.create(2004, ALLY, 5.0, 16.0)  # a marine by SMACv2's own numbers
    battle.create(marine.type_id, ENEMY, 20.0, 16.0)
    ally, enemy = battle.units.values()
    battle.step(ASLEEP)
    assert enemy.x == 20.0
    battle.step(1)
    assert enemy.x < 20.0  # it comes
    assert ally.x == 5.0  # without orders nobody moves
    battle.step(300)
    assert ally.tag not in battle.units or ally.health < marine.health
    battle.kill(list(battle.units))
    battle.step(1)
    assert not battle.units  # nothing respawns where units are created one by one
    three = Battle("3m", seed=0)
    three.kill(list(three.units))
    three.step(1)
    assert len(three.units) == 6

    duel = Battle("32x32_flat", seed=0)
    duel.create(2004, ALLY, 5.0, 16.0)
    duel.create(KINDS["spine_crawler"].type_id, ENEMY, 10.0, 16.0)
    ally, crawler = duel.units.values()
    duel.order([ally.tag], ("attack", crawler.tag))
    duel.step(ASLEEP + 1)
    assert crawler.health == 300 - marine.damage
    assert ally.cooldown == pytest.approx(marine.cooldown * 22.4)
    duel.step(13)  # 0.61 s are 13.7 loops
    assert crawler.health == 300 - marine.damage
    duel.step(1)
    assert crawler.health == 300 - 2 * marine.damage


# -------------------------------------------------------------------- the real packages

# fmt: off
SMAC_MAPS = [
    "3m", "8m", "25m", "5m_vs_6m", "8m_vs_9m", "10m_vs_11m", "27m_vs_30m", "MMM", "MMM2", "2s3z",
    "3s5z", "3s5z_vs_3s6z", "3s_vs_3z", "3s_vs_4z", "3s_vs_5z", "1c3s5z", "2m_vs_1z", "corridor",
    "6h_vs_8z", "2s_vs_1sc", "so_many_baneling", "bane_vs_bane", "2c_vs_64zg",
]
# fmt: on
MAPS = [*SMAC_MAPS, "32x32_flat"]  # the last one is SMACv2's
PLAY = """
import numpy as np
{make}
rng = np.random.default_rng(0)
for episode in range(3):
    env.reset()
    over, steps = False, 0
    while not over:
        if episode == 1 and steps == 3:
            inner._sc2_proc._proc.kill()
            inner._sc2_proc._proc.wait()
        _, over, info = env.step([rng.choice(np.flatnonzero(mask)) for mask in env.get_avail_actions()])
        steps += 1
    crashed = episode == 1
    assert (info == {{}}) == crashed, info
    if not crashed:
        left = env.get_env_info()["n_agents"] - info["dead_allies"]
        medic = getattr(env, "map_type", "") == "MMM"  # a lone medivac has lost
        assert info["battle_won"] or left == 0 or (medic and left == 1) or steps == env.episode_limit
        assert steps > 5
assert inner.force_restarts == 1
env.save_replay()
env.close()
"""


def package(variable: str) -> dict[str, str]:
    """Environment in which a checkout of smac or smacv2 is imported."""
    if variable not in os.environ:
        pytest.skip(f"set {variable} to a checkout to test with it")
    for module in ("pysc2", "websockets", "s2clientprotocol"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install protobuf==3.20.3 pysc2==4.0.0 websockets==17.4")
    return {**os.environ, "PYTHONPATH": os.environ[variable]}


@pytest.fixture
def starcraft(tmp_path: Path) -> str:
    """A folder with the stand-in, for SC2PATH."""
    return str(install(tmp_path / "StarCraftII", MAPS))


def play(make: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAY.format(make=make)], check=False, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize("name", SMAC_MAPS)
def test_smac_plays_battles_and_survives_a_crash(name: str, starcraft: str) -> None:
    environment = package("SMAC_PATH") | {"SC2PATH": starcraft}
    play(f"from smac.env import StarCraft2Env\nenv = inner = StarCraft2Env('{name}', seed=1)", environment)


@pytest.mark.parametrize("race", ["terran", "protoss", "zerg"])
def test_smacv2_plays_battles_and_survives_a_crash(race: str, starcraft: str) -> None:
    environment = package("SMACV2_PATH") | {"SC2PATH": starcraft}
    make = f"from plugin_hasac.envs.starcraft import smacv2\nenv = smacv2('{race}_5_vs_5', seed=1)\ninner = env.env"
    play(make, environment)


TRAIN = ("with", "t_max=400", "test_interval=200", "test_nepisode=2", "warmup_steps=100", "batch_size_run=2")
SMALL = ("tuned=False", "runner_log_interval=1", "seed=1", "env_workers=2")


@pytest.mark.parametrize(
    ("variable", "env", "map_name"), [("SMAC_PATH", "sc2", "3m"), ("SMACV2_PATH", "sc2v2", "zerg_3_vs_3")]
)
def test_hasac_trains_in_pymarlzooplus(variable: str, env: str, map_name: str, starcraft: str, cli: Cli) -> None:
    environment = package(variable) | {"SC2PATH": starcraft}
    words = [f"env_args.map_name={map_name}", *SMALL]
    done = cli("--config=hasac", f"--env-config={env}", *TRAIN, *words, environment=environment)
    assert done.code == 0, done.stderr[-1500:]
    assert done.runs("hasac")[0].parent.name == map_name
    logged = done.info("hasac")
    for name in ("battle_won_mean", "dead_allies_mean", "dead_enemies_mean", "return_mean", "ep_length_mean"):
        assert len(logged[f"test_{name}"]) == len(logged["test_return_mean_T"])
        assert name in logged


@pytest.mark.parametrize(
    ("variable", "env", "map_name", "message"),
    [
        ("SMAC_PATH", "sc2", "3mm", "SMAC has no map '3mm'. Did you mean '3m'?"),
        ("SMAC_PATH", "sc2", "3m", "StarCraft II is not installed in"),
        ("SMACV2_PATH", "sc2v2", "3m", "SMACv2 has no map '3m'"),
    ],
)
def test_what_is_missing_gets_one_line(
    variable: str, env: str, map_name: str, message: str, cli: Cli, tmp_path: Path
) -> None:
    environment = package(variable) | {"SC2PATH": str(tmp_path)}
    done = cli("--config=qmix", f"--env-config={env}", "with", f"env_args.map_name={map_name}", environment=environment)
    assert message in done.stderr
    assert done.code == 2


@pytest.mark.parametrize(("env", "word"), [("sc2", "smac"), ("sc2v2", "smacv2")])
def test_missing_package_says_what_to_install(env: str, word: str, cli: Cli) -> None:
    if importlib.util.find_spec(word) is not None:
        pytest.skip(f"{word} is installed here")
    done = cli("--config=hasac", f"--env-config={env}")
    assert f"git+https://github.com/oxwhirl/{word}" in done.stderr
    assert done.code == 2


def test_tuned_maps_are_smacs() -> None:
    assert set(read_yaml(PLUGIN_CONFIG / "tuned" / "sc2.yaml")["tasks"]) <= set(MAPS)
