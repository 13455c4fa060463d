"""One label for a whole text: topics (SIB-200), sentiment, …; or for a pair of texts: entailment (XNLI, AmericasNLI)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from xlt.analysis.classification import accuracy, confusion_counts, macro_f1
from xlt.backbones.backbone import Backbone
from xlt.backbones.heads import ClassificationHead, initialise, usual_pooling
from xlt.config import setting
from xlt.tasks.base import Example, LearntTask, Prediction, Row, check_labels
from xlt.training.batches import Batch


@dataclass(frozen=True)
class SequenceClassification(LearntTask):
    """A text in, one of `labels` out.

    Attributes:
        labels: the label names, in the order that fixes their indices everywhere.
        pooling: what the head reads: the vector of the `first` token, of the `last`, or the `mean` over all tokens. None:
            first for encoders (as the papers' heads), last for decoders.
    """

    hub_type: ClassVar[str] = "text-classification"
    known_metrics: ClassVar[tuple[str, ...]] = ("macro_f1", "accuracy")
    fields_read: ClassVar[tuple[str, ...]] = ("text", "label")
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    not_of_examples: ClassVar[tuple[str, ...]] = (*LearntTask.not_of_examples, "pooling")
    labels_on: ClassVar[str] = "texts"

    labels: list[str] = field(default_factory=list)
    pooling: str | None = setting(None, one_of=("first", "last", "mean"), neutral=True)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        check_labels(self.labels, where)
        super().verify(where)

    def read(self, row: dict[str, Any]) -> Example:
        label = self.data.spelled(row["label"])
        if label not in self.labels:
            raise ValueError(f"the label {label!r} is none of the declared ones (task.labels: {', '.join(self.labels)}).")
        for name in self.inputs:
            if not isinstance(row[name], str):
                raise ValueError(f"there is no {name} in it: {row[name]!r}.")
        if not any(row[name].strip() for name in self.inputs):  # of a pair one may be empty: a premise of AmericasNLI is
            raise ValueError(f"there is no {' and no '.join(self.inputs)} in it.")
        return {**{name: row[name] for name in self.inputs}, "label": label}

    def head(self, backbone: Backbone, generator: torch.Generator) -> ClassificationHead:
        config = backbone.config
        dropout = getattr(config, "hidden_dropout_prob", 0.0)
        head = ClassificationHead(config.hidden_size, len(self.labels), dropout, self.pooling or usual_pooling(backbone))
        return initialise(head, backbone, generator)

    def encode(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
        texts = [[example[name] for example in examples] for name in self.inputs]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length)
        rows = [{"input_ids": ids, "example": number} for number, ids in enumerate(encoded["input_ids"])]
        if len(texts) > 1 and "token_type_ids" in encoded:
            rows = [{**row, "token_type_ids": kinds} for row, kinds in zip(rows, encoded["token_type_ids"], strict=True)]
        for row, example in zip(rows, examples, strict=True):
            if "label" in example:
                row["label"] = self.labels.index(example["label"])
        return rows

    def tensors(self, rows: Sequence[Row], length: int) -> dict[str, torch.Tensor]:
        return {"labels": torch.tensor([row["label"] for row in rows])} if "label" in rows[0] else {}

    def loss(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy(head(hidden, batch["attention_mask"]).float(), batch["labels"], reduction="sum")

    def scores(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """`labels`: [rows, labels]."""
        return {"labels": head(hidden, batch["attention_mask"]).float()}

    def answers(self, scores: Mapping[str, torch.Tensor], rows: Sequence[Row]) -> list[Prediction]:
        probabilities = scores["labels"].softmax(dim=-1).cpu()
        return [
            {"label": self.labels[int(row.argmax())], "probabilities": dict(zip(self.labels, row.tolist(), strict=True))}
            for row in probabilities
        ]

    def gold(self, example: Example) -> str:
        return example["label"]

    def counts(self, gold: Sequence[str], predicted: Sequence[str]) -> np.ndarray:
        """Cells of the confusion matrix."""
        return confusion_counts(gold, predicted, self.labels)

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Accuracy, and F1 averaged over the labels that occur in gold or predictions, each counting alike."""
        matrices = sums.reshape(len(sums), len(self.labels), len(self.labels))
        return {"macro_f1": macro_f1(matrices), "accuracy": accuracy(matrices)}


@dataclass(frozen=True)
class PairClassification(SequenceClassification):
    """A premise and a hypothesis in, one of `labels` out. The longer of the two is cut where they do not fit."""

    fields_read: ClassVar[tuple[str, ...]] = ("premise", "hypothesis", "label")
    inputs: ClassVar[tuple[str, ...]] = ("premise", "hypothesis")
