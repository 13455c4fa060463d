"""Transfer: how labels reach the target language. Each setting draws the graph from its sources to the score."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xlt.config import setting
from xlt.errors import UserError
from xlt.languages import Language
from xlt.steps.task_module import Labels, Shots

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.evaluation import EvaluationStep
    from xlt.steps.task_module import TaskModuleStep


@dataclass(frozen=True)
class Transfer(ABC):
    """One choice of `transfer=`."""

    uses_sources: ClassVar[bool] = False
    """Whether it learns from other languages (`source=`)."""

    uses_shots: ClassVar[bool] = False
    """Whether it learns from a few examples of the target language (`shots=`)."""

    name: str = setting("transfer", is_name=True, identity=False)

    @abstractmethod
    def draw(self, experiment: Experiment, language: Language) -> EvaluationStep:
        """The whole graph, from text and labels to the score on a target language."""


@dataclass(frozen=True)
class InLanguage(Transfer):
    """`transfer=in_language`: the task module is trained on labels of the target language itself."""

    def draw(self, experiment: Experiment, language: Language) -> EvaluationStep:
        examples = experiment.examples(experiment.task, language, ("train", "validation", "test"), f"transfer={self.name}")
        module = experiment.language_module(language)
        task_module = experiment.task_module([Labels(examples, module)])
        return experiment.evaluation_step(experiment.task, language, module, (task_module,), examples)


@dataclass(frozen=True)
class CrossLingual(Transfer):
    """Fields of the settings whose task module is learnt from other languages, each with its language module active, and
    evaluated with the target's in their place (MAD-X, Pfeiffer et al. 2020).

    Attributes:
        validation: which language's validation split chooses the checkpoint: that of each `source`, or the `target`'s, whose
            labels a zero-shot setting is not supposed to have.
    """

    uses_sources: ClassVar[bool] = True

    validation: str = setting("source", one_of=("source", "target"))

    def draw(self, experiment: Experiment, language: Language) -> EvaluationStep:
        needs = ("test",) if self.validation == "source" else ("test", "validation")
        examples = experiment.examples(experiment.task, language, needs, f"transfer={self.name}")
        task_modules = self.task_modules(experiment, language)
        module = experiment.language_module(language)
        return experiment.evaluation_step(
            experiment.task, language, module, task_modules, examples, self.branch_weights(experiment)
        )

    @abstractmethod
    def task_modules(self, experiment: Experiment, language: Language) -> tuple[TaskModuleStep, ...]:
        """What learns the task; several are branches of one composition."""

    def branch_weights(self, experiment: Experiment) -> tuple[float, ...] | None:
        """A weight for each of several branches."""
        return None

    def sources(self, experiment: Experiment, language: Language, cap: int | None = None) -> list[Labels]:
        """The labels of all source languages, and what else is to be validated on.

        Args:
            cap: training examples of each at most.
        """
        experiment.task.check_source(experiment.source_task)
        from_source = self.validation == "source"
        shots = Shots(cap, seed=experiment.settings.seed) if cap is not None else None
        needs = ("train", "validation") if from_source else ("train",)
        result = [
            Labels(self._source_examples(experiment, source, needs), experiment.language_module(source), shots=shots,
                   validates=from_source)
            for source in self._languages(experiment)
        ]  # fmt: skip
        if not from_source:
            examples = experiment.examples(experiment.task, language, ("validation",), f"transfer={self.name}")
            result.append(Labels(examples, experiment.language_module(language), trains=False))
        return result

    def _source_examples(self, experiment: Experiment, source: Language, needs: Sequence[str]):
        return experiment.examples(experiment.source_task, source, needs, f"transfer={self.name}")

    def _languages(self, experiment: Experiment) -> tuple[Language, ...]:
        if not experiment.sources:
            raise UserError(
                f"transfer={self.name} learns the task in another language: say in which, for example source=en. If its "
                "labels are in another data set than the target's, say that too: source_task=conll2003."
            )
        return experiment.sources


@dataclass(frozen=True)
class ZeroShot(CrossLingual):
    """`transfer=zero_shot`: one source language, no label of the target."""

    def task_modules(self, experiment: Experiment, language: Language) -> tuple[TaskModuleStep, ...]:
        if len(experiment.sources) > 1:
            raise UserError(
                f"transfer={self.name} has one source language, and source= names {len(experiment.sources)}. For one task module "
                "from several languages choose transfer=multi_source, for one from each of them transfer=ensemble."
            )
        return (experiment.task_module(self.sources(experiment, language)),)


@dataclass(frozen=True)
class MultiSource(CrossLingual):
    """`transfer=multi_source`: one task module from several languages (Ansell 2024, multi-source transfer). Each batch is in one
    language, with that language's module active.

    Attributes:
        sampling: how often a language's batches come: `proportional` to its examples, which are all met once an epoch;
            `tempered`, proportional to their number to the power of 1 / temperature; or `uniform`.
        temperature: of tempered sampling.
        cap: training examples of a language at most, drawn with the run's seed.
    """

    sampling: str = setting("proportional", one_of=("proportional", "tempered", "uniform"))
    temperature: float = setting(2.0, at_least=1)
    cap: int | None = setting(None, at_least=1)

    def task_modules(self, experiment: Experiment, language: Language) -> tuple[TaskModuleStep, ...]:
        temperature = self.temperature if self.sampling == "tempered" else 1.0
        return (experiment.task_module(self.labels(experiment, language), self.sampling, temperature),)

    def labels(self, experiment: Experiment, language: Language) -> list[Labels]:
        """All that the task module learns from."""
        return self.sources(experiment, language, self.cap)


@dataclass(frozen=True)
class FewShot(MultiSource):
    """`transfer=few_shot`: the source languages together with `shots` examples of the target (Ansell 2024, section on few-shot
    transfer), which are met `upsample` times an epoch. The checkpoint is chosen on source data.

    Attributes:
        choice: `drawn` with `shots_seed`, or the `first` rows of the split, as in the thesis.
        shots_seed: None takes the run's seed.
        split: where they come from; None takes train where the target has it, else validation.
        upsample: how often each is met in an epoch.
        targets: `one` task module for each target language, or one for `all` that `lang=` names.
    """

    uses_shots: ClassVar[bool] = True

    choice: str = setting("drawn", one_of=("drawn", "first"))
    shots_seed: int | None = setting(None, at_least=0)
    split: str | None = setting(None, one_of=("train", "validation"))
    upsample: int = setting(10, at_least=1)
    targets: str = setting("one", one_of=("one", "all"))

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if self.validation == "target":
            raise UserError(f"{where}.validation=target: few-shot transfer has no labels of the target to spare for validation.")

    def labels(self, experiment: Experiment, language: Language) -> list[Labels]:
        count = experiment.settings.shots
        if count is None:
            raise UserError(f"transfer={self.name} needs to know how many examples of the target it may learn from: shots=100.")
        seed = experiment.settings.seed if self.shots_seed is None else self.shots_seed
        labels = super().labels(experiment, language)
        for target in experiment.targets if self.targets == "all" else (language,):
            split = self.split or self._split(experiment, target)
            examples = experiment.examples(experiment.task, target, (split,), f"transfer={self.name}")
            module = experiment.language_module(target)
            shots = Shots(count, self.choice, seed)
            labels.append(Labels(examples, module, split, shots, self.upsample, validates=False))
        if not count:
            labels = [part for part in labels if part.shots is None or part.shots.count]
        return labels

    def _split(self, experiment: Experiment, target: Language) -> str:
        has_train = experiment.has_split(experiment.task, target, "train")
        return "validation" if has_train is False else "train"


@dataclass(frozen=True)
class Ensemble(CrossLingual):
    """`transfer=ensemble`: a task module with its head from each source language; their scores (logits) are added up.

    Attributes:
        weights: one for each source language; None gives all the same.
    """

    weights: list[float] | None = setting(None)

    def task_modules(self, experiment: Experiment, language: Language) -> tuple[TaskModuleStep, ...]:
        each = [dataclasses.replace(experiment, sources=(source,)) for source in self._languages(experiment)]
        return tuple(part.task_module(self.sources(part, language)) for part in each)

    def branch_weights(self, experiment: Experiment) -> tuple[float, ...] | None:
        count = len(experiment.sources)
        weights = self.weights or [1.0] * count
        if len(weights) != count or not sum(weights) > 0 or min(weights) < 0:
            raise UserError(
                f"transfer.weights={list(weights)}: an ensemble of {count} source languages needs {count} weights of at least 0, "
                "with a sum above 0."
            )
        return tuple(weight / sum(weights) for weight in weights) if count > 1 else None
