"""Systems over many languages: cases done by hand, and the constants of Demšar (2006)."""

from __future__ import annotations

import pytest
from scipy import stats

from xlt.analysis.multiple import holm
from xlt.analysis.ranking import pairs, rank, wins
from xlt.errors import UserError


def by_language(rows: list[tuple[float, ...]], names: str) -> dict[str, dict[str, float]]:
    """Scores from rows of one language each."""
    return {name: {f"l{number}": row[place] for number, row in enumerate(rows)} for place, name in enumerate(names)}


def test_ranks_by_hand():
    found = rank(by_language([(3.0, 2.0, 1.0), (3.0, 3.0, 1.0), (1.0, 2.0, 3.0), (9.0, 8.0, 7.0)], "abc"))
    assert found.ranks == {"a": (1 + 1.5 + 3 + 1) / 4, "b": (2 + 1.5 + 2 + 2) / 4, "c": (3 + 3 + 1 + 3) / 4}
    # χ² = 12 N / (k (k + 1)) · (Σ R² − k (k + 1)² / 4), over 1 − Σ (t³ − t) / (N (k³ − k)) for the one tie of two
    uncorrected = 12 * 4 / 12 * (sum(value**2 for value in found.ranks.values()) - 3 * 16 / 4)
    assert found.statistic == pytest.approx(uncorrected / (1 - 6 / (4 * 24)))
    assert found.probability == pytest.approx(stats.chi2.sf(found.statistic, 2))


def test_the_critical_difference_of_the_papers_example():
    """Demšar 2006, section 3.2.2: four systems on 14 data sets, 2.569 · √(4 · 5 / (6 · 14)) = 1.25."""
    rows = [(float(n), float(n + 1), float(n + 2), float(n + 3)) for n in range(14)]
    found = rank(by_language(rows, "abcd"))
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert found.groups == (("d", "c"), ("c", "b"), ("b", "a"))  # neighbours are one rank apart
    assert len(found.languages) == 14


@pytest.mark.parametrize(("count", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_values(count: int, quantile: float):
    """Demšar 2006, table 5a."""
    assert float(stats.studentized_range.ppf(0.95, count, float("inf"))) / 2**0.5 == pytest.approx(quantile, abs=1e-3)


def test_groups():
    scores = {name: {f"l{n}": value + 0.001 * n for n in range(40)} for name, value in (("a", 3), ("b", 2), ("c", 1))}
    found = rank(scores)
    assert list(found.ranks) == ["a", "b", "c"] and found.groups == (("a",), ("b",), ("c",))
    assert list(rank(scores, less_is_better=True).ranks) == ["c", "b", "a"]


def test_wins_and_losses():
    scores = {"a": {"x": 1.0, "y": 2.0, "z": 3.0}, "b": {"x": 2.0, "y": 2.0, "z": 1.0, "only": 9.0}}
    pair = pairs(scores)[0]
    assert (pair.wins, pair.losses, pair.ties) == (1, 1, 1)
    assert wins(scores) == {"a": {"b": 1}, "b": {"a": 1}}
    less = pairs({"a": {"x": 1.0, "y": 1.0}, "b": {"x": 2.0, "y": 3.0}}, less_is_better=True)[0]
    assert (less.wins, less.losses) == (2, 0)
    assert pairs({"a": {"x": 1.0, "y": 1.0}, "b": {"x": 1.0, "y": 1.0}})[0].probability == 1.0


def test_pairs_are_corrected_for_their_number():
    scores = {
        name: {f"l{n}": shift + 0.01 * n * (1 + shift) for n in range(12)} for name, shift in (("a", 0), ("b", 1), ("c", 2))
    }
    found = pairs(scores)
    single = stats.wilcoxon([scores["a"][k] - scores["b"][k] for k in scores["a"]]).pvalue
    assert [pair.probability for pair in found] == pytest.approx([3 * single] * 3)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_too_little_is_refused():
    with pytest.raises(UserError, match="at least 3 systems"):
        rank({"a": {"x": 1.0, "y": 2.0}, "b": {"x": 1.0, "y": 2.0}})
    with pytest.raises(UserError, match="found 2 with 0"):
        pairs({"a": {"x": 1.0}, "b": {"y": 1.0}})
