"""A guard between a text and the evaluation: sentences of validation and test sets are taken out of the text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from xlt.tasks.resemblance import key

_SHORTEST = 8  # letters; «Dr.» and «Yes.» stand everywhere and give nothing away
_SENTENCE_END = re.compile(r"(?<=[.!?…؟۔።।॥།])\s+|(?<=[。！？])")


class Guard:
    """Sentences that a text may not hold. Two are equal if their letters and digits are, case, punctuation and spaces aside: in
    labelled data they are often split into tokens. Sentences of a few letters do not count.

    Args:
        texts: of evaluation examples: each counts as a whole, and so does each of its sentences.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        keys = {key(part) for text in texts for part in (text, *text.split("\n"), *_sentences(text))}
        self._guarded = {found for found in keys if len(found) >= _SHORTEST}

    def __len__(self) -> int:
        """How many sentences are guarded."""
        return len(self._guarded)

    def without(self, document: str) -> tuple[str, int]:
        """A document without the lines, and the sentences in its other lines, that are guarded; and how many these were."""
        if not self._guarded:
            return document, 0
        lines = [self._line(line) for line in document.split("\n")]
        taken_out = sum(count for _, count in lines)
        return "\n".join(line for line, _ in lines if line) if taken_out else document, taken_out

    def _line(self, line: str) -> tuple[str, int]:
        if key(line) in self._guarded:
            return "", 1
        sentences = _sentences(line)
        kept = [sentence for sentence in sentences if key(sentence) not in self._guarded]
        return line if len(kept) == len(sentences) else " ".join(kept), len(sentences) - len(kept)


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]
