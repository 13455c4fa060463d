"""Where the parts of a model are: what an adaptation method needs to know of an architecture, and nothing more.

Each known architecture is one small module in `xlt.backbones.anatomies`, named by its `model_type`, that sets `ANATOMY`.
A model of an unknown architecture can name a module of its own (`model.anatomy=my_package.my_anatomy`).

A layer is a row of residual blocks: attention, in decoders that read an encoder cross-attention, feed-forward. The end of
each is a *place* at which adapters can act. `h` is the output of the block's last linear map (after dropout), `x` the
block's residual input, both [batch, sequence, hidden]; in post-norm models a pretrained norm LN closes the block, LN(h + x),
in pre-norm models the block ends in h + x.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from xlt.backbones.sites import Place
from xlt.errors import UserError, suggest


@dataclass(frozen=True)
class Anatomy:
    """The parts of an architecture, as dotted attribute paths.

    Attributes:
        objective: what the model was pretrained for: `masked` or `causal` language modelling, or `denoising` (a decoder
            writes what an encoder read).
        layers: the lists of layers, from the encoder (the model without head); layers are counted through all of them.
        places: where adapters can act, by AdapterHub's names: `attention`, `cross_attention`, `output`.
        embeddings: the module whose output enters the first layer, from the encoder.
        language_head: what turns hidden states into vocabulary scores: modules from the model with head, one after the other.
        linears: a layer's linear maps, from the layer, by what they are: `query`, `key`, `value`, `attention_output`,
            `up` (into the feed-forward block), `gate`, `down` (out of it). Where one map does the work of several they
            share a path.
        self_attention: the modules of a layer that hand queries, keys and values of its own sequence to transformers' attention
            functions, from the layer; None for models that compute attention in a way of their own.
        inverse_after: the module behind which the inverse of an invertible adapter acts, from the model with head, where the
            output embedding is no module of its own.
        head_reads_embeddings: whether the language head takes the input embeddings as a second argument.
        has_pooler: whether transformers can leave out a pooler on top of the encoder, which nothing here uses.
        configuration: fields of the model's configuration that have to be so for the pretrained head to be the one loaded.
        layer_dropout: the attribute of a layer that holds the probability of a dropout which the layer itself puts
            between a block's last map and its residual; None where the block's module does that.
        invertible_key: AdapterHub's name of invertible adapters in checkpoints.
        adapterhub_linears: the linear maps behind AdapterHub's `intermediate_lora` and `output_lora`.
    """

    objective: Literal["masked", "causal", "denoising"]
    layers: tuple[str, ...]
    places: Mapping[str, Place]
    embeddings: str
    language_head: tuple[str, ...]
    linears: Mapping[str, str] = field(default_factory=dict)
    self_attention: str | None = None
    inverse_after: str | None = None
    head_reads_embeddings: bool = False
    has_pooler: bool = False
    configuration: Mapping[str, Any] = field(default_factory=dict)
    layer_dropout: str | None = None
    invertible_key: str = "invertible_adapters"
    adapterhub_linears: tuple[str, str] = ("up", "down")


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
            "write a module that sets ANATOMY = xlt.backbones.anatomy.Anatomy(objective=..., layers=..., places=..., "
            "embeddings=..., language_head=...): what the model was pretrained for, and where its layers, the ends of their "
            "blocks, its embeddings and its language head are. For its places, choose the site that fits how a layer ends a "
            "block: NormInsideSite as in xlt/backbones/anatomies/bert.py, NormBehindSite as in distilbert.py, PreNormSite as in "
            "llama.py. Then name the module: model.anatomy=my_package.my_module."
        )
    try:
        return importlib.import_module(module or f"xlt.backbones.anatomies.{model_type}").ANATOMY
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"model.anatomy={module}: there is no such module, or it does not set ANATOMY ({error}).") from error
