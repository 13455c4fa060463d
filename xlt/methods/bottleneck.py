"""Bottleneck adapters and invertible adapters (Pfeiffer et al. 2020, MAD-X), stored in AdapterHub's format.

An adapter computes u = W_up · f(W_down · a + b_down) + b_up on a ∈ R^hidden; how u joins the layer is the site's affair
(`xlt.backbones.anatomy`). The invertible adapter (MAD-X section 3.3, NICE coupling) acts on the embeddings' output, and its
inverse on the input of the output embedding. Only the module nearest to the embeddings supplies one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.activations import ACT2FN

from xlt.backbones.backbone import Backbone
from xlt.config import setting
from xlt.errors import UserError
from xlt.methods.base import Method, Module

_INITIAL_STANDARD_DEVIATION = 0.02  # of all weights; biases start at 0 (method "bert" of AdapterHub)
_NAME = "xlt"  # the adapter's name inside the keys of the files
_INVERTIBLE = "invertible_adapter"  # its name below the embeddings


class BottleneckAdapter(nn.Module):
    """The map a → u, [..., hidden] → [..., hidden], through `bottleneck` dimensions."""

    def __init__(self, hidden: int, bottleneck: int, activation: str) -> None:
        super().__init__()
        self.adapter_down = nn.Sequential(nn.Linear(hidden, bottleneck), ACT2FN[activation])
        self.adapter_up = nn.Linear(bottleneck, hidden)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.adapter_up(self.adapter_down(hidden_states))


class InvertibleAdapter(nn.Module):
    """NICE coupling of the halves x1, x2 of a vector: y1 = x1 + F(x2), y2 = x2 + G(y1). [..., hidden] → [..., hidden].

    F and G are linear maps through hidden / (2 · reduction_factor) dimensions with a non-linearity between them.
    """

    def __init__(self, hidden: int, reduction_factor: int, activation: str) -> None:
        super().__init__()
        self.first = hidden // 2
        second = hidden - self.first
        self.F = _two_layers(second, second // reduction_factor, self.first, activation)
        self.G = _two_layers(self.first, self.first // reduction_factor, second, activation)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x1, x2 = hidden_states[..., : self.first], hidden_states[..., self.first :]
        y1 = x1 + self.F(x2)
        return torch.cat([y1, x2 + self.G(y1)], dim=-1)

    def inverse(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The x with forward(x) = `hidden_states`."""
        y1, y2 = hidden_states[..., : self.first], hidden_states[..., self.first :]
        x2 = y2 - self.G(y1)
        return torch.cat([y1 - self.F(x2), x2], dim=-1)


@dataclass(frozen=True)
class Bottleneck(Method):
    """`method=seq_bn` and `method=seq_bn_inv`: an adapter after every feed-forward block (the Pfeiffer placement).

    Attributes:
        reduction_factor: hidden size over bottleneck size (16: Gurgurov et al. 2025; 2: MAD-X language adapters).
        activation: the non-linearity, by transformers' name.
        invertible: whether the module owns an invertible adapter.
        invertible_reduction_factor: size of each half over the size inside F and G.
        leave_out: layers without an adapter, counted from 0 (MAD-X 2.0 leaves out the last).
    """

    reduction_factor: float = setting(16.0, above=0)
    activation: str = setting("relu", one_of=tuple(sorted(ACT2FN)))
    invertible: bool = setting(False)
    invertible_reduction_factor: int = setting(2, at_least=1)
    leave_out: list[int] = field(default_factory=list)

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> BottleneckModule:
        module = BottleneckModule(self, backbone)
        for part in (*module.adapters.values(), *([module.invertible] if module.invertible else [])):
            _initialise(part, generator)
        return module

    def load(self, backbone: Backbone, folder: Path) -> BottleneckModule:
        module = BottleneckModule(self, backbone)
        stored = load_file(folder / "adapter.safetensors")
        expected = module.named_tensors()
        if stored.keys() != expected.keys():
            unexpected, missing = sorted(stored.keys() - expected.keys()), sorted(expected.keys() - stored.keys())
            raise UserError(
                f"{folder} does not fit this backbone and these settings: missing {missing[:3]}, unexpected {unexpected[:3]}."
            )
        resized = sorted(key for key, tensor in expected.items() if stored[key].shape != tensor.shape)
        if resized:
            raise UserError(f"{folder} does not fit this backbone and these settings: of another size are {resized[:3]}.")
        with torch.no_grad():
            for key, tensor in expected.items():
                tensor.copy_(stored[key])
        module.freeze()
        return module


class BottleneckModule(Module):
    """The adapters of one module, attached to a backbone.

    Attributes:
        adapters: by layer.
        invertible: the invertible adapter in use, or None.
    """

    def __init__(self, method: Bottleneck, backbone: Backbone) -> None:
        layers = len(backbone.layers)
        if any(layer not in range(layers) for layer in method.leave_out):
            raise UserError(f"method.leave_out={method.leave_out}: the backbone's layers are 0 to {layers - 1}.")
        is_first = not backbone.modules
        super().__init__(backbone)
        self.method = method
        hidden = backbone.config.hidden_size
        bottleneck = max(1, int(hidden // method.reduction_factor))
        device = next(backbone.model.parameters()).device
        self.adapters: dict[int, BottleneckAdapter] = {}
        for layer in range(layers):
            if layer not in method.leave_out:
                adapter = BottleneckAdapter(hidden, bottleneck, method.activation).to(device)
                backbone.site(layer).adapters.append(adapter.train(backbone.model.training))
                self.adapters[layer] = adapter
        self.invertible: InvertibleAdapter | None = None
        self._hooks: list[Any] = []
        if method.invertible and is_first:
            invertible = InvertibleAdapter(hidden, method.invertible_reduction_factor, method.activation).to(device)
            self.invertible = invertible.train(backbone.model.training)
            backbone.embeddings.add_module(_INVERTIBLE, invertible)  # so that it moves to a device with the model
            self._hooks.append(backbone.embeddings.register_forward_hook(lambda module, inputs, output: invertible(output)))
            output_embedding = backbone.model.get_output_embeddings()
            if output_embedding is not None:
                self._hooks.append(
                    output_embedding.register_forward_pre_hook(lambda module, inputs: (invertible.inverse(inputs[0]),))
                )

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """The parameters by their names in AdapterHub's files."""
        anatomy = self.backbone.anatomy
        tensors = {
            f"{anatomy.adapter_key.format(layer=layer)}.{_NAME}.{name}": parameter
            for layer, adapter in self.adapters.items()
            for name, parameter in adapter.named_parameters()
        }
        if self.invertible is not None:
            for name, parameter in self.invertible.named_parameters():
                tensors[f"{anatomy.invertible_key}.{_NAME}.{name}"] = parameter
        return tensors

    parameters = named_tensors

    def save(self, folder: Path) -> None:
        method, config = self.method, self.backbone.config
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.named_tensors().items()}
        save_file(tensors, folder / "adapter.safetensors")
        description = {
            "config": {
                "mh_adapter": False, "output_adapter": True, "reduction_factor": method.reduction_factor,
                "non_linearity": method.activation, "original_ln_before": True, "original_ln_after": True,
                "leave_out": list(method.leave_out), "inv_adapter": "nice" if self.invertible is not None else None,
                "inv_adapter_reduction_factor": method.invertible_reduction_factor if self.invertible is not None else None,
            },
            "hidden_size": config.hidden_size, "model_type": config.model_type, "name": _NAME,
            "model_class": type(self.backbone.encoder).__name__, "version": "adapters.1.3.0",
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(description, indent=2, sort_keys=True))

    def detach(self) -> None:
        super().detach()
        for layer in self.adapters:
            del self.backbone.site(layer).adapters[-1]
        self.backbone.remove_empty_sites()
        for hook in self._hooks:
            hook.remove()
        if self.invertible is not None:
            delattr(self.backbone.embeddings, _INVERTIBLE)


def _two_layers(inputs: int, inside: int, outputs: int, activation: str) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, inside), ACT2FN[activation], nn.Linear(inside, outputs))


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_meta:
                continue
            if parameter.ndim == 1:
                parameter.zero_()
            else:
                values = torch.empty(parameter.shape).normal_(0, _INITIAL_STANDARD_DEVIATION, generator=generator)
                parameter.copy_(values)
