"""Bottleneck adapters, alone or with an invertible adapter, stored in AdapterHub's format.

An adapter computes u = s · W_up · f(W_down · a + b_down) + b_up and joins it to the block that it ends (`xlt.backbones.anatomy`
says what h, x and LN are). Where it reads from and what it is added to tell the published kinds apart:

    seq_bn (Pfeiffer et al. 2020)         a = LN(h + x)   o = u + h    closes with LN(o + x)    after feed-forward
    double_seq_bn (Houlsby et al. 2019)   a = h           o = u + h    closes with LN(o + x)    after both blocks
    par_bn (He et al. 2022)               a = x           o = u + h    closes with LN(o + x)    after feed-forward

In pre-norm models there is no LN at these places: h + x stands for LN(h + x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from xlt.backbones.activations import ACTIVATIONS, activation_function
from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import (
    NAME,
    activation_named,
    adapterhub_activation,
    fill,
    read_tensors,
    write_tensors,
)
from xlt.backbones.composition import Branch
from xlt.backbones.sites import Norm, Site
from xlt.config import setting
from xlt.errors import UserError
from xlt.methods.base import Method, Module, kept_layers, left_out_keys
from xlt.methods.invertible import InvertibleAdapter

_INVERTIBLE = "invertible_adapters"  # their name below the embeddings
ADAPTERHUB_PLACES = {"attention": "mh_adapter", "cross_attention": "cross_adapter", "output": "output_adapter"}
_ADAPTERHUB_SCALINGS = {"learned": "scalar", "channel": "channel"}
_ADAPTERHUB_INITIALISATIONS = {"bert": "normal", "mam_adapter": "zero_up", "houlsby": "truncated"}


@dataclass(frozen=True)
class Bottleneck(Method):
    """`method=seq_bn`, `seq_bn_inv`, `madx2`, `double_seq_bn` and `par_bn`.

    Attributes:
        places: the blocks of a layer that have an adapter.
        reduction_factor: hidden size over bottleneck size (16: Gurgurov et al. 2025; 2: MAD-X language adapters).
        layer_reduction_factors: other factors for single layers, by their number.
        activation: the non-linearity f, by transformers' name.
        invertible: whether the module owns an invertible adapter.
        invertible_reduction_factor: size of each half over the size inside F and G.
        inverse_at_head: whether the inverse acts before the output embedding, as in MAD-X; AdapterHub leaves it out where a
            model keeps its own language head (`compat=adapterhub`).
        leave_out: layers without an adapter, counted from 0, or from the end with -1 (MAD-X 2.0 leaves out the last).
        reads_norm: a is LN(h + x) rather than h.
        residual: what u is added to: `hidden` (h), `sum` (h + x) or `input` (a).
        final_norm: the block closes with LN(o + x); else o goes on as it is.
        parallel: a is x, and u is added to h.
        scaling: the factor s.
        learned_scaling: whether s is learnt: `no`, `scalar`, or `channel`, one for each dimension.
        gated: u is multiplied by the sequence's mean of σ(W_gate · a + b_gate), one number for each text. Not for decoders: it
            looks at all positions.
        gate_over_padding: the mean counts padding too, as AdapterHub's does (`compat=adapterhub`).
        norm_before, norm_after: a norm of the adapter's own on a, and on what it puts out.
        residual_before_norm_after: the norm after acts on the sum with the residual, unless the adapter is parallel.
        dropout: on u, in training.
        initialisation: `normal`: weights N(0, 0.02), biases 0. `zero_up`: W_up = 0, W_down as torch's linear maps begin (He et
            al. 2022). `truncated`: weights from a normal distribution of standard deviation 0.01 cut at 0.02 (Houlsby et al.
            2019).
    """

    library: ClassVar[str | None] = "adapters"

    places: list[str] = setting(["output"], one_of=tuple(ADAPTERHUB_PLACES), neutral=True)
    reduction_factor: float = setting(16.0, above=0)
    layer_reduction_factors: dict[str, float] = setting({}, neutral=True)
    activation: str = setting("relu", one_of=ACTIVATIONS)
    invertible: bool = setting(False)
    invertible_reduction_factor: int = setting(2, at_least=1)
    inverse_at_head: bool = setting(True, neutral=True)
    leave_out: list[int] = field(default_factory=list)
    reads_norm: bool = setting(True, neutral=True)
    residual: str = setting("hidden", one_of=("hidden", "sum", "input"), neutral=True)
    final_norm: bool = setting(True, neutral=True)
    parallel: bool = setting(False, neutral=True)
    scaling: float = setting(1.0, neutral=True)
    learned_scaling: str = setting("no", one_of=("no", "scalar", "channel"), neutral=True)
    gated: bool = setting(False, neutral=True)
    gate_over_padding: bool = setting(False, neutral=True)
    norm_before: bool = setting(False, neutral=True)
    norm_after: bool = setting(False, neutral=True)
    residual_before_norm_after: bool = setting(False, neutral=True)
    dropout: float = setting(0.0, at_least=0, at_most=1, neutral=True)
    initialisation: str = setting("normal", one_of=("normal", "zero_up", "truncated"), neutral=True)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if not self.places or len(set(self.places)) < len(self.places):
            raise UserError(f"{where}.places={list(self.places)} has to name at least one place, each once.")
        for layer, factor in self.layer_reduction_factors.items():
            if not layer.isdigit() or not factor > 0:
                raise UserError(
                    f"{where}.layer_reduction_factors={{{layer}: {factor}}}: a layer's number and a factor above 0 go there."
                )

    def compatible_with(self, repository: str) -> Bottleneck:
        if repository != "adapterhub":
            return self
        inverse_at_head = self.inverse_at_head and not self.invertible
        return replace(self, inverse_at_head=inverse_at_head, gate_over_padding=self.gate_over_padding or self.gated)

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> BottleneckModule:
        # Below another module its own invertible adapter would never be in use.
        module = BottleneckModule(self, backbone, with_invertible=self.invertible and not backbone.modules)
        for adapter in module.adapters.values():
            _initialise(adapter, generator, self.initialisation)
        if module.invertible is not None:
            _initialise(module.invertible, generator, "normal")
        return module

    def load(self, backbone: Backbone, folder: Path) -> BottleneckModule:
        stored = read_tensors(folder, backbone)
        there = any(name.startswith(f"{backbone.anatomy.invertible_key}.") for name in stored)
        with_invertible = self.invertible and (there or not backbone.modules)  # one that is never in use was not stored
        module = BottleneckModule(self, backbone, with_invertible)
        fill(module.parameters(), stored, folder, unused=left_out_keys(backbone, self.leave_out))
        module.freeze()
        return module

    @classmethod
    def from_adapterhub(cls, config: Mapping[str, Any]) -> Bottleneck:
        """The method behind the `config` of an AdapterHub folder, its missing keys filled with their defaults.

        Raises:
            UserError: it asks for what xlt does not compute.
        """
        for key in ("phm_layer", "stochastic_depth"):
            if config.get(key):
                raise UserError(f"xlt does not compute adapters with {key}={config[key]}.")
        if config.get("inv_adapter") not in (None, "nice"):
            raise UserError(f"xlt computes invertible adapters of the kind nice, not {config['inv_adapter']}.")
        if missing := [key for key in ("reduction_factor", "non_linearity") if config.get(key) is None]:
            raise UserError(f"The config of a bottleneck adapter has to say its {' and its '.join(missing)}; this one does not.")
        factors = config["reduction_factor"]
        factors = dict(factors) if isinstance(factors, Mapping) else {"default": factors}
        scaling = config.get("scaling", 1.0)
        if isinstance(scaling, str) and scaling not in _ADAPTERHUB_SCALINGS:
            raise UserError(f"xlt does not compute adapters with scaling={scaling}. It knows {', '.join(_ADAPTERHUB_SCALINGS)}.")
        residual = config.get("residual_before_ln", True)
        return cls(
            name="adapterhub",
            places=[place for place, key in ADAPTERHUB_PLACES.items() if config.get(key)],
            reduction_factor=float(factors.pop("default", 1.0)),
            layer_reduction_factors={str(layer): float(factor) for layer, factor in factors.items()},
            activation=activation_named(config["non_linearity"]),
            invertible=config.get("inv_adapter") is not None,
            invertible_reduction_factor=int(config.get("inv_adapter_reduction_factor") or 2),
            inverse_at_head=config.get("inverse_at_head", True),
            leave_out=[int(layer) for layer in config.get("leave_out") or []],
            reads_norm=config.get("original_ln_before", False),
            residual={True: "hidden", False: "input"}.get(residual, "sum"),
            final_norm=config.get("original_ln_after", True),
            parallel=config.get("is_parallel", False),
            scaling=1.0 if isinstance(scaling, str) else float(scaling),
            learned_scaling=_ADAPTERHUB_SCALINGS[scaling] if isinstance(scaling, str) else "no",
            gated=config.get("use_gating", False),
            gate_over_padding=config.get("gate_over_padding", False),
            norm_before=config.get("ln_before", False),
            norm_after=config.get("ln_after", False),
            residual_before_norm_after=config.get("adapter_residual_before_ln", False),
            dropout=float(config.get("dropout", 0.0)),
            initialisation=_ADAPTERHUB_INITIALISATIONS.get(config.get("init_weights", "bert"), "normal"),
        )

    def adapterhub_config(self, backbone: Backbone, with_invertible: bool) -> dict[str, Any]:
        """The `config` of an AdapterHub folder (`adapters.BnConfig`), with two keys of ours, which AdapterHub passes over."""
        scaling = {"no": float(self.scaling), "scalar": "learned", "channel": "channel"}[self.learned_scaling]
        factors = {**self.layer_reduction_factors, "default": self.reduction_factor}
        initialisations = {ours: theirs for theirs, ours in _ADAPTERHUB_INITIALISATIONS.items()}
        kept = kept_layers(backbone, self.leave_out)
        return {
            **{key: place in self.places for place, key in ADAPTERHUB_PLACES.items()},
            "reduction_factor": factors if self.layer_reduction_factors else self.reduction_factor,
            "non_linearity": adapterhub_activation(self.activation),
            "inv_adapter": "nice" if with_invertible else None,
            "inv_adapter_reduction_factor": self.invertible_reduction_factor if with_invertible else None,
            "leave_out": sorted(set(range(len(backbone.layers))).difference(kept)),  # AdapterHub does not count from the end
            "original_ln_before": self.reads_norm, "original_ln_after": self.final_norm,
            "residual_before_ln": {"hidden": True, "input": False, "sum": "post_add"}[self.residual],
            "is_parallel": self.parallel, "scaling": scaling, "use_gating": self.gated, "ln_before": self.norm_before,
            "ln_after": self.norm_after, "adapter_residual_before_ln": self.residual_before_norm_after, "dropout": self.dropout,
            "init_weights": initialisations[self.initialisation], "inverse_at_head": self.inverse_at_head,
            "gate_over_padding": self.gate_over_padding,
        }  # fmt: skip


class BottleneckAdapter(nn.Module):
    """One adapter at a site. Names of its parts are AdapterHub's."""

    def __init__(self, method: Bottleneck, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.method = method
        self.adapter_norm_before = nn.LayerNorm(hidden) if method.norm_before else None
        self.adapter_down = nn.Sequential(nn.Linear(hidden, bottleneck), activation_function(method.activation))
        self.adapter_up = nn.Linear(bottleneck, hidden)
        self.adapter_norm_after = nn.LayerNorm(hidden) if method.norm_after else None
        self.gate = nn.Linear(hidden, 1) if method.gated else None
        size = {"no": None, "scalar": 1, "channel": hidden}[method.learned_scaling]
        self.scaling = nn.Parameter(torch.ones(size)) if size else None
        self.dropout = nn.Dropout(method.dropout)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm, real: torch.Tensor | None = None) -> torch.Tensor:
        """h after the adapter.

        Args:
            hidden, residual: h and x [batch, sequence, hidden].
            real: 1 for positions that are no padding [batch, sequence], for the gate; None counts all.
        """
        read, kept = self.inputs(hidden, residual, norm)
        change = self.change(read)
        if self.gate is not None:
            change = change * _mean_over_positions(self.gate(read).sigmoid(), real)
        if self.adapter_norm_after is None:
            return change + kept
        if self.method.residual_before_norm_after and not self.method.parallel:
            return self.adapter_norm_after(change + kept)
        return self.adapter_norm_after(change) + kept

    def inputs(self, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """What the adapter reads, a, and what it is added to."""
        if self.method.parallel:
            return residual, hidden
        if not self.method.reads_norm and self.method.residual != "sum":
            return hidden, hidden
        total = hidden + residual
        read = hidden if not self.method.reads_norm else total if norm is None else norm(total)
        return read, {"hidden": hidden, "sum": total, "input": read}[self.method.residual]

    def change(self, read: torch.Tensor) -> torch.Tensor:
        """u, [..., hidden] → [..., hidden]: what the adapter adds, before gate and norm."""
        if self.adapter_norm_before is not None:
            read = self.adapter_norm_before(read)
        up = self.adapter_up(self.adapter_down(read))
        if self.scaling is not None:
            up = up * self.scaling
        elif self.method.scaling != 1.0:
            up = up * self.method.scaling
        return self.dropout(up)


class BottleneckModule(Module):
    """The adapters of one module, attached to a backbone.

    Attributes:
        adapters: by layer and place.
        invertible: the invertible adapter, or None. It is in use where the module is the first of its branch.
    """

    _rows: Sequence[bool] = ()  # of each branch, whether its embeddings go through the invertible adapter

    def __init__(self, method: Bottleneck, backbone: Backbone, with_invertible: bool) -> None:
        layers = kept_layers(backbone, method.leave_out)
        _check(method, backbone)
        super().__init__(backbone)
        self.method = method
        hidden = backbone.config.hidden_size
        like = {"device": backbone.model.device, "dtype": backbone.model.dtype}
        training = backbone.model.training
        self.adapters: dict[tuple[int, str], BottleneckAdapter] = {}
        for layer in layers:
            factor = method.layer_reduction_factors.get(str(layer), method.reduction_factor)
            for place in method.places:
                if backbone.has_place(layer, place):
                    adapter = BottleneckAdapter(method, hidden, max(1, int(hidden // factor))).to(**like).train(training)
                    backbone.site(layer, place).adapters[self.key] = adapter
                    self.adapters[layer, place] = adapter
        self.invertible: InvertibleAdapter | None = None
        self._hooks: list[Any] = []
        self._real: torch.Tensor | None = None
        if with_invertible:
            self.invertible = InvertibleAdapter(hidden, method.invertible_reduction_factor, method.activation).to(**like)
            self.invertible.train(training)
            self._hook_invertible()
        if method.gated and not method.gate_over_padding:
            self._hooks.append(backbone.encoder.register_forward_pre_hook(self._keep_mask, with_kwargs=True))

    def parameters(self) -> dict[str, nn.Parameter]:
        """By their names in AdapterHub's files, without the adapter's name."""
        anatomy = self.backbone.anatomy
        tensors = {
            f"{self.backbone.layer_key(layer)}.{anatomy.places[place].key}.adapters.{name}": parameter
            for (layer, place), adapter in self.adapters.items()
            for name, parameter in adapter.named_parameters()
        }
        if self.invertible is not None:
            tensors |= {f"{anatomy.invertible_key}.{name}": tensor for name, tensor in self.invertible.named_parameters()}
        return tensors

    def save(self, folder: Path, name: str = NAME) -> None:
        """Write the module into an existing folder.

        Args:
            name: what it is called in the files.
        """
        config = self.method.adapterhub_config(self.backbone, self.invertible is not None)
        write_tensors(self.parameters(), self.backbone, config, folder, name=name)

    def remove(self) -> None:
        for layer, place in self.adapters:
            del self.backbone.site(layer, place).adapters[self.key]
        self.backbone.remove_empty_sites()
        for hook in self._hooks:
            hook.remove()
        if self.invertible is not None:
            holder = self.backbone.embeddings.get_submodule(_INVERTIBLE)
            del holder[self.key]
            if not holder:
                delattr(self.backbone.embeddings, _INVERTIBLE)

    # ---- as a part of compositions

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        adapter = self.adapters.get((site.layer_index, site.place))
        if adapter is None:
            return hidden
        real = None if self._real is None else self._real[: len(hidden), -hidden.shape[1] :]
        return adapter(hidden, residual, norm, real)

    def closes(self, site: Site) -> bool | None:
        return self.method.final_norm if (site.layer_index, site.place) in self.adapters else None

    def before_output_embedding(self, states: torch.Tensor) -> torch.Tensor:
        if self.invertible is None or not self.method.inverse_at_head:
            return states
        return self._changed(states, inverse=True)

    def compose(self, branches: Sequence[Branch]) -> None:
        self._rows = [bool(branch) and branch[0][0] is self for branch in branches]

    def _hook_invertible(self) -> None:
        embeddings = self.backbone.embeddings
        if not hasattr(embeddings, _INVERTIBLE):
            embeddings.add_module(_INVERTIBLE, nn.ModuleDict())  # so that they move to a device with the model
        embeddings.get_submodule(_INVERTIBLE)[self.key] = self.invertible
        self._hooks.append(embeddings.register_forward_hook(lambda part, inputs, output: self._changed(output)))

    def _changed(self, states: torch.Tensor, inverse: bool = False) -> torch.Tensor:
        """States [branches · batch, ...] through the invertible adapter where this module is the first of the branch."""
        if not any(self._rows):
            return states
        change = self.invertible.inverse if inverse else self.invertible
        if all(self._rows):
            return change(states)
        return torch.cat(
            [change(rows) if own else rows for rows, own in zip(states.chunk(len(self._rows)), self._rows, strict=True)]
        )

    def _keep_mask(self, encoder: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._real = options.get("attention_mask")


def _check(method: Bottleneck, backbone: Backbone) -> None:
    """Refuse what this backbone cannot do."""
    kind = backbone.config.model_type
    known = backbone.anatomy.places
    if not any(
        place in known and any(backbone.has_place(layer, place) for layer in range(len(backbone.layers)))
        for place in method.places
    ):
        raise UserError(f"method.places={list(method.places)}: a {kind} model has no such block; it has {', '.join(known)}.")
    if method.gated and backbone.anatomy.objective != "masked":
        raise UserError(
            "method.gated=true looks at all positions of a text, also at those that a decoder is to predict. "
            "Use it with an encoder."
        )
    strange = [layer for layer in method.layer_reduction_factors if int(layer) >= len(backbone.layers)]
    if strange:
        last = len(backbone.layers) - 1
        raise UserError(
            f"method.layer_reduction_factors={dict(method.layer_reduction_factors)}: the backbone's layers are 0 to {last}."
        )
    if not method.final_norm and not all(known[place].site.can_leave_out_norm for place in method.places if place in known):
        raise UserError(
            f"method.final_norm=false: the layers of a {kind} model close their blocks themselves. Use final_norm=true."
        )


def _mean_over_positions(gate: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """[batch, sequence, 1] → [batch, 1, 1]."""
    if real is None:
        return gate.mean(dim=1, keepdim=True)
    weights = real.unsqueeze(-1).to(gate.dtype)
    return (gate * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


def _initialise(part: nn.Module, generator: torch.Generator, how: str) -> None:
    """Matrices as `Bottleneck.initialisation` says, biases 0; norms and scalings keep their ones."""
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if parameter.is_meta or name == "scaling" or "norm" in name.split(".")[0]:
                continue
            if parameter.ndim == 1 or (how == "zero_up" and "adapter_up" in name):
                parameter.zero_()
                continue
            values = torch.empty(parameter.shape)
            if how == "zero_up":
                nn.init.kaiming_uniform_(values, a=5**0.5, generator=generator)
            elif how == "truncated":
                nn.init.trunc_normal_(values, std=0.01, a=-0.02, b=0.02, generator=generator)
            else:
                values.normal_(0, 0.02, generator=generator)
            parameter.copy_(values)
