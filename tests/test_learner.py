"""What the learner does once, when learning starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_turns import TASK, make

SLOW = {"overlap": False, "update_per_train": 1, "alpha_lr": 1e-9}  # temperatures stay where they start


@pytest.mark.parametrize("size", [0.01, 30.0])
def test_alpha_counts_standard_deviations_of_the_rewards(size: float) -> None:
    mac, learner, now = make("cpu", alpha=(0.1, 0.2), alpha_unit="reward_std", **SLOW)
    over, rng, rewards = np.zeros(4, bool), np.random.default_rng(0), []
    for _ in range(260):  # these push all earlier transitions out
        actions = TASK.uniform_actions(rng, now.avail)
        rewards.append(size * actions.sum((1, 2)))
        mac.replay.add(actions, rewards[-1], over, over, now, now)
    held = mac.replay._columns["reward"][mac.replay._columns["startable"][: len(mac.replay)]]
    assert len(held) >= 990
    learner.train(None, 4, 0)
    unit = held.double().std(correction=0).item()
    assert unit == pytest.approx(size * np.sqrt(2 / 3), rel=0.1)  # two numbers, uniform in [-1, 1]
    assert mac.algorithm.temperatures.values().tolist() == pytest.approx([0.1 * unit, 0.2 * unit], rel=1e-4)
    learner.train(None, 8, 0)  # once
    assert mac.algorithm.temperatures.values().tolist() == pytest.approx([0.1 * unit, 0.2 * unit], rel=1e-4)


def test_rewards_that_do_not_differ_count_as_one() -> None:
    mac, learner, _ = make("cpu", alpha=0.3, alpha_unit="reward_std", **SLOW)
    mac.replay._columns["reward"].zero_()
    learner.train(None, 4, 0)
    assert mac.algorithm.temperatures.values().tolist() == pytest.approx([0.3, 0.3], rel=1e-4)


def test_in_reward_units_nothing_is_measured() -> None:
    mac, learner, _ = make("cpu", alpha=0.3, alpha_unit="reward", **SLOW)
    learner.train(None, 4, 0)
    assert mac.algorithm.temperatures.values().tolist() == pytest.approx([0.3, 0.3], rel=1e-4)


def test_a_checkpoint_has_its_temperatures_in_reward_units(tmp_path: Path) -> None:
    mac, learner, _ = make("cpu", alpha=0.3, alpha_unit="reward_std", **SLOW)
    learner.train(None, 4, 0)
    learner.save_models(str(tmp_path))
    alphas = mac.algorithm.temperatures.values().tolist()
    mac, learner, _ = make("cpu", alpha=0.3, alpha_unit="reward_std", **SLOW)
    learner.load_models(str(tmp_path))
    learner.train(None, 4, 0)
    assert mac.algorithm.temperatures.values().tolist() == pytest.approx(alphas, rel=1e-4)
