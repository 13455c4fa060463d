"""Evaluation: the score of a composition on test data. Its artifact is the record of a run."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch

from xlt.analysis.bootstrap import intervals
from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Stack
from xlt.config import identity
from xlt.languages import Language
from xlt.methods.base import Module
from xlt.provenance import surroundings
from xlt.random import derive_seed, generator
from xlt.record import PREDICTIONS, RECORD
from xlt.steps.backbone import BackboneStep
from xlt.steps.base import Step, Workbench
from xlt.steps.composition import Branch, Composition, load_head
from xlt.steps.examples import ExamplesStep, read_examples, require_split
from xlt.steps.language_module import WITH_TASK, LanguageModuleStep, ReadyMadeModuleStep
from xlt.steps.task_module import TaskModuleStep
from xlt.store import Artifact
from xlt.tasks.base import Example, Prediction, Task

_BOOTSTRAP_SAMPLES = 1000
_TRAINING_FIGURES = ("trainable_parameters", "steps", "seconds_per_step", "best", "best_step", "tokens")
_COSTS = ("seconds", "peak_memory_bytes", "energy_joules", "device")


@dataclass(frozen=True)
class ScoringStep(Step):
    """Scores whatever makes predictions on test examples of a language.

    Files: `predictions.jsonl` (id, gold, prediction of every test example) and `result.json`, the record.

    Attributes:
        language: the target language.
        bootstrap_samples: test sets that are drawn for the intervals.
    """

    kind: ClassVar[str] = "evaluation"

    task: Task
    language: Language
    bootstrap_samples: int = field(default=_BOOTSTRAP_SAMPLES, kw_only=True)

    @abstractmethod
    def test_examples(self, artifacts: Mapping[str, Artifact]) -> list[Example]:
        """What is scored, from the artifacts of the step's inputs."""

    @abstractmethod
    def open(self, artifacts: Mapping[str, Artifact], device: torch.device) -> Callable[[Sequence[Example]], list[Prediction]]:
        """What makes predictions for examples, from the artifacts of the step's inputs."""

    def preparation(
        self, realise: Callable[[Step], Artifact], device: torch.device
    ) -> Callable[[Sequence[Example]], list[Example]]:
        """What has to be done to new examples before what `open` gives reads them.

        Args:
            realise: finds the artifacts that it takes.
        """
        return list

    def build(self, bench: Workbench) -> None:
        task = self.task
        examples = self.test_examples(bench.inputs)
        predictions = self.open(bench.inputs, bench.runtime.device)(examples)
        gold = [task.gold(example) for example in examples]
        predicted = [prediction["label"] for prediction in predictions]
        counts = task.counts(gold, predicted)
        interval = intervals(task.metrics, counts, self.bootstrap_samples, derive_seed("bootstrap"))
        with (bench.folder / PREDICTIONS).open("w", encoding="utf-8") as file:
            for example, label, prediction in zip(examples, gold, predictions, strict=True):
                row = {"id": example["id"], "gold": label, "predicted": prediction["label"], **prediction}
                del row["label"]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        bench.summary.update(
            task_type=task.hub_type,
            metric=task.metric,
            metrics=task.score(gold, predicted),
            intervals={name: list(ends) for name, ends in interval.items()},
            test_size=len(examples),
        )
        record = {**bench.runtime.record, "lang": self.language.key, **bench.summary, **self._story(bench)}
        (bench.folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")

    def _story(self, bench: Workbench) -> dict[str, Any]:
        """How the score came about: every artifact's fingerprint, what training cost, revisions, versions, machine."""
        # Modules that were trained here: not ready-made ones, nor those that begin to be trained with the task.
        modules = {
            role: artifact
            for role, artifact in sorted(bench.inputs.items())
            if role.startswith(("language_module", "task_module", "translator")) and "steps" in artifact.summary
        }
        return {
            "fingerprint": self.fingerprint,
            "fingerprints": {f"{step.kind}/{step.label}": fingerprint for fingerprint, step in self.ancestors().items()},
            "revisions": {
                f"{step.kind}/{step.label}": step.origin for step in self.ancestors().values() if step.origin is not None
            },
            "training": {
                role: {
                    **{name: artifact.summary[name] for name in _TRAINING_FIGURES},
                    **{name: artifact.manifest["provenance"][name] for name in _COSTS},
                }
                for role, artifact in modules.items()
            },
            "payload": self.payload,
            **surroundings(bench.runtime.device),
        }


@dataclass(frozen=True)
class EvaluationStep(ScoringStep):
    """Scores task modules on top of a language's module, or the language model itself, on the test split of that language.

    Attributes:
        language_module: what is active for it; None for the backbone alone.
        task_modules: one, or several branches of which each has its head; none for a task that the language model answers.
        weights: of the branches' scores; None for one branch.
        examples: the target language's.
    """

    backbone: BackboneStep
    language_module: LanguageModuleStep | ReadyMadeModuleStep | None
    task_modules: tuple[TaskModuleStep, ...]
    examples: ExamplesStep
    weights: tuple[float, ...] | None = None

    @property
    def label(self) -> str:
        if not self.task_modules:
            below = self.language_module.label if self.language_module else f"{self.backbone.label}-none"
            return f"{below}-{self.task.name}-{self.language.key}"
        learnt = self.task_modules[0].label
        if len(self.task_modules) > 1:
            learnt += f"+{len(self.task_modules) - 1}"
        in_language = all(labels.examples.label == self.examples.label for labels in self.task_modules[0].sources)
        return learnt if in_language and len(self.task_modules) == 1 else f"{learnt}-on-{self.examples.label}"

    def fields(self) -> dict[str, Any]:
        # A task module knows its task; asked of the language model, the task is the evaluation's own.
        task = {} if self.task_modules else {"task": identity(self.task)}
        weights = {"weights": list(self.weights)} if self.weights else {}
        return {"lang": self.language.key, "bootstrap_samples": self.bootstrap_samples, **task, **weights}

    def inputs(self) -> dict[str, Step]:
        module = {"language_module": self.language_module} if self.language_module else {}
        learnt = {_role(number): step for number, step in enumerate(self.task_modules)}
        return {"test_examples": self.examples, "backbone": self.backbone, **learnt, **module}

    def check_input(self, role: str, artifact: Artifact) -> None:
        if role == "test_examples":
            require_split(artifact, "test")

    def preparation(
        self, realise: Callable[[Step], Artifact], device: torch.device
    ) -> Callable[[Sequence[Example]], list[Example]]:
        return self.examples.preparation(realise, device)

    def test_examples(self, artifacts: Mapping[str, Artifact]) -> list[Example]:
        return read_examples(artifacts["test_examples"], "test")

    def open(self, artifacts: Mapping[str, Artifact], device: torch.device) -> Callable[[Sequence[Example]], list[Prediction]]:
        if self.task_modules:
            return self.open_composition(artifacts, device).predict
        backbone, _ = self.open_below(artifacts, language_head=True)
        backbone.model.to(device).eval()
        read = partial(read_examples, artifacts["test_examples"])
        length = self.backbone.clip(self.task.max_length)
        return lambda examples: self.task.predict(backbone, examples, length, read)

    def open_below(self, artifacts: Mapping[str, Artifact], language_head: bool = False) -> tuple[Backbone, Module | None]:
        """The backbone with the target's language module, if there is one, attached and frozen."""
        backbone = self.backbone.open(artifacts["backbone"], language_head)
        if self.language_module is None:
            return backbone, None
        trained = [artifacts[_role(number)].folder / WITH_TASK for number, _ in enumerate(self.task_modules)]
        if trained and trained[0].is_dir():  # it was trained along with the task
            return backbone, self.language_module.method.load(backbone, trained[0])
        return backbone, self.language_module.attach(backbone, artifacts["language_module"])

    def open_composition(self, artifacts: Mapping[str, Artifact], device: torch.device) -> Composition:
        """What was trained, with the target's language module in the place of the sources'."""
        backbone, below = self.open_below(artifacts)
        branches = []
        weights = self.weights or (1.0,) * len(self.task_modules)
        for number, (step, weight) in enumerate(zip(self.task_modules, weights, strict=True)):
            folder = artifacts[_role(number)].folder
            module = step.method.load(backbone, folder)
            head = load_head(folder, step.task.head(backbone, generator(0)))
            modules = Stack(*(part for part in (below, module) if part)) if len(self.task_modules) > 1 else None
            branches.append(Branch(head, modules, weight))
        return Composition(backbone, self.task, branches, self.backbone.clip(self.task.max_length), device)


def _role(number: int) -> str:
    """The name of a task module among the inputs."""
    return f"task_module{number or ''}"
