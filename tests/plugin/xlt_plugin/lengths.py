"""A task: is a text long or short? The label is not read but counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xlt.config import setting
from xlt.tasks.base import Example
from xlt.tasks.sequence_classification import SequenceClassification


@dataclass(frozen=True)
class Lengths(SequenceClassification):
    """Attributes: longest_short: words of a short text at most."""

    longest_short: int = setting(5, at_least=1)

    def read(self, row: dict[str, Any]) -> Example:
        short = len(row["text"].split()) <= self.longest_short
        return super().read({**row, "label": "short" if short else "long"})
