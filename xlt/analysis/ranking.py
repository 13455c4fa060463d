"""Systems compared over many languages at once: ranks, critical differences, wins and losses (Demšar 2006).

Everything takes scores by system and then by language, and looks at the languages that all systems have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from xlt.analysis.multiple import holm
from xlt.errors import UserError

Scores = Mapping[str, Mapping[str, float]]
"""By system and language."""


@dataclass(frozen=True)
class Ranking:
    """Systems by their ranks.

    Attributes:
        ranks: mean over the languages, 1 for the best; ties share theirs.
        languages: that all systems have.
        statistic, probability: Friedman's χ², corrected for ties: how probable ranks as different as these are if all systems are
            alike.
        critical_difference: between mean ranks, from which on two systems differ (Nemenyi).
        groups: largest sets of systems within which none differ, the best first.
    """

    ranks: Mapping[str, float]
    languages: tuple[str, ...]
    statistic: float
    probability: float
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pair:
    """Two systems over the languages.

    Attributes:
        wins, losses, ties: of the first, in languages.
        probability: of differences as large as theirs if they are alike (Wilcoxon's signed-rank test), corrected for all pairs
            (Holm).
    """

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    probability: float


def rank(scores: Scores, less_is_better: bool = False, level: float = 0.05) -> Ranking:
    """Rank at least three systems over at least two languages.

    Args:
        level: at which differences of ranks are critical.

    Raises:
        UserError: fewer systems or languages in common.
    """
    systems, languages, table = _common(scores, systems=3)
    ranks = stats.rankdata(table if less_is_better else -table, axis=1).mean(axis=0)
    friedman = stats.friedmanchisquare(*table.T)
    count = len(systems)
    quantile = float(stats.studentized_range.ppf(1 - level, count, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(count * (count + 1) / (6 * len(languages)))
    by_system = dict(sorted(zip(systems, map(float, ranks), strict=True), key=lambda item: item[1]))
    return Ranking(
        by_system, languages, float(friedman.statistic), float(friedman.pvalue), critical, _groups(by_system, critical)
    )


def pairs(scores: Scores, less_is_better: bool = False) -> list[Pair]:
    """Every two systems: in how many languages the one wins, and whether that is chance.

    Raises:
        UserError: fewer than two systems or languages in common.
    """
    systems, _, table = _common(scores, systems=2)
    found = []
    for (one, first), (other, second) in itertools.combinations(enumerate(systems), 2):
        difference = table[:, one] - table[:, other]
        better = -difference if less_is_better else difference
        probability = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
        found.append(Pair(first, second, *(int(count) for count in ((better > 0).sum(), (better < 0).sum(), (better == 0).sum())),
                          probability))  # fmt: skip
    corrected = holm([pair.probability for pair in found])
    return [Pair(pair.first, pair.second, pair.wins, pair.losses, pair.ties, p) for pair, p in zip(found, corrected, strict=True)]


def wins(scores: Scores, less_is_better: bool = False) -> dict[str, dict[str, int]]:
    """In how many languages each system beats each other one."""
    matrix: dict[str, dict[str, int]] = {system: {} for system in scores}
    for pair in pairs(scores, less_is_better):
        matrix[pair.first][pair.second] = pair.wins
        matrix[pair.second][pair.first] = pair.losses
    return matrix


def _common(scores: Scores, systems: int) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    """Systems, the languages that all have, and the scores [languages, systems]."""
    names = list(scores)
    languages = (
        tuple(language for language in scores[names[0]] if all(language in scores[name] for name in names)) if names else ()
    )
    if len(names) < systems or len(languages) < 2:
        raise UserError(
            f"To compare over languages, at least {systems} systems with two languages in common are needed; found "
            f"{len(names)} with {len(languages)}."
        )
    return names, languages, np.array([[scores[name][language] for name in names] for language in languages])


def _groups(ranks: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Runs of neighbours, by rank, whose ends differ by less than `critical`; those inside a longer one are left out."""
    systems = list(ranks)
    runs = []
    for start, best in enumerate(systems):
        inside = [system for system in systems[start:] if ranks[system] - ranks[best] < critical]
        if not runs or inside[-1] not in runs[-1]:
            runs.append(tuple(inside))
    return tuple(runs)
