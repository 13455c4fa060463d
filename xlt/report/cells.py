"""What can stand in a place of a table: words, a number, an interval, or nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

MINUS, PLUS_MINUS, NOTHING = "−", "±", "–"
"""Signs as shown; `Cell.values` has plain numbers and None."""


@dataclass(frozen=True, kw_only=True)
class Cell(ABC):
    """What stands in a place of a table.

    Attributes:
        bold: stands out, the best of its row for one.
        mark: a sign behind it, whose meaning the table's remarks give.
        notes: footnotes; the table numbers them.
        runs: fingerprints of the records behind it; HTML keeps them as `data-runs`.
    """

    bold: bool = False
    mark: str = ""
    notes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @abstractmethod
    def text(self) -> str:
        """What is read, without marks and notes."""

    @abstractmethod
    def values(self) -> dict[str, float | str | None]:
        """What CSV holds: the main value as "", others by the name of what they are."""


@dataclass(frozen=True)
class Text(Cell):
    """Words."""

    words: str

    def text(self) -> str:
        return self.words

    def values(self) -> dict[str, float | str | None]:
        return {"": self.words}


@dataclass(frozen=True)
class Number(Cell):
    """A number.

    Attributes:
        digits: shown behind the point.
        deviation: a standard deviation, shown behind ±.
        signed: a plus is shown, too: a difference.
        below: the value is a bound, `<0.001`.
    """

    value: float
    digits: int = 2
    deviation: float | None = None
    signed: bool = False
    below: bool = False

    def text(self) -> str:
        sign = "+" if self.signed else ""
        shown = f"{self.value:{sign}.{self.digits}f}"
        if float(shown) == 0:  # no negative zero
            shown = shown.lstrip("+-")
        deviation = "" if self.deviation is None else f" {PLUS_MINUS} {self.deviation:.{self.digits}f}"
        return f"{'<' if self.below else ''}{shown.replace('-', MINUS)}{deviation}"

    def values(self) -> dict[str, float | str | None]:
        own = {"": f"<{self.value}" if self.below else self.value}
        return own if self.deviation is None else {**own, "sd": self.deviation}


@dataclass(frozen=True)
class Interval(Cell):
    """From `low` to `high`."""

    low: float
    high: float
    digits: int = 2
    signed: bool = False

    def text(self) -> str:
        ends = (Number(end, self.digits, signed=self.signed).text() for end in (self.low, self.high))
        return f"[{', '.join(ends)}]"

    def values(self) -> dict[str, float | str | None]:
        return {"low": self.low, "high": self.high}


@dataclass(frozen=True)
class Missing(Cell):
    """What is not there: shown as such, and never counted."""

    def text(self) -> str:
        return NOTHING

    def values(self) -> dict[str, float | str | None]:
        return {}


def best(cells: Sequence[Cell], less_is_better: bool = False) -> list[bool]:
    """Which of some cells hold the best number, as it is shown; none if fewer than two hold one."""
    numbers = [round(cell.value, cell.digits) if isinstance(cell, Number) else None for cell in cells]
    present = [number for number in numbers if number is not None]
    if len(present) < 2:
        return [False] * len(cells)
    winner = min(present) if less_is_better else max(present)
    return [number == winner for number in numbers]
