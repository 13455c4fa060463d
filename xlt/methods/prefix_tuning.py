"""Prefix tuning (Li & Liang 2021): learnt keys and values in front of those of each layer's self-attention.

They come from a small network over an embedding of each prefix position, P = W_2 · f(W_1 · e + b_1) + b_2 (section 4.3), or are
learnt as they are (`flat`). In encoder-decoders the encoder and the decoder have a network each; cross-attention has no prefix.
Stored in AdapterHub's format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from xlt.backbones.activations import ACTIVATIONS, activation_function
from xlt.backbones.attention import Prefix, PrefixPool
from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import activation_named, fill, read_tensors, write_tensors
from xlt.backbones.composition import Branch
from xlt.config import setting
from xlt.errors import UserError
from xlt.methods.base import Method, Module, kept_layers

_KEY = "prefix_tuning.prefix_tunings"  # what the tensors' names begin with
_STACKS = ("encoder_prefix", "self_prefix")  # AdapterHub's names: of an encoder that a decoder reads, and of all other layers
_STACKS_OF = {"distilbert": ("self",)}


@dataclass(frozen=True)
class PrefixTuning(Method):
    """`method=prefix_tuning`.

    Attributes:
        prefix_length: positions of the prefix.
        bottleneck_size: rows of W_1.
        activation: the non-linearity f, by transformers' name.
        flat: keys and values are learnt themselves, without a network.
        dropout: on keys and values, in training.
        leave_out: layers without a prefix, counted from 0, or from the end with -1.
    """

    library: ClassVar[str | None] = "adapters"

    prefix_length: int = setting(30, at_least=1)
    bottleneck_size: int = setting(512, at_least=1)
    activation: str = setting("tanh", one_of=ACTIVATIONS)
    flat: bool = setting(False)
    dropout: float = setting(0.0, at_least=0, at_most=1)
    leave_out: list[int] = setting([])

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> PrefixTuningModule:
        module = PrefixTuningModule(self, backbone)
        for prefix in module.prefixes.values():
            _initialise(prefix, generator)
        return module

    def load(self, backbone: Backbone, folder: Path) -> PrefixTuningModule:
        stored = read_tensors(folder, backbone)
        _check_stacks(stored, self.stacks(backbone), folder)
        module = PrefixTuningModule(self, backbone)
        copies = tuple(f"{backbone.layer_key(layer)}." for layer in range(len(backbone.layers)))
        fill(module.parameters(), stored, folder, unused=copies)  # AdapterHub writes everything again below every layer
        module.freeze()
        return module

    def stacks(self, backbone: Backbone) -> dict[str, list[int]]:
        """The layers that have a prefix, for each list of layers, by AdapterHub's name of it.

        Raises:
            UserError: `leave_out` names a layer that the backbone does not have.
        """
        kept = kept_layers(backbone, self.leave_out)
        result, first = {}, 0
        for name, path in zip(_stack_names(backbone), backbone.anatomy.layers, strict=True):
            behind = first + len(backbone.encoder.get_submodule(path))
            result[name] = [layer for layer in kept if first <= layer < behind]
            first = behind
        return result

    @classmethod
    def from_adapterhub(cls, config: Mapping[str, Any]) -> PrefixTuning:
        """The method behind the `config` of an AdapterHub folder (`adapters.PrefixTuningConfig`).

        Raises:
            UserError: it asks for what xlt does not compute.
        """
        if config.get("use_gating"):
            raise UserError("xlt does not compute prefixes with a gate (use_gating=true).")
        return cls(
            name="adapterhub",
            prefix_length=config.get("prefix_length", 30),
            bottleneck_size=config.get("bottleneck_size", 512),
            activation=activation_named(config.get("non_linearity", "tanh")),
            flat=config.get("flat", False),
            dropout=float(config.get("dropout", 0.0)),
            leave_out=[int(layer) for layer in config.get("leave_out") or [] if layer >= 0],  # AdapterHub passes over the others
        )

    def adapterhub_config(self, left_out: Sequence[int]) -> dict[str, Any]:
        """The `config` of an AdapterHub folder.

        Args:
            left_out: the layers without a prefix; AdapterHub does not count from the end.
        """
        return {
            "architecture": "prefix_tuning", "encoder_prefix": True, "cross_prefix": False, "flat": self.flat,
            "prefix_length": self.prefix_length, "bottleneck_size": self.bottleneck_size, "non_linearity": self.activation,
            "dropout": self.dropout, "leave_out": list(left_out), "use_gating": False, "shared_gating": True,
            "init_weights_seed": None,
        }  # fmt: skip


class ReparametrisedPrefix(Prefix):
    """A prefix made by a network that all its layers share. Names of its parts are AdapterHub's."""

    def __init__(self, method: PrefixTuning, layers: Sequence[int], hidden: int, width: int) -> None:
        super().__init__(layers, method.dropout)
        self.wte = nn.Embedding(method.prefix_length, hidden)
        self.control_trans = nn.Sequential(
            nn.Linear(hidden, method.bottleneck_size),
            activation_function(method.activation),
            nn.Linear(method.bottleneck_size, 2 * len(layers) * width),
        )

    def states(self) -> torch.Tensor:
        return self.control_trans(self.wte.weight).unflatten(-1, (2 * len(self.layers), -1))


class FlatPrefix(Prefix):
    """A prefix that is learnt as it is."""

    def __init__(self, method: PrefixTuning, layers: Sequence[int], hidden: int, width: int) -> None:
        super().__init__(layers, method.dropout)
        self.length = method.prefix_length
        self.control_trans = nn.Parameter(torch.empty(method.prefix_length * 2 * len(layers) * width))

    def states(self) -> torch.Tensor:
        return self.control_trans.view(self.length, 2 * len(self.layers), -1)


class PrefixTuningModule(Module):
    """The prefixes of one module, attached to a backbone.

    Attributes:
        prefixes: by AdapterHub's name of the stack of layers.
    """

    def __init__(self, method: PrefixTuning, backbone: Backbone) -> None:
        stacks = method.stacks(backbone)
        self._pool = PrefixPool.of(backbone, list(stacks))
        super().__init__(backbone)
        self.method = method
        config = backbone.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kind = FlatPrefix if method.flat else ReparametrisedPrefix
        self.prefixes = nn.ModuleDict(
            {name: kind(method, layers, config.hidden_size, heads * size) for name, layers in stacks.items() if layers}
        )
        self.prefixes.to(device=backbone.model.device, dtype=backbone.model.dtype).train(backbone.model.training)
        self._pool.prefix_tunings[self.key] = self.prefixes

    def parameters(self) -> dict[str, nn.Parameter]:
        """By their names in AdapterHub's files, without the adapter's name."""
        return {f"{_KEY}.{name}": parameter for name, parameter in self.prefixes.named_parameters()}

    def save(self, folder: Path) -> None:
        with_prefix = {layer for prefix in self.prefixes.values() for layer in prefix.layers}
        left_out = sorted(set(range(len(self.backbone.layers))) - with_prefix)
        write_tensors(self.parameters(), self.backbone, self.method.adapterhub_config(left_out), folder)

    def remove(self) -> None:
        del self._pool.prefix_tunings[self.key]
        self._pool.remove_if_empty()

    # ---- as a part of compositions

    def compose(self, branches: Sequence[Branch]) -> None:
        """Prefixes of a branch stand one before the other, that of the last module first, as AdapterHub has them."""
        if any(module is self and share != 1.0 for branch in branches for module, share in branch):
            raise UserError(
                "Prefixes have no mean: attention reads each of them or does not. Put modules of prefix tuning into a Stack or "
                "into the branches of a Parallel, not into an Average."
            )
        self._pool.put_in_force(
            [[module.key for module, _ in branch if isinstance(module, PrefixTuningModule)] for branch in branches]
        )


def _stack_names(backbone: Backbone) -> tuple[str, ...]:
    return _STACKS_OF.get(backbone.config.model_type, _STACKS[-len(backbone.anatomy.layers) :])


def _check_stacks(stored: Mapping[str, torch.Tensor], stacks: Mapping[str, list[int]], folder: Path) -> None:
    """Refuse prefixes in other places than ours."""
    found = {name.split(".")[2] for name in stored if name.startswith(f"{_KEY}.")}
    expected = {name for name, layers in stacks.items() if layers}
    if found != expected:
        raise UserError(
            f"{folder} holds prefixes for {', '.join(sorted(found)) or 'nothing'}. xlt puts them in front of the self-attention "
            f"of every layer that is not left out, here {', '.join(sorted(expected)) or 'none'}. In AdapterHub a module is like "
            "that with encoder_prefix=True and cross_prefix=False."
        )


def _initialise(prefix: Prefix, generator: torch.Generator) -> None:
    """As AdapterHub begins: e, and flat prefixes, from N(0, 1), the linear maps as torch's."""
    with torch.no_grad():
        for name, parameter in prefix.named_parameters():
            if parameter.is_meta:
                continue
            values = torch.empty(parameter.shape)
            if name in ("wte.weight", "control_trans"):
                values.normal_(generator=generator)
            else:  # U(-1/√n, 1/√n) for n inputs
                bound = prefix.get_submodule(name.rpartition(".")[0]).in_features ** -0.5
                values.uniform_(-bound, bound, generator=generator)
            parameter.copy_(values)
