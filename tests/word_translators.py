"""Translators that a test can look through: they work on words, and remember what they were given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from xlt.config import identity, setting
from xlt.languages import Language
from xlt.steps.base import Workbench
from xlt.translation.base import OpenTranslator, Translator, TranslatorStep

if TYPE_CHECKING:
    import torch

    from xlt.experiment import Experiment
    from xlt.store import Artifact

_PIECE = re.compile(r"<(\w+)>.*?</\1>\S*|\S+")


@dataclass(frozen=True)
class Reversing(Translator):
    """Turns the order of the words round, marked parts staying in one piece; each word becomes the one that the language of the
    target says it with: `word` → `word-mt`.

    Attributes:
        loses: texts with this word lose all their marks.
        swallows: texts with this word come back empty.
        fails_after: of so many texts, in all, it breaks down.
    """

    given: ClassVar[list[str]] = []
    opened: ClassVar[list[tuple[str, str]]] = []

    loses: str = setting("")
    swallows: str = setting("")
    fails_after: int = setting(10**9, identity=False)

    def draw(self, experiment: Experiment, source: Language, target: Language) -> TranslatorStep:
        return ReversingStep(self)

    def translate(self, texts: Sequence[str], source: Language, target: Language) -> list[str]:
        self.opened.append((source.key, target.key))
        result = []
        for text in texts:
            if len(self.given) >= self.fails_after:
                raise RuntimeError("broken down")
            self.given.append(text)
            result.append(self._translated(text, target.key))
        return result

    def _translated(self, text: str, target: str) -> str:
        if self.swallows and self.swallows in text:
            return " "
        if self.loses and self.loses in text:
            text = re.sub(r"</?\w+>", "", text)
        pieces = [match[0] for match in _PIECE.finditer(text)]
        return " ".join(re.sub(r"(?<![</\w])(\w+)(?![\w>])", rf"\1{target}", piece) for piece in reversed(pieces))


@dataclass(frozen=True)
class ReversingStep(TranslatorStep):
    translator: Reversing

    @property
    def label(self) -> str:
        return "reversing"

    def fields(self) -> dict[str, Any]:
        return {"translator": identity(self.translator)}

    def build(self, bench: Workbench) -> None:
        pass

    def open(self, artifact: Artifact, device: torch.device) -> OpenTranslator:
        return self.translator
