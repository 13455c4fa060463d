"""Language module: what a method learns from a language's tokens, by the backbone's own pretraining objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from xlt.config import identity
from xlt.languages import Language
from xlt.methods.base import Method
from xlt.random import derive_seed, generator
from xlt.steps.audit import count_trainable, estimate_training
from xlt.steps.backbone import BackboneStep
from xlt.steps.base import Estimate, Step, Workbench
from xlt.steps.training import train_language_model
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
        seed = derive_seed(self.seed, "language module")
        train_language_model(bench, self.label, backbone, module.parameters(), folders, self.training, seed)
        module.save(bench.folder)

    def estimate(self) -> Estimate:
        count = partial(count_trainable, self.method)
        return estimate_training(self.backbone, count, self.training.loop, None, self.training.length, language_head=True)
