"""The score of a translator on the test pairs of a parallel text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from xlt.config import identity
from xlt.languages import Language
from xlt.steps.base import Step
from xlt.steps.evaluation import ScoringStep
from xlt.steps.parallel_text import ParallelTextStep, read_pairs
from xlt.store import Artifact
from xlt.tasks.base import Example, Prediction
from xlt.translation.base import TranslatorStep


@dataclass(frozen=True)
class TranslationEvaluationStep(ScoringStep):
    """Scores translations of test sentences.

    Attributes:
        source: the language that is translated from.
        text: whose test pairs are scored.
    """

    backbone: ClassVar[None] = None
    language_module: ClassVar[None] = None
    task_modules: ClassVar[tuple[()]] = ()

    source: Language
    translator: TranslatorStep
    text: ParallelTextStep

    @property
    def label(self) -> str:
        return f"{self.translator.label}-{self.source.key}-{self.language.key}-on-{self.text.label}"

    def fields(self) -> dict[str, Any]:
        directions = {"source": self.source.key, "lang": self.language.key}
        return {**directions, "task": identity(self.task), "bootstrap_samples": self.bootstrap_samples}

    def inputs(self) -> dict[str, Step]:
        return {"parallel_text": self.text, "translator": self.translator}

    def test_examples(self, artifacts: Mapping[str, Artifact]) -> list[Example]:
        pairs = read_pairs(artifacts["parallel_text"], "test", self.source, self.language)
        return [{"id": str(n), "text": text, "reference": reference} for n, (text, reference) in enumerate(pairs)]

    def open(self, artifacts: Mapping[str, Artifact], device: torch.device) -> Callable[[Sequence[Example]], list[Prediction]]:
        translator = self.translator.open(artifacts["translator"], device)

        def predict(examples: Sequence[Example]) -> list[Prediction]:
            texts = [example["text"] for example in examples]
            translations = translator.translate(texts, self.source, self.language)
            return [{"label": translation, "text": text} for text, translation in zip(texts, translations, strict=True)]

        return predict
