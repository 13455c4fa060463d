"""Transfer: how labels reach the target language. Each setting draws the graph from its sources to the score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xlt.config import setting

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.evaluation import EvaluationStep


@dataclass(frozen=True)
class Transfer(ABC):
    """One choice of `transfer=`."""

    name: str = setting("transfer", is_name=True, identity=False)

    @abstractmethod
    def draw(self, experiment: Experiment) -> EvaluationStep:
        """The whole graph, from text and labels to the score."""


@dataclass(frozen=True)
class InLanguage(Transfer):
    """`transfer=in_language`: the task module is trained on labels of the target language itself."""

    def draw(self, experiment: Experiment) -> EvaluationStep:
        experiment.task.require_splits("train", "validation", "test", transfer=self.name)
        language = experiment.language
        examples = experiment.examples(language)
        task_module = experiment.task_module(experiment.language_module(language), examples)
        return experiment.evaluation_step(language, task_module, examples)
