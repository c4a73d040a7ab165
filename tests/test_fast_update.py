"""The fast update against the reference update: the same random numbers must give the same learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import blank
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugin_hasac import native
from plugin_hasac.components.action_spaces import Box, Categorical
from plugin_hasac.components.replay import StepReplay, TransitionBatch
from plugin_hasac.components.task import AgentSpec, Task
from plugin_hasac.config import HasacConfig
from plugin_hasac.learners.fast_update import FastUpdate
from plugin_hasac.learners.hasac import Hasac
from plugin_hasac.learners.updaters import FastUpdater, GraphUpdater, ReferenceUpdater, make_updater, products_on_cpu
from plugin_hasac.native.library import Library

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
ROWS = 48
WIDE = Box((-0.4, 0.0), (0.4, 3.0))
TASKS = {
    "discrete": Task.discrete(3, 5, 7, 4, 10),
    "box": Task((AgentSpec(4, WIDE),) * 3, 5, 10),
    "multidiscrete": Task((AgentSpec(4, Categorical((2, 3))),) * 2, 5, 10),
    "mixed": Task(
        (AgentSpec(2, WIDE), AgentSpec(5, Categorical((3, 2))), *(AgentSpec(5, Categorical((4,))),) * 2), 4, 10
    ),
}


def random_batch(task: Task, generator: torch.Generator, device: torch.device) -> TransitionBatch:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    def avail() -> torch.Tensor:
        mask = torch.rand(task.n_agents, ROWS, task.avail_dim, generator=generator) < 0.6
        for agent, spec in enumerate(task.agents):
            mask[agent, :, spec.action.avail_dim :] = False
            if isinstance(spec.action, Categorical):
                for factor in spec.action.factors():
                    mask[agent, :, factor.start] = True
        return mask.to(device)

    actions = torch.zeros(task.n_agents, ROWS, task.action_width)
    for agent, spec in enumerate(task.agents):
        uniform = torch.rand(ROWS, spec.action.width, generator=generator)
        if isinstance(spec.action, Categorical):
            actions[agent, :, : spec.action.width] = (uniform * torch.tensor(spec.action.nvec)).floor()
        else:
            actions[agent, :, : spec.action.width] = spec.action.decode(2 * uniform - 1)
    return TransitionBatch(
        obs=normal(task.n_agents, ROWS, task.obs_dim),
        state=normal(ROWS, task.state_dim),
        avail=avail(),
        actions=(actions.long() if task.is_discrete else actions).to(device),
        returns=5 * normal(ROWS),
        bootstrap=torch.full((ROWS,), 0.9, device=device),
        next_obs=normal(task.n_agents, ROWS, task.obs_dim),
        next_state=normal(ROWS, task.state_dim),
        next_avail=avail(),
    )


def tensors(hasac: Hasac) -> list[torch.Tensor]:
    """Everything that an update changes."""
    changed = [hasac.critic.net.flat, hasac.target_critic.net.flat, hasac.temperatures.log_alpha, hasac.value_norm.std]
    return [*changed, *(net.flat for net in hasac.policies.nets)]


def largest_difference(
    values: dict[str, Any], task: Task, device: torch.device, library: Library | None = None
) -> float:
    """Of all weights and metrics after three updates of both implementations."""
    config = HasacConfig.from_mapping(values | {"lr": 1e-2, "critic_lr": 1e-2, "huber_delta": 0.7})
    reference, other = (Hasac(task, config, device, seed=0) for _ in range(2))
    fast, generator = FastUpdate(other, ROWS, library), torch.Generator().manual_seed(1)
    for _ in range(3):
        batch, noise = random_batch(task, generator, device), reference.draw_noise(ROWS)
        order = reference.draw_order()
        metrics = fast.names.vector(reference.update(batch, noise, order))
        ours = fast(batch, noise, order)
    pairs = [(metrics, ours), *zip(tensors(reference), tensors(other), strict=True)]
    return max((one - two).abs().max().item() for one, two in pairs)


# Adam turns rounding errors of vanishing gradients into whole steps, so the comparison is made in float64.
pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("compiled", [True, False])
@settings(
    deadline=None,
    max_examples=80,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it holds for all examples alike
)
@given(
    task=st.sampled_from(sorted(TASKS)),
    values=st.fixed_dictionaries(
        {
            "activation": st.sampled_from(["relu", "tanh", "silu"]),
            "actor_gradient": st.sampled_from(["exact", "gumbel"]),
            "hidden_sizes": st.sampled_from([[16], [16, 24], [8, 12, 16]]),
            "grad_norm_clip": st.sampled_from([None, 0.5]),
            "target_entropy": st.sampled_from(["auto", -0.3]),
        }
        | {
            key: st.booleans()
            for key in (
                "share_param",
                "sequential_update",
                "fixed_order",
                "use_huber_loss",
                "use_valuenorm",
                "use_feature_normalization",
                "use_policy_active_masks",
                "auto_alpha",
            )
        }
    ),
)
def test_equals_the_reference_for_every_space_and_option(task: str, values: dict[str, Any], compiled: bool) -> None:
    library = native.load() if compiled else None
    if compiled and library is None:
        pytest.skip(f"no compiled passes: {native.problem()}")
    assert largest_difference(values, TASKS[task], torch.device("cpu"), library) < 1e-10


@CUDA
@pytest.mark.parametrize("gradient", ["exact", "gumbel"])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_equals_the_reference_on_a_gpu(task: str, gradient: str) -> None:
    assert largest_difference({"actor_gradient": gradient}, TASKS[task], torch.device("cuda")) < 1e-8


def filled(task: Task, device: torch.device) -> StepReplay:
    rng, n_envs = np.random.default_rng(0), 4
    replay = StepReplay(task, 400, n_envs, device, seed=0)
    now = blank(task, n_envs, 1.0)
    replay.start(now)
    for step in range(60):
        following = blank(task, n_envs)
        following.obs[:] = rng.normal(size=following.obs.shape)
        following.state[:] = rng.normal(size=following.state.shape)
        ended = np.full(n_envs, step % 7 == 6)
        actions = task.uniform_actions(rng, now.avail)
        replay.add(actions, rng.normal(size=n_envs), ended, ended, following, following)
        now = following
    replay.flush()
    return replay


@CUDA
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("task", ["discrete", "box", "mixed"])
@pytest.mark.parametrize(
    "values", [{}, {"actor_gradient": "gumbel", "sequential_update": False}, {"share_param": True}]
)
@pytest.mark.parametrize("host_memory", [False, True])
def test_graphs_equal_the_reference(task: str, values: dict[str, Any], n_step: int, host_memory: bool) -> None:
    """From the same seeds the graphs draw the same batches and noise as the reference, also once they are recorded."""
    device = torch.device("cuda")
    config = HasacConfig.from_mapping({"replay_batch_size": ROWS, "hidden_sizes": [16, 16], "n_step": n_step} | values)
    learned = []
    for updater_class in (ReferenceUpdater, GraphUpdater):
        hasac = Hasac(TASKS[task], config, device, seed=0)
        updater = updater_class(hasac, filled(TASKS[task], torch.device("cpu") if host_memory else device))
        for _ in range(8):
            updater.step()
        learned.append([*tensors(hasac), torch.tensor(list(updater.means.take().values()))])
    for one, other in zip(*learned, strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@CUDA
def test_a_replay_too_large_for_the_gpu_stays_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    task, device = TASKS["discrete"], torch.device("cuda")
    assert StepReplay.fitting(task, 1000, 4, device, 0).device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1000, 1000))
    replay = StepReplay.fitting(task, 1000, 4, device, 0)
    assert replay.device.type == "cpu"
    assert replay._columns["obs"].is_pinned()


def test_every_path_says_what_it_is() -> None:
    task = TASKS["discrete"]
    replay, cpu = filled(task, torch.device("cpu")), torch.device("cpu")
    fast = make_updater(Hasac(task, HasacConfig(), cpu, 0), replay)
    slow = make_updater(Hasac(task, HasacConfig(fast_update=False), cpu, 0), replay)
    assert isinstance(fast, FastUpdater)
    assert "by hand on the CPU" in fast.description
    assert ("passes compiled" in fast.description) == (native.load() is not None)
    assert isinstance(slow, ReferenceUpdater)
    assert "reference" in slow.description


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_what_multiplies_on_a_cpu_is_said(
    monkeypatch: pytest.MonkeyPatch, amx: bool, bfloat16: bool, compiled: bool
) -> None:
    library = type("Library", (), {"bfloat16": amx}) if compiled else None
    monkeypatch.setattr(native, "load", lambda: library)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
    expected = "bfloat16" if amx or (bfloat16 and not compiled) else "float32"  # PyTorch also uses vector units
    assert products_on_cpu("medium").startswith(expected)
    assert products_on_cpu("highest") == "float32 products"
    assert products_on_cpu("high").startswith("float32")


@pytest.mark.parametrize("fast", [True, False])
def test_means_are_those_of_the_updates(fast: bool) -> None:
    task, cpu = TASKS["box"], torch.device("cpu")
    hasac = Hasac(task, HasacConfig(fast_update=fast, auto_alpha=False, alpha=(0.1, 0.2, 0.6)), cpu, 0)
    updater = make_updater(hasac, filled(task, cpu))
    updater.step()
    updater.step()
    means = updater.means.take()
    assert [means[f"agent_{i}_alpha"] for i in range(3)] == pytest.approx([0.1, 0.2, 0.6])
    assert means["alpha"] == pytest.approx(0.3)
    assert updater.means.take()["critic_loss"] == 0.0  # a fresh start
