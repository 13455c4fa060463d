"""A translation model in use: how it names two languages, and how it searches for translations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from xlt.config import identity
from xlt.steps.base import Step, Workbench
from xlt.steps.translation_model import TranslationModelStep
from xlt.store import Artifact
from xlt.translation.base import OpenTranslator, TranslatorStep
from xlt.translation.decoding import Decoding, SequenceToSequence
from xlt.translation.model import Tokens, TranslationModel


@dataclass(frozen=True)
class SequenceToSequenceStep(TranslatorStep):
    """A view of a translation model: the files are the model's.

    Attributes:
        model: the step that makes the model, or knows where it is.
        tokens: of the languages that it translates between, by their keys.
    """

    external: ClassVar[bool] = True

    model: TranslationModelStep
    tokens: Tokens
    decoding: Decoding

    @property
    def label(self) -> str:
        return self.model.label

    @property
    def flops_per_token(self) -> float:
        """2 FLOPs a weight, of which a token that is read meets about half, the encoder's, and one that is written the others."""
        return float(self.model.size or 0)

    def fields(self) -> dict[str, Any]:
        return {"tokens": dict(self.tokens), "decoding": identity(self.decoding)}

    def inputs(self) -> dict[str, Step]:
        return {"model": self.model}

    def locate(self, inputs: Mapping[str, Artifact]) -> Artifact:
        return self.located(inputs["model"].folder, inputs["model"].summary)

    def build(self, bench: Workbench) -> None:
        """Never called: external steps are located."""
        raise AssertionError("an external step is not built")

    def open(self, artifact: Artifact, device: torch.device) -> OpenTranslator:
        model = TranslationModel.open(artifact.folder, self.tokens, self.decoding.precision)
        return SequenceToSequence(model, self.decoding, device)
