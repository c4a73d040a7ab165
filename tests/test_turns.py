"""Updates beside the stepping: who waits for whom, and which policies act."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import blank

from plugin_hasac.components.action_spaces import Box
from plugin_hasac.components.replay import StepData
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.controllers import hasac_mac
from plugin_hasac.controllers.hasac_mac import HasacMAC
from plugin_hasac.learners.hasac_learner import HasacLearner
from plugin_hasac.learners.turns import Beside, InTurns
from plugin_hasac.learners.updaters import Updater

TASK = Task((AgentSpec(3, Box((-1.0,), (1.0,))),) * 2, 4, 10)


def test_in_turns_work_is_done_on_return() -> None:
    done = []
    InTurns().run(lambda: done.append(1))
    assert done == [1]


def test_beside_returns_at_once_and_keeps_the_order() -> None:
    go, done, beside = threading.Event(), [], Beside()

    def first() -> None:
        go.wait(10)
        done.append("first")

    beside.run(first)
    assert done == []
    go.set()
    beside.run(lambda: done.append("second"))  # waits for the first
    assert done[0] == "first"
    beside.wait()
    assert done == ["first", "second"]


def test_beside_raises_what_its_work_raised_once() -> None:
    beside = Beside()
    beside.run(lambda: np.zeros(1)[3])
    with pytest.raises(IndexError):
        beside.wait()
    beside.wait()


def make(device: str, **values: object) -> tuple[HasacMAC, HasacLearner, StepData]:
    """A controller and a learner with a filled replay."""
    own = {"overlap": True, "warmup_steps": 20, "train_interval": 1, "update_per_train": 6, "critic_lr": 0.01}
    settings = {"hidden_sizes": [16], "replay_batch_size": 32, "replay_size": 1000, "actor_lr": 0.01} | own | values
    logger = SimpleNamespace(console_logger=logging.getLogger("test"), log_stat=lambda *_: None)
    args = SimpleNamespace(
        **settings, use_cuda=device == "cuda", seed=0, batch_size_run=4, hasac_task=TASK, learner_log_interval=10**6
    )
    mac = HasacMAC({}, {}, args)
    rng, over = np.random.default_rng(0), np.zeros(4, bool)
    now = blank(TASK, 4, 1.0)
    mac.replay.start(now)
    for _ in range(30):
        now.obs[:] = rng.normal(size=now.obs.shape)
        actions = TASK.uniform_actions(rng, now.avail)
        mac.replay.add(actions, actions.sum((1, 2)), over, over, now, now)
    return mac, HasacLearner(mac, {}, logger, args), now


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where updates run; on a CPU these tests write nothing to the replay meanwhile."""
    monkeypatch.setattr(hasac_mac, "can_overlap", lambda _replay: True)
    return request.param


def test_episodes_go_on_with_the_policies_from_before_the_updates(device: str) -> None:
    mac, learner, now = make(device)

    def actions(test: bool = False) -> np.ndarray:
        return mac.act(now, test=test, greedy=True)

    untrained = actions()
    learner.train(None, 4, 0)
    assert np.array_equal(actions(), untrained)
    once = actions(test=True)
    assert not np.allclose(once, untrained)
    learner.train(None, 8, 0)
    assert np.array_equal(actions(), once)
    assert not np.allclose(actions(test=True), once)


def test_overlap_changes_nothing_about_the_updates(device: str) -> None:
    learned = []
    for overlap in (True, False):
        mac, learner, now = make(device, overlap=overlap)
        for t_env in (4, 8, 12):
            learner.train(None, t_env, 0)
        learned.append(mac.act(now, test=True, greedy=True))
    assert np.array_equal(*learned)


def test_a_checkpoint_waits_for_the_updates(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac, learner, now = make(device)
    learner.train(None, 4, 0)  # the first call logs, and waits therefore
    go, finish = threading.Event(), Updater.finish

    def held(updater: Updater) -> None:
        go.wait(10)
        finish(updater)

    monkeypatch.setattr(Updater, "finish", held)
    learner.train(None, 8, 0)
    assert not go.is_set()
    threading.Timer(0.2, go.set).start()
    learner.save_models(str(tmp_path))
    assert go.is_set()
    latest = mac.act(now, test=True, greedy=True)
    learner.train(None, 12, 0)
    learner.load_models(str(tmp_path))
    assert np.array_equal(mac.act(now, greedy=True), latest)


def test_overlap_needs_rows_on_the_gpu() -> None:
    mac, _, _ = make("cpu")
    assert not mac.overlap
    assert type(mac.turns) is InTurns
