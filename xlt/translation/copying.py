"""No translation: every text stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xlt.config import identity
from xlt.languages import Language
from xlt.steps.base import Workbench
from xlt.translation.base import OpenTranslator, Translator, TranslatorStep

if TYPE_CHECKING:
    import torch

    from xlt.experiment import Experiment
    from xlt.store import Artifact


@dataclass(frozen=True)
class Copying(Translator):
    """`translator=copying`: the baseline that every translator has to beat."""

    def draw(self, experiment: Experiment, source: Language, target: Language) -> TranslatorStep:
        return CopyingStep(self)

    def translate(self, texts: Sequence[str], source: Language, target: Language) -> list[str]:
        """The texts themselves."""
        return list(texts)


@dataclass(frozen=True)
class CopyingStep(TranslatorStep):
    """Nothing needs to be made. No files."""

    translator: Copying

    @property
    def label(self) -> str:
        return self.translator.name

    def fields(self) -> dict[str, Any]:
        return {"translator": identity(self.translator)}

    def build(self, bench: Workbench) -> None:
        """There is nothing to make."""

    def open(self, artifact: Artifact, device: torch.device) -> OpenTranslator:
        return self.translator
