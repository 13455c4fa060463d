"""A method: train nothing but the biases of the encoder (Ben Zaken et al. 2022, BitFit)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.methods.base import Method, Module


class BiasModule(Module):
    """Other values in the biases of the backbone."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        own = backbone.own_parameters(backbone.encoder)
        self._biases = {name: parameter.requires_grad_(True) for name, parameter in own.items() if name.endswith("bias")}
        self._pristine = {name: parameter.detach().clone() for name, parameter in self._biases.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._biases)

    def save(self, folder: Path) -> None:
        save_file(
            {name: parameter.detach().cpu().clone() for name, parameter in self._biases.items()}, folder / "biases.safetensors"
        )

    def detach(self) -> None:
        super().detach()
        self.fill(self._pristine)

    def fill(self, values: dict[str, torch.Tensor]) -> None:
        """Put other values into the biases and freeze them."""
        self.freeze()
        with torch.no_grad():
            for name, parameter in self._biases.items():
                parameter.copy_(values[name])


@dataclass(frozen=True)
class Biases(Method):
    """`method=biases`."""

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> BiasModule:
        return BiasModule(backbone)

    def load(self, backbone: Backbone, folder: Path) -> BiasModule:
        module = BiasModule(backbone)
        module.fill(load_file(folder / "biases.safetensors"))
        return module
