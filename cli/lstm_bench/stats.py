"""What samples say: medians, intervals by bootstrap, outliers by name, and a verdict that may be "undecided"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000
CONFIDENCE = 0.95
EFFECT = 0.05

Rounds = Mapping[int, Sequence[float]]  # seconds a run, by round


class Interval(NamedTuple):
    """An estimate with its confidence interval, from `n` independent values."""

    estimate: float
    low: float
    high: float
    n: int


class Outliers(NamedTuple):
    """How many samples lie beyond Tukey's fences: mild beyond 1.5, severe beyond 3 times the interquartile range."""

    low_severe: int
    low_mild: int
    high_mild: int
    high_severe: int


def pooled(rounds: Rounds) -> np.ndarray:
    """All samples of all rounds."""
    return np.concatenate([np.asarray(samples, float) for samples in rounds.values()])


def bootstrap_median(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """The median and its percentile bootstrap interval; the seed is fixed, so that a result always reads the same."""
    data = np.asarray(values, float)
    if data.size == 0:
        raise ValueError("values is empty; it should hold at least one number")
    draws = np.random.default_rng(seed).integers(data.size, size=(RESAMPLES, data.size))
    low, high = np.quantile(np.median(data[draws], axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(np.median(data)), float(low), float(high), int(data.size))


def median(rounds: Rounds, confidence: float = CONFIDENCE) -> Interval:
    """The median of all samples; its interval is over the rounds' medians, since samples of a round hang together."""
    spread = bootstrap_median([float(np.median(samples)) for samples in rounds.values()], confidence)
    centre = float(np.median(pooled(rounds)))
    return Interval(centre, min(spread.low, centre), max(spread.high, centre), spread.n)


def round_ratios(ours: Rounds, theirs: Rounds) -> np.ndarray:
    """Theirs over ours in each round that both took part in: both met the same machine.

    A round counts with the mean of its samples: where other programs share the cores, short runs slip between their
    turns and long ones do not, and only the mean charges both alike. Freak rounds are the median's affair, over rounds.
    """
    common = sorted(set(ours) & set(theirs))
    return np.array([np.mean(theirs[k]) / np.mean(ours[k]) for k in common])


def ratio(ours: Rounds, theirs: Rounds, confidence: float = CONFIDENCE) -> Interval:
    """How many times as fast ours is: above one is faster. Raises ValueError where no round is shared."""
    return bootstrap_median(round_ratios(ours, theirs), confidence)


def ratio_of_ratios(now: np.ndarray, then: np.ndarray, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Median of `now` over median of `then`, two independent sets of values."""
    rng = np.random.default_rng(seed)
    medians = [
        np.median(values[rng.integers(values.size, size=(RESAMPLES, values.size))], axis=1) for values in (now, then)
    ]
    low, high = np.quantile(medians[0] / medians[1], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(np.median(now) / np.median(then)), float(low), float(high), min(now.size, then.size))


def verdict(speed: Interval, effect: float = EFFECT) -> str:
    """faster, slower, same or undecided, for a ratio of speeds.

    `faster` and `slower` take an interval that leaves out one and an estimate at least `effect` away from it; `same`
    takes an interval that lies within the effect. All else is undecided.
    """
    slow, fast = 1 / (1 + effect), 1 + effect
    if speed.n > 1 and speed.high < 1 and speed.estimate <= slow:
        return "slower"
    if speed.n > 1 and speed.low > 1 and speed.estimate >= fast:
        return "faster"
    return "same" if slow < speed.low and speed.high < fast else "undecided"


def outliers(values: Sequence[float] | np.ndarray) -> Outliers:
    """Count the samples beyond Tukey's fences, as criterion does; none is ever dropped."""
    data = np.asarray(values, float)
    first, third = np.quantile(data, [0.25, 0.75])
    reach = third - first
    fences = np.array([first - 3 * reach, first - 1.5 * reach, third + 1.5 * reach, third + 3 * reach])
    low_severe, low, high, high_severe = (data < fences[0], data < fences[1], data > fences[2], data > fences[3])
    return Outliers(int(low_severe.sum()), int(low.sum() - low_severe.sum()),
                    int(high.sum() - high_severe.sum()), int(high_severe.sum()))  # fmt: skip


def relative_spread(rounds: Rounds) -> float:
    """The interquartile range of all samples over their median."""
    first, middle, third = np.quantile(pooled(rounds), [0.25, 0.5, 0.75])
    return float((third - first) / middle)


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of ratios."""
    return float(np.exp(np.mean(np.log(values))))
