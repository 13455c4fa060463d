"""Projection: how labels on spans of a text come to stand on the same spans of its translation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from xlt.errors import UserError
from xlt.tasks.base import LearntTask, Span

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MARK = re.compile(r"(?P<before>\s*)<\s*(?P<closing>/?)\s*(?P<name>[a-z]+)\s*>(?P<behind>\s*)", re.IGNORECASE)


class Projection(Protocol):
    """One value of `transfer.projection=`."""

    def marked(self, text: str, spans: Sequence[Span]) -> str:
        """What is handed to the translator."""

    def found(self, text: str, count: int) -> tuple[str, list[Span]] | None:
        """The translation by itself and where the spans are in it, in the order in which they were given; None if one is lost.

        Args:
            text: what the translator has made of `marked`.
            count: of the spans.
        """


class Markers:
    """Mark-then-translate (Chen et al. 2023, EasyProject), with XML tags for marks, which tell the spans apart: «<a>Ada</a> lives
    in <b>Paris</b>». Spaces that a translator puts between a mark and what it marks are taken away with the mark."""

    def marked(self, text: str, spans: Sequence[Span]) -> str:
        parts, done = [], 0
        for (start, end), name in sorted(zip(spans, _names(len(spans)), strict=True)):
            parts += [text[done:start], f"<{name}>", text[start:end], f"</{name}>"]
            done = end
        return "".join([*parts, text[done:]])

    def found(self, text: str, count: int) -> tuple[str, list[Span]] | None:
        """Each mark has to be there once, with something in it that is in no other one."""
        names = _names(count)
        ends: dict[tuple[str, bool], int] = {}
        plain, done = "", 0
        for mark in _MARK.finditer(text):
            name, closing = mark["name"].lower(), bool(mark["closing"])
            if name not in names:  # a tag of the text's own
                continue
            if (name, closing) in ends:
                return None
            plain += text[done : mark.start()]
            outside, inside = (mark["behind"], mark["before"]) if closing else (mark["before"], mark["behind"])
            gap = outside or (" " if inside and _is_word(text, mark.end() if closing else mark.start() - 1) else "")
            ends[name, closing] = len(plain) if closing else len(plain) + len(gap)
            plain += gap
            done = mark.end()
        plain += text[done:]
        if len(ends) < 2 * count or not plain.strip():
            return None
        spans = [(ends[name, False], ends[name, True]) for name in names]
        in_order = sorted(spans)
        apart = all(end <= start for (_, end), (start, _) in pairwise(in_order))
        return (plain, spans) if apart and all(plain[start:end].strip() for start, end in spans) else None


PROJECTIONS: dict[str, Projection] = {"markers": Markers()}


def check_translatable(task: LearntTask, projection: str | None) -> None:
    """Refuse labels that a translation cannot keep.

    Raises:
        UserError: they sit on words; or on spans, and there is no projection; or there is one that has nothing to do.
    """
    if task.labels_on == "words":
        raise UserError(
            f"task={task.name} has a label for each word, and the words of a translation are not those of the original one by "
            "one: its examples cannot be translated. Choose transfer=zero_shot or transfer=few_shot."
        )
    if task.labels_on == "spans" and projection is None:
        raise UserError(
            f"task={task.name} has labels on parts of its texts, which have to be found again in a translation. "
            f"transfer.projection={' or '.join(PROJECTIONS)} does that: the parts are marked, and the marks translated along."
        )
    if task.labels_on == "texts" and projection is not None:
        raise UserError(
            f"transfer.projection={projection} finds labelled parts of texts again. Those of task={task.name} belong to whole "
            "texts: leave it out."
        )


def _names(count: int) -> list[str]:
    """a, b, …, z, aa, ab, …"""
    size = len(_LETTERS)
    return [(_LETTERS[number // size - 1] if number >= size else "") + _LETTERS[number % size] for number in range(count)]


def _is_word(text: str, place: int) -> bool:
    """Whether a character is there that a space should keep away from its neighbour."""
    return 0 <= place < len(text) and text[place].isalnum()
