"""The one training loop: language modules, task modules and backbones from scratch all run through `train`.

What differs is passed in: the batches, the objective, what is trainable, how to evaluate. Everything that is drawn in
step t is drawn from generators named by t, so a run that was killed and resumed equals one that was not, bit for bit
(on a CPU, for the same number of threads).
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from xlt.errors import Interrupted, UserError
from xlt.random import derive_seed
from xlt.training.batches import Batch, Batches
from xlt.training.checkpoint import load_checkpoint, save_checkpoint
from xlt.training.objectives import Objective
from xlt.training.optimizers import MakeOptimizer, adamw
from xlt.training.settings import LoopSettings

log = logging.getLogger(__name__)

_REPORT_EVERY = 20  # steps between readings of the loss: each makes the host wait for the device
_SCHEDULES = {"constant": "constant_with_warmup"}  # where transformers calls them otherwise
_CURVE_POINTS = 200  # of the training loss, kept in the result


@dataclass
class TrainingResult:
    """What a loop reports.

    Attributes:
        best: the metrics of the evaluation whose parameters were kept.
        best_step: the steps done at that evaluation.
        evaluations: all evaluations, each with its `step`.
        curve: (step, training loss) pairs.
        steps, seconds, tokens: done in all, over every process that worked on it.
    """

    best: dict[str, float]
    best_step: int
    evaluations: list[dict[str, float]]
    curve: list[tuple[int, float]]
    steps: int
    seconds: float
    tokens: int

    def summary(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            **self.__dict__,
            "curve": [list(point) for point in self.curve],
            "seconds_per_step": self.seconds / max(self.steps, 1),
        }


@dataclass
class _Progress:
    """The part of the loop's state that is neither parameters nor optimiser."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    loss_sum: float = 0.0  # since the last report
    loss_steps: int = 0
    best_step: int = -1
    best: dict[str, float] = field(default_factory=dict)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)


@dataclass
class Trainer:
    """One run of the loop.

    Attributes:
        model: everything that has a training mode; its parameters that require gradients are the ones given, or pass
            theirs on to them.
        parameters: what is trained, by name.
        objective: what is minimised.
        batches: the training batches.
        evaluate: the metrics on validation data; called with the model in evaluation mode.
        metric: the metric by which the best parameters are chosen, and whether more of it is better.
        settings: how to train.
        seed: names everything that is drawn in a step (dropout).
        device: where to train.
        checkpoint: folder of the state that survives a kill.
        title: for the progress bar.
        resume_command: what to type after an interruption.
        track: receives metrics and the step.
        penalties: what is added to the loss of each step, once a batch: scalars, or None for nothing.
        optimizer: makes what turns gradients into steps. Its state is part of the checkpoint.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    objective: Objective
    batches: Batches
    evaluate: Callable[[], dict[str, float]]
    metric: tuple[str, bool]
    settings: LoopSettings
    seed: int
    device: torch.device
    checkpoint: Path
    title: str
    resume_command: str = "the same command"
    track: Callable[[dict[str, float], int], None] = lambda metrics, step: None
    penalties: Sequence[Callable[[], torch.Tensor | None]] = ()
    optimizer: MakeOptimizer = adamw

    def train(self) -> TrainingResult:
        """Train to the end, and leave the best parameters in place.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state has been saved.
            UserError: the loss is not finite, or the memory does not hold even one example.
        """
        from transformers import get_scheduler  # imports peft, which takes seconds

        settings = self.settings
        total = settings.total_steps(self.batches.size)
        interval = settings.steps_between_evaluations(self.batches.size)
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier loop's precision would stay in force
        accelerator = Accelerator(mixed_precision="no" if settings.precision == "fp32" else "bf16", cpu=self.device.type == "cpu")
        optimizer = accelerator.prepare_optimizer(self._optimizer())
        scheduler = get_scheduler(
            _SCHEDULES.get(settings.schedule, settings.schedule), optimizer.optimizer, round(settings.warmup * total), total
        )
        progress, best_parameters = self._resume(optimizer, scheduler)
        steps = range(progress.step, total)
        loader = DataLoader(self.batches, batch_size=None, sampler=steps, num_workers=settings.workers)
        self._micro_batch = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
        losses = torch.tensor(progress.loss_sum, device=self.device)
        since_checkpoint = time.monotonic()
        started = time.monotonic() - progress.seconds
        pause = 0.5 if sys.stderr.isatty() else 30.0  # seconds between lines; a log file wants few
        bar = tqdm(total=total, initial=progress.step, desc=self.title, unit="step", dynamic_ncols=True, mininterval=pause)
        with bar, _interruptible() as interruption:
            self.model.train()
            for batch in loader:
                torch.manual_seed(derive_seed(self.seed, "dropout", progress.step))
                losses += self._step(batch, accelerator, optimizer)
                scheduler.step()
                progress.step += 1
                progress.tokens += int(batch["attention_mask"].sum())
                progress.loss_steps += 1
                bar.update()
                if progress.loss_steps == _REPORT_EVERY or progress.step == total:
                    self._report(progress, float(losses) / progress.loss_steps, bar, scheduler, time.monotonic() - started)
                    losses.zero_()
                    progress.loss_steps = 0
                if progress.step % interval == 0 or progress.step == total:
                    best_parameters = self._evaluate(progress, best_parameters, bar)
                due = time.monotonic() - since_checkpoint >= settings.checkpoint_seconds
                if due or interruption.requested:
                    progress.seconds, progress.loss_sum = time.monotonic() - started, float(losses)
                    self._save(progress, best_parameters, optimizer, scheduler)
                    since_checkpoint = time.monotonic()
                if interruption.requested:
                    raise Interrupted(
                        f"Stopped at step {progress.step:,} of {total:,}; the state is saved. "
                        f"To go on from there: {self.resume_command}"
                    )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(best_parameters[name])
        self.model.eval()
        return TrainingResult(
            best=progress.best, best_step=progress.best_step, evaluations=progress.evaluations,
            curve=[(int(step), loss) for step, loss in progress.curve[:: max(1, len(progress.curve) // _CURVE_POINTS)]],
            steps=total, seconds=time.monotonic() - started, tokens=progress.tokens,
        )  # fmt: skip

    def _optimizer(self) -> torch.optim.Optimizer:
        decayed = [parameter for parameter in self.parameters.values() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters.values() if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return self.optimizer([group for group in groups if group["params"]], self.settings.learning_rate)

    def _step(self, batch: Batch, accelerator: Accelerator, optimizer: Any) -> torch.Tensor:
        """One optimiser step; returns the mean loss of the batch, still on the device."""
        count = max(self.objective.count(batch), 1)
        while True:
            try:
                loss = torch.zeros((), device=self.device)
                rows = len(batch["input_ids"])
                for start in range(0, rows, self._micro_batch):
                    part = {name: tensor[start : start + self._micro_batch] for name, tensor in batch.items()}
                    with accelerator.autocast():
                        part_loss = self.objective.loss(part, self.device) / count
                    accelerator.backward(part_loss)
                    loss += part_loss.detach()
                for penalty in self.penalties:
                    if (value := penalty()) is not None:
                        accelerator.backward(value)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                optimizer.zero_grad()
                self._shrink_micro_batch(error)
        if self.settings.clip_norm is not None:
            accelerator.clip_grad_norm_(list(self.parameters.values()), self.settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    def _shrink_micro_batch(self, error: Exception) -> None:
        if self._micro_batch == 1:
            raise UserError(
                "The memory does not hold even one example of this length. Shorten the examples "
                "(train.language.length or task.max_length) or take a smaller model."
            ) from error
        self._micro_batch = -(-self._micro_batch // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "Out of memory: going on with %d examples at a time. The batch, and so the result, stays at %d; "
            "micro_batch_size=%d in the loop's settings avoids this message.",
            self._micro_batch, self.settings.batch_size, self._micro_batch,
        )  # fmt: skip

    def _report(self, progress: _Progress, loss: float, bar: tqdm, scheduler: Any, seconds: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"The training loss became {loss} before step {progress.step:,} of {self.title}. Lower the learning rate (now "
                f"{self.settings.learning_rate:g}), or use precision=fp32 if it is bf16."
            )
        speed = progress.tokens / max(seconds, 1e-9)
        progress.curve.append([progress.step, loss])
        bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
        self.track({"loss": loss, "learning_rate": scheduler.get_last_lr()[0], "tokens_per_second": speed}, progress.step)

    def _evaluate(
        self, progress: _Progress, best_parameters: dict[str, torch.Tensor] | None, bar: tqdm
    ) -> dict[str, torch.Tensor]:
        self.model.eval()
        metrics = self.evaluate()
        self.model.train()
        name, more_is_better = self.metric
        progress.evaluations.append({"step": progress.step, **metrics})
        self.track({f"validation/{key}": value for key, value in metrics.items()}, progress.step)
        better = not progress.best or math.isnan(progress.best[name])
        better = better or (metrics[name] > progress.best[name] if more_is_better else metrics[name] < progress.best[name])
        if not better:
            return best_parameters
        progress.best, progress.best_step = metrics, progress.step
        return {key: parameter.detach().cpu().clone() for key, parameter in self.parameters.items()}

    def _save(self, progress: _Progress, best_parameters: dict[str, torch.Tensor] | None, optimizer: Any, scheduler: Any) -> None:
        save_checkpoint(
            self.checkpoint,
            {
                "progress": dict(progress.__dict__),
                "parameters": {name: parameter.detach().cpu() for name, parameter in self.parameters.items()},
                "best_parameters": best_parameters,
                "optimizer": optimizer.state_dict(),
                "learning_rate": scheduler.state_dict(),
            },
        )

    def _resume(self, optimizer: Any, scheduler: Any) -> tuple[_Progress, dict[str, torch.Tensor] | None]:
        state = load_checkpoint(self.checkpoint)
        if state is None:
            return _Progress(), None
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][name])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["learning_rate"])
        progress = _Progress(**state["progress"])
        log.info("%s: going on from step %s", self.title, f"{progress.step:,}")
        return progress, state["best_parameters"]


class _Interruption:
    requested = False


@contextmanager
def _interruptible() -> Iterator[_Interruption]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop meets between steps; a second one stops at once."""
    interruption = _Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def request(number: int, frame: Any) -> None:
        if interruption.requested:
            raise KeyboardInterrupt
        interruption.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
