"""Task module: what is learnt from labelled examples, on top of the frozen, active language module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from xlt.backbones.backbone import Backbone
from xlt.config import identity
from xlt.methods.base import Method, Module
from xlt.random import derive_seed, generator
from xlt.steps.audit import count_trainable, estimate_training
from xlt.steps.backbone import BackboneStep
from xlt.steps.base import Estimate, Step, Workbench
from xlt.steps.card import write_task_module_card
from xlt.steps.composition import Composition, load_head, save_task_module
from xlt.steps.examples import ExamplesStep, read_examples
from xlt.steps.language_module import WITH_TASK, LanguageModuleStep, ReadyMadeModuleStep
from xlt.steps.training import run_loop
from xlt.store import Artifact
from xlt.tasks.base import Task
from xlt.training.batches import Batches
from xlt.training.settings import LoopSettings


@dataclass(frozen=True)
class TaskModuleStep(Step):
    """Trains a task module and its head; the best epoch by the task's metric on validation data is kept.

    Files: the module in its method's format, `head.safetensors`, `training.json`; in a folder of its own a language module that
    is trained along with it.
    """

    kind: ClassVar[str] = "task_module"

    method: Method
    task: Task
    backbone: BackboneStep
    language_module: LanguageModuleStep | ReadyMadeModuleStep | None
    examples: ExamplesStep
    training: LoopSettings
    seed: int

    @property
    def label(self) -> str:
        below = self.language_module.label if self.language_module else f"{self.backbone.label}-none"
        return f"{below}-{self.method.name}-{self.examples.label}-seed{self.seed}"

    def fields(self) -> dict[str, Any]:
        return {
            "task_method": identity(self.method), "task": identity(self.task), "train": {"task": identity(self.training)},
            "seed": self.seed,
        }  # fmt: skip

    def inputs(self) -> dict[str, Step]:
        # Examples first: a wrong label is then found before hours go into a language module.
        module = {"language_module": self.language_module} if self.language_module else {}
        return {"examples": self.examples, "backbone": self.backbone, **module}

    def build(self, bench: Workbench) -> None:
        backbone, below = open_below(self, bench.inputs)
        module = self.method.create(backbone, generator(self.seed, "task module"))
        head = self.task.head(backbone, generator(self.seed, "head"))
        composition = Composition(backbone, head, self.task, self.backbone.clip(self.task.max_length), bench.runtime.device)
        parameters = {**module.parameters(), **{f"head.{name}": p for name, p in head.named_parameters()}}
        with_task = below if below is not None and self.language_module.method.trained_with_task else None
        if with_task is not None:
            parameters |= {f"language_module.{name}": p.requires_grad_(True) for name, p in with_task.parameters().items()}
        train = read_examples(bench.inputs["examples"].folder, "train")
        validation = read_examples(bench.inputs["examples"].folder, "validation")
        sample = composition.make(train, range(min(len(train), 256)), generator(0))
        tokens_per_example = float(sample["attention_mask"].sum()) / len(sample["input_ids"])
        seed = derive_seed(self.seed, "task module")
        run_loop(
            bench,
            self.label,
            backbone,
            model=composition.model,
            parameters=parameters,
            objective=composition,
            batches=Batches(len(train), self.training.batch_size, seed, partial(composition.make, train)),
            evaluate=lambda: composition.score(validation),
            metric=(self.task.metric, True),
            settings=self.training,
            seed=seed,
            tokens_per_example=tokens_per_example,
            language_head=False,
        )
        save_task_module(bench.folder, module, head)
        if with_task is not None:
            (bench.folder / WITH_TASK).mkdir()
            with_task.save(bench.folder / WITH_TASK)
        write_task_module_card(bench.folder, self, bench.summary)

    def estimate(self) -> Estimate:
        def count(backbone: Backbone) -> int:
            head = self.task.head(backbone, generator(0))
            return count_trainable(self.method, backbone, language_head=False) + sum(p.numel() for p in head.parameters())

        length = self.backbone.clip(self.task.max_length) / 4  # labelled texts are mostly far shorter than the cap
        return estimate_training(self.backbone, count, self.training, None, length, language_head=False)


def open_below(
    step: TaskModuleStep, artifacts: Mapping[str, Artifact], language_head: bool = False
) -> tuple[Backbone, Module | None]:
    """The backbone of a task module, and the language module attached to it and frozen, if there is one.

    Args:
        artifacts: of the step's inputs and, where it is made, of the task module: its language module may be in there.
    """
    backbone = step.backbone.open(artifacts["backbone"], language_head)
    if step.language_module is None:
        return backbone, None
    trained = artifacts["task_module"].folder / WITH_TASK if "task_module" in artifacts else None
    if trained is not None and trained.is_dir():
        return backbone, step.language_module.method.load(backbone, trained)
    return backbone, step.language_module.attach(backbone, artifacts["language_module"])


def open_composition(step: TaskModuleStep, artifacts: Mapping[str, Artifact], device: Any) -> Composition:
    """What a task module was trained as, from the artifacts of its inputs and, as `task_module`, its own."""
    backbone, _ = open_below(step, artifacts)
    step.method.load(backbone, artifacts["task_module"].folder)
    head = load_head(artifacts["task_module"].folder, step.task.head(backbone, generator(0)))
    return Composition(backbone, head, step.task, step.backbone.clip(step.task.max_length), device)
