"""A guard between a text and the evaluation: sentences of validation and test sets are taken out of the text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xlt.steps.examples import evaluation_texts
from xlt.store import Artifact
from xlt.tasks.resemblance import key

if TYPE_CHECKING:
    from xlt.tasks.base import Task

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
        self._documents = 0
        self._sentences = 0

    @classmethod
    def of(cls, examples: Iterable[tuple[Task, Artifact]]) -> Guard:
        """The guard of validation and test examples."""
        return cls(text for task, artifact in examples for text in evaluation_texts(task, artifact))

    def without(self, document: str) -> str:
        """A document without the lines, and the sentences in its other lines, that are guarded."""
        if not self._guarded:
            return document
        before = self._sentences
        lines = [self._line(line) for line in document.split("\n")]
        if self._sentences == before:
            return document
        self._documents += 1
        return "\n".join(line for line in lines if line)

    def card(self) -> dict[str, int]:
        """How many sentences are guarded, and how many were taken out of how many documents."""
        return {"guarded": len(self._guarded), "sentences_left_out": self._sentences, "documents_touched": self._documents}

    def _line(self, line: str) -> str:
        if key(line) in self._guarded:
            self._sentences += 1
            return ""
        sentences = _sentences(line)
        kept = [sentence for sentence in sentences if key(sentence) not in self._guarded]
        self._sentences += len(sentences) - len(kept)
        return line if len(kept) == len(sentences) else " ".join(kept)


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]
