"""A pretrained model opened for adaptation: its weights, its tokenizer, and the sites at which modules attach."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
)

from xlt.backbones.anatomy import Anatomy, anatomy_of
from xlt.backbones.composition import Stack
from xlt.backbones.sites import Site
from xlt.errors import UserError

if TYPE_CHECKING:
    from xlt.backbones.composition import Branch, Composable
    from xlt.methods.base import Module

_MODEL_CLASSES = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "denoising": AutoModelForSeq2SeqLM}
_SPARE_POSITIONS = {"roberta": 2, "xlm-roberta": 2}  # positions that these count from their padding index


class Backbone:
    """A model whose parameters are frozen until a module asks for them.

    Attributes:
        model: the model with its language head, or the encoder alone.
        encoder: the model without head.
        tokenizer: its tokenizer; None for a backbone on the meta device.
        anatomy: where its parts are.
        modules: the modules attached, in the order of attachment.
        composition: how they work together; see `activate`.
        layer_dropout: of each layer, the probability of the dropout behind its blocks that the layer itself does.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, anatomy: Anatomy) -> None:
        self.model = model.requires_grad_(False)
        self.encoder: nn.Module = getattr(model, model.base_model_prefix, model)
        self.tokenizer = tokenizer
        self.anatomy = anatomy
        self.modules: list[Module] = []
        self.composition: Composable = Stack()
        self._repetition: Any = None
        self.layer_dropout = [getattr(layer, anatomy.layer_dropout) if anatomy.layer_dropout else 0.0 for layer in self.layers]
        self._own = {id(part): _named_once(part, model.base_model_prefix) for part in (self.model, self.encoder)}
        self._open_language_head()

    @classmethod
    def open(cls, folder: Path, anatomy: str | None = None, language_head: bool = False, quantisation: str = "none") -> Backbone:
        """Load a model folder.

        Args:
            anatomy: see `anatomy_of`.
            language_head: whether the pretraining head is needed.
            quantisation: `none`, `8bit` or `4bit` (bitsandbytes).
        """
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        parts = anatomy_of(config.model_type.replace("-", "_"), anatomy)
        config.update(parts.configuration)
        model_class: Any = _MODEL_CLASSES[parts.objective] if language_head else AutoModel
        model, report = model_class.from_pretrained(
            folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True,
            **_without_pooler(parts, language_head), **_quantised(quantisation),
        )  # fmt: skip
        if report["missing_keys"]:
            raise UserError(
                f"{folder} lacks weights that are needed here: {', '.join(sorted(report['missing_keys'])[:3])}. "
                "Use a checkpoint that was saved with its pretraining head, or, for a task with a head of its own, method=none."
            )
        return cls(model, load_tokenizer(folder), parts)

    @classmethod
    def from_shape(cls, shape: Mapping[str, Any], anatomy: str | None = None, language_head: bool = False) -> Backbone:
        """A model with the given shape on the meta device: parameters can be counted, nothing computed."""
        config = config_from_shape(shape)
        parts = anatomy_of(config.model_type.replace("-", "_"), anatomy)
        config.update(parts.configuration)
        with torch.device("meta"):
            model_class: Any = _MODEL_CLASSES[parts.objective] if language_head else AutoModel
            return cls(model_class.from_config(config, **_without_pooler(parts, language_head)), None, parts)

    @staticmethod
    def new(config: PretrainedConfig, anatomy: Anatomy) -> nn.Module:
        """An untrained model with its language head, initialised from torch's global generator."""
        config.update(anatomy.configuration)
        return _MODEL_CLASSES[anatomy.objective].from_config(config)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def vocabulary(self) -> str:
        """The hash of the tokenizer's pieces and their numbers."""
        pieces = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(pieces.encode()).hexdigest()[:16]

    @property
    def quantised(self) -> bool:
        """Whether weights are kept as small integers, which no training can change."""
        return getattr(self.model, "is_quantized", False)

    @property
    def layers(self) -> list[nn.Module]:
        """All layers; those of a decoder behind those of its encoder."""
        return [layer for path in self.anatomy.layers for layer in self.encoder.get_submodule(path)]

    @property
    def embeddings(self) -> nn.Module:
        return self.encoder.get_submodule(self.anatomy.embeddings)

    def language_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of the vocabulary [..., vocabulary] for the last layer's output [..., hidden]."""
        others = (self.model.get_input_embeddings(),) if self.anatomy.head_reads_embeddings else ()
        for path in self.anatomy.language_head:
            hidden = self.model.get_submodule(path)(hidden, *others)
        return hidden + self.model.final_logits_bias[0] if hasattr(self.model, "final_logits_bias") else hidden

    def open_output_embedding(self, embedding: nn.Module) -> None:
        """Let the attached modules act on what a head's last linear map reads, as they do in the model's own language head."""
        embedding.register_forward_pre_hook(lambda part, inputs: (self._before_output_embedding(inputs[0]),))

    def _open_language_head(self) -> None:
        after, embedding = self.anatomy.inverse_after, self.model.get_output_embeddings()
        if after is not None and hasattr(self.model, after.split(".")[0]):
            part = self.model.get_submodule(after)
            part.register_forward_hook(lambda part, inputs, output: self._before_output_embedding(output))
        elif embedding is not None:
            self.open_output_embedding(embedding)

    def _before_output_embedding(self, states: torch.Tensor) -> torch.Tensor:
        for module in self.modules:
            states = module.before_output_embedding(states)
        return states

    def own_parameters(self, part: nn.Module) -> dict[str, nn.Parameter]:
        """The pretrained parameters of the model or the encoder, without those of attached modules."""
        return self._own[id(part)]

    def layer_key(self, layer: int) -> str:
        """A layer's path from the encoder, which is its name in checkpoints."""
        for path in self.anatomy.layers:
            size = len(self.encoder.get_submodule(path))
            if layer < size:
                return f"{path}.{layer}"
            layer -= size
        raise IndexError("the backbone does not have so many layers")

    def has_place(self, layer: int, place: str) -> bool:
        """Whether a layer has a block of this name (only decoders have cross-attention)."""
        known = self.anatomy.places.get(place)
        return known is not None and hasattr(self.layers[layer], known.module.split(".")[0])

    def site(self, layer: int, place: str) -> Site:
        """The site at the end of a layer's block, put into its place when first asked for."""
        # Where the layer's own dropout moves into the sites, each of its blocks needs one.
        for name in self.anatomy.places if self.anatomy.layer_dropout else [place]:
            parent, attribute = self._module_at(layer, name)
            current = getattr(parent, attribute, None)
            if current is not None and not isinstance(current, Site):
                site = self.anatomy.places[name].site(self, layer, name, current)
                setattr(parent, attribute, site.train(self.model.training))
        return getattr(*self._module_at(layer, place))

    def remove_empty_sites(self) -> None:
        """Give every layer whose sites hold no adapters its own modules back."""
        for layer in range(len(self.layers)):
            sites = {}
            for name in self.anatomy.places:
                place = self._module_at(layer, name)
                if isinstance(getattr(*place, None), Site):
                    sites[place] = getattr(*place)
            if self.anatomy.layer_dropout and any(site.adapters for site in sites.values()):
                continue
            for place, site in sites.items():
                if not site.adapters:
                    site.remove()
                    setattr(*place, site.original)

    def activate(self, composition: Composable | None = None) -> None:
        """Choose how the attached modules work together, from this batch on.

        Args:
            composition: a module, or modules under `xlt.backbones.composition`; None stacks all that are attached, in the order
                of attachment. Modules that are not in it rest.

        Raises:
            ValueError: a module in it is not attached to this backbone.
            UserError: modules that cannot work together.
        """
        if composition is None:
            members = {id(member) for module in self.modules for member in module.members}
            composition = Stack(*(module for module in self.modules if id(module) not in members))
        branches = composition.branches()
        strangers = [module for branch in branches for module, _ in branch if module not in self.modules]
        if strangers:
            raise ValueError("a composition can only hold modules that are attached to its backbone")
        previous = self.composition
        try:
            self._put_in_force(composition, branches)
        except UserError:
            self._put_in_force(previous, previous.branches())
            raise

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The last layer's output [batch, sequence, hidden] for ids and mask [batch, sequence]; of the branches of a parallel
        composition one after the other, [branches · batch, sequence, hidden].

        Args:
            decoder_input_ids: what the decoder of an encoder-decoder reads, [batch, length]; None: what the encoder reads.
            token_type_ids: which of two texts each token belongs to, [batch, length]; only BERT and its like look at it.
        """
        options: dict[str, Any] = {}
        if token_type_ids is not None and getattr(self.config, "type_vocab_size", 0) > 1:
            options["token_type_ids"] = token_type_ids
        if self.anatomy.objective != "masked":
            options["use_cache"] = False
        if self.anatomy.objective == "denoising":
            options["decoder_input_ids"] = input_ids if decoder_input_ids is None else decoder_input_ids
            options["decoder_attention_mask"] = attention_mask if decoder_input_ids is None else None
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state

    def _put_in_force(self, composition: Composable, branches: Sequence[Branch]) -> None:
        self.composition = composition
        if self._repetition is not None:
            self._repetition.remove()
            self._repetition = None
        if len(branches) > 1:
            repeat = partial(_repeat_batch, len(branches))
            self._repetition = self.encoder.register_forward_pre_hook(repeat, with_kwargs=True)
        for module in self.modules:
            module.compose(branches)

    def _module_at(self, layer: int, place: str) -> tuple[nn.Module, str]:
        path, _, name = self.anatomy.places[place].module.rpartition(".")
        return self.layers[layer].get_submodule(path), name


def _without_pooler(anatomy: Anatomy, language_head: bool) -> dict[str, bool]:
    """The option that keeps transformers from adding a pooler; models with a language head have none."""
    return {"add_pooling_layer": False} if anatomy.has_pooler and not language_head else {}


def _repeat_batch(times: int, encoder: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """Every row once for each branch: [batch, ...] → [times · batch, ...]."""

    def repeated(value: Any) -> Any:
        return value.repeat(times, *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) and value.ndim else value

    return tuple(map(repeated, inputs)), {name: repeated(value) for name, value in options.items()}


def _named_once(part: nn.Module, encoder_prefix: str) -> dict[str, nn.Parameter]:
    """The parameters by name; one that several modules share goes by its name in the encoder."""
    named = sorted(part.named_parameters(remove_duplicate=False), key=lambda item: not item[0].startswith(f"{encoder_prefix}."))
    names: dict[int, str] = {}
    for name, parameter in named:
        names.setdefault(id(parameter), name)
    return {name: parameter for name, parameter in named if names[id(parameter)] == name}


def _quantised(quantisation: str) -> dict[str, Any]:
    if quantisation == "none":
        return {}
    if quantisation == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
    return {
        "quantization_config": config,
        "device_map": {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"},
    }


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
