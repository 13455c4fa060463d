"""Intervals and tests from resampled test examples (Efron & Tibshirani 1993, chapters 13 and 16).

What a metric is made of is counted in each example, and the counts of a test set add up; so a resampled test set is a row
of weights, and many of them are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

Metrics = Callable[[np.ndarray], dict[str, np.ndarray]]
"""The scores [samples] of test sets from the sums of their counts [samples, counts]; see `xlt.tasks.base.Task.metrics`."""

_DRAWN_AT_ONCE = 2_000_000  # examples


def intervals(
    metrics: Metrics, counts: np.ndarray, samples: int, seed: int, confidence: float = 0.95
) -> dict[str, tuple[float, float]]:
    """For each metric, the interval in which it lies for a share `confidence` of resampled test sets (percentiles).

    Args:
        counts: [examples, counts].
        samples: how many test sets of the same size are drawn with replacement.
    """
    parts = [metrics(weights @ counts) for weights in _drawn(len(counts), samples, seed)]
    return {name: _interval(np.concatenate([part[name] for part in parts]), confidence) for name in parts[0]}


def mean_interval(
    metrics: Metrics, runs: Sequence[np.ndarray], metric: str, samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of the mean score over several runs; every resampled test set is scored by all of them.

    Args:
        runs: the counts of each on the same examples, [examples, counts] each.
    """
    weighted = _drawn(len(runs[0]), samples, seed)
    means = [_mean_score(metrics, metric, [weights @ run for run in runs]) for weights in weighted]
    return _interval(np.concatenate(means), confidence)


def paired_gain(
    metrics: Metrics,
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    metric: str,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """By how much the mean score over several runs rises, with its interval; runs and examples are paired.

    Every resampled test set is scored by all runs alike, so what makes an example hard for both sides cancels.

    Args:
        before, after: the counts of each run on the same examples, [examples, counts] each.
    """

    def gains(weights: np.ndarray) -> np.ndarray:
        sides = [_mean_score(metrics, metric, [weights @ run for run in runs]) for runs in (before, after)]
        return sides[1] - sides[0]

    drawn = np.concatenate([gains(weights) for weights in _drawn(len(before[0]), samples, seed)])
    return float(gains(np.ones((1, len(before[0]))))[0]), _interval(drawn, confidence)


def paired_test(
    metrics: Metrics,
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    metric: str,
    samples: int = 10_000,
    seed: int = 0,
) -> float:
    """How probable a gain at least as large, in either direction, is if both sides are alike (approximate randomisation;
    Noreen 1989): in each sample, every example's answers change sides by the toss of a coin.

    Args:
        before, after: the counts of each run on the same examples, [examples, counts] each.
    """
    if len(before) != len(after):
        raise ValueError("a paired test needs as many runs on one side as on the other")
    sides = [np.stack(runs) for runs in (before, after)]
    sums = [side.sum(axis=1, keepdims=True).astype(float) for side in sides]
    differing = (sides[0] != sides[1]).any(axis=(0, 2))  # all others count the same on either side
    moved = (sides[1] - sides[0])[:, differing].astype(float)

    def gain(totals: Sequence[np.ndarray]) -> np.ndarray:
        means = [_mean_score(metrics, metric, side) for side in totals]
        return means[1] - means[0]

    whole = gain(sums)[0]
    draw = np.random.default_rng(seed)
    examples, as_large = len(before[0]), 0
    at_once = max(1, _DRAWN_AT_ONCE // examples)
    for start in range(0, samples, at_once):
        changed = draw.integers(2, size=(min(at_once, samples - start), examples))[:, differing].astype(float)
        moves = [changed @ run for run in moved]
        totals = [
            [total + sign * move for total, move in zip(side, moves, strict=True)] for side, sign in ((sums[0], 1), (sums[1], -1))
        ]
        as_large += int((np.abs(gain(totals)) >= abs(whole) - 1e-12).sum())
    return (as_large + 1) / (samples + 1)


def _mean_score(metrics: Metrics, metric: str, sums: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of a metric over runs [samples], from the sums of each run's counts, [samples, counts] each."""
    return np.mean([metrics(run)[metric] for run in sums], axis=0)


def _drawn(examples: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each example stands in each of some test sets: [test sets, examples]."""
    draw = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // examples)
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        chosen = draw.integers(examples, size=(size, examples)) + np.arange(size)[:, None] * examples
        yield np.bincount(chosen.ravel(), minlength=size * examples).reshape(size, examples).astype(float)


def _interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 100 * (1 - confidence) / 2
    return float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail))
