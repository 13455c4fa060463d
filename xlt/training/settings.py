"""The settings of training: one dataclass for every loop, so that language and task modules are set in the same words."""

from __future__ import annotations

from dataclasses import dataclass, field

from xlt.config import setting
from xlt.errors import UserError


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast a loop trains.

    Attributes:
        steps: optimiser steps; None where `epochs` says it.
        epochs: passes over the training data; None where `steps` says it.
        min_steps, max_steps: bounds of what `epochs` come to; None: none.
        batch_size: examples in an optimiser step.
        learning_rate: peak of the schedule.
        weight_decay: AdamW's decoupled decay, on matrices alone.
        warmup: share of the steps over which the learning rate rises from 0.
        schedule: what the learning rate does after that; linear and cosine end at 0.
        clip_norm: largest norm of the gradient of all trained parameters together; None does not clip.
        precision: of the forward and backward pass; parameters are kept in fp32.
        evaluate_every: steps between evaluations; None evaluates once an epoch.
        micro_batch_size: examples in one forward pass; None takes the whole batch, and less where memory runs out. The
            gradient is the same.
        checkpoint_seconds: time between checkpoints from which a killed run resumes.
        workers: processes that prepare batches; 0 prepares them in the training process.
    """

    steps: int | None = setting(None, at_least=1)
    epochs: float | None = setting(None, above=0)
    min_steps: int | None = setting(None, at_least=1, neutral=True)
    max_steps: int | None = setting(None, at_least=1, neutral=True)
    batch_size: int = setting(16, at_least=1)
    learning_rate: float = setting(1e-4, above=0)
    weight_decay: float = setting(0.0, at_least=0)
    warmup: float = setting(0.0, at_least=0, at_most=1)
    schedule: str = setting("linear", one_of=("linear", "cosine", "constant"))
    clip_norm: float | None = setting(1.0, above=0)
    precision: str = setting("fp32", one_of=("fp32", "bf16"))
    evaluate_every: int | None = setting(None, at_least=1)
    micro_batch_size: int | None = setting(None, at_least=1, identity=False)
    checkpoint_seconds: float = setting(300.0, at_least=0, identity=False)
    workers: int = setting(0, at_least=0, identity=False)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if (self.steps is None) == (self.epochs is None):
            raise UserError(
                f"{where} needs either steps or epochs, and not both: found steps={self.steps}, epochs={self.epochs}. Set the "
                "other one to null."
            )
        if self.steps is not None and (self.min_steps, self.max_steps) != (None, None):
            raise UserError(f"{where}.min_steps and max_steps are bounds of what epochs come to; with steps they say nothing.")
        if None not in (self.min_steps, self.max_steps) and self.min_steps > self.max_steps:
            raise UserError(f"{where}.min_steps={self.min_steps} is above {where}.max_steps={self.max_steps}.")

    def total_steps(self, examples: int) -> int:
        """Optimiser steps of the whole loop over `examples` training examples."""
        if self.steps is not None:
            return self.steps
        steps = max(self.min_steps or 1, -(-round(self.epochs * examples) // self.batch_size))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def steps_between_evaluations(self, examples: int) -> int:
        """Optimiser steps from one evaluation to the next."""
        return self.evaluate_every or max(1, -(-examples // self.batch_size))


@dataclass(frozen=True)
class LanguageTraining:
    """How a language module is trained.

    Attributes:
        layout: `lines` makes each line of text one example, cut at `length`; `packed` joins documents and cuts the stream
            into blocks of exactly `length` tokens.
        length: tokens of an example at most, special ones included; clipped to what the backbone takes.
        masking: `exact` masks round(probability · n) positions of each batch, `bernoulli` each position by chance,
            `whole_words` as many as `exact`, word by word.
        mask_probability: share of the positions that are predicted (masked models).
        validation_examples: how many examples the validation loss is measured on, at most.
        loop: the loop itself.
    """

    layout: str = setting("lines", one_of=("lines", "packed"))
    length: int = setting(512, at_least=8)
    masking: str = setting("exact", one_of=("exact", "bernoulli", "whole_words"))
    mask_probability: float = setting(0.15, above=0, at_most=0.9)
    validation_examples: int = setting(1000, at_least=1)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=100_000, evaluate_every=1000))


@dataclass(frozen=True)
class Training:
    """`train=`: the language module's training and the task module's."""

    language: LanguageTraining = field(default_factory=LanguageTraining)
    task: LoopSettings = field(default_factory=lambda: LoopSettings(epochs=20, batch_size=32))
