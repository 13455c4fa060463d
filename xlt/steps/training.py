"""How steps train: one call that audits, tracks, runs the loop and keeps what it reports, for every kind of module."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.methods.base import Module
from xlt.steps.audit import announce, flops_per_token
from xlt.steps.base import Workbench
from xlt.training.batches import Batches
from xlt.training.checkpoint import load_checkpoint, save_checkpoint
from xlt.training.loop import Trainer
from xlt.training.objectives import LanguageModelling, Objective
from xlt.training.optimizers import adamw
from xlt.training.packing import TokenFile
from xlt.training.settings import LanguageTraining, LoopSettings


def run_loop(
    bench: Workbench,
    title: str,
    model: nn.Module,
    modules: Sequence[Module],
    module: Module | None,
    parameters: dict[str, nn.Parameter],
    objective: Objective,
    batches: Batches,
    evaluate: Callable[[], dict[str, float]],
    metric: tuple[str, bool],
    phases: Sequence[LoopSettings],
    seed: int,
    tokens_per_example: float,
    flops_per_token: Callable[[int], float],
) -> None:
    """Train a module and `parameters` to the end of the last phase and leave the best in place; write `training.json`, and its
    figures into the summary.

    Args:
        model: everything that has a training mode, the backbone included.
        modules: that are attached to it.
        module: the one of them that is trained; None where `parameters` are all that is trained.
        parameters: what is trained along with the module; in each phase from the values that they have now.
        phases: how each is trained; see `Method.phases`.
        tokens_per_example: on average, for the estimate.
        flops_per_token: from the number of trainable parameters, for the estimate.
        The others: see `xlt.training.loop.Trainer`.
    """
    runtime = bench.runtime
    initial = {name: parameter.detach().clone() for name, parameter in parameters.items()} if len(phases) > 1 else {}
    results: list[dict[str, Any]] = []
    kept: dict[str, torch.Tensor] = {}
    for phase, settings in enumerate(phases):
        is_last = phase == len(phases) - 1
        checkpoint = bench.checkpoint if is_last else bench.checkpoint / f"phase{phase + 1}"
        if (done := load_checkpoint(checkpoint)) and "kept" in done:
            kept = done["kept"]
            results.append(done["result"])
            continue
        if module is not None:
            module.begin(phase, kept)
        with torch.no_grad():
            for name, value in initial.items():
                parameters[name].copy_(value)
        trained = {**(module.parameters() if module is not None else {}), **parameters}
        name = title if len(phases) == 1 else f"{title}, phase {phase + 1} of {len(phases)}"
        announce(name, model, modules, trained, settings, batches.size, tokens_per_example, runtime, flops_per_token)
        runtime.tracker.start(name, {**settings.__dict__, "seed": seed}, runtime.tracker_folder)
        trainer = Trainer(
            model=model,
            parameters=trained,
            objective=objective,
            batches=batches,
            evaluate=evaluate,
            metric=metric,
            settings=settings,
            seed=seed,
            device=runtime.device,
            checkpoint=checkpoint,
            title=name,
            resume_command=runtime.command,
            track=runtime.tracker.log,
            penalties=[attached.penalty for attached in modules],
            optimizer=module.optimizer(phase) if module is not None else adamw,
        )
        try:
            results.append(trainer.train().summary())
        finally:
            runtime.tracker.finish()
        kept = module.end(phase) if module is not None else {}
        if not is_last:
            save_checkpoint(checkpoint, {"kept": kept, "result": results[-1]})
    last = results[-1]
    (bench.folder / "training.json").write_text(json.dumps(last if len(results) == 1 else {**last, "phases": results}, indent=1))
    bench.summary.update(
        {key: last[key] for key in ("best", "best_step", "seconds_per_step")},
        **{key: sum(result[key] for result in results) for key in ("steps", "seconds", "tokens")},
        trainable_parameters=sum(parameter.numel() for parameter in trained.values()),
    )


def train_language_model(
    bench: Workbench,
    title: str,
    backbone: Backbone,
    module: Module | None,
    parameters: dict[str, nn.Parameter],
    token_folders: Sequence[Path],
    training: LanguageTraining,
    phases: Sequence[LoopSettings],
    seed: int,
) -> None:
    """Train a module, or `parameters`, by the backbone's pretraining objective on token artifacts.

    Where there are several artifacts their examples are joined, so each weighs by its size.
    """
    train = JoinedTokens([TokenFile(folder, "train") for folder in token_folders])
    validation = JoinedTokens([TokenFile(folder, "validation") for folder in token_folders])
    objective = LanguageModelling(backbone, training)
    settings = training.loop
    rows = settings.micro_batch_size or settings.batch_size
    length = train.tokens / len(train)
    run_loop(
        bench,
        title,
        model=backbone.model,
        modules=backbone.modules,
        module=module,
        parameters=parameters,
        objective=objective,
        batches=Batches(len(train), settings.batch_size, seed, partial(objective.make, train)),
        evaluate=lambda: objective.evaluate(validation, rows, bench.runtime.device),
        metric=("loss", False),
        phases=phases,
        seed=seed,
        tokens_per_example=length,
        flops_per_token=partial(flops_per_token, backbone, length, True),
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
