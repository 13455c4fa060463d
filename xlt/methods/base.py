"""What every adaptation method is, and the life of its modules.

A method is a dataclass, one choice of `method=`. It makes *modules*: `create` attaches a new one to a backbone, `load` a
stored one; then the backbone runs with it. `parameters` are what training changes, `save` writes the module in the
field's format, and `detach` leaves the backbone bit for bit as it was. Unless `Backbone.activate` says otherwise, modules
are stacked in the order in which they are attached: the language module first, the task module on top.

Most modules are trained once. A method can ask for several *phases*, one after the other (`Method.phases`): before each the
module is told to `begin` it, after each to `end` it, with the best parameters in place. What `end` returns is all that the next
phase gets; everything else that is trained, a head for one, begins each phase from the same initial values. So a run that was
killed begins the phase it was in again from what `end` returned, and goes on from that phase's own checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Branch, Composable
from xlt.backbones.sites import Norm, Site
from xlt.config import setting
from xlt.errors import UserError
from xlt.languages import Language
from xlt.training.optimizers import MakeOptimizer, adamw
from xlt.training.settings import LoopSettings

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.base import Step


class Module(Composable):
    """A language or task module attached to a backbone. A leaf of compositions.

    Attributes:
        backbone: what it is attached to.
        key: its name inside the backbone.
        members: attached modules that this one puts together, and that are not in force without it.
    """

    def __init__(self, backbone: Backbone, members: Sequence[Module] = ()) -> None:
        self.backbone = backbone
        self.members = members
        self.key = f"module_{len(backbone.modules)}"
        backbone.modules.append(self)
        backbone.activate()

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by name. They require gradients until `freeze`."""

    def adapterhub_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by their names in AdapterHub's files, without the module's name."""
        return self.parameters()

    def count(self) -> int:
        """How many parameters training changes, in its last phase."""
        return sum(parameter.numel() for parameter in self.parameters().values())

    def begin(self, phase: int, kept: Mapping[str, torch.Tensor]) -> None:
        """Get ready for a phase of training; `parameters` are those of the phase from now on.

        Args:
            phase: counted from 0.
            kept: what `end` returned after the phase before; nothing in the first.
        """

    def optimizer(self, phase: int) -> MakeOptimizer:
        """What turns the gradients of a phase into steps, for all that is trained in it."""
        return adamw

    def end(self, phase: int) -> dict[str, torch.Tensor]:
        """What the next phase needs of this one, on the CPU."""
        return {}

    def passes_gradients(self) -> list[nn.Parameter]:
        """Weights of the backbone that require gradients only to pass them on to the module's parameters."""
        return []

    def freeze(self) -> None:
        """Keep the module as it is while others are trained on top of it."""
        for parameter in self.parameters().values():
            parameter.requires_grad_(False)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the module into an existing folder, in the field's format."""

    def penalty(self) -> torch.Tensor | None:
        """What its parameters add to the loss of a training step, a scalar; None for nothing."""
        return None

    def detach(self) -> None:
        """Take the module off its backbone, which is then what it was before. The last one attached goes first."""
        if self.backbone.modules[-1] is not self:
            raise ValueError("modules are detached in the reverse order of their attachment")
        self.remove()
        self.backbone.modules.pop()
        self.backbone.activate()

    def remove(self) -> None:
        """Take everything out of the backbone that the module put into it."""

    # ---- as a part of compositions

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        """A module without adapters leaves h as it is."""
        return hidden

    def closes(self, site: Site) -> bool | None:
        return None

    def branches(self) -> list[Branch]:
        return [[(self, 1.0)]]

    def before_output_embedding(self, states: torch.Tensor) -> torch.Tensor:
        """What becomes of the states [branches · batch, ..., hidden] that a language head's output embedding reads."""
        return states

    def compose(self, branches: Sequence[Branch]) -> None:
        """Called when a composition comes into force, for what a module does elsewhere than at sites."""


def kept_layers(backbone: Backbone, leave_out: Sequence[int]) -> list[int]:
    """The layers that a module acts in.

    Args:
        leave_out: the others, counted from 0, or from the end with -1.

    Raises:
        UserError: it names a layer that the backbone does not have.
    """
    count = len(backbone.layers)
    if any(layer not in range(-count, count) for layer in leave_out):
        raise UserError(f"method.leave_out={list(leave_out)}: the backbone's layers are 0 to {count - 1}.")
    left_out = {layer % count for layer in leave_out}
    return [layer for layer in range(count) if layer not in left_out]


def left_out_keys(backbone: Backbone, leave_out: Sequence[int]) -> tuple[str, ...]:
    """What the names of tensors begin with that a file may hold and a module with `leave_out` does not use."""
    left_out = set(range(len(backbone.layers))) - set(kept_layers(backbone, leave_out))
    return tuple(f"{backbone.layer_key(layer)}." for layer in left_out)


@dataclass(frozen=True)
class Method(ABC):
    """One way of adapting a backbone.

    Attributes:
        name: label of the method in records and folder names.
    """

    name: str = setting("method", is_name=True, identity=False)

    library: ClassVar[str | None] = None
    """The library that loads what `save` writes: `adapters`, `peft` or `transformers`."""

    version: ClassVar[int] = 1
    """Raised in a change after which its modules are others, or mean something else."""

    trained_with_task: ClassVar[bool] = False
    """Whether the language's module is trained along with the task module, on labels."""

    def compatible_with(self, repository: str) -> Method:
        """The method with its fields set as a repository's code computes it (`compat=`); most have nothing to set."""
        return self

    def phases(self, settings: LoopSettings) -> list[LoopSettings]:
        """How a module is trained in each of its phases, given how the run trains. Their batches are the same."""
        return [settings]

    def draw(self, experiment: Experiment, language: Language) -> Step | None:
        """This method's part of the graph: the step that makes the language's module, or None if there is none."""
        return experiment.language_module_step(self, language, [experiment.tokens(language)])

    @abstractmethod
    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> Module:
        """Attach a new module, initialised from `generator` (nothing is drawn on the meta device).

        Args:
            language_head: the module is about to be trained through the language head.
        """

    @abstractmethod
    def load(self, backbone: Backbone, folder: Path) -> Module:
        """Attach the module that `save` wrote into `folder`, frozen."""
