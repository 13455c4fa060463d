"""Sites: what takes the place of a layer's module so that adapters can act on the block that it ends.

A site computes the block's h, lets the active composition change it (`xlt.backbones.composition`) and finishes the block as
the layer would. Without adapters it computes what the module that it replaces computes, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import dropout

if TYPE_CHECKING:
    from xlt.backbones.backbone import Backbone

Norm = nn.Module | None  # the norm that closes a block; None in pre-norm models


@dataclass(frozen=True)
class Place:
    """The end of one residual block of a layer.

    Attributes:
        module: the module that a site takes the place of, from the layer.
        key: AdapterHub's name for it below the layer, in checkpoints.
        site: the kind of site.
        norm: the block's norm, from the layer: the one that closes it, or in pre-norm models opens it. Not needed where
            `module` holds it.
    """

    module: str
    key: str
    site: type[Site]
    norm: str = ""


class Site(nn.Module):
    """What all sites share.

    Attributes:
        original: the module that stood here.
        adapters: of the attached modules, by the module's key.
        layer_index, place: where this is.
        can_leave_out_norm: whether a composition can keep the layer from closing the block with its norm.
    """

    can_leave_out_norm = True

    def __init__(self, backbone: Backbone, layer_index: int, place: str, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.adapters = nn.ModuleDict()
        self.layer_index = layer_index
        self.place = place
        self.backbone = backbone

    @property
    def layer(self) -> nn.Module:
        """The layer that this is a part of."""
        return self.backbone.layers[self.layer_index]

    @property
    def norm(self) -> nn.Module:
        """The norm of the block."""
        return self.layer.get_submodule(self.backbone.anatomy.places[self.place].norm)

    def adapt(self, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        """h [batch, sequence, hidden] after the active composition."""
        return self.backbone.composition.at_site(self, hidden, residual, norm) if self.adapters else hidden

    def closes(self) -> bool:
        """Whether the block ends as it was pretrained, with x and the norm."""
        return not self.adapters or self.backbone.composition.closes(self) is not False

    def remove(self) -> None:
        """Undo what the site did to the layer besides taking a module's place."""


class NormInsideSite(Site):
    """BERT, XLM-R, DeBERTa: the module holds the last linear map, dropout and the norm that closes the block."""

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        """`hidden_states` [batch, sequence, intermediate], `input_tensor` [batch, sequence, hidden] → the latter's shape."""
        norm = self.original.LayerNorm
        hidden = self.original.dropout(self.original.dense(hidden_states))
        hidden = self.adapt(hidden, input_tensor, norm)
        return norm(hidden + input_tensor) if self.closes() else hidden


class NormBehindSite(Site):
    """DistilBERT: the layer itself closes the block, with a norm of its own; x is what the block's module is given."""

    can_leave_out_norm = False

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        output = self.original(hidden_states, *arguments, **options)
        return _with_first(output, self.adapt(_first(output), hidden_states, self.norm))


class PreNormSite(Site):
    """Llama, GPT-2, ModernBERT, mBART: the norm opens the block, and the layer adds x after this site.

    Where the layer drops out h behind the block's module (`Anatomy.layer_dropout`), the sites of the layer do that in its
    stead, so that adapters act after it.
    """

    def __init__(self, backbone: Backbone, layer_index: int, place: str, original: nn.Module) -> None:
        super().__init__(backbone, layer_index, place, original)
        self._residual: torch.Tensor | None = None
        self._hook = self.norm.register_forward_pre_hook(self._keep_residual)
        self._dropout = 0.0
        attribute = backbone.anatomy.layer_dropout
        if attribute is not None:
            self._dropout = backbone.layer_dropout[layer_index]
            setattr(self.layer, attribute, 0.0)

    def _keep_residual(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._residual = inputs[0]

    def forward(self, *arguments: Any, **options: Any) -> Any:
        output = self.original(*arguments, **options)
        hidden, residual, self._residual = dropout(_first(output), self._dropout, self.training), self._residual, None
        hidden = self.adapt(hidden, residual, None)
        return _with_first(output, hidden if self.closes() else hidden - residual)

    def remove(self) -> None:
        self._hook.remove()
        if self.backbone.anatomy.layer_dropout is not None:
            setattr(self.layer, self.backbone.anatomy.layer_dropout, self._dropout)


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, hidden: torch.Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
