"""`data=mix`: several sources in shares of one's choice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xlt.config import setting
from xlt.corpora.base import Corpus, TextSource
from xlt.errors import UserError
from xlt.languages import Language
from xlt.steps.mixed_text import MixedTextStep

if TYPE_CHECKING:
    from xlt.experiment import Experiment


@dataclass(frozen=True)
class Mix(TextSource):
    """Text of several corpora.

    Attributes:
        parts: the corpora by name. Each one's own settings hold for it.
        shares: of the training bytes, by part, in any unit (`{glotcc: 3, conceptnet: 1}`); None for shares by size.
        temperature: of shares by size: proportional to size^(1/temperature) (Conneau et al. 2020, section 3.1, whose α is its
            inverse). 1 takes every document once; above it small parts are repeated and large ones thinned out.
        max_bytes: of training text; None takes as much as the parts hold together.
        guard: see `Corpus`; for all parts.
    """

    parts: dict[str, Corpus] = field(default_factory=dict)
    shares: dict[str, float] | None = setting(None)
    temperature: float = setting(1.0, at_least=1)
    max_bytes: int | None = setting(None, at_least=1000)
    guard: list[str] = setting([], identity=False)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if len(self.parts) < 2:
            raise UserError(f"{where}.parts names {', '.join(self.parts) or 'nothing'}: a mix has at least two parts.")
        if self.shares and self.shares.keys() != self.parts.keys():
            names = ", ".join(self.parts)
            raise UserError(f"{where}.shares={self.shares} has to give a share to each of {names}, or to none of them.")
        if self.shares and any(share <= 0 for share in self.shares.values()):
            raise UserError(f"{where}.shares={self.shares}: every share has to be above 0; leave the part out instead.")
        if self.shares and self.temperature != 1:
            raise UserError(f"{where}.temperature={self.temperature} and {where}.shares both say the shares: set one of them.")

    def draw(self, experiment: Experiment, language: Language, seed: int) -> MixedTextStep:
        guarded = {
            name: dataclasses.replace(part, guard=[*part.guard, *self.guard]) for name, part in self.parts.items()
        }  # fmt: skip
        texts = {name: part.draw(experiment, language, seed) for name, part in guarded.items()}
        return MixedTextStep(self.name, texts, language, self.shares, self.temperature, self.max_bytes, seed)
