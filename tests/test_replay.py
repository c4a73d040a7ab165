"""n-step transitions against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU, blank

from plugin_hasac.components.replay import StepReplay, TransitionBatch
from plugin_hasac.components.task import Task

TASK = Task.discrete(n_agents=2, obs_dim=1, state_dim=1, n_actions=3, episode_limit=10)
GAMMA = 0.5


class Stream:
    """Feeds one env's steps; observation values number the moments 1, 2, 3, …"""

    def __init__(self, capacity: int = 40, n_envs: int = 1) -> None:
        self.replay = StepReplay(TASK, capacity, n_envs, CPU, seed=0)
        self.n_envs = n_envs
        self.moment = 1
        self.replay.start(blank(TASK, n_envs, 1.0))

    def step(self, reward: float, *, terminated: bool = False, truncated: bool = False, dropped: bool = False) -> None:
        def all_envs(value: bool) -> np.ndarray:
            return np.full(self.n_envs, value)

        self.moment += 1
        successor = blank(TASK, self.n_envs, self.moment)
        if terminated or truncated or dropped:
            self.moment += 1
        self.replay.add(
            np.full((self.n_envs, 2, 1), self.moment % 3),
            np.full(self.n_envs, reward),
            all_envs(terminated),
            all_envs(terminated or truncated),
            successor,
            blank(TASK, self.n_envs, self.moment),
            all_envs(dropped),
        )

    def transition(self, row: int, n_step: int, env: int = 0) -> TransitionBatch:
        return self.replay.gather(torch.tensor([env * self.replay.rows + row]), n_step, GAMMA)


def facts(batch: TransitionBatch) -> tuple[float, float, float]:
    """(return, bootstrap factor, the moment that is bootstraped from)."""
    return batch.returns.item(), batch.bootstrap.item(), batch.next_state.item()


def test_full_window() -> None:
    stream = Stream()
    for reward in (1.0, 2.0, 4.0, 8.0):
        stream.step(reward)
    # 1 + 2/2 + 4/4 = 3; gamma^3 = 1/8; three steps after moment 1 comes moment 4.
    assert facts(stream.transition(0, 3)) == (3.0, 0.125, 4.0)
    assert facts(stream.transition(1, 1)) == (2.0, 0.5, 3.0)


def test_termination_cuts_the_window_and_the_bootstrap() -> None:
    stream = Stream()
    stream.step(1.0)
    stream.step(2.0, terminated=True)
    stream.step(100.0)
    returns, bootstrap, _ = facts(stream.transition(0, 5))
    assert (returns, bootstrap) == (2.0, 0.0)  # 1 + 2/2, and not a trace of the next episode's 100


def test_truncation_bootstraps_from_the_episodes_own_last_observation() -> None:
    stream = Stream()
    stream.step(1.0)
    stream.step(2.0, truncated=True)  # ends at moment 3; the next episode begins at moment 4
    stream.step(100.0)
    assert facts(stream.transition(0, 5)) == (2.0, 0.25, 3.0)  # two steps really taken: gamma^2
    assert facts(stream.transition(1, 1)) == (2.0, 0.5, 3.0)
    assert facts(stream.transition(3, 1)) == (100.0, 0.5, 5.0)  # row 2 is moment 3, which has no action


def test_window_stops_at_the_newest_step() -> None:
    stream = Stream()
    stream.step(1.0)
    stream.step(2.0)
    assert facts(stream.transition(0, 10)) == (2.0, 0.25, 3.0)


def test_dropped_step_leaves_no_trace() -> None:
    stream = Stream()
    stream.step(1.0)
    stream.step(999.0, dropped=True)  # the env broke down at moment 2; moment 4 follows after a restart
    stream.step(4.0)
    assert len(stream.replay) == 2
    assert facts(stream.transition(0, 3)) == (1.0, 0.5, 2.0)
    assert facts(stream.transition(2, 1)) == (4.0, 0.5, 5.0)


def test_parallel_envs_do_not_mix() -> None:
    replay = StepReplay(TASK, 40, 2, CPU, seed=0)
    replay.start(blank(TASK, 2, 0.0))
    actions, no = np.zeros((2, 2, 1)), np.zeros(2, bool)
    for t in range(1, 5):
        successor = blank(TASK, 2)
        successor.state[:, 0] = (t, 100 + t)
        now, ended = blank(TASK, 2), np.array([t == 2, False])
        now.state[:] = np.where(ended[:, None], 50.0, successor.state)
        replay.add(actions, np.array([1.0, 10.0]), no, ended, successor, now)
    first = replay.gather(torch.tensor([0, replay.rows]), 3, GAMMA)
    # Env 0 is cut off after two steps; env 1 goes on undisturbed.
    assert first.returns.tolist() == [1.5, 17.5]
    assert first.bootstrap.tolist() == [0.25, 0.125]
    assert first.next_state[:, 0].tolist() == [2.0, 103.0]


def test_overwriting_never_joins_old_and_new() -> None:
    stream = Stream(capacity=12)
    for t in range(1, 60):
        stream.step(float(stream.moment), truncated=t % 4 == 0)
        batch = stream.replay.sample(64, 3, GAMMA)
        state, reward = batch.state[:, 0], batch.returns
        steps = torch.log(batch.bootstrap) / np.log(GAMMA)
        # The reward of moment m is m, moments of an episode are consecutive: everything follows from m and k'.
        expected = sum((state + j) * GAMMA**j * (j < steps) for j in range(3))
        assert torch.allclose(reward, expected)
        assert torch.allclose(batch.next_state[:, 0], state + steps)
        assert state.min() >= stream.moment - 12
        startable = stream.replay.startable[: len(stream.replay)]
        assert len(set(startable)) == len(startable) == (stream.replay.place >= 0).sum()


def test_sampling_is_uniform_over_transitions() -> None:
    stream = Stream(capacity=30)
    for t in range(1, 21):
        stream.step(0.0, truncated=t % 3 == 0)
    draws = stream.replay.sample(60_000, 1, GAMMA).state[:, 0].long().bincount()
    counts = draws[draws > 0]
    assert len(counts) == len(stream.replay) == 20
    # 3000 expected each; six standard deviations of a binomial are 322.
    assert (counts - 3000).abs().max() < 322


def test_no_available_action_is_replaced_by_all() -> None:
    replay = StepReplay(TASK, 20, 1, CPU, seed=0)
    replay.start(blank(TASK, 1))
    over = blank(TASK, 1)
    over.avail[:] = False
    replay.add(np.zeros((1, 2, 1)), np.zeros(1), np.ones(1, bool), np.ones(1, bool), over, blank(TASK, 1))
    assert replay.sample(4, 1, GAMMA).next_avail.all()


def test_too_small() -> None:
    with pytest.raises(ValueError, match="too small"):
        StepReplay(TASK, 4, 2, CPU, seed=0)


def test_drawing_takes_a_flush() -> None:
    replay = StepReplay(TASK, 20, 1, CPU, seed=0)
    replay.start(blank(TASK, 1))
    over = np.zeros(1, bool)
    replay.add(np.zeros((1, 2, 1)), np.ones(1), over, over, blank(TASK, 1), blank(TASK, 1))
    with pytest.raises(RuntimeError, match="flush"):
        replay.draw(4, 1, GAMMA)
    replay.flush()
    assert (replay.draw(4, 1, GAMMA).returns == 1).all()
