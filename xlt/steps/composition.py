"""Composition: what is trained on labels and what is evaluated. The backbone, the language module, the task module on top,
and its head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.methods.base import Module
from xlt.tasks.base import Example, Task
from xlt.training.batches import Batch
from xlt.training.objectives import to_device

_HEAD = "head.safetensors"


class Composition:
    """A backbone with its modules and a task's head, on one device.

    Attributes:
        backbone: with the modules attached, in their order.
        head: the task's head.
        task: the kind of task, which knows how to make batches, losses and predictions.
        max_length: tokens of an example at most.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, task: Task, max_length: int, device: torch.device) -> None:
        self.backbone = backbone
        self.head = head.to(device)
        self.task = task
        self.max_length = max_length
        self.device = device
        self.model = nn.ModuleList([backbone.model.to(device), self.head])

    def make(self, examples: Sequence[Example], indices: Sequence[int], draw: torch.Generator) -> Batch:
        """The batch of some examples (nothing is drawn for it)."""
        return self.task.batch([examples[index] for index in indices], self.backbone.tokenizer, self.max_length)

    def count(self, batch: Batch) -> int:
        """Losses in a batch: one an example."""
        return len(batch["input_ids"])

    def loss(self, batch: Batch, device: torch.device) -> torch.Tensor:
        """The sum of the examples' losses."""
        batch, hidden = self._run(batch)
        return self.task.loss(self.head, hidden, batch)

    @torch.no_grad()
    def predict(self, examples: Sequence[Example], batch_size: int = 64) -> list[dict[str, Any]]:
        """A prediction for each example, in their order. Texts of similar length share a batch."""
        self.model.eval()
        order = sorted(range(len(examples)), key=lambda index: -len(str(examples[index])))
        result: list[dict[str, Any]] = [{}] * len(examples)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch, hidden = self._run(self.task.batch([examples[i] for i in chosen], self.backbone.tokenizer, self.max_length))
            for index, prediction in zip(chosen, self.task.predictions(self.head, hidden, batch), strict=True):
                result[index] = prediction
        return result

    def score(self, examples: Sequence[Example], batch_size: int = 64) -> dict[str, float]:
        """The task's metrics on labelled examples."""
        predicted = [prediction["label"] for prediction in self.predict(examples, batch_size)]
        return self.task.score([self.task.gold(example) for example in examples], predicted)

    def _run(self, batch: Batch) -> tuple[Batch, torch.Tensor]:
        batch = {name: to_device(tensor, self.device) for name, tensor in batch.items()}
        return batch, self.backbone.hidden_states(batch["input_ids"], batch["attention_mask"])


def save_task_module(folder: Path, module: Module, head: nn.Module) -> None:
    """Write a task module with its head."""
    module.save(folder)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}, folder / _HEAD)


def load_head(folder: Path, head: nn.Module) -> nn.Module:
    """Fill a head with the weights that `save_task_module` wrote."""
    head.load_state_dict(load_file(folder / _HEAD))
    return head
