"""What a kind of task is: its labelled examples, its head, its loss, its predictions and its scores.

A data set of a known kind is one YAML file: where it lies, how it spells languages, which columns and splits it has and
which labels, in a fixed order. None of this is guessed from the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.tasks.data import SPLITS, HubData, LabelledData
from xlt.training.batches import Batch

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.base import Step

Example = dict[str, Any]  # id, the kind's inputs, label


@dataclass(frozen=True)
class Task(ABC):
    """Fields that every kind has.

    Attributes:
        name: label of the task in records and folder names.
        data: its examples.
        metric: the score that decides between checkpoints and is reported first; more of it is better.
        max_length: tokens of an example at most, special ones included; clipped to what the backbone takes.
    """

    hub_type: ClassVar[str] = "other"
    """What the hub calls this kind of task."""

    name: str = setting("task", is_name=True, identity=False)
    data: LabelledData = field(default_factory=HubData)
    metric: str = setting("accuracy")
    max_length: int = setting(256, at_least=4)

    def draw(self, experiment: Experiment, language: Language) -> Step:
        """This task's part of the graph: the step that makes the language's labelled examples."""
        return experiment.examples_step(self, language)

    def require_splits(self, *splits: str, transfer: str) -> None:
        """Refuse a transfer setting that needs labels which the task does not have.

        Raises:
            UserError: one of `splits` is missing.
        """
        missing = [split for split in splits if not self.data.splits.get(split)]
        if missing:
            present = [split for split in SPLITS if self.data.splits.get(split)]
            raise UserError(
                f"transfer={transfer} needs labels in the split {' and '.join(missing)}, which task={self.name} does not "
                f"have (it has: {', '.join(present) or 'none'}). Choose a task with these labels, or say under which names its "
                "data set has them (task.data.splits)."
            )

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        """What identifies the data behind `examples`.

        Raises:
            UserError: the data set does not have the language, or cannot be reached.
        """
        return self.data.revision(language, languages, hub)

    def examples(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, list[Example]]:
        """The labelled examples of each split that the task has.

        Raises:
            UserError: a column is missing, or a label is none of the declared ones.
        """
        result = {}
        for split in SPLITS:
            name = self.data.splits.get(split)
            if name:
                where = self.data.describe(language, languages, name)
                rows = self.data.rows(language, languages, hub, name)
                result[split] = [self._example(row, number, where) for number, row in enumerate(rows)]
                if not result[split]:
                    raise UserError(f"There are no examples in {where}.")
        return result

    @abstractmethod
    def read(self, row: dict[str, Any]) -> Example:
        """An example from a row of the data set; raises ValueError, saying what is wrong, for a row that is none."""

    @abstractmethod
    def head(self, backbone: Backbone, generator: torch.Generator) -> nn.Module:
        """The head that a task module owns, initialised from `generator`."""

    @abstractmethod
    def batch(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> Batch:
        """Tensors for some examples: `input_ids`, `attention_mask` [rows, length], and the kind's labels."""

    @abstractmethod
    def loss(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum of the examples' losses from the hidden states [rows, length, hidden]."""

    @abstractmethod
    def predictions(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """A prediction for each example, as plain data that begins with `label`."""

    @abstractmethod
    def gold(self, example: Example) -> Any:
        """What a prediction's `label` is compared with."""

    @abstractmethod
    def score(self, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
        """The metrics, `metric` among them, of predictions against gold."""

    def resampled_scores(self, gold: Sequence[Any], predicted: Sequence[Any], draws: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics [samples] of test sets made of the examples that the rows of `draws` [samples, examples] name.

        A kind that can count faster than one test set at a time overrides this.
        """
        scores = [self.score([gold[i] for i in draw], [predicted[i] for i in draw]) for draw in draws]
        return {name: np.array([score[name] for score in scores]) for name in scores[0]}

    def _example(self, row: dict[str, Any], number: int, where: str) -> Example:
        columns = self.data.columns
        missing = [column for column in columns.values() if column not in row]
        if missing:
            raise UserError(f"{where} has no column {missing[0]} (task.data.columns). {suggest(missing[0], row, 'columns')}")
        try:
            example = self.read({field: row[column] for field, column in columns.items()})
        except ValueError as error:
            raise UserError(f"{where}, row {number}: {error}") from error
        return {"id": str(row[columns["id"]]) if "id" in columns else str(number), **example}
