"""What a kind of task is: its labelled examples, its predictions and its scores; and, where a task module learns it, its
head and its loss.

A data set of a known kind is one YAML file: where it lies, how it spells languages, which columns and splits it has and
which labels, in a fixed order. None of this is guessed from the data.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.random import Draw
from xlt.tasks.data import SPLITS, HubData, LabelledData
from xlt.training.batches import Batch, pad

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.base import Step
    from xlt.steps.evaluation import EvaluationStep, ScoringStep

Example = dict[str, Any]  # id, the kind's inputs, label
Row = dict[str, Any]  # what the model reads in one go: input_ids, example (a number), and what the kind adds
Prediction = dict[str, Any]  # plain data, label first
Span = tuple[int, int]  # of a text: its first character, and the one behind the last

_LENGTH_STEP = 32  # batches are padded to a multiple of this, so that few shapes occur


@dataclass(frozen=True)
class Task(ABC):
    """Fields that every kind has.

    Attributes:
        name: label of the task in records and folder names.
        data: its examples.
        metric: the score that decides between checkpoints and is reported first.
        max_length: tokens that the model reads in one go at most, special ones included; clipped to what the backbone takes.
    """

    hub_type: ClassVar[str] = "other"
    """What the hub calls this kind of task."""

    known_metrics: ClassVar[tuple[str, ...]] = ()
    """The scores that the kind computes."""

    fields_read: ClassVar[tuple[str, ...]] = ()
    """The fields of an example that columns of the data set have to give."""

    inputs: ClassVar[tuple[str, ...]] = ()
    """Those of them that the model reads, in order."""

    more_is_better: ClassVar[bool] = True
    """Whether a greater score of the main metric is a better one."""

    uses_sources: ClassVar[bool] = False
    """Whether it needs another language (`source=`), however labels reach the target."""

    not_of_examples: ClassVar[tuple[str, ...]] = ("metric", "max_length")
    """The settings that change how examples are learnt and scored, and nothing in the examples."""

    name: str = setting("task", is_name=True, identity=False)
    data: LabelledData = field(default_factory=HubData)
    metric: str = setting("accuracy")
    max_length: int = setting(256, at_least=4)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if self.metric not in self.known_metrics:
            hint = suggest(self.metric, self.known_metrics, "choices")
            raise UserError(f"{where}.metric={self.metric} is no choice. {hint}")
        for name in self.fields_read:
            if self.data.columns.get(name) is None:
                raise UserError(f"{where}.data.columns has to name the column of the {name}.")

    # ---- its part of the graph

    def draw(self, experiment: Experiment, language: Language) -> Step:
        """The step that makes the language's labelled examples."""
        return experiment.examples_step(self, language)

    @abstractmethod
    def draw_evaluation(self, experiment: Experiment, language: Language) -> ScoringStep:
        """The whole graph, from text and labels to the score on a target language."""

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        """What identifies the data behind `examples`.

        Raises:
            UserError: the data set does not have the language, or cannot be reached.
        """
        return self.data.revision(language, languages, hub)

    # ---- examples

    def has_split(self, split: str, language: Language, languages: LanguageTable, hub: Hub) -> bool | None:
        """Whether the data set has the split for the language; None where only the network knows."""
        found = self.data.present(language, languages, hub)
        if found is None:
            declared = self.data.splits.get(split) or (split == "validation" and self.data.splits.get("train"))
            return None if declared else False
        return split in found or (split == "validation" and "train" in found)

    def examples(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, list[Example]]:
        """The labelled examples of each split that the data set has for the language.

        Ids that occur twice get a number behind them. Without a validation split, a share of the training examples is one.

        Raises:
            UserError: a column is missing, a label is none of the declared ones, or there are no examples at all.
        """
        result: dict[str, list[Example]] = {}
        for split, name in self.data.present(language, languages, hub).items():
            where = self.data.describe(language, languages, name)
            rows = self.data.rows(language, languages, hub, name)
            examples = [self._example(row, number, where) for number, row in enumerate(rows)]
            if examples:
                result[split] = _told_apart(examples)
        if not result:
            raise UserError(f"There are no examples in {self.data.describe(language, languages, 'any split')}.")
        if "validation" not in result and len(result.get("train", ())) > 1:
            drawn = Draw("validation", language.key).shuffled(range(len(result["train"])))
            chosen = set(drawn[: max(1, round(self.data.validation_share * len(drawn)))])
            train = result["train"]
            result["validation"] = [example for number, example in enumerate(train) if number in chosen]
            result["train"] = [example for number, example in enumerate(train) if number not in chosen]
        return {split: result[split] for split in SPLITS if split in result}

    def as_data(self) -> Self:
        """The task as far as its examples depend on it: settings that do not change them have their defaults."""
        kept = [field.name for field in dataclasses.fields(self) if field.name not in self.not_of_examples]
        return type(self)(**{name: getattr(self, name) for name in kept})

    @abstractmethod
    def read(self, row: dict[str, Any]) -> Example:
        """An example from a row of the data set; raises ValueError, saying what is wrong, for a row that is none."""

    # ---- scores

    @abstractmethod
    def gold(self, example: Example) -> Any:
        """What a prediction's `label` is compared with, as plain data."""

    def labels_of(self, example: Example) -> Sequence[str]:
        """The labels that stand in an example, for counting."""
        return [str(self.gold(example))]

    def texts_of(self, example: Example) -> list[str]:
        """What the model reads of an example; words are joined by spaces."""
        return [value if isinstance(value := example[name], str) else " ".join(value) for name in self.inputs]

    @abstractmethod
    def counts(self, gold: Sequence[Any], predicted: Sequence[Any]) -> np.ndarray:
        """What the scores are made of, counted in each example: [examples, counts]. Test sets add up."""

    @abstractmethod
    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """The scores [samples] of test sets, from the sums of their examples' counts [samples, counts]."""

    def score(self, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
        """The metrics, `metric` among them, of predictions against gold."""
        sums = self.counts(gold, predicted).sum(axis=0)[None]
        return {name: float(values[0]) for name, values in self.metrics(sums).items()}

    def _example(self, row: dict[str, Any], number: int, where: str) -> Example:
        named = {}
        for name, declared in self.data.columns.items():
            if declared is None:
                continue
            columns = [declared] if isinstance(declared, str) else declared
            found = next((column for column in columns if column in row), None)
            if found is None:
                hint = suggest(columns[0], row, "columns")
                raise UserError(f"{where} has no column {' or '.join(columns)} (task.data.columns). {hint}")
            named[name] = row[found]
        try:
            example = self.read(named)
        except ValueError as error:
            raise UserError(f"{where}, row {number}: {error}") from error
        return {"id": str(named["id"]) if "id" in named else str(number), **example}


@dataclass(frozen=True)
class LearntTask(Task):
    """A task that a task module learns from labels. It owns a head."""

    labels_on: ClassVar[str] = "words"
    """What an example's labels belong to: whole `texts`, which keep them when they are translated; `spans` of them, which have
    to be found again in a translation; or `words`."""

    def draw_evaluation(self, experiment: Experiment, language: Language) -> EvaluationStep:
        return experiment.transfer.draw(experiment, language)

    def check_source(self, source: Task) -> None:
        """Refuse labels that do not mean what this task's mean.

        Raises:
            UserError: another kind of task, or other labels.
        """
        if type(source) is not type(self):
            raise UserError(f"source_task={source.name} is of another kind than task={self.name}.")
        ours, theirs = getattr(self, "labels", None), getattr(source, "labels", None)
        if ours != theirs:
            raise UserError(
                f"source_task={source.name} has the labels {', '.join(theirs)}, and task={self.name} has {', '.join(ours)}. They "
                "have to be the same, in the same order: map them with +source_task.data.spelling.<label>=<label>."
            )

    # ---- translation

    def spans_of(self, example: Example) -> list[list[Span]]:
        """The labelled spans of each text of `texts_of`, without overlap."""
        return [[] for _ in self.texts_of(example)]

    def translated(self, example: Example, texts: Sequence[str], spans: Sequence[Sequence[Span]], language: Language) -> Example:
        """An example in another language with the same id and labels.

        Args:
            texts: what has become of those of `texts_of`.
            spans: where in them those of `spans_of` are now, in the same order.
            language: of the texts.
        """
        return {**example, **dict(zip(self.inputs, texts, strict=True))}

    # ---- learning and predicting

    @abstractmethod
    def head(self, backbone: Backbone, generator: torch.Generator) -> nn.Module:
        """The head that a task module owns, initialised from `generator`."""

    @abstractmethod
    def encode(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
        """What the model reads of some examples, those of an example together and in the order of the examples.

        An example has at least one row. A row holds `input_ids` (a list), `example` (the number of its example), perhaps
        `token_type_ids`, and what `tensors` and `answers` need.
        """

    def batch(self, rows: Sequence[Row], tokenizer: Any, max_length: int) -> Batch:
        """Tensors for some rows: `input_ids`, `attention_mask` [rows, length], perhaps `token_type_ids`, and the kind's."""
        ids = pad([row["input_ids"] for row in rows], tokenizer.pad_token_id, _LENGTH_STEP, max_length)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = pad([row["token_type_ids"] for row in rows], 0, _LENGTH_STEP, max_length)
        return {**batch, **self.tensors(rows, ids.shape[1])}

    @abstractmethod
    def tensors(self, rows: Sequence[Row], length: int) -> dict[str, torch.Tensor]:
        """The kind's own tensors of a batch, rows first: labels where the examples have them.

        Args:
            length: of the padded rows.
        """

    def count(self, batch: Batch) -> int:
        """How many losses a batch's sum is over."""
        return len(batch["input_ids"])

    @abstractmethod
    def loss(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum of the losses of a batch from the hidden states [rows, length, hidden]."""

    @abstractmethod
    def scores(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """What the head says of each row, rows first. The weighted sum over branches is what `answers` gets."""

    @abstractmethod
    def answers(self, scores: Mapping[str, torch.Tensor], rows: Sequence[Row]) -> list[Any]:
        """What the scores say of each row, as plain data for `join`."""

    def join(self, example: Example, rows: Sequence[Row], answers: Sequence[Any]) -> Prediction:
        """The prediction for an example from the answers of its rows; most kinds have one row."""
        return answers[0]


@dataclass(frozen=True)
class LanguageModelTask(Task):
    """A task that the language model answers as it is, with its language head; no task module learns it."""

    def draw_evaluation(self, experiment: Experiment, language: Language) -> EvaluationStep:
        examples = experiment.examples(self, language, self.needs, "the task")
        module = experiment.language_module(language)
        return experiment.evaluation_step(self, language, module, (), examples)

    @property
    def needs(self) -> tuple[str, ...]:
        """The splits that it reads."""
        return ("test",)

    @abstractmethod
    def predict(
        self, backbone: Backbone, examples: Sequence[Example], max_length: int, read: Callable[[str], list[Example]]
    ) -> list[Prediction]:
        """A prediction for each example.

        Args:
            backbone: with its language head and the language module, in evaluation mode and on its device.
            read: the examples of another split.
        """


def check_labels(labels: Sequence[str], where: str) -> None:
    """Refuse labels that are no choice between some.

    Raises:
        UserError: fewer than two, or one of them twice.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise UserError(f"{where}.labels={list(labels)} has to name at least two labels, each once.")


def _told_apart(examples: list[Example]) -> list[Example]:
    seen: Counter[str] = Counter()
    result = []
    for example in examples:
        seen[example["id"]] += 1
        times = seen[example["id"]]
        result.append(example if times == 1 else {**example, "id": f"{example['id']}#{times}"})
    return result
