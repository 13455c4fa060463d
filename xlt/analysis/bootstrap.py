"""Intervals from resampled test examples (Efron & Tibshirani 1993, chapter 13: percentile bootstrap)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Scores = Callable[[Sequence[Any], Sequence[Any], np.ndarray], dict[str, np.ndarray]]
"""The metrics [samples] of test sets that are made of the examples named in the rows of an array [samples, examples]."""

_DRAWN_AT_ONCE = 2_000_000  # examples


def intervals(
    scores: Scores, gold: Sequence[Any], predicted: Sequence[Any], samples: int, seed: int, confidence: float = 0.95
) -> dict[str, tuple[float, float]]:
    """For each metric, the interval in which it lies for a share `confidence` of resampled test sets.

    Args:
        samples: how many test sets of the same size are drawn with replacement.
    """
    parts = [scores(gold, predicted, draws) for draws in _draws(len(gold), samples, seed)]
    return {name: _interval(np.concatenate([part[name] for part in parts]), confidence) for name in parts[0]}


def paired_gain(
    scores: Scores,
    gold: Sequence[Any],
    before: Sequence[Sequence[Any]],
    after: Sequence[Sequence[Any]],
    metric: str,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """By how much the mean score over several runs rises, with its interval; runs and examples are paired.

    Every resampled test set is scored by all runs alike, so what makes an example hard for both sides cancels.

    Args:
        before, after: the predictions of each run on the same examples.
    """

    def gains(draws: np.ndarray) -> np.ndarray:
        sides = [np.mean([scores(gold, run, draws)[metric] for run in runs], axis=0) for runs in (before, after)]
        return sides[1] - sides[0]

    all_of_them = np.arange(len(gold))[None]
    drawn = np.concatenate([gains(draws) for draws in _draws(len(gold), samples, seed)])
    return float(gains(all_of_them)[0]), _interval(drawn, confidence)


def _draws(examples: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // examples)
    for start in range(0, samples, at_once):
        yield draw.integers(examples, size=(min(at_once, samples - start), examples))


def _interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 100 * (1 - confidence) / 2
    return float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail))
