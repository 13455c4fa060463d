"""A translation model in use: how it names two languages, and how it searches for translations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from xlt.config import identity
from xlt.languages import Language
from xlt.steps.base import Step, Workbench
from xlt.steps.translation_model import TranslationModelStep
from xlt.store import Artifact
from xlt.translation.base import OpenTranslator, TranslatorStep
from xlt.translation.decoding import COMPUTE_TYPES, CTranslate2Decoder, Decoding, TransformersDecoder
from xlt.translation.model import Tokens, TranslationModel, TranslationTokenizer

log = logging.getLogger("xlt")

_CONVERTED = "ctranslate2"  # folder, in a converted model's artifact
_SENTENCES = (  # on which two engines are compared; which language they are in does not matter for that
    "The river has risen since yesterday.", "Who is at the door?", "She sold three goats at the market.",
    "We have been waiting here for more than two hours.", "It will rain.", "My grandmother told us this story every winter.",
    "The teacher, who was tired, closed the book and went home early.", "Do not forget the keys!", "7 of 12 people agreed.",
    "When the harvest was over, they danced until the morning, and nobody thought of the long way back across the hills.",
)  # fmt: skip


@dataclass(frozen=True)
class SequenceToSequenceStep(TranslatorStep):
    """A view of a translation model: the files are the model's.

    Attributes:
        model: the step that makes the model, or knows where it is.
        languages: that it translates between.
        tokens: that name them.
    """

    external: ClassVar[bool] = True

    model: TranslationModelStep
    languages: tuple[Language, Language]
    tokens: Tokens
    decoding: Decoding

    @property
    def label(self) -> str:
        return self.model.label

    @property
    def flops_per_token(self) -> float:
        """Of a token that is read or written: each passes half of the layers, at 2 FLOPs a weight; 0 where that is unknown."""
        return float(self.model.parameters or 0)

    def fields(self) -> dict[str, Any]:
        return {"tokens": dict(self.tokens), "decoding": identity(self.decoding)}

    def inputs(self) -> dict[str, Step]:
        fast = self.decoding.engine == "ctranslate2"
        converted = ConvertedModelStep(self.model, self.languages, self.tokens, self.decoding)
        return {"model": self.model, **({"converted": converted} if fast else {})}

    def locate(self, inputs: Mapping[str, Artifact]) -> Artifact:
        model, converted = inputs["model"], inputs.get("converted")
        if converted is not None and (reason := converted.summary["reason"]):
            log.warning("%s translates with transformers: %s", self.label, reason)
            converted = None
        return self.located((converted or model).folder, like=model)

    def build(self, bench: Workbench) -> None:
        """Never called: external steps are located."""
        raise AssertionError("an external step is not built")

    def open(self, artifact: Artifact, device: torch.device) -> OpenTranslator:
        if (artifact.folder / _CONVERTED).is_dir():
            tokenizer = TranslationTokenizer.open(artifact.folder, self.tokens)
            return CTranslate2Decoder(artifact.folder / _CONVERTED, tokenizer, self.decoding, device)
        model = TranslationModel.open(artifact.folder, self.tokens, self.decoding.precision)
        return TransformersDecoder(model, self.decoding, device)


@dataclass(frozen=True)
class ConvertedModelStep(Step):
    """A translation model in the format of ctranslate2, if that translates some sentences exactly as transformers does. Files:
    the tokenizer and `ctranslate2/`; none where it does not, and the summary says why (`reason`)."""

    kind: ClassVar[str] = "converted_model"

    model: TranslationModelStep
    languages: tuple[Language, Language]
    tokens: Tokens
    decoding: Decoding

    @property
    def label(self) -> str:
        return self.model.label

    def fields(self) -> dict[str, Any]:
        keys = [language.key for language in self.languages]
        return {"languages": keys, "tokens": dict(self.tokens), "decoding": identity(self.decoding)}

    def inputs(self) -> dict[str, Step]:
        return {"model": self.model}

    def build(self, bench: Workbench) -> None:
        folder, device = bench.inputs["model"].folder, bench.runtime.device
        model = TranslationModel.open(folder, self.tokens, self.decoding.precision)
        work = bench.checkpoint / _CONVERTED
        reason = _convert(folder, work, COMPUTE_TYPES[self.decoding.precision])
        if reason is None:
            decoders = (
                TransformersDecoder(model, self.decoding, device),
                CTranslate2Decoder(work, model.tokenizer, self.decoding, device),
            )
            one, other = (decoder.translate(_SENTENCES, *self.languages) for decoder in decoders)
            differing = sum(a != b for a, b in zip(one, other, strict=True))
            if differing:
                reason = f"ctranslate2 translates {differing} of {len(_SENTENCES)} sentences otherwise"
        bench.summary["reason"] = reason
        if reason is None:
            work.rename(bench.folder / _CONVERTED)
            model.tokenizer.tokenizer.save_pretrained(bench.folder)


def _convert(folder: Path, result: Path, precision: str) -> str | None:
    """Write a model in ctranslate2's format; returns why that cannot be, or None."""
    from ctranslate2.converters import TransformersConverter

    result.parent.mkdir(parents=True, exist_ok=True)
    try:
        TransformersConverter(str(folder)).convert(str(result), quantization=precision, force=True)
    except (ValueError, NotImplementedError, KeyError, AttributeError) as error:  # of a kind of model that it does not know
        return f"ctranslate2 cannot convert this model ({error})"
    return None
