"""The tables of correlations of Gurgurov et al. 2025: printed, recomputed from the printed numbers, and from our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from xlt.analysis.published.correlations import SCORES, PrintedCorrelation, Recipe, printed_correlations, recipes, what_it_is
from xlt.errors import UserError
from xlt.paper import PaperTable
from xlt.report.cells import Cell, Missing, Number, Text
from xlt.report.comparison import Comparison
from xlt.report.table import Column, Row, Table

_HEADS = ("printed", "recomputed", "ours")


def correlations(table: PaperTable, compare: Callable[[str], Comparison]) -> Table:
    """A table of correlations.

    Args:
        compare: what our runs scored in a table of scores, by its name.
    """
    number = int(table.name.partition("/table")[2])
    ours = _Ours(compare)
    heads = [Column("model"), Column("task"), Column("row"), Column("quantities")]
    heads += [Column(name, kind) for kind in ("Pearson", "Spearman") for name in _HEADS]
    rows = []
    for row in printed_correlations():
        if row.number == number:
            recipe = recipes(row)[0]
            own = _own(row, ours)
            cells: list[Cell] = [Text(row.model), Text(row.task), Text(f"{row.label} {row.data}".strip()), Text(recipe.what)]
            for kind in ("pearson", "spearman"):
                printed = getattr(row, kind)
                cells.append(Number(printed.value, printed.digits, notes=_notes(row)))
                cells.append(Number(getattr(recipe.correlation, kind), 2))
                cells.append(own[kind])
            rows.append(Row(tuple(cells)))
    source = f"Published: Gurgurov et al. 2025, table {number}."
    recomputed = "Recomputed: what the caption says, from the numbers per language that the paper prints."
    return Table(table.name, tuple(heads), tuple(rows), (source, recomputed))


def _notes(row: PrintedCorrelation) -> tuple[str, ...]:
    """What the printed number is, if it is not what the caption says."""
    found = what_it_is(row)
    if found is None:
        return ("comes out of none of the printed numbers",)
    return () if found.as_captioned else (f"is the correlation of {found.what}",)


def _own(row: PrintedCorrelation, ours: _Ours) -> Mapping[str, Cell]:
    try:
        recipe: Recipe = recipes(row, ours)[0]
    except UserError:  # of fewer than three languages
        return {"pearson": Missing(), "spearman": Missing()}
    notes = (f"over {len(recipe.correlation.languages)} languages",)
    return {
        "pearson": Number(recipe.correlation.pearson, 2, notes=notes),
        "spearman": Number(recipe.correlation.spearman, 2, notes=notes),
    }


class _Ours:
    """Scores of our runs, by the paper's labels; each table is read once."""

    def __init__(self, compare: Callable[[str], Comparison]) -> None:
        self._compare = compare
        self._read: dict[int, Comparison] = {}

    def __call__(self, task: str, model: str, method: str, data: str) -> Mapping[str, float]:
        number = SCORES[task, model]
        if number not in self._read:
            self._read[number] = self._compare(f"gurgurov2025/table{number}")
        comparison = self._read[number]
        column = next(
            (
                part.column
                for part in comparison.table.parts
                if (part.published["method"], part.published["data"]) == (method, data)
            ),
            None,
        )
        return {place[2]: cell.mean for place, cell in comparison.cells.items() if place[1] == column}


def only_needed(table: PaperTable) -> PaperTable:
    """A table of scores without the columns that no correlation is of."""
    needed = {part.column for part in table.parts if part.published["method"] in ("base", "Seq_bn", "Seq_bn_inv")}
    jobs = tuple(job for job in table.jobs if job.column in needed)
    return replace(table, jobs=jobs, parts=tuple(part for part in table.parts if part.column in needed))
