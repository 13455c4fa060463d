"""What translates: labelled examples into another language before a task module learns from them, or test examples into the
language that it has learnt from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from xlt.config import setting
from xlt.languages import Language
from xlt.steps.base import Step

if TYPE_CHECKING:
    import torch

    from xlt.experiment import Experiment
    from xlt.store import Artifact


@dataclass(frozen=True)
class Translator(ABC):
    """One choice of `translator=`."""

    name: str = setting("translator", is_name=True, identity=False)

    @property
    def label(self) -> str:
        """Its name in records."""
        return self.name

    @abstractmethod
    def draw(self, experiment: Experiment, source: Language, target: Language) -> TranslatorStep:
        """Its part of the graph: the step whose artifact translates from one language into another.

        Raises:
            UserError: it does not know one of the languages.
        """


class OpenTranslator(Protocol):
    """A translator in memory."""

    def translate(self, texts: Sequence[str], source: Language, target: Language) -> list[str]:
        """The translation of each text, in their order; the same text is translated alike whatever stands beside it."""


@dataclass(frozen=True)
class TranslatorStep(Step):
    """What other steps ask of a translator, whatever it comes from."""

    kind: ClassVar[str] = "translator"

    @property
    def flops_per_token(self) -> float:
        """What translating takes for each token that is read or written; 0 where that is unknown, or nothing is computed."""
        return 0.0

    @abstractmethod
    def open(self, artifact: Artifact, device: torch.device) -> OpenTranslator:
        """Load it from its artifact."""
