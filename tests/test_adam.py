"""Adam on flat weights: the library's steps, and checkpoints that fit every device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from plugin_hasac.modules import adam
from plugin_hasac.modules.adam import Adam

SIZE = 10_000
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def vectors(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return weights.to(device), torch.zeros_like(weights, device=device)


def steps(optimizer: Any, grads: torch.Tensor, first: int, last: int) -> None:
    for number in range(first, last):
        torch.sin(torch.arange(SIZE, device=grads.device, dtype=torch.float64) * (number + 1), out=grads)
        optimizer.step()


@pytest.mark.parametrize("device", DEVICES)
def test_same_steps_as_the_library(device: str) -> None:
    """Also after the learning rate has changed, against the library's plain implementation."""
    weights, grads = vectors(device)
    expected = torch.nn.Parameter(weights.clone())
    expected.grad = grads
    optimizer, library = Adam(weights, grads, 1e-2), torch.optim.Adam([expected], lr=1e-2, foreach=False)
    for first, lr in ((0, 1e-2), (10, 3e-3)):
        optimizer.lr = library.param_groups[0]["lr"] = lr
        for number in range(first, first + 10):
            steps(optimizer, grads, number, number + 1)
            library.step()
    torch.testing.assert_close(weights, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_goes_on_wherever_it_is_cut(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint holds the moments whole, and no learning rate."""
    weights, grads = vectors(device)
    optimizer = Adam(weights, grads, 1e-2)
    steps(optimizer, grads, 0, 5)
    state, saved = optimizer.state_dict(), weights.clone()
    steps(optimizer, grads, 5, 10)
    monkeypatch.setattr(adam, "piece", lambda _weights: 777)
    for other in {"cpu", device}:
        own, own_grads = saved.to(other, copy=True), grads.to(other, copy=True)
        restored = Adam(own, own_grads, 1e-2)
        restored.load_state_dict({key: value.to(other) for key, value in state.items()})
        steps(restored, own_grads, 5, 10)
        torch.testing.assert_close(own.to(device), weights, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="an optimiser of 10000 weights, expected 9999"):
        Adam(own[:-1], own_grads[:-1], 1e-2).load_state_dict(state)


def test_learning_on_a_cpu_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from test_turns import TASK\n"
        "from plugin_hasac.learners.hasac import Hasac; from plugin_hasac.config import HasacConfig\n"
        "hasac = Hasac(TASK, HasacConfig.from_mapping({}), torch.device('cpu'), seed=0)\n"
        "hasac.critic_optimizer.step(); hasac.actor_optimizers[0].step()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=here)
    assert done.stdout == "False\n", done.stderr
