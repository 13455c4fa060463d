"""Heads: what turns the last layer's states into labels of a text, of its tokens or of a span, or into vocabulary scores.

Their parts are those of AdapterHub's library: `layers` holds its layers in their order, so that `layers.4.weight` here is
`heads.<name>.4.weight` in a file. `load_head` reads a head that the library stored, whatever its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from xlt.backbones.activations import activation_function
from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import (
    HEAD_CONFIG,
    NAME,
    activation_named,
    adapterhub_activation,
    check_fits,
    fill,
    read_description,
    read_file,
    write_head,
)
from xlt.errors import UserError, suggest


class LabelHead(nn.Module):
    """Dropout, linear, non-linearity and so on, last dropout and linear: [..., hidden] → scores [..., labels].

    No pooler of the pretrained model is used, so none can be lost between saving and loading (as seems to have happened to
    Faisal & Anastasopoulos 2024).

    Args:
        layers: linear maps; all but the last keep the size.
        activation: the non-linearity between them, by transformers' name; None for none.
        bias: of the last map.
    """

    kind: ClassVar[str]  # AdapterHub's name

    def __init__(
        self, hidden: int, labels: int, dropout: float, layers: int = 1, activation: str | None = "tanh", bias: bool = True
    ) -> None:
        super().__init__()
        self.settings = {"layers": layers, "activation_function": activation, "dropout_prob": dropout}
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Dropout(dropout), nn.Linear(hidden, hidden), *_nonlinearity(activation)]
        self.layers = nn.Sequential(*parts, nn.Dropout(dropout), nn.Linear(hidden, labels, bias=bias))

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[rows, length, hidden], [rows, length] → scores of each token [rows, length, labels]."""
        return self.layers(hidden_states)

    def save(self, folder: Path, backbone: Backbone, labels: Sequence[str], name: str = NAME) -> None:
        """Write the head into an existing folder as AdapterHub's library does.

        Args:
            labels: their names, in the order of the scores.
            name: the head's name in the file.

        Raises:
            UserError: the library has no such head.
        """
        numbers = {label: number for number, label in enumerate(labels)}
        config = {"head_type": self.kind, "num_labels": len(labels), "label2id": numbers, **self.adapterhub_config(backbone)}
        config["activation_function"] = adapterhub_activation(config["activation_function"])
        tensors = {key.removeprefix("layers."): tensor for key, tensor in self.state_dict().items()}
        write_head(tensors, backbone, config, folder, name)

    def adapterhub_config(self, backbone: Backbone) -> dict[str, Any]:
        """What the kinds of heads differ in."""
        return self.settings


class TaggingHead(LabelHead):
    """A label for each token."""

    kind = "tagging"


class QuestionAnsweringHead(LabelHead):
    """Where an answer begins and ends: of the two scores of each token, the first and the second."""

    kind = "question_answering"


class ClassificationHead(LabelHead):
    """A label for the text, from one vector of it.

    Args:
        pooling: which vector: that of the `first` token, of the `last`, or the `mean` over all.
    """

    kind = "classification"

    def __init__(
        self, hidden: int, labels: int, dropout: float, pooling: str, layers: int = 2, activation: str | None = "tanh",
        bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(hidden, labels, dropout, layers, activation, bias)
        self.settings |= {"bias": bias, "use_pooler": False}
        self.pooling = pooling

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[rows, length, hidden], [rows, length] (padding on the right) → scores [rows, labels]."""
        lengths = attention_mask.sum(dim=1)
        if self.pooling == "mean":
            return self.layers((hidden_states * attention_mask.unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1))
        places = lengths - 1 if self.pooling == "last" else torch.zeros_like(lengths)
        return self.layers(hidden_states[torch.arange(len(places), device=places.device), places])

    def adapterhub_config(self, backbone: Backbone) -> dict[str, Any]:
        usual = usual_pooling(backbone)
        if self.pooling != usual:
            raise UserError(
                f"AdapterHub's heads of {backbone.config.model_type} models read the {usual} token; this one was trained with "
                f"pooling={self.pooling}, and would give other labels there."
            )
        return self.settings


Head = TypeVar("Head", bound=nn.Module)


def initialise(head: Head, backbone: Backbone, generator: torch.Generator) -> Head:
    """A new head as the backbone's own layers were once initialised: matrices normal with its deviation, vectors zero."""
    config = backbone.config
    # mBART and M2M100 call it init_std.
    deviation = config.initializer_range if hasattr(config, "initializer_range") else config.init_std
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim == 1:
                parameter.zero_()
            else:
                parameter.normal_(0, deviation, generator=generator)
    return head


def usual_pooling(backbone: Backbone) -> str:
    """Which token a classification head reads: the first of an encoder, the last of a decoder, which has seen all others."""
    return "last" if backbone.anatomy.objective == "causal" else "first"


class LanguageHead(nn.Module):
    """A language head beside the model's own: linear, non-linearity, norm and so on, last the output embedding.

    The inverse of an invertible adapter acts before the output embedding, as in the model's own head.

    Args:
        layers: linear maps, the output embedding included.
        embedding: dimensions between them.
        activation: the non-linearity behind each but the last, by transformers' name; None for none.
        eps: of a norm behind each non-linearity; None for no norm.
        bias: of the output embedding.
        causal: whether each position is to predict the token after it.
    """

    def __init__(
        self, hidden: int, embedding: int, vocabulary: int, layers: int, activation: str | None, eps: float | None, bias: bool,
        causal: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.causal = causal
        parts: list[nn.Module] = []
        for number in range(layers - 1):
            parts += [nn.Linear(embedding if number else hidden, embedding), *_nonlinearity(activation)]
            parts += [] if eps is None else [nn.LayerNorm(embedding, eps=eps)]
        self.layers = nn.Sequential(*parts, nn.Linear(embedding if layers > 1 else hidden, vocabulary, bias=bias))

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[rows, length, hidden], [rows, length] → scores [rows, length, vocabulary]."""
        return self.layers(hidden_states)


Head = LabelHead | LanguageHead
_LABEL_HEADS = {kind.kind: kind for kind in (ClassificationHead, TaggingHead, QuestionAnsweringHead)}
_LANGUAGE_HEADS = ("masked_lm", "causal_lm", "seq2seq_lm")


def load_head(folder: Path, backbone: Backbone) -> Head:
    """A head that AdapterHub's library stored, filled and frozen.

    Raises:
        UserError: there is none, it is of a kind that xlt does not have, or it does not fit the backbone.
    """
    description = read_description(folder, HEAD_CONFIG)
    check_fits(description, folder, backbone)
    if not description.get("config"):
        raise UserError(f"{folder} holds a copy of the model's own head, not one beside it. The backbone has that head already.")
    try:
        head, prefix = _build(description["config"], backbone), f"heads.{description['name']}."
    except KeyError as error:
        raise UserError(f"{folder / HEAD_CONFIG} does not say what the head's {error.args[0]} is.") from error
    stored = {name.replace(prefix, "layers.", 1): tensor for name, tensor in read_file(folder, "head").items()}
    fill(dict(head.named_parameters()), stored, folder)
    if isinstance(head, LanguageHead):
        backbone.open_output_embedding(head.layers[-1])
    return head.to(device=backbone.model.device, dtype=backbone.model.dtype).train(backbone.model.training).requires_grad_(False)


def _build(config: Mapping[str, Any], backbone: Backbone) -> Head:
    kind, model = config["head_type"], backbone.config
    if kind not in (*_LABEL_HEADS, *_LANGUAGE_HEADS):
        raise UserError(
            f"xlt has no heads of the kind {kind}. {suggest(kind, [*_LABEL_HEADS, *_LANGUAGE_HEADS], 'kinds of heads')}"
        )
    if config.get("use_pooler"):
        raise UserError("xlt has no heads that read the model's pooler (use_pooler=true).")
    activation = config.get("activation_function") and activation_named(config["activation_function"])
    if kind in _LANGUAGE_HEADS:
        return LanguageHead(
            model.hidden_size, config.get("embedding_size") or model.hidden_size, config["vocab_size"], config["layers"],
            activation, getattr(model, "layer_norm_eps", 1e-12) if config.get("layer_norm") else None, config["bias"],
            config["shift_labels"],
        )  # fmt: skip
    dropouts = (
        config.get("dropout_prob"), getattr(model, "classifier_dropout", None), getattr(model, "hidden_dropout_prob", None), 0.0
    )  # fmt: skip
    options = {
        "dropout": next(dropout for dropout in dropouts if dropout is not None), "layers": config["layers"],
        "activation": activation, "bias": config.get("bias", True),
    }  # fmt: skip
    if kind == ClassificationHead.kind:
        options["pooling"] = usual_pooling(backbone)
    return _LABEL_HEADS[kind](model.hidden_size, config["num_labels"], **options)


def _nonlinearity(activation: str | None) -> list[nn.Module]:
    return [activation_function(activation)] if activation else []
