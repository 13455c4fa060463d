"""Result tables as four works print them: gurgurov2025, ansell2024, unibridge2024 and faisal2024.

A table is a file `<work>/table<number>.csv`: a row for each setting in the work's own labels, a column for each language in xlt's
keys, and then the printed averages; `value` is the column of numbers that belong to no language. The first line says where it is
from. Empty cells are not printed there.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from xlt.errors import UserError, suggest

FOLDER = Path(__file__).parent
LABELS = ("model", "data", "method", "variant", "task", "dataset", "metric")
VALUE = "value"


@dataclass(frozen=True)
class Printed:
    """A number as printed.

    Attributes:
        digits: behind the point.
        below: it is printed as `<0.001`, so the value is a bound.
    """

    value: float
    digits: int = 0
    below: bool = False

    @classmethod
    def read(cls, text: str) -> Printed:
        """From the text of a cell, `71.90` or `<0.001`."""
        number = text.removeprefix("<")
        return cls(float(number), len(number.partition(".")[2]), number != text)

    def __str__(self) -> str:
        return f"{'<' if self.below else ''}{self.value:.{self.digits}f}"


@dataclass(frozen=True)
class PublishedRow:
    """A setting, in the work's own labels, and what is printed for it.

    Attributes:
        languages: its numbers by xlt's key of the language.
        averages: printed ones by name: `avg`, `avg_seen`, `avg_unseen`, `total`, `avg_<group>`, `avg_delta`.
        value: the one number of a row without languages.
    """

    model: str
    data: str
    method: str
    variant: str
    task: str
    dataset: str
    metric: str
    languages: Mapping[str, Printed] = field(hash=False)
    averages: Mapping[str, Printed] = field(hash=False)
    value: Printed | None = None

    @property
    def labels(self) -> dict[str, str]:
        """What identifies the row in its table."""
        return {name: getattr(self, name) for name in LABELS}

    def values(self) -> dict[str, float]:
        """The numbers of all languages."""
        return {language: cell.value for language, cell in self.languages.items()}


@dataclass(frozen=True)
class PublishedTable:
    """A table of a work.

    Attributes:
        source: work and table, for people.
        languages: in the order in which they are printed.
    """

    work: str
    number: str
    source: str
    rows: tuple[PublishedRow, ...]
    languages: tuple[str, ...]

    @property
    def name(self) -> str:
        """`gurgurov2025/table15`"""
        return f"{self.work}/table{self.number}"

    def where(self, **labels: str) -> list[PublishedRow]:
        """The rows with these labels; an empty one asks for rows without such a label."""
        return [row for row in self.rows if all(getattr(row, name) == label for name, label in labels.items())]

    def row(self, **labels: str) -> PublishedRow:
        """The one row with these labels.

        Raises:
            UserError: there is none, or there are several.
        """
        found = self.where(**labels)
        if len(found) == 1:
            return found[0]
        asked = ", ".join(f"{name}={label!r}" for name, label in labels.items())
        values = {name: {getattr(row, name) for row in self.rows} for name in LABELS}
        wrong = next((name for name, label in labels.items() if label not in values.get(name, ())), None)
        hint = suggest(labels[wrong], values.get(wrong, ()), f"choices of {wrong} there") if wrong else "Name more labels."
        raise UserError(f"{self.source} has {len(found)} rows with {asked}, not one. {hint}")


def names() -> list[str]:
    """All tables, `gurgurov2025/table15`."""
    return sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("*/table*.csv"))


@cache
def table(name: str) -> PublishedTable:
    """A table by its name, `gurgurov2025/table15`.

    Raises:
        UserError: there is no such table.
    """
    file = FOLDER / f"{name}.csv"
    if name not in names():
        raise UserError(f"No numbers of {name} are kept here. {suggest(name, names(), 'tables')}")
    with file.open(encoding="utf-8", newline="") as lines:
        source = next(lines).removeprefix("#").strip()
        reader = csv.DictReader(lines)
        rows = tuple(_row(row) for row in reader)
    languages = tuple(key for key in reader.fieldnames or () if key not in LABELS and key != VALUE and not is_average(key))
    work, _, number = name.partition("/table")
    return PublishedTable(work, number, source, rows, languages)


@cache
def groups() -> dict[str, str]:
    """Ansell 2024's group of each language of Universal Dependencies, by what mBERT and MAD-G have seen (table A.2)."""
    with (FOLDER / "ansell2024" / "groups.csv").open(encoding="utf-8", newline="") as lines:
        next(lines)
        return {row["lang"]: row["group"] for row in csv.DictReader(lines)}


def is_average(column: str) -> bool:
    """Whether a column of a table is a printed average."""
    return column == "total" or column.startswith("avg")


def _row(row: Mapping[str, str]) -> PublishedRow:
    cells = {key: Printed.read(text) for key, text in row.items() if key not in LABELS and text}
    return PublishedRow(
        **{name: row[name] for name in LABELS},
        languages=_alike({key: cell for key, cell in cells.items() if key != VALUE and not is_average(key)}),
        averages=_alike({key: cell for key, cell in cells.items() if is_average(key)}),
        value=cells.get(VALUE),
    )


def _alike(cells: Mapping[str, Printed]) -> dict[str, Printed]:
    """Numbers of a kind are printed with the same number of digits: zeros at the end were lost on the way here."""
    digits = max((cell.digits for cell in cells.values()), default=0)
    return {key: replace(cell, digits=digits) for key, cell in cells.items()}
