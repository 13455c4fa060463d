"""Translation: how well a translator translates held-out sentences into the target language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from xlt.config import setting
from xlt.errors import UserError
from xlt.languages import Language
from xlt.tasks.base import Example, Task
from xlt.translation import scores
from xlt.translation.parallel_text import ParallelText

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.translation_evaluation import TranslationEvaluationStep


@dataclass(frozen=True)
class Translation(Task):
    """Sentences of the source language in, their translations into the target language out, by the run's translator.

    Attributes:
        data: the parallel text whose test pairs are scored; None: the run's (`parallel=`).
        max_length: of no effect; how much a translator reads is its own setting (`translator.decoding.max_length`).
    """

    hub_type: ClassVar[str] = "translation"
    known_metrics: ClassVar[tuple[str, ...]] = tuple(scores.METRICS)
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    uses_sources: ClassVar[bool] = True

    data: ParallelText | None = setting(None, identity=False)  # the parallel text itself is an input of the step
    metric: str = setting("chrf")
    max_length: int = setting(256, at_least=4, identity=False)

    def draw(self, experiment: Experiment, language: Language) -> NoReturn:
        """Never drawn: there are no labels.

        Raises:
            UserError: where labelled examples are asked for.
        """
        raise UserError(f"task={self.name} has sentences and their translations, and no labelled examples.")

    def draw_evaluation(self, experiment: Experiment, language: Language) -> TranslationEvaluationStep:
        from xlt.steps.translation_evaluation import TranslationEvaluationStep

        if len(experiment.sources) != 1:
            raise UserError(f"task={self.name} translates from one language: say which, for example source=es.")
        (source,) = experiment.sources
        text = experiment.parallel_text(self.data, source, language)
        if "test" not in text.splits:
            raise UserError(
                f"parallel={text.source.name} has no test pairs: say what it calls them (parallel.splits.test=<name>), or let "
                "some be drawn (parallel.splits.train=<name>)."
            )
        translator = experiment.translator_step(source, language, f"task={self.name}")
        return TranslationEvaluationStep(self, language, source, translator, text)

    def read(self, row: dict[str, Any]) -> Example:
        return row

    def gold(self, example: Example) -> str:
        """The reference."""
        return example["reference"]

    def counts(self, gold: Sequence[str], predicted: Sequence[str]) -> np.ndarray:
        """What chrF and BLEU are made of."""
        return scores.counts(predicted, gold)

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """chrF and BLEU, from 0 to 100."""
        return scores.metrics(sums)
