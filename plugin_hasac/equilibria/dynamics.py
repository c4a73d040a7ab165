"""How exact learners move in a matrix game: gradient ascent without entropy, and soft policy iteration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plugin_hasac.equilibria.matrix_games import Array, expected_payoffs, quantal_response, soft_objective


def policy_gradient(
    payoff: Array, start: Sequence[Array], *, iterations: int, step: float, sequential: bool = True
) -> list[list[Array]]:
    """Exact gradient ascent on the expected payoff in the logits of softmax policies, without entropy.

    What trust-region and clipped policy gradients (HATRPO, HAPPO, MAPPO) do in the limit of small steps.

    Args:
        payoff: one axis per agent.
        start: positive policies.
        iterations: of all agents.
        step: learning rate, relative to the range of the payoffs.
        sequential: agents respond to those before them as they are after their step.

    Returns:
        The joint policies, the start first.
    """
    logits = [np.log(policy) for policy in start]
    rate = step / np.ptp(payoff) if np.ptp(payoff) else step
    seen = [[np.array(policy) for policy in start]]
    for _ in range(iterations):
        current = [policy.copy() for policy in seen[-1]]
        for agent in range(payoff.ndim):
            values = expected_payoffs(payoff, current if sequential else seen[-1], agent)
            own = seen[-1][agent]
            logits[agent] = logits[agent] + rate * own * (values - own @ values)
            weights = np.exp(logits[agent] - logits[agent].max())
            current[agent] = weights / weights.sum()
        seen.append(current)
    return seen


def soft_iteration(payoff: Array, start: Sequence[Array], temperatures: Sequence[float]) -> list[list[Array]]:
    """Sequential quantal responses (HASAC's iteration), one sweep per temperature; the start first."""
    seen = [[np.array(policy) for policy in start]]
    for alpha in temperatures:
        current = list(seen[-1])
        for agent in range(payoff.ndim):
            current[agent] = quantal_response(payoff, current, agent, alpha)
        seen.append(current)
    return seen


def payoffs(payoff: Array, joint_policies: Sequence[Sequence[Array]]) -> Array:
    """Expected payoff of each joint policy."""
    return np.array([soft_objective(payoff, policies, [0.0] * payoff.ndim) for policies in joint_policies])
