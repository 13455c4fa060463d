"""A pretrained model opened for adaptation: its weights, its tokenizer, and the sites at which modules attach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PretrainedConfig

from xlt.backbones.anatomy import Anatomy, Site, anatomy_of
from xlt.errors import UserError

if TYPE_CHECKING:
    from xlt.methods.base import Module

_SPARE_POSITIONS = {"roberta": 2, "xlm-roberta": 2}  # positions that these count from their padding index


class Backbone:
    """A model whose parameters are frozen until a module asks for them.

    Attributes:
        model: the model with its language head, or the encoder alone.
        encoder: the model without head.
        tokenizer: its tokenizer; None for a backbone on the meta device.
        anatomy: where its parts are.
        modules: the modules attached, in the order of attachment; the first is the one next to the embeddings.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, anatomy: Anatomy) -> None:
        self.model = model.requires_grad_(False)
        self.encoder: nn.Module = getattr(model, model.base_model_prefix, model)
        self.tokenizer = tokenizer
        self.anatomy = anatomy
        self.modules: list[Module] = []
        self._own = {id(part): _named_once(part, model.base_model_prefix) for part in (self.model, self.encoder)}

    @classmethod
    def open(cls, folder: Path, anatomy: str | None = None, language_head: bool = False) -> Backbone:
        """Load a model folder.

        Args:
            anatomy: see `anatomy_of`.
            language_head: whether the pretraining head is needed.
        """
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        parts = anatomy_of(config.model_type.replace("-", "_"), anatomy)
        model_class: Any = _class_with_head(parts) if language_head else AutoModel
        options = {} if language_head or parts.objective == "causal" else {"add_pooling_layer": False}
        model, report = model_class.from_pretrained(
            folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True, **options
        )
        if report["missing_keys"]:
            raise UserError(
                f"{folder} lacks weights that are needed here: {', '.join(sorted(report['missing_keys'])[:3])}. "
                "Use a checkpoint that was saved with its pretraining head, or method=none, which needs no such head."
            )
        return cls(model, load_tokenizer(folder), parts)

    @classmethod
    def from_shape(cls, shape: Mapping[str, Any], anatomy: str | None = None, language_head: bool = False) -> Backbone:
        """A model with the given shape on the meta device: parameters can be counted, nothing computed."""
        config = config_from_shape(shape)
        parts = anatomy_of(config.model_type.replace("-", "_"), anatomy)
        with torch.device("meta"):
            model_class: Any = _class_with_head(parts) if language_head else AutoModel
            return cls(model_class.from_config(config), None, parts)

    @staticmethod
    def new(config: PretrainedConfig, anatomy: Anatomy) -> nn.Module:
        """An untrained model with its language head, initialised from torch's global generator."""
        return _class_with_head(anatomy).from_config(config)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def layers(self) -> nn.ModuleList:
        return self.encoder.get_submodule(self.anatomy.layers)

    @property
    def embeddings(self) -> nn.Module:
        return self.encoder.get_submodule(self.anatomy.embeddings)

    @property
    def language_head(self) -> nn.Module:
        return self.model.get_submodule(self.anatomy.language_head)

    def own_parameters(self, part: nn.Module) -> dict[str, nn.Parameter]:
        """The pretrained parameters of the model or the encoder, without those of attached modules."""
        return self._own[id(part)]

    def site(self, layer: int) -> Site:
        """The site of a layer, put into its place when first asked for."""
        parent, name = self._feed_forward(layer)
        current = getattr(parent, name)
        if not isinstance(current, Site):
            current = self.anatomy.site(self.layers[layer], current)
            current.train(self.model.training)
            setattr(parent, name, current)
        return current

    def remove_empty_sites(self) -> None:
        """Give every layer whose site holds no adapters its own module back."""
        for layer in range(len(self.layers)):
            parent, name = self._feed_forward(layer)
            site = getattr(parent, name)
            if isinstance(site, Site) and not site.adapters:
                getattr(site, "remove_hooks", lambda: None)()
                setattr(parent, name, site.original)

    def hidden_states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The last layer's output [batch, sequence, hidden] for ids and mask [batch, sequence]."""
        options = {"use_cache": False} if self.anatomy.objective == "causal" else {}
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state

    def _feed_forward(self, layer: int) -> tuple[nn.Module, str]:
        path, _, name = self.anatomy.feed_forward.rpartition(".")
        return self.layers[layer].get_submodule(path), name


def _named_once(part: nn.Module, encoder_prefix: str) -> dict[str, nn.Parameter]:
    """The parameters by name; one that several modules share goes by its name in the encoder."""
    named = sorted(part.named_parameters(remove_duplicate=False), key=lambda item: not item[0].startswith(f"{encoder_prefix}."))
    names: dict[int, str] = {}
    for name, parameter in named:
        names.setdefault(id(parameter), name)
    return {name: parameter for name, parameter in named if names[id(parameter)] == name}


def config_from_shape(shape: Mapping[str, Any]) -> PretrainedConfig:
    """A transformers configuration from `model_type` and its fields."""
    fields = dict(shape)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def longest_input(shape: Mapping[str, Any]) -> int:
    """How many tokens, special ones included, the model takes at most."""
    positions = shape.get("max_position_embeddings")
    if positions is None:
        positions = config_from_shape(shape).max_position_embeddings
    return positions - _SPARE_POSITIONS.get(shape["model_type"], 0)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder; where it has no padding token, the end-of-text token pads.

    Raises:
        UserError: the folder holds no tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no tokenizer that transformers can read ({str(error).splitlines()[0]}).") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _class_with_head(anatomy: Anatomy) -> Any:
    return AutoModelForMaskedLM if anatomy.objective == "masked" else AutoModelForCausalLM
