"""One label for a whole text: topics (SIB-200), sentiment, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from xlt.analysis.classification import accuracy, confusion, macro_f1
from xlt.backbones.backbone import Backbone
from xlt.backbones.heads import ClassificationHead, usual_pooling
from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.tasks.base import Example, Task
from xlt.training.batches import Batch, pad

_LENGTH_STEP = 32


@dataclass(frozen=True)
class SequenceClassification(Task):
    """A text in, one of `labels` out.

    Attributes:
        labels: the label names as the data set spells them, in the order that fixes their indices everywhere.
        pooling: what the head reads: the vector of the `first` token, of the `last`, or the `mean` over all tokens. None:
            first for encoders (as the papers' heads), last for decoders.
    """

    hub_type: ClassVar[str] = "text-classification"

    labels: list[str] = field(default_factory=list)
    pooling: str | None = setting(None, one_of=("first", "last", "mean"), neutral=True)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise UserError(f"{where}.labels={list(self.labels)} has to name at least two labels, each once.")
        if self.metric not in ("macro_f1", "accuracy"):
            hint = suggest(self.metric, ["macro_f1", "accuracy"], "choices")
            raise UserError(f"{where}.metric={self.metric} is no choice. {hint}")
        for name in ("text", "label"):
            if name not in self.data.columns:
                raise UserError(f"{where}.data.columns has to name the column of the {name}.")

    def read(self, row: dict[str, Any]) -> Example:
        label, text = str(row["label"]), row["text"]
        if label not in self.labels:
            raise ValueError(f"the label {label!r} is none of the declared ones (task.labels: {', '.join(self.labels)}).")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"there is no text in it: {text!r}.")
        return {"text": text, "label": label}

    def head(self, backbone: Backbone, generator: torch.Generator) -> ClassificationHead:
        config = backbone.config
        dropout = getattr(config, "hidden_dropout_prob", 0.0)
        head = ClassificationHead(config.hidden_size, len(self.labels), dropout, self.pooling or usual_pooling(backbone))
        # mBART and M2M100 call it init_std.
        deviation = config.initializer_range if hasattr(config, "initializer_range") else config.init_std
        with torch.no_grad():
            for parameter in head.parameters():
                if parameter.ndim == 1:
                    parameter.zero_()
                else:
                    parameter.normal_(0, deviation, generator=generator)
        return head

    def batch(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> Batch:
        rows = tokenizer([example["text"] for example in examples], truncation=True, max_length=max_length)["input_ids"]
        ids = pad(rows, tokenizer.pad_token_id, _LENGTH_STEP)[:, :max_length]
        lengths = torch.tensor([len(row) for row in rows])
        batch = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}
        if "label" in examples[0]:
            batch["labels"] = torch.tensor([self.labels.index(example["label"]) for example in examples])
        return batch

    def loss(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy(head(hidden, batch["attention_mask"]).float(), batch["labels"], reduction="sum")

    def predictions(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        probabilities = head(hidden, batch["attention_mask"]).float().softmax(dim=-1).cpu()
        return [
            {"label": self.labels[int(row.argmax())], "probabilities": dict(zip(self.labels, row.tolist(), strict=True))}
            for row in probabilities
        ]

    def gold(self, example: Example) -> str:
        return example["label"]

    def score(self, gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
        """Accuracy, and F1 averaged over the labels that occur in gold or predictions, each counting alike."""
        scores = self.resampled_scores(gold, predicted, np.arange(len(gold))[None])
        return {name: float(values[0]) for name, values in scores.items()}

    def resampled_scores(self, gold: Sequence[str], predicted: Sequence[str], draws: np.ndarray) -> dict[str, np.ndarray]:
        counts = confusion(gold, predicted, draws)
        return {"macro_f1": macro_f1(counts), "accuracy": accuracy(counts)}
