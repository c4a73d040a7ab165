"""The smaller twin at a changing joint action, against automatic differentiation of the whole critics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from plugin_hasac.components.task import Task
from plugin_hasac.learners.joint_values import GRAIN, JointValues
from plugin_hasac.modules.critics import TwinCritic

ROWS = 40
TASK = Task.discrete(3, 5, 7, 4, 10)

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("hidden_sizes", [(16,), (16, 24), (8, 12, 16)])
@pytest.mark.parametrize(("moves", "everywhere"), [(1, False), (10, False), (39, False), (40, True)])
def test_equals_automatic_differentiation(
    activation: str, hidden_sizes: tuple[int, ...], moves: int, everywhere: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    critic = TwinCritic(
        TASK, hidden_sizes=hidden_sizes, activation=activation, device=torch.device("cpu"), generator=generator
    )
    state, joint = (torch.randn(ROWS, size, generator=generator) for size in (TASK.state_dim, 12))
    values, weight = JointValues(critic.net, ROWS), critic.net.stacks[0][:, TASK.state_dim :].detach()
    values.first.copy_((critic.embed_state(state) + critic.embed_actions(joint)).detach())
    values.restart()
    for turn in range(4):
        agent = slice(4 * (turn % 3), 4 * (turn % 3) + 4)
        seen = joint.clone().requires_grad_()
        q = critic.values(state, seen).amin(0)
        slope = torch.autograd.grad(q.sum(), seen)[0]
        torch.testing.assert_close(values.slope_in(weight[:, agent]), slope[:, agent], rtol=0, atol=1e-12)
        torch.testing.assert_close(values.q, q.detach(), rtol=0, atol=1e-12)
        change = torch.zeros(ROWS, 4)
        change[torch.randperm(ROWS, generator=generator)[:moves]] = torch.randn(moves, 4, generator=generator)
        joint[:, agent] += change
        values.move(change, weight[:, agent], everywhere=everywhere)


def test_rows_that_stay_are_not_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    critic = TwinCritic(
        TASK, hidden_sizes=(8, 8), activation="relu", device=torch.device("cpu"), generator=torch.Generator()
    )
    values, evaluated, evaluate = JointValues(critic.net, ROWS), [], JointValues._evaluate

    def counted(self: JointValues, *args: Any) -> list[torch.Tensor]:
        evaluated.append(args[1].shape[0])
        return evaluate(self, *args)

    monkeypatch.setattr(JointValues, "_evaluate", counted)
    values.first.fill_(1.0)
    values.restart()
    weight, change = critic.net.stacks[0][:, -4:].detach(), torch.zeros(ROWS, 4)
    values.slope_in(weight)
    values.move(change, weight, everywhere=False)
    values.slope_in(weight)
    change[3:5] = 1.0
    values.move(change, weight, everywhere=False)
    values.slope_in(weight)
    assert evaluated == [ROWS, GRAIN]
