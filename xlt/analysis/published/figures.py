"""What figures of Gurgurov et al. 2025 show, computed from the numbers that the paper prints.

A figure here is its points; `xlt.report.plots.draw` makes a picture of one, and a page can draw them as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlt.analysis.correlations import gains, sums
from xlt.analysis.published.correlations import adaptation_gigabytes, pretraining_gigabytes, printed_scores
from xlt.analysis.published.tables import table

_NO_TEXT = 0.001  # GB, where a language that a model has not seen is shown on a logarithmic scale: less than any that it has


@dataclass(frozen=True)
class Point:
    """A point of a figure.

    Attributes:
        label: of a language or a model.
        series: the points that belong together.
    """

    label: str
    series: str
    x: float
    y: float


@dataclass(frozen=True)
class Figure:
    """Points with the names of their axes.

    Attributes:
        log_x, log_y: whether an axis is logarithmic.
    """

    title: str
    x: str
    y: str
    points: Sequence[Point]
    log_x: bool = False
    log_y: bool = False


def size_and_score(task: str = "TC") -> Figure:
    """Average F1 of prompted models and of adapted mBERT and XLM-R against their numbers of parameters (table 2); of models whose
    size is not known there is no point.

    Args:
        task: TC or NER.
    """
    rows = table("gurgurov2025/table2").rows
    sizes = {row.model: row.value.value for row in rows if row.metric == "params_B" and row.value}
    points = [
        Point(row.model, "adapted" if row.variant == "adapter" else f"prompted, {row.variant}", sizes[row.model],
              row.averages["avg"].value)
        for row in rows
        if row.task == task and row.metric == "F1" and row.model in sizes
    ]  # fmt: skip
    return Figure(f"{task}: size and score", "billions of parameters", "F1", points, log_x=True)


def data_and_perplexity(model: str) -> Figure:
    """Pseudo-perplexity before and after Seq_bn (Glot) against the text that the model has then read (tables 5, 10, 11).

    Args:
        model: mBERT or XLM-R.
    """
    pretraining = _all_languages(pretraining_gigabytes(model))
    read = {"before adaptation": pretraining, "after Seq_bn (Glot)": sums(pretraining, adaptation_gigabytes("Glot"))}
    perplexity = {
        "before adaptation": printed_scores("MLM", model, "base", ""),
        "after Seq_bn (Glot)": printed_scores("MLM", model, "Seq_bn", "Glot"),
    }
    points = [
        Point(language, series, max(size, _NO_TEXT), perplexity[series][language])
        for series, sizes in read.items()
        for language, size in sizes.items()
    ]
    return Figure(f"{model}: text and pseudo-perplexity", "GB of text read", "pseudo-perplexity", points, log_x=True, log_y=True)


def data_and_gain(task: str, model: str) -> Figure:
    """What Seq_bn_inv gains over no language module, by source of text, against the text that the model was pretrained on.

    Args:
        task: TC, NER or SA.
        model: mBERT or XLM-R.
    """
    pretraining = _all_languages(pretraining_gigabytes(model))
    base = printed_scores(task, model, "base", "")
    points = [
        Point(language, data, max(pretraining[language], _NO_TEXT), gain)
        for data in ("ConceptNet", "Glot")
        for language, gain in gains(base, printed_scores(task, model, "Seq_bn_inv", data)).items()
    ]
    return Figure(f"{task}, {model}: pretraining text and gain", "GB of pretraining text", "F1 gained", points, log_x=True)


def _all_languages(sizes: dict[str, float]) -> dict[str, float]:
    """Sizes of the paper's 30 languages, 0 for those that the model has not seen."""
    return {language: sizes.get(language, 0.0) for language in adaptation_gigabytes("Glot")}
