"""No adaptation: the backbone as it is. The baseline for every language module; as a task method, a head alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.languages import Language
from xlt.methods.base import Method, Module

if TYPE_CHECKING:
    from xlt.experiment import Experiment


class EmptyModule(Module):
    """A module without parameters."""

    def parameters(self) -> dict[str, nn.Parameter]:
        return {}

    def save(self, folder: Path) -> None:
        """There is nothing to write."""


@dataclass(frozen=True)
class NoAdaptation(Method):
    """`method=none`."""

    def draw(self, experiment: Experiment, language: Language) -> None:
        return None

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> EmptyModule:
        return EmptyModule(backbone)

    def load(self, backbone: Backbone, folder: Path) -> EmptyModule:
        return EmptyModule(backbone)
