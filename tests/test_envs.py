"""The plugin's own envs: real simulators, stepped."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml
from conftest import ROOT, Cli

from plugin_hasac.config import HasacConfig
from plugin_hasac.envs import REGISTRY
from plugin_hasac.envs.mamujoco import MAMuJoCo
from plugin_hasac.envs.mpe import MPE
from plugin_hasac.errors import UserError
from plugin_hasac.hosts.envs import HostEnv


def play(env: Any, steps: int, seed: int = 0) -> list[np.ndarray]:
    """States and rewards under random actions."""
    rng, seen = np.random.default_rng(seed), []
    env.reset()
    for _ in range(steps):
        actions = [
            rng.uniform(space.low, space.high) if hasattr(space, "low") else int(rng.integers(space.n))
            for space in env.action_spaces
        ]
        reward, over, _ = env.step(actions)
        seen.append(np.append(env.get_state(), reward))
        if over:
            env.reset()
    return seen


# -------------------------------------------------------------------- MPE


@pytest.mark.parametrize(
    ("scenario", "observations", "discrete", "box"),
    [
        ("simple_spread_v3", [18, 18, 18], [5, 5, 5], [5, 5, 5]),
        ("simple_reference", [21, 21], [50, 50], [15, 15]),
        ("simple_speaker_listener", [3, 11], [3, 5], [3, 5]),
    ],
)
def test_mpe_shapes(scenario: str, observations: list[int], discrete: list[int], box: list[int]) -> None:
    env = MPE(scenario, seed=0)
    assert list(env.observation_sizes) == observations
    assert [space.n for space in env.action_spaces] == discrete
    env.reset()
    assert [len(obs) for obs in env.get_obs()] == [max(observations)] * len(observations)
    assert env.get_state().shape == (sum(observations),)
    assert [sum(mask) for mask in env.get_avail_actions()] == discrete
    assert env.get_env_info()["n_actions"] == max(discrete)
    continuous = MPE(scenario, continuous_actions=True)
    assert [space.shape[0] for space in continuous.action_spaces] == box
    assert all((space.low == 0).all() and (space.high == 1).all() for space in continuous.action_spaces)


@pytest.mark.parametrize("scenario", ["simple_spread", "simple_reference", "simple_speaker_listener"])
@pytest.mark.parametrize("continuous", [False, True])
def test_mpe_plays_as_the_library_does(scenario: str, continuous: bool) -> None:
    """Rewards, observations, time limits and the episodes that follow, number by number."""
    env, library = (MPE(scenario, continuous, episode_limit=4, seed=3) for _ in range(2))
    env.reset()
    library.env.reset(seed=3)
    rng = np.random.default_rng(0)
    for step in range(12):
        actions = [
            rng.uniform(space.low, space.high) if continuous else int(rng.integers(space.n))
            for space in env.action_spaces
        ]
        reward, over, info = env.step(actions)
        named = zip(library.agents, (np.float32(own) for own in actions) if continuous else actions)
        shown, rewards, _, truncated, _ = library.env.step(dict(named))
        assert reward == sum(rewards.values())
        assert over == info["episode_limit"] == all(truncated.values()) == (step % 4 == 3)
        if over:
            env.reset()
            shown, _ = library.env.reset()
        for own, theirs in zip(env.observations(), shown.values(), strict=True):
            np.testing.assert_array_equal(own, theirs)


# -------------------------------------------------------------------- Multi-Agent MuJoCo


@pytest.mark.parametrize(
    ("scenario", "conf", "agents", "joints"),
    [
        ("HalfCheetah", "2x3", 2, 3),
        ("HalfCheetah", "3x2", 3, 2),
        ("HalfCheetah", "6x1", 6, 1),
        ("Ant", "2x4", 2, 4),
        ("Ant-v2", "4x2", 4, 2),
        ("Ant", "8x1", 8, 1),
        ("Walker2d", "2x3", 2, 3),
        ("Walker2d", "6x1", 6, 1),
        ("Hopper", "3x1", 3, 1),
        ("HumanoidStandup", "17x1", 17, 1),
        ("Humanoid", "17x1", 17, 1),
        ("manyagent_swimmer", "10x2", 10, 2),
    ],
)
def test_every_joint_obeys_exactly_one_agent(scenario: str, conf: str, agents: int, joints: int) -> None:
    """The robot receives each agent's numbers at that agent's joints, and the team its reward, once."""
    env = MAMuJoCo(scenario, conf, seed=5)
    assert [space.shape for space in env.action_spaces] == [(joints,)] * agents
    parts = [[node.act_ids for node in part] for part in env.env.agent_action_partitions]
    assert sorted(joint for part in parts for joint in part) == list(range(agents * joints))
    env.reset()
    robot = env.env.single_agent_env.unwrapped
    high = env.action_spaces[0].high[0]
    actions = [np.linspace(-high, high, agents * joints)[i * joints : (i + 1) * joints] for i in range(agents)]
    reward, _, _ = env.step(actions)
    sent = np.zeros(agents * joints)
    for part, action in zip(parts, actions, strict=True):
        sent[part] = action
    np.testing.assert_allclose(robot.data.ctrl, sent, rtol=1e-6)
    twin = MAMuJoCo(scenario, conf, seed=5)
    twin.reset()
    assert reward == pytest.approx(twin.env.single_agent_env.step(sent)[1], rel=1e-5)
    narrow = MAMuJoCo(scenario, conf, agent_obsk=0, seed=5)  # steps by the library's own function
    narrow.reset()
    assert narrow.step(actions)[0] == reward
    np.testing.assert_array_equal(narrow.get_state(), env.get_state())
    env.close()


def test_mamujoco_is_gymnasiums_robot() -> None:
    env, robot = MAMuJoCo("HalfCheetah", "2x3", seed=7), gymnasium.make("HalfCheetah-v5")
    env.reset()
    shown, _ = robot.reset(seed=7)
    np.testing.assert_allclose(env.get_state(), shown, rtol=1e-5)
    for _ in range(5):
        reward, _, _ = env.step([np.full(3, 0.5), np.full(3, -0.5)])
        shown, expected, *_ = robot.step(np.array([0.5] * 3 + [-0.5] * 3, np.float32))
        assert reward == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(env.get_state(), shown, rtol=1e-5)


def test_sight_grows_with_obsk() -> None:
    sizes = [max(MAMuJoCo("Ant", "4x2", agent_obsk=k).observation_sizes) for k in (0, 1, 2)]
    assert sizes == sorted(set(sizes))


def test_sight_of_all_is_the_state_and_the_own_id() -> None:
    env = MAMuJoCo("HalfCheetah", "2x3", seed=0)
    env.reset()
    env.step([np.full(3, 0.5)] * 2)
    for observation, own_id in zip(env.observations(), np.eye(2), strict=True):
        np.testing.assert_array_equal(observation, np.concatenate([env.get_state(), own_id]).astype(np.float32))
    assert env.observation_sizes == [19, 19]


def test_unequal_agents_and_bounds() -> None:
    env = MAMuJoCo("Humanoid", "9|8", agent_obsk=0, seed=0)
    assert [space.shape[0] for space in env.action_spaces] == [9, 8]
    assert len(set(env.observation_sizes)) == 2
    assert env.action_spaces[0].high == pytest.approx([0.4] * 9)
    task = HostEnv("mamujoco", env, True).task
    assert [agent.action.width for agent in task.agents] == [9, 8]
    assert task.groups == [(0,), (1,)]


def test_falling_terminates_and_time_truncates() -> None:
    env = MAMuJoCo("Hopper", "3x1", seed=0)
    env.reset()
    over = False
    for _ in range(500):
        if over:
            break
        _, over, info = env.step([np.ones(1)] * 3)
    assert over
    assert not info["episode_limit"]
    limited = MAMuJoCo("HalfCheetah", "2x3", episode_limit=6, seed=0)
    limited.reset()
    ends = [limited.step([np.zeros(3)] * 2)[1:] for _ in range(6)]
    assert [over for over, _ in ends] == [False] * 5 + [True]
    assert ends[-1][1]["episode_limit"]
    long = MAMuJoCo("HalfCheetah", "2x3", episode_limit=1100, seed=0)
    long.reset()
    assert not any(long.step([np.zeros(3)] * 2)[1] for _ in range(1050))


@pytest.mark.parametrize(
    ("name", "env_args"),
    [("mpe", {}), ("mpe", {"continuous_actions": True}), ("mamujoco", {"agent_conf": "6x1", "agent_obsk": 1})],
)
def test_same_seed_same_episodes(name: str, env_args: dict[str, Any]) -> None:
    first, again = (play(REGISTRY[name](**env_args, seed=4), 60) for _ in range(2))
    other = play(REGISTRY[name](**env_args, seed=5), 60)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# -------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("name", "env_args", "message"),
    [
        ("mpe", {"scenario": "simple_sprad"}, "Did you mean 'simple_spread'"),
        ("mpe", {"colour": "red"}, "does not take"),
        ("mamujoco", {"scenario": "Halfcheeta"}, "Did you mean 'HalfCheetah'"),
        ("mamujoco", {"agent_conf": "5x1"}, "expected 1x6, 2x3, 3x2, 6x1"),
        ("mamujoco", {"agent_obsk": None}, "agent_obsk: None is not 0, 1, 2 or all"),
        ("mamujoco", {"colour": "red"}, "does not take"),
    ],
)
def test_impossible_arguments(name: str, env_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        REGISTRY[name](**env_args)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi", None)
    with pytest.raises(UserError, match="pip install gymnasium-robotics==") as error:
        MAMuJoCo()
    pinned = (ROOT / "requirements.txt").read_text().split()
    assert [word for word in str(error.value).split() if "==" in word and word not in pinned] == []


# -------------------------------------------------------------------- in the host


def test_algorithm_yamls_have_every_key() -> None:
    """sacred takes ``with key=…`` only for keys that a YAML file has."""
    for path in (ROOT / "config" / "algs").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        assert set(HasacConfig.__dataclass_fields__) <= set(values), path
        HasacConfig.from_mapping(values)


def test_tuned_settings_are_valid_and_name_real_tasks() -> None:
    for path in (ROOT / "config" / "tuned").glob("*.yaml"):
        tuned = yaml.safe_load(path.read_text())
        for name, values in tuned["tasks"].items():
            HasacConfig.from_mapping({**tuned["default"], **values})
            assert set(values) | set(tuned["default"]) <= set(HasacConfig.__dataclass_fields__) | {"batch_size_run"}
            if path.stem == "sc2":  # its names are checked in test_starcraft.py
                continue
            scenario, _, rest = name.partition("-")
            env_args = {"scenario": scenario}
            env_args |= (
                {"agent_conf": rest} if path.stem == "mamujoco" else {"continuous_actions": rest == "continuous"}
            )
            assert REGISTRY[path.stem].task_name(env_args) == name
            REGISTRY[path.stem](**env_args).close()


def test_continuous_training_in_the_host(cli: Cli) -> None:
    """The authors' settings by default, said so; what is given goes first; results under the task's name."""
    small = "t_max=400 warmup_steps=100 test_interval=200 test_nepisode=2 batch_size_run=2 replay_batch_size=32"
    done = cli(
        *("--config=hasac", "--env-config=mamujoco", "with", "env_args.scenario=Ant", "env_args.agent_conf=4x2"),
        *("env_args.episode_limit=20", "train_interval=10", "save_model=True", *small.split()),
    )
    assert done.code == 0, done.stderr
    assert "the authors' settings for Ant-4x2" in done.stderr
    (run,) = done.runs("hasac")
    assert run.parent.name == "Ant-4x2"
    config = yaml.safe_load((run / "config.json").read_text())
    assert (config["n_step"], config["alpha"], config["train_interval"]) == (5, 0.2, 10)
    info = done.info("hasac")
    assert len(info["agent_3_entropy"]) > 0
    assert np.isfinite(info["critic_loss"][-1]["value"] if isinstance(info["critic_loss"][-1], dict) else 0.0)


def test_hosts_baseline_on_our_discrete_env(cli: Cli) -> None:
    """In the host's parallel runner, whose processes import the command and nothing else of ours."""
    done = cli(
        *("--config=mappo", "--env-config=mpe", "with", "env_args.scenario=simple_speaker_listener"),
        *("batch_size_run=2", "t_max=150", "test_interval=100", "test_nepisode=2", "log_interval=100"),
    )
    assert done.code == 0, done.stderr
    assert "final test return" in done.stdout


def test_hosts_baseline_refuses_box(cli: Cli) -> None:
    done = cli("--config=qmix", "--env-config=mamujoco")
    assert done.code == 2
    assert "has the action space Box(-1.0, 1.0, (3,), float32)" in done.stderr
    assert not (done.folder / "results").exists()
