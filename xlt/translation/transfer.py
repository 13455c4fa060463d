"""Transfer through a translator (Ansell 2024, chapter 6): of the source's labelled examples before the task is learnt, or of the
target's before they are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xlt.config import setting
from xlt.errors import UserError
from xlt.languages import Language
from xlt.steps.task_module import Labels
from xlt.transfer import FewShot, MultiSource, ZeroShot
from xlt.translation.projection import PROJECTIONS

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.evaluation import EvaluationStep


@dataclass(frozen=True)
class TranslateTrain(MultiSource):
    """`transfer=translate_train`: the source's labels together with the same labels on translated texts, each batch with the
    module of its language. The checkpoint is chosen on the validation examples of both: no label of the target is looked at.

    Attributes:
        cap: training examples of the source at most, and of each translation; all are translated.
        targets: translated into the `one` language that is scored, or into `all` that `lang=` names, for one task module.
        with_source: False leaves the examples that are not translated out.
        projection: how labels on spans of a text are found again in its translation.
    """

    targets: str = setting("one", one_of=("one", "all"))
    with_source: bool = setting(True)
    projection: str | None = setting(None, one_of=tuple(PROJECTIONS))

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if self.validation == "target":
            raise UserError(
                f"{where}.validation=target: {self.name} chooses the checkpoint on the source's validation examples and their "
                "translations, and looks at no label of the target."
            )

    def labels(self, experiment: Experiment, language: Language) -> list[Labels]:
        sources = super().labels(experiment, language)
        targets = experiment.targets if self.targets == "all" else (language,)
        translated = [
            self._translated(experiment, labels, target)
            for target in targets
            for labels in sources
            if labels.examples.language != target
        ]
        if not self.with_source and not translated:
            raise UserError(
                f"transfer.with_source=false leaves nothing to learn from: {language.name} is the language of the labels, which "
                "are therefore not translated."
            )
        return [*sources, *translated] if self.with_source else translated

    def _translated(self, experiment: Experiment, labels: Labels, target: Language) -> Labels:
        examples = experiment.translated_examples(labels.examples, target, ("train", "validation"), self.projection)
        return Labels(examples, experiment.language_module(target), shots=labels.shots)


@dataclass(frozen=True)
class FewShotTranslate(FewShot, TranslateTrain):
    """`transfer=few_shot_translate`: what translate-train learns from together with `shots` examples of the target. Those alone
    are met `upsample` times an epoch."""


@dataclass(frozen=True)
class TranslateTest(ZeroShot):
    """`transfer=translate_test`: the target's test examples are translated into the source's language, and scored there with its
    language module by the task module that was learnt in it."""

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if self.validation == "target":
            raise UserError(f"{where}.validation=target: {self.name} reads the source's language alone, the target's never.")

    def draw(self, experiment: Experiment, language: Language) -> EvaluationStep:
        task = experiment.task
        if task.labels_on == "spans":
            raise UserError(
                f"transfer={self.name}: task={task.name} has labels on parts of its texts. Those of a translation are not those "
                "that are asked for, and a score on the examples in which they are found again compares with no other. Choose "
                "transfer=translate_train."
            )
        examples = experiment.examples(task, language, ("test",), f"transfer={self.name}")
        task_modules = self.task_modules(experiment, language)
        (source,) = experiment.sources
        translated = experiment.translated_examples(examples, source, ("test",))
        return experiment.evaluation_step(task, language, experiment.language_module(source), task_modules, translated)
