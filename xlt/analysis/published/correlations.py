"""The correlations that Gurgurov et al. 2025 print (tables 12, 14, 17, 20, 23), computed again from the numbers that they print.

Sizes are gigabytes (table 5), and nothing is put on a logarithmic scale. What a row correlates is what its caption says, with two
exceptions that the numbers show: the two rows of each model in table 12 have each other's quantities, and the ConceptNet rows of
tables 17, 20 and 23 add megabytes of ConceptNet to gigabytes of pretraining text. `recipes` lists what a row can be, and
`what_it_is` finds the one that gives what is printed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import xlt
from xlt.analysis.correlations import Correlation, correlate, sums
from xlt.analysis.published.averages import implied
from xlt.analysis.published.tables import Printed, table
from xlt.languages import load_languages

TABLES = (12, 14, 17, 20, 23)
_BACKBONES = {"mBERT": "mbert", "XLM-R": "xlmr"}
SCORES = {  # the tables of scores per language
    ("MLM", "mBERT"): 10, ("MLM", "XLM-R"): 11, ("TC", "mBERT"): 15, ("TC", "XLM-R"): 16,
    ("NER", "mBERT"): 18, ("NER", "XLM-R"): 19, ("SA", "mBERT"): 21, ("SA", "XLM-R"): 22,
}  # fmt: skip
_EXACT = 0.01


@dataclass(frozen=True)
class PrintedCorrelation:
    """A row of one of the tables.

    Attributes:
        number: of the table.
        label: `pre-adapt` or `post-adapt`, as printed.
        data: of the adaptation, as printed.
        pearson, spearman: as printed.
    """

    number: int
    model: str
    task: str
    label: str
    data: str
    pearson: Printed
    spearman: Printed

    def fits(self, recomputed: Correlation) -> tuple[bool, bool]:
        """Whether Pearson's and Spearman's coefficients are those printed, to 0.01."""
        return (
            abs(recomputed.pearson - self.pearson.value) <= _EXACT,
            abs(recomputed.spearman - self.spearman.value) <= _EXACT,
        )

    def distance(self, recomputed: Correlation) -> float:
        """How far both coefficients together are from those printed."""
        return abs(recomputed.pearson - self.pearson.value) + abs(recomputed.spearman - self.spearman.value)


@dataclass(frozen=True)
class Recipe:
    """What a row may be the correlation of.

    Attributes:
        what: the two quantities, in words.
        as_captioned: whether it is what the caption of the table and the label of the row say.
    """

    what: str
    as_captioned: bool
    correlation: Correlation


def printed_correlations() -> list[PrintedCorrelation]:
    """All rows of the five tables."""
    found = []
    for number in TABLES:
        published = table(f"gurgurov2025/table{number}")
        rows = {(row.model, row.task, row.variant, row.data, row.metric): row.value for row in published.rows}
        for (model, task, label, data, metric), value in rows.items():
            if metric == "pearson" and value is not None:
                spearman = rows[model, task, label, data, "spearman"]
                found.append(PrintedCorrelation(number, model, task, label, data, value, spearman))
    return found


def what_it_is(row: PrintedCorrelation) -> Recipe | None:
    """The recipe that gives what is printed: the caption's if it does, else the nearest; None if none gives both coefficients."""
    fitting = [recipe for recipe in recipes(row) if all(row.fits(recipe.correlation))]
    return min(fitting, key=lambda recipe: (not recipe.as_captioned, row.distance(recipe.correlation)), default=None)


def recipes(row: PrintedCorrelation, scores: Scores | None = None) -> list[Recipe]:
    """What a row may be, its caption's meaning first.

    Args:
        scores: where the numbers per language are from; None takes those that are printed.
    """
    scores = scores or printed_scores
    if row.number == 12:
        return _perplexity_recipes(row, scores)
    base, adapted = ("base", ""), ("Seq_bn" if row.number == 14 else "Seq_bn_inv", row.data)
    label, setting = ("before adaptation", base) if row.label == "pre-adapt" else (f"after {adapted[0]} ({row.data})", adapted)
    f1 = scores(row.task, row.model, *setting)
    if row.number == 14:
        perplexity = scores("MLM", row.model, *setting)
        return [Recipe(f"F1 and pseudo-perplexity {label}", True, correlate(f1, perplexity))]
    pretraining = _of_seen(row.model)
    if row.label == "pre-adapt":
        return [Recipe(f"F1 {label} and GB of pretraining text", True, correlate(f1, pretraining))]
    added = adaptation_gigabytes(row.data)
    both = Recipe(f"F1 {label} and GB of pretraining text + GB of {row.data}", True, correlate(f1, sums(pretraining, added)))
    if row.data != "ConceptNet":
        return [both]
    megabytes = {language: 1000 * size for language, size in added.items()}
    mixed = correlate(f1, sums(pretraining, megabytes))
    return [both, Recipe(f"F1 {label} and GB of pretraining text + MB of ConceptNet, as if they were GB", False, mixed)]


def _perplexity_recipes(row: PrintedCorrelation, scores: Scores) -> list[Recipe]:
    """Table 12: pseudo-perplexity before or after adaptation against pretraining text, without or with that of adaptation."""
    pretraining = _of_seen(row.model)
    if row.model == "XLM-R":
        pretraining |= {"yo": 0.0}  # which XLM-R has not seen; only with it the four printed numbers come out
    sizes = {
        "GB of pretraining text": pretraining,
        "GB of pretraining text + GB of Glot": sums(pretraining, adaptation_gigabytes("Glot")),
    }
    perplexities = {
        "before adaptation": scores("MLM", row.model, "base", ""),
        "after Seq_bn (Glot)": scores("MLM", row.model, "Seq_bn", "Glot"),
    }
    pairs = list(zip(perplexities, sizes, strict=True))  # before and pretraining, after and both: as the caption says
    captioned = pairs[0] if row.label == "pre-adapt" else pairs[1]
    every = [(when, size) for when in perplexities for size in sizes]
    return [
        Recipe(f"pseudo-perplexity {pair[0]} and {pair[1]}", pair == captioned, correlate(perplexities[pair[0]], sizes[pair[1]]))
        for pair in sorted(every, key=lambda pair: pair != captioned)
    ]


Scores = Callable[[str, str, str, str], Mapping[str, float]]
"""The scores per language of a task, model, method and source of text, by the paper's labels."""


@cache
def printed_scores(task: str, model: str, method: str, data: str) -> Mapping[str, float]:
    """The numbers per language of one setting (F1 of TC, NER, SA; pseudo-perplexity for MLM), by the paper's own labels.

    The row of Sundanese that table 16 lacks is filled with what its averages imply.
    """
    published = table(f"gurgurov2025/table{SCORES[task, model]}")
    row = published.row(method=method, data=data)
    missing = [language for language in table("gurgurov2025/table15").languages if language not in row.languages]
    return row.values() | {language: implied(published, row, language) for language in missing}


@cache
def adaptation_gigabytes(data: str) -> Mapping[str, float]:
    """Text of each language in ConceptNet or Glot, in GB of 1000 MB (table 5)."""
    column = {"ConceptNet": "conceptnet_megabytes", "Glot": "glotcc_megabytes"}[data]
    with (Path(xlt.__file__).with_name("corpora") / "published_sizes.csv").open(encoding="utf-8", newline="") as file:
        return {_key(row["code"]): float(row[column]) / 1000 for row in csv.DictReader(file)}


def pretraining_gigabytes(model: str) -> dict[str, float]:
    """Text of each language that mBERT or XLM-R was pretrained on, in GB (table 5), where it was."""
    found = load_languages().languages.values()
    backbone = _BACKBONES[model]
    return {one.key: one.pretraining_gigabytes[backbone] for one in found if backbone in one.pretraining_gigabytes}


def _of_seen(model: str) -> dict[str, float]:
    """Of the 30 languages those that the model has seen, with GB of pretraining text."""
    sizes = pretraining_gigabytes(model)
    return {key: sizes[key] for key in adaptation_gigabytes("Glot") if key in sizes}


def _key(code: str) -> str:
    """The paper's Kurdish is Central Kurdish in GlotCC."""
    return "ckb" if code == "ku" else load_languages().find(code).key
