"""How two quantities go together over languages: scores and sizes of data, perplexities and scores, gains and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xlt.errors import UserError


@dataclass(frozen=True)
class Correlation:
    """Of two quantities over the same languages.

    Attributes:
        pearson: of the values themselves.
        spearman: of their ranks, ties at their mean.
        pearson_p, spearman_p: how probable one as far from zero is if the two have nothing to do with each other.
        languages: that both are known of.
    """

    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float
    languages: tuple[str, ...]


def correlate(one: Mapping[str, float], other: Mapping[str, float]) -> Correlation:
    """Two quantities by language, over the languages that both are known of.

    Raises:
        UserError: fewer than three languages, or a quantity that is the same for all.
    """
    from scipy import stats

    languages = tuple(language for language in one if language in other)
    left, right = [one[language] for language in languages], [other[language] for language in languages]
    if len(languages) < 3 or len(set(left)) == 1 or len(set(right)) == 1:
        raise UserError(
            f"Nothing to correlate: two quantities that vary over at least three languages are needed, and these have "
            f"{len(languages)} in common ({', '.join(languages) or 'none'}), with {len(set(left))} and {len(set(right))} values."
        )
    pearson, spearman = stats.pearsonr(left, right), stats.spearmanr(left, right)
    return Correlation(
        float(pearson.statistic), float(pearson.pvalue), float(spearman.statistic), float(spearman.pvalue), languages
    )


def gains(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By how much a score rises in each language that both are known of."""
    return {language: after[language] - before[language] for language in before if language in after}


def sums(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Two sizes of each language together; the languages are those of the first, and what the second lacks counts nothing."""
    return {language: size + other.get(language, 0.0) for language, size in one.items()}
