"""Counts and scores of classification, of one test set or of many resampled ones at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def confusion_counts(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The cell of the confusion matrix that each example falls into: [examples, gold label · predicted label]."""
    numbers = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(gold), len(labels) ** 2), dtype=np.int64)
    cells = [numbers[g] * len(labels) + numbers[p] for g, p in zip(gold, predicted, strict=True)]
    counts[np.arange(len(gold)), cells] = 1
    return counts


def accuracy(matrices: np.ndarray) -> np.ndarray:
    """Share of the examples that were predicted right: [samples], from confusion matrices [samples, gold, predicted]."""
    return matrices.diagonal(axis1=1, axis2=2).sum(axis=1) / matrices.sum(axis=(1, 2))


def macro_f1(matrices: np.ndarray) -> np.ndarray:
    """F1 averaged over the labels that occur in gold or predictions, each counting alike: [samples]."""
    right = matrices.diagonal(axis1=1, axis2=2)
    occurrences = matrices.sum(axis=1) + matrices.sum(axis=2)
    f1 = 2 * right / np.maximum(occurrences, 1)
    return f1.sum(axis=1) / (occurrences > 0).sum(axis=1)
