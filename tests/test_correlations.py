"""Correlations over languages; those that Gurgurov et al. 2025 print come out of the numbers that they print."""

from __future__ import annotations

import pytest

from xlt.analysis.correlations import correlate, gains, sums
from xlt.analysis.published.correlations import PrintedCorrelation, printed_correlations, printed_scores, recipes, what_it_is
from xlt.errors import UserError

ROWS = {(row.number, row.model, row.task, row.label, row.data): row for row in printed_correlations()}
NOT_REPRODUCIBLE = {  # whether Pearson's and Spearman's coefficients come out; of all other rows both do
    (14, "mBERT", "TC", "pre-adapt", ""): (False, False),
    (17, "mBERT", "TC", "pre-adapt", ""): (False, False),
    (17, "XLM-R", "TC", "post-adapt", "Glot"): (False, True),
}
UNITS_MIXED = [row for row in ROWS.values() if row.data == "ConceptNet"]


def test_all_rows_are_there():
    assert len(ROWS) == 4 + 12 + 3 * 6


@pytest.mark.parametrize("row", [row for key, row in ROWS.items() if key not in NOT_REPRODUCIBLE], ids=str)
def test_printed_correlations_come_out(row: PrintedCorrelation):
    found = what_it_is(row)
    assert found is not None
    assert found.correlation.pearson == pytest.approx(row.pearson.value, abs=0.01)
    assert found.correlation.spearman == pytest.approx(row.spearman.value, abs=0.01)


@pytest.mark.parametrize("key", NOT_REPRODUCIBLE, ids=str)
def test_the_others_are_known_not_to(key: tuple):
    row = ROWS[key]
    assert what_it_is(row) is None
    assert row.fits(recipes(row)[0].correlation) == NOT_REPRODUCIBLE[key]


def test_the_rows_of_table_12_have_each_others_quantities():
    pre, post = ({model: ROWS[12, model, "MLM", label, data] for model in ("mBERT", "XLM-R")}
                 for label, data in (("pre-adapt", ""), ("post-adapt", "Glot")))  # fmt: skip
    for model in ("mBERT", "XLM-R"):
        assert what_it_is(pre[model]).what == "pseudo-perplexity after Seq_bn (Glot) and GB of pretraining text"
        assert what_it_is(post[model]).what == "pseudo-perplexity before adaptation and GB of pretraining text + GB of Glot"
    # As the caption says, the rank correlation gets weaker by adaptation; as printed, it seems to get stronger.
    captioned = {key: recipes(row)[0] for key, row in (("pre", pre["mBERT"]), ("post", post["mBERT"]))}
    assert all(recipe.as_captioned for recipe in captioned.values())
    assert captioned["pre"].correlation.spearman == pytest.approx(-0.7662, abs=1e-4)
    assert captioned["post"].correlation.spearman == pytest.approx(-0.4998, abs=1e-4)
    assert pre["mBERT"].spearman.value > post["mBERT"].spearman.value


@pytest.mark.parametrize("row", UNITS_MIXED, ids=str)
def test_conceptnet_rows_mix_units(row: PrintedCorrelation):
    captioned, mixed = recipes(row)
    assert captioned.as_captioned and not mixed.as_captioned
    assert all(row.fits(mixed.correlation))
    assert all(row.fits(captioned.correlation)) == (row.model == "XLM-R" and row.task == "TC")


def test_p_values_are_those_printed_where_the_coefficients_are():
    found = what_it_is(ROWS[12, "XLM-R", "MLM", "pre-adapt", ""])
    assert found.correlation.pearson_p == pytest.approx(0.10, abs=0.005)
    assert found.correlation.spearman_p == pytest.approx(0.04, abs=0.005)
    assert len(found.correlation.languages) == 28


def test_by_hand():
    found = correlate({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 4, "c": 9, "e": 0})
    assert found.languages == ("a", "b", "c")
    assert found.pearson == pytest.approx(0.98974, abs=1e-5)  # 8 / √(2 · 98/3)
    assert found.spearman == pytest.approx(1.0)
    assert gains({"a": 1.0, "b": 2.0}, {"b": 5.0}) == {"b": 3.0}
    assert sums({"a": 1.0, "b": 2.0}, {"b": 5.0, "c": 9.0}) == {"a": 1.0, "b": 7.0}


def test_nothing_to_correlate_is_refused():
    with pytest.raises(UserError, match="2 in common"):
        correlate({"a": 1, "b": 2, "c": 1}, {"a": 1, "b": 4})
    with pytest.raises(UserError, match="3 and 1 values"):
        correlate({"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 4, "c": 4})


def test_the_missing_row_is_filled():
    assert printed_scores("TC", "XLM-R", "Seq_bn", "Glot")["su"] == pytest.approx(84.57, abs=0.13)
    assert len(printed_scores("TC", "XLM-R", "base", "")) == 30
