"""Many comparisons at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities corrected so that with chance alone at work, not even one of all falls below a level more often than the
    level says (Holm 1979): the i-th smallest of m, counted from 0, times m - i, and no smaller than those before it."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    corrected, floor = [0.0] * len(probabilities), 0.0
    for rank, place in enumerate(order):
        floor = max(floor, min(1.0, (len(order) - rank) * probabilities[place]))
        corrected[place] = floor
    return corrected
