"""Figures of ``hasac qre``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from plugin_hasac.equilibria.dynamics import payoffs, policy_gradient, soft_iteration
from plugin_hasac.equilibria.matrix_games import Array
from plugin_hasac.equilibria.quantal import Equilibrium

SWEEPS = 40
CURVES = 4  # temperatures in the figure of learning


def plot_equilibria(name: str, found: Sequence[Equilibrium], target: Path) -> None:
    """Policies, values and residuals over the temperature; saddles are hollow."""
    n_agents = len(found[0].policies) if found else 0
    figure = Figure(figsize=(4.2 * (n_agents + 2), 3.8), layout="constrained")
    panels = figure.subplots(1, n_agents + 2, squeeze=False)[0]
    for stable in (True, False):
        chosen = [each for each in found if each.stable == stable]
        alphas = [each.alpha for each in chosen]
        style = {"linestyle": "", "markersize": 4, "marker": "o"} | ({} if stable else {"markerfacecolor": "none"})
        for agent, panel in enumerate(panels[:n_agents]):
            for action in range(len(found[0].policies[agent])):
                label = f"action {action}" if stable else None
                probabilities = [each.policies[agent][action] for each in chosen]
                panel.plot(alphas, probabilities, color=f"C{action % 10}", label=label, **style)
        values = panels[-2]
        values.plot(alphas, [e.social_value for e in chosen], color="C0", label="payoff" if stable else None, **style)
        soft = [e.soft_value for e in chosen]
        values.plot(alphas, soft, color="C1", label="soft value" if stable else None, **style)
        residuals = [max(e.residual, 1e-18) for e in chosen]
        panels[-1].semilogy(alphas, residuals, color="C2", label="stable" if stable else "saddle", **style)
    for agent, panel in enumerate(panels[:n_agents]):
        panel.set(title=f"agent {agent}", ylabel="probability", ylim=(-0.03, 1.03))
    panels[-2].set(title="values", ylabel="payoff units")
    panels[-1].set(title="residual", ylabel="total variation")
    for panel in panels:
        panel.set(xscale="log", xlabel="temperature alpha")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="center left")
    figure.suptitle(f"{name}: logit quantal response equilibria (hollow: saddles)")
    figure.savefig(target, dpi=130)


def plot_learning(name: str, payoff: Array, alphas: Sequence[float], start: Sequence[Array], target: Path) -> None:
    """Expected payoff over sweeps: gradient ascent without entropy, HASAC at several temperatures, and cooling down."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for sequential, label in ((True, "policy gradient, in turns"), (False, "policy gradient, at once")):
        seen = policy_gradient(payoff, start, iterations=50 * SWEEPS, step=1.0, sequential=sequential)[::50]
        axes.plot(payoffs(payoff, seen), label=label, linestyle="--" if sequential else ":", color="black")
    chosen = sorted(alphas)
    if len(chosen) > CURVES:
        chosen = [chosen[round(i * (len(chosen) - 1) / (CURVES - 1))] for i in range(CURVES)]
    for alpha in chosen:
        axes.plot(payoffs(payoff, soft_iteration(payoff, start, [alpha] * SWEEPS)), label=f"HASAC, alpha {alpha:.3g}")
    if len(chosen) > 1:
        cooling = np.geomspace(chosen[-1], chosen[0], SWEEPS).tolist()
        label = f"HASAC, alpha {chosen[-1]:.3g} to {chosen[0]:.3g}"
        axes.plot(payoffs(payoff, soft_iteration(payoff, start, cooling)), label=label, linewidth=2.5)
    axes.axhline(payoff.max(), color="grey", linewidth=0.8)
    axes.set(title=f"{name}: exact learning from one start", xlabel="sweeps (policy gradient: 50 steps each)")
    axes.set_ylabel("expected payoff")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(target, dpi=130)
