"""Printed averages, computed again from the printed numbers that they are said to be averages of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from xlt.analysis.published.tables import Printed, PublishedRow, PublishedTable, groups, names, table
from xlt.languages import load_languages

_SLACK = 0.02  # two digits computed from two digits, with some carelessness in rounding
_BACKBONES = {"mBERT": "mbert", "XLM-R": "xlmr"}


@dataclass(frozen=True)
class Average:
    """A printed average, and what the numbers it is made of come to.

    Attributes:
        column: its name in the table.
        printed: as it stands there.
        recomputed: from the numbers that are printed.
        digits: of those numbers.
        count: how many there are.
    """

    row: PublishedRow
    column: str
    printed: Printed
    recomputed: float
    digits: int
    count: int

    @property
    def agrees(self) -> bool:
        """Whether the difference is no more than rounding, of the average and of the numbers, can make."""
        rounding = (10.0**-self.printed.digits + 10.0**-self.digits) / 2
        return abs(self.recomputed - self.printed.value) <= max(_SLACK, rounding) + 1e-9

    def footnote(self) -> str:
        """What to say of one that disagrees."""
        return f"printed {self.printed}; the {self.count} printed numbers come to {self.recomputed:.{self.printed.digits}f}"


def averages(published: PublishedTable) -> list[Average]:
    """The averages of a table that can be computed again, those that disagree among them."""
    return [average for row in published.rows for average in _of_row(published, row)]


def all_averages() -> Iterator[tuple[PublishedTable, Average]]:
    """Those of all tables."""
    for name in names():
        published = table(name)
        for average in averages(published):
            yield published, average


def members(published: PublishedTable, row: PublishedRow, column: str, languages: Sequence[str] | None = None) -> list[str]:
    """The languages, of all or of some, that a printed average of a row is over."""
    return [key for key in (_known(published, row) if languages is None else languages) if _member(published, row, column, key)]


def implied(published: PublishedTable, row: PublishedRow, language: str) -> float:
    """The number of a language that the source lacks, from the averages that are printed over it and others: the middle of
    what all of them allow."""
    low, high = float("-inf"), float("inf")
    for column, printed in row.averages.items():
        keys = members(published, row, column)
        if language not in keys:
            continue
        others = sum(row.languages[key].value for key in keys if key != language)
        slack = len(keys) * 0.5 * 10.0**-printed.digits
        middle = len(keys) * printed.value - others
        low, high = max(low, middle - slack), min(high, middle + slack)
    return (low + high) / 2


def _of_row(published: PublishedTable, row: PublishedRow) -> Iterator[Average]:
    for column, printed in row.averages.items():
        parts = _parts(published, row, column)
        if not parts:
            continue
        value = statistics.stdev(cell.value for cell in parts) if row.metric == "F1_std" else _mean(parts)
        if column == "avg_delta":
            value -= _mean(list(_undistilled(published, row).languages.values()))
        yield Average(row, column, printed, value, max(cell.digits for cell in parts), len(parts))


def _parts(published: PublishedTable, row: PublishedRow, column: str) -> list[Printed]:
    """What a printed average is one of: numbers of its own row, or of the table that its table sums up."""
    if row.languages:
        return [cell for key, cell in row.languages.items() if _member(published, row, column, key)]
    recipe = _SUMMARIES.get(published.name)
    return recipe(row, column) if recipe else []


def _member(published: PublishedTable, row: PublishedRow, column: str, language: str) -> bool:
    """Whether a language counts for an average."""
    if published.work == "gurgurov2025" and column in ("avg_seen", "avg_unseen"):
        backbone = _BACKBONES.get(row.model, "xlmr")  # table 13 divides all its models as XLM-R has seen the languages
        return load_languages().languages[language].seen[backbone] == (column == "avg_seen")
    return True


def _known(published: PublishedTable, row: PublishedRow) -> Iterable[str]:
    """The 30 languages of Gurgurov et al. 2025, or those of the row."""
    return table("gurgurov2025/table15").languages if published.work == "gurgurov2025" else row.languages


def _undistilled(published: PublishedTable, row: PublishedRow) -> PublishedRow:
    """What `avg_delta` is the distance from: the model without distillation (Ansell 2024, chapter 5)."""
    return next(other for other in published.rows if other.method == "LtSft" and _alike(other, row, "task", "metric"))


def _alike(one: PublishedRow, other: PublishedRow, *labels: str) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in labels)


def _by_group(row: PublishedRow, column: str) -> list[Printed]:
    """Ansell 2024, tables 3.2 and 3.4: over a group of the languages of table A.3 or A.4."""
    source = table("ansell2024/tableA.4" if row.variant == "source=multi" else "ansell2024/tableA.3")
    whole = next(other for other in source.rows if _alike(other, row, "model", "method", "task", "metric"))
    group = column.removeprefix("avg_")
    wanted = {"unseen": ("mBERT-genus", "MAD-G-genus", "unseen-genus")}.get(group, (group,))
    return [cell for key, cell in whole.languages.items() if groups()[key] in wanted]


def _by_transfer_language(row: PublishedRow, column: str) -> list[Printed]:
    """Faisal & Anastasopoulos 2024, table 4: over the transfer languages of tables 15 to 18."""
    number = {"mBERT": 15, "XLM-R": 16}[row.model] + (2 if row.task in ("XNLI", "ANLI", "TyDiQA") else 0)
    source = table(f"faisal2024/table{number}")
    return list(next(other for other in source.rows if _alike(other, row, "task", "metric")).languages.values())


def _by_language(row: PublishedRow, column: str) -> list[Printed]:
    """Pham et al. 2024, table 5: means and sample standard deviations of tables 16 and 17."""
    source = table({"XLM-R": "unibridge2024/table16", "mBERT": "unibridge2024/table17"}[row.model])
    return list(next(other for other in source.rows if _alike(other, row, "variant")).languages.values())


_SUMMARIES: dict[str, Callable[[PublishedRow, str], list[Printed]]] = {
    "ansell2024/table3.2": _by_group,
    "ansell2024/table3.4": _by_group,
    "faisal2024/table4": _by_transfer_language,
    "unibridge2024/table5": _by_language,
}


def _mean(cells: list[Printed]) -> float:
    return statistics.fmean(cell.value for cell in cells)
