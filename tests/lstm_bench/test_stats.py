"""The statistics, against scipy's and against what is known."""

import numpy as np
import pytest
import scipy.stats
from lstm_bench import stats
from lstm_bench.stats import Interval

SAMPLES = np.random.default_rng(1).lognormal(0, 0.3, 60)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_bootstrap_interval_of_a_median_is_scipys(confidence):
    ours = stats.bootstrap_median(SAMPLES, confidence)
    theirs = scipy.stats.bootstrap(
        (SAMPLES,),
        np.median,
        confidence_level=confidence,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.estimate == np.median(SAMPLES)
    assert (ours.low, ours.high) == pytest.approx(theirs, rel=0.02)


def test_the_bootstrap_of_a_ratio_of_independent_medians_is_scipys():
    now, then = SAMPLES[:30] * 1.2, SAMPLES[30:]
    ours = stats.ratio_of_ratios(now, then)
    theirs = scipy.stats.bootstrap(
        (now, then), lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis), method="percentile",
        n_resamples=20_000, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx(theirs, rel=0.02)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for k in range(200):
        found = stats.bootstrap_median(rng.lognormal(0, 0.2, 40), seed=k)
        hits += found.low <= 1 <= found.high
    assert scipy.stats.binomtest(hits, 200, 0.95).pvalue > 1e-3, hits


def test_spread_and_mean_are_scipys():
    rounds = {k: row for k, row in enumerate(SAMPLES.reshape(12, 5))}
    assert stats.relative_spread(rounds) == pytest.approx(scipy.stats.iqr(SAMPLES) / np.median(SAMPLES))
    assert stats.geometric_mean(list(SAMPLES)) == pytest.approx(scipy.stats.gmean(SAMPLES))


def test_outliers_are_counted_by_tukeys_fences():
    body = np.linspace(10, 11, 101)  # quartiles 10.25 and 10.75: fences at 8.75, 9.5, 11.5, 12.25
    found = stats.outliers(np.concatenate((body, [8.0, 9.0, 11.9, 12.0, 13.0, 14.0, 15.0])))
    assert found == (1, 1, 2, 3)
    assert stats.outliers(body) == (0, 0, 0, 0)


def test_a_ratio_is_taken_round_by_round():
    mood = [1.0, 3.0, 1.5, 9.0, 2.0]  # the machine's, shared by both in a round
    ours = {k: [1e-3 * m] * 3 for k, m in enumerate(mood)}
    theirs = {k: [2e-3 * m] * 2 for k, m in enumerate(mood) if k != 3}
    assert stats.ratio(ours, theirs) == pytest.approx((2.0, 2.0, 2.0, 4))
    with pytest.raises(ValueError, match="at least one"):
        stats.ratio({0: [1.0]}, {1: [1.0]})


def test_the_median_is_of_all_samples_and_its_interval_of_rounds():
    found = stats.median({0: [1.0, 1.0, 1.0], 1: [5.0], 2: [1.0]})
    assert found.estimate == 1.0 and found.low <= 1.0 <= found.high and found.n == 3


@pytest.mark.parametrize("interval, expected", [
    (Interval(0.90, 0.88, 0.92, 20), "slower"),
    (Interval(0.90, 0.80, 1.01, 20), "undecided"),  # may be noise
    (Interval(0.97, 0.96, 0.98, 20), "same"),  # real, but too little
    (Interval(0.96, 0.93, 0.99, 20), "undecided"),
    (Interval(1.00, 0.97, 1.03, 20), "same"),
    (Interval(1.00, 0.90, 1.10, 20), "undecided"),
    (Interval(1.10, 1.08, 1.12, 20), "faster"),
    (Interval(1.10, 0.99, 1.20, 20), "undecided"),
    (Interval(0.50, 0.50, 0.50, 1), "undecided"),  # one round says nothing
])  # fmt: skip
def test_a_verdict_takes_an_interval_and_an_effect(interval, expected):
    assert stats.verdict(interval, 0.05) == expected


def simulated(speed, seed, rounds=40):
    """The verdict over two engines on a machine whose speed jumps by half for stretches of rounds, and jitters."""
    rng = np.random.default_rng(seed)
    slow = np.repeat(rng.random(rounds // 4 + 1) < 0.3, 4)[:rounds]
    sides = [
        {k: list(t * (1 + 0.5 * slow[k]) * (1 + 0.04 * rng.standard_normal(3))) for k in range(rounds)}
        for t in (1.0, speed)
    ]
    return stats.verdict(stats.ratio(*sides))


def test_equal_engines_are_not_called_slower_and_slow_ones_are():
    assert sum(simulated(1.0, seed) != "same" for seed in range(100)) <= 1
    assert sum(simulated(0.9, seed) == "slower" for seed in range(100)) >= 99  # theirs took 0.9 of our time
    assert sum(simulated(1.11, seed) == "faster" for seed in range(100)) >= 99
