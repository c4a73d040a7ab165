"""Statistics against closed forms and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_record
from rliable import metrics

from plugin_hasac.bench import statistics
from plugin_hasac.bench.comparison import compare
from plugin_hasac.bench.statistics import (
    Normalizer,
    Summary,
    best,
    iqm_over_steps,
    normalized_scores,
    on_one_grid,
    performance_profile,
    probability_of_improvement,
    summarize,
)


def test_summary_of_known_numbers() -> None:
    summary = summarize(np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0]]).T)
    assert summary.iqm == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert summary.mean == pytest.approx(1021 / 8)
    assert summary.deviation == pytest.approx(np.sqrt((sum(x * x for x in range(7)) + 1e6 - 1021**2 / 8) / 7))
    assert summarize(np.array([[3.0]])) == Summary(1, 3.0, 3.0, None, None, None)


def test_the_interval_of_a_mean_has_the_bootstraps_width() -> None:
    """The bootstrap's variance of a mean is the sample's (divisor n) over n; its distribution is nearly normal here."""
    sample = np.random.default_rng(0).normal(5.0, 2.0, (50, 1))
    low, high = summarize(sample).mean_interval or (0.0, 0.0)
    half = 1.96 * sample.std() / np.sqrt(50)
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.08 * half)


def test_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 intervals from 20 runs each, about 93% hold the true mean: the bootstrap's known shortfall at n = 20."""
    monkeypatch.setattr(statistics, "REPETITIONS", 200)
    rng = np.random.default_rng(1)
    intervals = [summarize(rng.normal(0.0, 1.0, (20, 1))).mean_interval or (0.0, 0.0) for _ in range(100)]
    assert 0.89 <= np.mean([low <= 0.0 <= high for low, high in intervals]) <= 0.97


def test_the_bootstrap_is_stratified_and_leaves_the_global_generator_alone() -> None:
    """Tasks of constant, different scores have no spread within them, so neither has their mean."""
    scores = np.array([[0.0, 1.0]] * 5)
    np.random.seed(7)
    expected = np.random.get_state()[1].tolist()
    assert summarize(scores).mean_interval == (0.5, 0.5)
    assert np.random.get_state()[1].tolist() == expected
    noise = np.random.default_rng(0).normal(size=(5, 2))
    assert summarize(noise) == summarize(noise)


def test_probability_of_improvement() -> None:
    column = np.array([[2.0], [3.0]]), np.array([[2.0], [1.0]])
    assert probability_of_improvement(*column)[0] == 3.5 / 4  # one tie, three wins
    assert probability_of_improvement(*column[::-1])[0] == 0.5 / 4
    assert probability_of_improvement(np.array([[1.0]]), np.array([[0.0]])) == (1.0, None)
    _, interval = probability_of_improvement(np.arange(5.0)[:, None] + 9, np.arange(4.0)[:, None])
    assert interval == (1.0, 1.0)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (5, 3)).astype(float), rng.integers(0, 4, (6, 3)).astype(float)
    assert probability_of_improvement(x, y)[0] == pytest.approx(metrics.probability_of_improvement(x, y))


def test_iqm_over_steps_is_rliables_of_each_step() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3, 4))
    iqm, band = iqm_over_steps(values)
    assert iqm == pytest.approx([metrics.aggregate_iqm(values[..., step]) for step in range(4)])
    assert band is not None
    assert band.shape == (2, 4)
    assert (band[0] < iqm).all()
    assert (iqm < band[1]).all()
    assert iqm_over_steps(values[:1])[1] is None


def test_performance_profile() -> None:
    profile, _ = performance_profile(np.array([[0.2, 0.4], [0.6, 0.4]]), np.array([0.0, 0.4, 0.5, 1.0]))
    assert profile.tolist() == [1.0, 0.25, 0.25, 0.0]


def test_bold_are_all_whose_interval_overlaps_that_of_the_best() -> None:
    def summary(mean: float, interval: tuple[float, float] | None) -> Summary:
        return Summary(3, mean, mean, 1.0, interval, interval)

    summaries = {
        "top": summary(5.0, (4.0, 6.0)),
        "touches": summary(3.0, (2.0, 4.0)),
        "below": summary(3.5, (3.0, 3.9)),
        "one seed inside": summary(4.5, None),
        "one seed below": summary(3.0, None),
    }
    assert best(summaries, "mean") == best(summaries, "iqm") == {"top", "touches", "one seed inside"}


def test_normalisation_and_matrices() -> None:
    runs = [
        *(make_record("hasac", seed, [-90.0, score]) for seed, score in enumerate([1.0, 3.0, 5.0])),
        *(make_record("qmix", seed, [-99.0, score]) for seed, score in enumerate([2.0, 4.0])),
        *(make_record("hasac", seed, [0.0, 7.0], task="same") for seed in range(2)),
        *(make_record("qmix", seed, [0.0, 7.0], task="same") for seed in range(2)),
        make_record("hasac", 1, [0.0, 1.0], task="alone"),
    ]
    comparison = compare(runs)
    assert comparison.shared_tasks == ["game", "same"]
    matrices = normalized_scores(comparison)
    assert matrices["hasac"].tolist() == [[0.0, 0.0], [0.5, 0.0]]  # the seeds that every task has
    assert matrices["qmix"].tolist() == [[0.25, 0.0], [0.75, 0.0]]
    assert Normalizer(comparison)("game", np.array([-90.0, 2.0])).tolist() == [0.0, 0.25]
    assert Normalizer(compare(runs, ranges={"game": (0.0, 10.0)}))("game", np.array([5.0])) == [0.5]


def test_runs_tested_at_different_steps_meet_on_one_grid() -> None:
    runs = [
        make_record("hasac", 1, [0.0, 10.0, 20.0], steps=[0, 100, 200]),
        make_record("hasac", 2, [1.0, 2.0, 3.0, 4.0, 5.0], steps=[20, 60, 100, 150, 190]),
    ]
    steps, values = on_one_grid(runs, "return")
    assert steps.tolist() == [20, 100, 190]
    assert values.tolist() == [[2.0, 10.0, 19.0], [1.0, 3.0, 5.0]]
