"""How steps train: one call that audits, tracks, runs the loop and keeps what it reports, for every kind of module."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.steps.audit import announce
from xlt.steps.base import Workbench
from xlt.training.batches import Batches
from xlt.training.loop import Trainer
from xlt.training.objectives import LanguageModelling, Objective
from xlt.training.packing import TokenFile
from xlt.training.settings import LanguageTraining, LoopSettings


def run_loop(
    bench: Workbench,
    title: str,
    backbone: Backbone,
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    objective: Objective,
    batches: Batches,
    evaluate: Callable[[], dict[str, float]],
    metric: tuple[str, bool],
    settings: LoopSettings,
    seed: int,
    tokens_per_example: float,
    language_head: bool,
) -> None:
    """Train `parameters` to the end and leave the best in place; write `training.json`, and its figures into the summary.

    Args:
        model: everything that has a training mode, the backbone included.
        tokens_per_example: on average, for the estimate.
        language_head: whether the loss goes through the language head, for the estimate.
        The others: see `xlt.training.loop.Trainer`.
    """
    runtime = bench.runtime
    announce(title, backbone, parameters, settings, batches.size, tokens_per_example, runtime, language_head)
    runtime.tracker.start(title, {**settings.__dict__, "seed": seed}, runtime.tracker_folder)
    trainer = Trainer(
        model=model,
        parameters=parameters,
        objective=objective,
        batches=batches,
        evaluate=evaluate,
        metric=metric,
        settings=settings,
        seed=seed,
        device=runtime.device,
        checkpoint=bench.checkpoint,
        title=title,
        resume_command=runtime.command,
        track=runtime.tracker.log,
        penalties=[module.penalty for module in backbone.modules],
    )
    try:
        result = trainer.train().summary()
    finally:
        runtime.tracker.finish()
    (bench.folder / "training.json").write_text(json.dumps(result, indent=1))
    bench.summary.update(
        {key: result[key] for key in ("best", "best_step", "steps", "seconds", "seconds_per_step", "tokens")},
        trainable_parameters=sum(parameter.numel() for parameter in parameters.values()),
    )


def train_language_model(
    bench: Workbench,
    title: str,
    backbone: Backbone,
    parameters: dict[str, nn.Parameter],
    token_folders: Sequence[Path],
    training: LanguageTraining,
    seed: int,
) -> None:
    """Train `parameters` by the backbone's pretraining objective on token artifacts.

    Where there are several artifacts their examples are joined, so each weighs by its size.
    """
    train = JoinedTokens([TokenFile(folder, "train") for folder in token_folders])
    validation = JoinedTokens([TokenFile(folder, "validation") for folder in token_folders])
    objective = LanguageModelling(backbone, training)
    settings = training.loop
    rows = settings.micro_batch_size or settings.batch_size
    run_loop(
        bench,
        title,
        backbone,
        model=backbone.model,
        parameters=parameters,
        objective=objective,
        batches=Batches(len(train), settings.batch_size, seed, partial(objective.make, train)),
        evaluate=lambda: objective.evaluate(validation, rows, bench.runtime.device),
        metric=("loss", False),
        settings=settings,
        seed=seed,
        tokens_per_example=train.tokens / len(train),
        language_head=True,
    )


class JoinedTokens:
    """Several token files as one, taking an example of each in turn, so that the first N hold all of them."""

    def __init__(self, files: list[TokenFile]) -> None:
        self._files = files
        of_file = np.concatenate([np.full(len(file), number) for number, file in enumerate(files)])
        inside = np.concatenate([np.arange(len(file)) for file in files])
        in_turn = np.argsort(inside, kind="stable")
        self._of_file, self._inside = of_file[in_turn], inside[in_turn]

    def __len__(self) -> int:
        return len(self._inside)

    def __getitem__(self, index: int) -> Any:
        return self._files[self._of_file[index]][self._inside[index]]

    @property
    def tokens(self) -> int:
        """All ids of the files together."""
        return sum(file.tokens for file in self._files)
