"""Composition: what is trained on labels and what is evaluated. The backbone, language modules, and one or more branches, each a
task module with its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Composable
from xlt.methods.base import Module
from xlt.tasks.base import Example, LearntTask, Prediction, Row
from xlt.training.batches import Batch
from xlt.training.objectives import to_device

HEAD = "head.safetensors"
_BATCH_SIZE = 64  # rows that are predicted together
_SOURCE = "source"  # of a batch: the number of the language that its rows are in


@dataclass(frozen=True)
class Branch:
    """One way through the backbone.

    Attributes:
        head: what reads its output.
        modules: what is in force; None leaves the backbone as it is.
        weight: of its scores among those of the other branches.
    """

    head: nn.Module
    modules: Composable | None = None
    weight: float = 1.0


class Composition:
    """A backbone with its modules and a task's heads, on one device.

    Attributes:
        backbone: with the modules attached, in their order.
        task: the kind of task, which knows how to make batches, losses and predictions.
        branches: whose weighted scores are the composition's. Training has one.
        sources: what is in force for the batches of each source language; empty where that never changes.
        max_length: tokens of a row at most.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: LearntTask,
        branches: Sequence[Branch],
        max_length: int,
        device: torch.device,
        sources: Sequence[Composable] = (),
    ) -> None:
        self.backbone = backbone
        self.task = task
        self.branches = branches
        self.sources = sources
        self.max_length = max_length
        self.device = device
        self.model = nn.ModuleList([backbone.model.to(device), *(branch.head.to(device) for branch in branches)])

    # ---- training

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """What the model reads of some examples."""
        return self.task.encode(examples, self.backbone.tokenizer, self.max_length)

    def maker(self, rows: Sequence[Row], source: int = 0) -> Callable[[Sequence[int], torch.Generator], Batch]:
        """What makes the batch of some of the rows of a source language (nothing is drawn for it)."""
        return partial(self._make, rows, source)

    def count(self, batch: Batch) -> int:
        """Losses in a batch."""
        return self.task.count(batch)

    def loss(self, batch: Batch, device: torch.device) -> torch.Tensor:
        """The sum of the losses of a batch."""
        if self.sources:
            self.backbone.activate(self.sources[int(batch[_SOURCE][0])])
        batch = self._moved(batch)
        return self.task.loss(self.branches[0].head, self._hidden(batch), batch)

    def score(self, examples: Sequence[Example], source: int = 0, rows: Sequence[Row] | None = None) -> dict[str, float]:
        """The task's metrics on labelled examples of a source language.

        Args:
            rows: what `encode` makes of them, where that has been done.
        """
        if self.sources:
            self.backbone.activate(self.sources[source])
        predicted = [prediction["label"] for prediction in self._predict(examples, rows or self.encode(examples), _BATCH_SIZE)]
        return self.task.score([self.task.gold(example) for example in examples], predicted)

    # ---- evaluation

    def predict(self, examples: Sequence[Example], batch_size: int = _BATCH_SIZE) -> list[Prediction]:
        """A prediction for each example, in their order. Rows of similar length share a batch."""
        return self._predict(examples, self.encode(examples), batch_size)

    @torch.no_grad()
    def _predict(self, examples: Sequence[Example], rows: Sequence[Row], batch_size: int) -> list[Prediction]:
        self.model.eval()
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["input_ids"]))
        answers: list[Any] = [None] * len(rows)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            part = [rows[index] for index in chosen]
            for index, answer in zip(chosen, self.task.answers(self._scores(part), part), strict=True):
                answers[index] = answer
        of_example: list[list[int]] = [[] for _ in examples]
        for index, row in enumerate(rows):
            of_example[row["example"]].append(index)
        return [
            self.task.join(example, [rows[index] for index in indices], [answers[index] for index in indices])
            for example, indices in zip(examples, of_example, strict=True)
        ]

    def _scores(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        batch = self._moved(self.task.batch(rows, self.backbone.tokenizer, self.max_length))
        total: dict[str, torch.Tensor] = {}
        for branch in self.branches:
            if branch.modules is not None:
                self.backbone.activate(branch.modules)
            for name, scores in self.task.scores(branch.head, self._hidden(batch), batch).items():
                weighted = scores if branch.weight == 1 else branch.weight * scores
                total[name] = total[name] + weighted if name in total else weighted
        return total

    def _make(self, rows: Sequence[Row], source: int, indices: Sequence[int], draw: torch.Generator) -> Batch:
        batch = self.task.batch([rows[index] for index in indices], self.backbone.tokenizer, self.max_length)
        return {**batch, _SOURCE: torch.full((len(indices),), source)} if self.sources else batch

    def _moved(self, batch: Batch) -> Batch:
        return {name: to_device(tensor, self.device) for name, tensor in batch.items() if name != _SOURCE}

    def _hidden(self, batch: Batch) -> torch.Tensor:
        kinds = batch.get("token_type_ids")
        return self.backbone.hidden_states(batch["input_ids"], batch["attention_mask"], token_type_ids=kinds)


def save_task_module(folder: Path, module: Module, head: nn.Module) -> None:
    """Write a task module with its head."""
    module.save(folder)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}, folder / HEAD)


def load_head(folder: Path, head: nn.Module) -> nn.Module:
    """Fill a head with the weights that `save_task_module` wrote."""
    head.load_state_dict(load_file(folder / HEAD))
    return head
