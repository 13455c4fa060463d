"""Full fine-tuning: the module is a whole copy of the backbone, stored by `save_pretrained`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.methods.base import Method, Module
from xlt.methods.sparse import SparseFineTuning, SparseModule

_ON_SPARSE = (
    "task_method=full keeps a copy of all weights, with what a sparse module under it changes in them: on the module of another "
    "language it would put that of this one into force. Learn all weights as a difference instead, which is added to any "
    "language's: task_method=rand_sft task_method.density=1 task_method.reduction_factor=null task_method.norms=true."
)


class FullModule(Module):
    """Other weights in the backbone's own tensors; what they were is kept aside for `detach`.

    Args:
        part: the model or the encoder, whose own parameters are trained; those of modules under this one are not.
    """

    def __init__(self, backbone: Backbone, part: nn.Module) -> None:
        if backbone.quantised:
            raise UserError(
                "method=full changes every weight, which quantised ones cannot be (model.quantisation). Take the backbone "
                "unquantised, or a method that leaves it frozen, such as method=lora."
            )
        if any(isinstance(module, SparseModule) for module in backbone.modules):
            raise UserError(_ON_SPARSE)
        super().__init__(backbone)
        self._part = part
        self._own = backbone.own_parameters(part)
        self._pristine = {name: tensor.detach().cpu().clone() for name, tensor in self._own.items() if not tensor.is_meta}
        for parameter in self._own.values():
            parameter.requires_grad_(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._own)

    def save(self, folder: Path) -> None:
        self._part.save_pretrained(folder, state_dict={name: tensor.detach() for name, tensor in self._own.items()})
        if self.backbone.tokenizer is not None:
            self.backbone.tokenizer.save_pretrained(folder)

    def remove(self) -> None:
        self.freeze()
        with torch.no_grad():
            for name, tensor in self._pristine.items():
                self._own[name].copy_(tensor)


@dataclass(frozen=True)
class FullFineTuning(Method):
    """`method=full`: every parameter of the backbone is trained; the language head too, when training goes through it."""

    library: ClassVar[str | None] = "transformers"
    switches: ClassVar[bool] = False

    def check_on_top_of(self, below: Method) -> None:
        if isinstance(below, SparseFineTuning):
            raise UserError(_ON_SPARSE)

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> FullModule:
        return FullModule(backbone, backbone.model if language_head else backbone.encoder)

    def load(self, backbone: Backbone, folder: Path) -> FullModule:
        # Where the backbone was opened without a language head, the stored one is left aside.
        model, report = type(backbone.model).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        named = model.named_parameters(remove_duplicate=False)
        stored = {name: tensor for name, tensor in named if name not in report["missing_keys"]}
        module = FullModule(backbone, backbone.model)
        unfit = [name for name, own in module.parameters().items() if name not in stored or stored[name].shape != own.shape]
        if unfit:
            raise UserError(
                f"{folder} is not a full copy of this backbone: it lacks, or has in another size, {', '.join(unfit[:3])}."
            )
        with torch.no_grad():
            for name, parameter in module.parameters().items():
                parameter.copy_(stored[name])
        module.freeze()
        return module
