"""Language module: what a method learns from a language's tokens, by the backbone's own pretraining objective."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.config import identity
from xlt.languages import Language
from xlt.methods.base import Method
from xlt.random import derive_seed, generator
from xlt.steps.audit import announce, count_trainable, estimate_training
from xlt.steps.backbone import BackboneStep
from xlt.steps.base import Estimate, Step, Workbench
from xlt.training.batches import Batches
from xlt.training.loop import Trainer
from xlt.training.objectives import LanguageModelling
from xlt.training.packing import TokenFile
from xlt.training.settings import LanguageTraining


@dataclass(frozen=True)
class LanguageModuleStep(Step):
    """Trains a module on one or more token artifacts, the backbone frozen unless the method trains it.

    Files: the module in its method's format, `training.json`.
    """

    kind: ClassVar[str] = "language_module"

    method: Method
    language: Language
    backbone: BackboneStep
    tokens: tuple[Step, ...]
    training: LanguageTraining
    seed: int

    @property
    def label(self) -> str:
        return f"{self.backbone.label}-{self.method.name}-{'+'.join(step.text.label for step in self.tokens)}"

    def fields(self) -> dict[str, Any]:
        training = identity(self.training)
        return {"method": identity(self.method), "train": {"language": training}, "language": {"seed": self.seed}}

    def inputs(self) -> dict[str, Step]:
        tokens = {f"tokens{index or ''}": step for index, step in enumerate(self.tokens)}
        return {"backbone": self.backbone, **tokens}

    def build(self, bench: Workbench) -> None:
        device = bench.runtime.device
        backbone = self.backbone.open(bench.inputs["backbone"], language_head=True)
        module = self.method.create(backbone, generator(self.seed, "language module"), language_head=True)
        backbone.model.to(device)
        folders = [bench.inputs[role].folder for role in self.inputs() if role != "backbone"]
        train_language_model(
            backbone, module.parameters(), folders, self.training, derive_seed(self.seed, "language module"), bench, self.label
        )
        module.save(bench.folder)

    def estimate(self) -> Estimate:
        count = partial(count_trainable, self.method)
        return estimate_training(self.backbone, count, self.training.loop, None, self.training.length, language_head=True)


def train_language_model(
    backbone: Backbone,
    parameters: dict[str, nn.Parameter],
    token_folders: list[Any],
    training: LanguageTraining,
    seed: int,
    bench: Workbench,
    title: str,
) -> None:
    """Train `parameters` by the backbone's pretraining objective on token artifacts; write `training.json`.

    Where there are several artifacts their examples are joined, so each weighs by its size.
    """
    train = _Joined([TokenFile(folder, "train") for folder in token_folders])
    validation = _Joined([TokenFile(folder, "validation") for folder in token_folders])
    objective = LanguageModelling(backbone, training)
    settings, runtime = training.loop, bench.runtime
    announce(title, backbone, parameters, settings, len(train), train.tokens / len(train), runtime, language_head=True)
    runtime.tracker.start(title, {"train": identity(training), "seed": seed}, runtime.tracker_folder)
    trainer = Trainer(
        model=backbone.model,
        parameters=parameters,
        objective=objective,
        batches=Batches(len(train), settings.batch_size, seed, partial(objective.make, train)),
        evaluate=lambda: objective.evaluate(validation, settings.micro_batch_size or settings.batch_size, runtime.device),
        metric=("loss", False),
        settings=settings,
        seed=seed,
        device=runtime.device,
        checkpoint=bench.checkpoint,
        title=title,
        resume_command=runtime.command,
        track=runtime.tracker.log,
    )
    try:
        result = trainer.train()
    finally:
        runtime.tracker.finish()
    write_training(bench, result.summary(), sum(p.numel() for p in parameters.values()))


def write_training(bench: Workbench, result: dict[str, Any], trainable: int) -> None:
    """Keep what a loop reports: all of it in `training.json`, the figures of the record in the summary."""
    (bench.folder / "training.json").write_text(json.dumps(result, indent=1))
    bench.summary.update(
        {key: result[key] for key in ("best", "best_step", "steps", "seconds", "seconds_per_step", "tokens")},
        trainable_parameters=trainable,
    )


class _Joined:
    """Several token files as one, taking an example of each in turn, so that the first N hold all of them."""

    def __init__(self, files: list[TokenFile]) -> None:
        self._files = files
        of_file = np.concatenate([np.full(len(file), number) for number, file in enumerate(files)])
        inside = np.concatenate([np.arange(len(file)) for file in files])
        in_turn = np.argsort(inside, kind="stable")
        self._of_file, self._inside = of_file[in_turn], inside[in_turn]

    def __len__(self) -> int:
        return len(self._inside)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._files[self._of_file[index]][self._inside[index]]

    @property
    def tokens(self) -> int:
        return sum(file.tokens for file in self._files)
