"""Scores of classification, of one test set or of many resampled ones at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def confusion(gold: Sequence[str], predicted: Sequence[str], draws: np.ndarray) -> np.ndarray:
    """How often each label was predicted for each: [samples, gold label, predicted label].

    Args:
        draws: [samples, examples], the examples that each sample is made of.
    """
    labels = {label: number for number, label in enumerate(sorted({*gold, *predicted}))}
    size = len(labels)
    cells = np.array([labels[g] * size + labels[p] for g, p in zip(gold, predicted, strict=True)])
    offsets = np.arange(len(draws))[:, None] * size**2
    return np.bincount((cells[draws] + offsets).ravel(), minlength=len(draws) * size**2).reshape(-1, size, size)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of the examples that were predicted right: [samples]."""
    return counts.diagonal(axis1=1, axis2=2).sum(axis=1) / counts.sum(axis=(1, 2))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """F1 averaged over the labels that occur in gold or predictions, each counting alike: [samples]."""
    right = counts.diagonal(axis1=1, axis2=2)
    occurrences = counts.sum(axis=1) + counts.sum(axis=2)
    f1 = 2 * right / np.maximum(occurrences, 1)
    return f1.sum(axis=1) / (occurrences > 0).sum(axis=1)
