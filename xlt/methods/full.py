"""Full fine-tuning: the module is a whole copy of the backbone, stored by `save_pretrained`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.methods.base import Method, Module


class FullModule(Module):
    """Other weights in the backbone's own tensors; what they were is kept aside for `detach`."""

    def __init__(self, backbone: Backbone, part: nn.Module) -> None:
        super().__init__(backbone)
        self._part = part
        self._pristine = {
            name: parameter.detach().cpu().clone() for name, parameter in part.named_parameters() if not parameter.is_meta
        }
        part.requires_grad_(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._part.named_parameters())

    def save(self, folder: Path) -> None:
        self._part.save_pretrained(folder)
        if self.backbone.tokenizer is not None:
            self.backbone.tokenizer.save_pretrained(folder)

    def detach(self) -> None:
        super().detach()
        self._part.requires_grad_(False)
        with torch.no_grad():
            for name, parameter in self._part.named_parameters():
                if name in self._pristine:
                    parameter.copy_(self._pristine[name])


@dataclass(frozen=True)
class FullFineTuning(Method):
    """`method=full`: every parameter of the backbone is trained; the language head too, when training goes through it."""

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> FullModule:
        return FullModule(backbone, backbone.model if language_head else backbone.encoder)

    def load(self, backbone: Backbone, folder: Path) -> FullModule:
        # Where the backbone was opened without a language head, the stored one is left aside.
        module = FullModule(backbone, backbone.model)
        stored = dict(type(backbone.model).from_pretrained(folder).named_parameters())
        parameters = module.parameters()
        missing = parameters.keys() - stored.keys()
        if missing:
            raise ValueError(f"{folder} lacks {sorted(missing)[:3]}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(stored[name])
        module.freeze()
        return module
