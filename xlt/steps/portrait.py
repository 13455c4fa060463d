"""What a text looks like: the scripts of its letters, lines, and some samples."""

from __future__ import annotations

import heapq
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from xlt.steps.cleaning import digest

_SAMPLES = 10
_SAMPLE_LENGTH = 200  # characters


class Portrait:
    """Of some documents.

    Args:
        documents: the samples are different ones of them with the greatest digests, which is as good as chance.
    """

    def __init__(self, documents: Sequence[str] = ()) -> None:
        self._characters = Counter("".join(documents))
        self._lines = sum(text.count("\n") + 1 for text in documents)
        self._samples = _greatest((digest(text), text[:_SAMPLE_LENGTH]) for text in documents)

    def __iadd__(self, other: Portrait) -> Portrait:
        """Take in that of more documents."""
        self._characters.update(other._characters)
        self._lines += other._lines
        self._samples = _greatest([*self._samples, *other._samples])
        return self

    def card(self) -> dict[str, Any]:
        """`lines` (Gurgurov et al. 2025, Table 5, count those of a CSV file as documents), `characters`, `scripts` (shares of the
        letters, by the first word of their Unicode names), `samples`."""
        scripts: Counter[str] = Counter()
        for character, count in self._characters.items():
            if character.isalpha():
                scripts[unicodedata.name(character, "unknown").split()[0]] += count
        letters = max(1, scripts.total())
        return {
            "lines": self._lines,
            "characters": self._characters.total(),
            "scripts": {script: round(count / letters, 6) for script, count in scripts.most_common()},
            "samples": [text for _, text in self._samples],
        }


def _greatest(samples: Iterable[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    return sorted(heapq.nlargest(_SAMPLES, set(samples)))
