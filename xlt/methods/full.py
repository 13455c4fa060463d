"""Full fine-tuning: the module is a difference in all of the backbone's weights, stored as a whole model by `save_pretrained`.

What is stored is θ0 + φ, the backbone with this module alone, so it loads as a model of its own where it was trained on nothing
else. Like sparse modules it is added up with others: θ0 + φ_language + φ_task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.methods.base import Method
from xlt.methods.differences import Difference, DifferenceModule, own_weights


class FullModule(DifferenceModule):
    """A difference in all weights of the model or of the encoder.

    Args:
        part: which of them.
    """

    def __init__(self, backbone: Backbone, part: nn.Module) -> None:
        super().__init__(backbone)
        self._part = part

    def count(self) -> int:
        return sum(weight.numel() for weight in self._own().values())

    def begin(self, phase: int, kept: Mapping[str, torch.Tensor]) -> None:
        self.train_differences(dict.fromkeys(self._own()))

    def save(self, folder: Path) -> None:
        sums = {id(one.weight): one.sums.view_as(one.weight) for one in self.differences.values()}
        own = self.backbone.own_parameters(self._part)
        self._part.save_pretrained(folder, state_dict={name: sums[id(weight)] for name, weight in own.items()})
        if self.backbone.tokenizer is not None:
            self.backbone.tokenizer.save_pretrained(folder)

    def _own(self) -> dict[str, nn.Parameter]:
        """The weights of the part by their names in a model with head."""
        inside = {id(weight) for weight in self.backbone.own_parameters(self._part).values()}
        return {name: weight for name, weight in own_weights(self.backbone).items() if id(weight) in inside}


@dataclass(frozen=True)
class FullFineTuning(Method):
    """`method=full`: every parameter of the backbone is trained; the language head too, when training goes through it."""

    library: ClassVar[str | None] = "transformers"
    version: ClassVar[int] = 2  # a task's copy once held what its language's had changed

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> FullModule:
        return FullModule(backbone, backbone.model if language_head else backbone.encoder)

    def load(self, backbone: Backbone, folder: Path) -> FullModule:
        # Where the backbone was opened without a language head, the stored one is left aside.
        model, report = type(backbone.model).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        named = model.named_parameters(remove_duplicate=False)
        stored = {name: tensor.detach() for name, tensor in named if name not in report["missing_keys"]}
        own = backbone.own_parameters(backbone.model)
        if unfit := [name for name, weight in own.items() if name not in stored or stored[name].shape != weight.shape]:
            raise UserError(
                f"{folder} is not a full copy of this backbone: it lacks, or has in another size, {', '.join(unfit[:3])}."
            )
        sums = {id(weight): stored[name] for name, weight in own.items()}
        module = FullModule(backbone, backbone.model)
        with module.own_weights_in_force():
            module.differences = {
                name: Difference(weight, None, sums=sums[id(weight)]) for name, weight in own_weights(backbone).items()
            }
        return module
