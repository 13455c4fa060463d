"""Intervals from resampled test examples (Efron & Tibshirani 1993, chapter 13: percentile bootstrap)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Scores = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


def intervals(
    score: Scores, gold: Sequence[Any], predicted: Sequence[Any], samples: int, seed: int, confidence: float = 0.95
) -> dict[str, tuple[float, float]]:
    """For each metric of `score`, the interval in which it lies for a share `confidence` of resampled test sets.

    Args:
        samples: how many test sets of the same size are drawn with replacement.
    """
    draw = np.random.default_rng(seed)
    gold_array, predicted_array = np.asarray(gold, dtype=object), np.asarray(predicted, dtype=object)
    drawn: dict[str, list[float]] = {}
    for _ in range(samples):
        chosen = draw.integers(len(gold), size=len(gold))
        for name, value in score(gold_array[chosen].tolist(), predicted_array[chosen].tolist()).items():
            drawn.setdefault(name, []).append(value)
    tail = 100 * (1 - confidence) / 2
    return {
        name: (float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail))) for name, values in drawn.items()
    }
