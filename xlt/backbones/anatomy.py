"""Where the parts of a model are: what an adaptation method needs to know of an architecture, and nothing more.

Each known architecture is one small module in `xlt.backbones.anatomies`, named by its `model_type`, that sets `ANATOMY`.
A model of an unknown architecture can name a module of its own (`model.anatomy=my_package.my_anatomy`).

A *site* is the place in a layer at which adapters act: the feed-forward block's output. `h` is the output of its last
linear map (after dropout), `x` the block's residual input, both [batch, sequence, hidden]; LN is the pretrained norm that
closes the block in post-norm models.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from xlt.errors import UserError, suggest


@dataclass(frozen=True)
class Anatomy:
    """The parts of an architecture, as dotted attribute paths.

    Attributes:
        objective: what the model was pretrained for: `masked` or `causal` language modelling.
        layers: the list of layers, from the encoder (the model without head).
        feed_forward: the module of a layer that a site takes the place of, from the layer.
        site: makes a site from a layer and that module.
        embeddings: the module whose output enters the first layer, from the encoder.
        language_head: the head that turns hidden states into vocabulary scores, from the model with head.
        adapter_key: AdapterHub's name of the site's adapters in checkpoints, with `{layer}`.
        invertible_key: AdapterHub's name of invertible adapters in checkpoints.
    """

    objective: Literal["masked", "causal"]
    layers: str
    feed_forward: str
    site: Callable[[nn.Module, nn.Module], Site]
    embeddings: str
    language_head: str
    adapter_key: str
    invertible_key: str = "invertible_adapters"


class Site(nn.Module):
    """Takes the place of a layer's module and runs the adapters of the active modules after it, in their order.

    Without adapters it computes what the module that it replaces computes, bit for bit.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.adapters = nn.ModuleList()


class PostNormSite(Site):
    """Post-norm layers (BERT, XLM-R): the block ends in LN(h + x).

    A stack of adapters a, b computes o_a = a(LN(h + x)) + h, o_b = b(LN(o_a + x)) + o_a, and LN(o_b + x) once, at the end
    (Pfeiffer et al. 2020, MAD-X, section 3; the pretrained LN is used each time).
    """

    def __init__(self, layer: nn.Module, original: nn.Module) -> None:
        super().__init__(original)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        """`hidden_states` [batch, sequence, intermediate], `input_tensor` [batch, sequence, hidden] → the latter's shape."""
        norm = self.original.LayerNorm
        output = self.original.dropout(self.original.dense(hidden_states))
        for adapter in self.adapters:
            output = adapter(norm(output + input_tensor)) + output
        return norm(output + input_tensor)


class PreNormSite(Site):
    """Pre-norm layers (Llama): the layer adds x itself, after this site.

    An adapter a computes o = a(h + x) + h, so that the layer's output is a(r) + r with r = h + x.
    """

    def __init__(self, layer: nn.Module, original: nn.Module, norm: str = "post_attention_layernorm") -> None:
        super().__init__(original)
        self._residual: torch.Tensor | None = None
        self._hook = getattr(layer, norm).register_forward_pre_hook(self._keep_residual)

    def _keep_residual(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._residual = inputs[0]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`hidden_states` [batch, sequence, hidden] → the same shape."""
        output = self.original(hidden_states)
        residual, self._residual = self._residual, None
        for adapter in self.adapters:
            output = adapter(output + residual) + output
        return output

    def remove_hooks(self) -> None:
        """Undo what the site did to the layer besides taking a module's place."""
        self._hook.remove()


def known_architectures() -> list[str]:
    """The `model_type`s that have an anatomy in the package."""
    import xlt.backbones.anatomies as package

    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def anatomy_of(model_type: str, module: str | None = None) -> Anatomy:
    """The anatomy of an architecture.

    Args:
        model_type: as in the model's config.json.
        module: dotted path of a module with `ANATOMY`, for architectures outside the package.

    Raises:
        UserError: there is none; the message says how to write one.
    """
    known = known_architectures()
    if module is None and model_type not in known:
        raise UserError(
            f"Models of type {model_type!r} have no anatomy yet. {suggest(model_type, known, 'supported types')} To add one, "
            "write a module that sets ANATOMY = xlt.backbones.anatomy.Anatomy(...), which says where a layer's parts are "
            "(xlt/backbones/anatomies/bert.py is an example), and name it: model.anatomy=my_package.my_module."
        )
    try:
        return importlib.import_module(module or f"xlt.backbones.anatomies.{model_type}").ANATOMY
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"model.anatomy={module}: there is no such module, or it does not set ANATOMY ({error}).") from error
