"""Sparse modules to test with, trained and shaken, and what their backbone's weights are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, IDS, MASK, hidden_states
from test_transfer import CPU

from xlt.backbones.backbone import Backbone
from xlt.methods.base import Module
from xlt.methods.differences import own_weights
from xlt.methods.selection import largest
from xlt.methods.sparse import NewSparseModule, SparseFineTuning, SparseModule
from xlt.methods.sparse_files import Stored
from xlt.random import generator
from xlt.training.batches import Batch, Batches
from xlt.training.loop import Trainer
from xlt.training.settings import LoopSettings

LT_SFT = SparseFineTuning(name="lt_sft", count=60)
FISHER = SparseFineTuning(name="fish_mask", selection="fisher", count=60)
RANDOM = SparseFineTuning(name="rand_sft", selection="random", count=300)
EVERYTHING = SparseFineTuning(name="everything", selection="random", density=1.0, norms=True)
SETTINGS = LoopSettings(steps=5, batch_size=2, learning_rate=0.01, weight_decay=0.1, clip_norm=0.5, evaluate_every=2)

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


class Squares:
    """What is learnt: hidden states as near to 1 as can be. Each batch is one of the rows of IDS, twice."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def make(self, indices: Sequence[int], draw: torch.Generator) -> Batch:
        rows = [index % len(IDS) for index in indices]
        return {"input_ids": IDS[rows], "attention_mask": MASK[rows]}

    def count(self, batch: Batch) -> int:
        return len(batch["input_ids"])

    def loss(self, batch: Batch, device: torch.device) -> torch.Tensor:
        return (self.backbone.hidden_states(batch["input_ids"], batch["attention_mask"]) - 1).square().mean(dim=(1, 2)).sum()

    def evaluate(self) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(self.loss(self.make(range(3), generator(0)), CPU))}


def batches_of(objective: Squares) -> Batches:
    return Batches(6, 2, 0, objective.make)


def train_phase(backbone: Backbone, module: Module, folder: Path, phase: int = 0, **settings: Any) -> None:
    """A phase that has begun: dropout aside, as the steps train it."""
    objective = Squares(backbone)
    Trainer(
        model=backbone.model, parameters=module.parameters(), objective=objective, batches=batches_of(objective),
        evaluate=objective.evaluate, metric=("loss", False), settings=dataclasses.replace(SETTINGS, **settings), seed=0,
        device=CPU, checkpoint=folder, title="", penalties=[module.penalty], optimizer=module.optimizer(phase),
    ).train()  # fmt: skip
    backbone.model.eval()


def trained(method: SparseFineTuning, backbone: Backbone, folder: Path, seed: int = 0, **settings: Any) -> NewSparseModule:
    """A module after all its phases."""
    module, kept = method.create(backbone, generator(seed)), {}
    for phase, _ in enumerate(method.phases(SETTINGS)):
        module.begin(phase, kept)
        train_phase(backbone, module, folder / str(phase), phase, **settings)
        kept = module.end(phase)
    hidden_states(backbone)  # the best values are in the weights with the next pass
    return module


def values_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in own_weights(backbone).items()}


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit, the sign of zeros included."""
    integers = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    return one.keys() == other.keys() and all(
        torch.equal(one[name].view(integers[one[name].dtype]), other[name].view(integers[one[name].dtype])) for name in one
    )


def shaken(backbone: Backbone, seed: int, count: int = 400) -> SparseModule:
    """A frozen module with large changes in randomly chosen weights."""
    weights = {
        name: weight for name, weight in own_weights(backbone).items() if name.startswith(backbone.model.base_model_prefix)
    }
    draw = generator(seed, "changes")
    scores = {name: torch.rand(weight.numel(), generator=draw) for name, weight in weights.items()}
    chosen = largest(scores, count)
    stored = {
        name: Stored(tuple(weights[name].shape), torch.randn(len(positions), generator=draw), positions)
        for name, positions in chosen.items()
    }
    return SparseModule(backbone, stored, fixed_output_embedding=False)


def overlap(one: SparseModule, other: SparseModule) -> int:
    shared = one.differences.keys() & other.differences.keys()
    return sum(int(torch.isin(one.differences[name].positions, other.differences[name].positions).sum()) for name in shared)
