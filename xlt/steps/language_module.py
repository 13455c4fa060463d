"""Language module: what a method learns from a language's tokens, by the backbone's own pretraining objective; or one that was
learnt elsewhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from xlt.backbones.backbone import Backbone
from xlt.config import identity
from xlt.errors import UserError
from xlt.hub import Hub, Source
from xlt.languages import Language
from xlt.methods.base import Method, Module
from xlt.methods.formats import method_of_folder
from xlt.random import derive_seed, generator
from xlt.steps.audit import count_trainable, estimate_training
from xlt.steps.backbone import BackboneStep
from xlt.steps.base import Estimate, Step, Workbench
from xlt.steps.card import write_language_module_card
from xlt.steps.training import train_language_model
from xlt.store import Artifact
from xlt.training.settings import LanguageTraining

log = logging.getLogger("xlt")

_BACKBONE = "backbone.json"  # which one a module was trained on
WITH_TASK = "language_module"  # folder, in a task module's artifact, of a language module that was trained with it


@dataclass(frozen=True)
class LanguageModuleStep(Step):
    """Trains a module on one or more token artifacts, the backbone frozen unless the method trains it.

    A method may build on other modules, its members; where it has no tokens it begins as it is, to be trained with the task.

    Files: the module in its method's format, `training.json`, `backbone.json`, a card.
    """

    kind: ClassVar[str] = "language_module"

    method: Method
    language: Language
    backbone: BackboneStep
    tokens: tuple[Step, ...]
    training: LanguageTraining
    seed: int
    members: tuple[LanguageModuleStep | ReadyMadeModuleStep, ...] = ()

    @property
    def label(self) -> str:
        made_of = [step.text.label for step in self.tokens] or [f"{self.language.key}-of{len(self.members)}"]
        return f"{self.backbone.label}-{self.method.name}-{'+'.join(made_of)}"

    def fields(self) -> dict[str, Any]:
        training = {"train": {"language": identity(self.training)}} if self.tokens else {}
        return {"method": identity(self.method), **training, "language": {"seed": self.seed}}

    def inputs(self) -> dict[str, Step]:
        tokens = {f"tokens{index or ''}": step for index, step in enumerate(self.tokens)}
        members = {f"member{index}": step for index, step in enumerate(self.members)}
        return {"backbone": self.backbone, **tokens, **members}

    def build(self, bench: Workbench) -> None:
        device = bench.runtime.device
        backbone = self.backbone.open(bench.inputs["backbone"], language_head=True)
        for index, member in enumerate(self.members):
            member.attach(backbone, bench.inputs[f"member{index}"])
        module = self.method.create(backbone, generator(self.seed, "language module"), language_head=True)
        backbone.model.to(device)
        if self.tokens:
            folders = [artifact.folder for role, artifact in bench.inputs.items() if role.startswith("tokens")]
            seed = derive_seed(self.seed, "language module")
            phases = self.method.phases(self.training.loop)
            train_language_model(bench, self.label, backbone, module, {}, folders, self.training, phases, seed)
        module.save(bench.folder)
        facts = {"fingerprint": self.backbone.fingerprint, "vocabulary": backbone.vocabulary}
        (bench.folder / _BACKBONE).write_text(json.dumps(facts), encoding="utf-8")
        write_language_module_card(bench.folder, self, bench.summary)

    def attach(self, backbone: Backbone, artifact: Artifact) -> Module:
        """The module, attached and frozen."""
        return self.method.load(backbone, artifact.folder)

    def estimate(self) -> Estimate:
        if not self.tokens:
            return Estimate()
        count = partial(count_trainable, self.method, members=[member.method for member in self.members])
        phases = self.method.phases(self.training.loop)
        return estimate_training(self.backbone, count, phases, None, self.training.length, language_head=True)


@dataclass(frozen=True)
class ReadyMadeModuleStep(Step):
    """A language module in AdapterHub's or PEFT's format, from a folder or the hub: located, never built."""

    kind: ClassVar[str] = "language_module"
    external: ClassVar[bool] = True

    language: Language
    backbone: BackboneStep
    source: Source
    hub: Hub
    compat: str

    @property
    def label(self) -> str:
        return f"{self.backbone.label}-{self.source.label}-{self.language.key}"

    def fields(self) -> dict[str, Any]:
        # Asked only where it matters: the folder need not be here for a plan.
        changes = self.compat != "none" and self._stored_method.compatible_with(self.compat) != self._stored_method
        compat = {"compat": self.compat} if changes else {}
        return {"module": self.hub.module_identity(self.source), **compat}

    @property
    def origin(self) -> dict[str, Any]:
        return self.fields()["module"]

    def inputs(self) -> dict[str, Step]:
        return {"backbone": self.backbone}

    @property
    def method(self) -> Method:
        """What the folder says that it holds."""
        return replace(self._stored_method.compatible_with(self.compat), name=self.source.label)

    @cached_property
    def _stored_method(self) -> Method:
        return method_of_folder(self._folder())

    def locate(self, inputs: Mapping[str, Artifact]) -> Artifact:
        return self.located(self._folder())

    def attach(self, backbone: Backbone, artifact: Artifact) -> Module:
        """The module, attached and frozen.

        Raises:
            UserError: it does not fit the backbone, or was trained with another vocabulary.
        """
        path = artifact.folder / _BACKBONE
        facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # other libraries do not write it
        if facts and facts["vocabulary"] != backbone.vocabulary:
            raise UserError(
                f"language.path={self.source.name} was trained with another vocabulary than {self.backbone.label} has: its "
                "pieces mean other words here. Use the backbone that it was trained on; its card says which."
            )
        if facts and facts["fingerprint"] != self.backbone.fingerprint:
            log.warning("%s was trained on other weights than those of %s", self.source.name, self.backbone.label)
        return self.method.load(backbone, artifact.folder)

    def build(self, bench: Workbench) -> None:
        """Never called: external steps are located."""
        raise AssertionError("an external step is not built")

    def _folder(self) -> Path:
        return self.hub.module_folder(self.source)
