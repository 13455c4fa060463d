"""LoRA and (IA)³: small learnt changes of a layer's linear maps y = W x + b, computed by the `peft` library.

    LoRA (Hu et al. 2022, section 4.1)     y = W x + b + alpha / rank · B A x         A [rank, in], B [out, rank]
    (IA)³ (Liu et al. 2022, section 3.3)   y = s ⊙ (W x + b), or W (s ⊙ x) + b        s [out], or [in]

LoRAs in one stack add their updates, each of them of the same x; a share of an average scales the update. A LoRA and an (IA)³
on the same map act in the order in which they were attached. Modules are stored in PEFT's format; AdapterHub's is read, too,
and written on request.
"""

from __future__ import annotations

import copy
import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import CONFIG, fill, read_description, read_file, read_tensors, write_tensors
from xlt.backbones.composition import Branch
from xlt.backbones.sites import Site
from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.methods.base import Method, Module, kept_layers, left_out_keys

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

Where = tuple[int, str]  # a linear map: the layer's number, and the map's path from the layer
Plan = list[tuple["BaseTunerLayer", dict[str, float]]]  # PEFT's layers around a map, with the shares of the modules in force
AnyPeftMethod = TypeVar("AnyPeftMethod", bound="PeftMethod")

# Of `Anatomy.linears`, and AdapterHub's names of what its intermediate_lora and output_lora change.
_TARGETS = ("query", "key", "value", "attention_output", "up", "gate", "down", "intermediate", "output")
_ADAPTERHUB_MATRICES = {"q": "query", "k": "key", "v": "value"}
_PEFT_PREFIX = "base_model.model."  # of names in PEFT's files
_OF_NO_MATTER = {  # fields of PEFT's descriptions that are read here, that the names of the tensors say, or that change nothing
    "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "feedforward_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "init_lora_weights", "init_ia3_weights", "inference_mode",
    "task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping",
}  # fmt: skip


@dataclass(frozen=True)
class PeftMethod(Method):
    """What LoRA and (IA)³ have in common.

    Attributes:
        targets: the linear maps that are changed, by what they are in a layer: `query`, `key`, `value`, `attention_output`, `up`
            (into the feed-forward block), `gate`, `down` (out of it); or `intermediate` and `output`, what AdapterHub calls so:
            `up` and `down`, on Llama the other way round. Where one map does the work of several, all of it changes, once.
            Without any, those that a stored module has.
        leave_out: layers that are not changed, counted from 0, or from the end with -1.
    """

    library: ClassVar[str | None] = "peft"

    file_suffix: ClassVar[str]
    """What PEFT's files put behind the names of tensors."""

    adapterhub_names: ClassVar[Mapping[str, str]]
    """AdapterHub's names of a map's tensors, by ours."""

    has_shares: ClassVar[bool]
    """Whether a part of the change can be in force."""

    targets: list[str] = setting([], one_of=_TARGETS)
    leave_out: list[int] = setting([])

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise UserError(f"{where}.targets={list(self.targets)} has to name at least one linear map, each once.")

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> PeftModule:
        module = PeftModule(self, backbone)
        with torch.no_grad():
            for name, parameter in module.parameters().items():
                if not parameter.is_meta:
                    parameter.copy_(self._initial(name, parameter.shape, generator))
        return module

    def load(self, backbone: Backbone, folder: Path) -> PeftModule:
        stored = self._read(backbone, folder)
        method = self if self.targets else self._as_stored(stored, backbone, folder)
        module = PeftModule(method, backbone)
        fill(module.parameters(), stored, folder, unused=left_out_keys(backbone, method.leave_out))
        module.freeze()
        return module

    def linears(self, backbone: Backbone) -> list[Where]:
        """The linear maps that are changed.

        Raises:
            UserError: the backbone has no such map, or no such layer as `leave_out` names, or nothing is left.
        """
        paths = self._paths(backbone, self.targets)
        linears = [(layer, path) for layer in kept_layers(backbone, self.leave_out) for path in paths]
        if not linears:
            raise UserError(
                f"method.targets={list(self.targets)}, method.leave_out={list(self.leave_out)}: no linear map is left to change."
            )
        return linears

    @abstractmethod
    def peft_config(self, backbone: Backbone, names: Mapping[Where, str]) -> PeftConfig:
        """PEFT's description of the method, for maps with these names."""

    @abstractmethod
    def tensors(self, layer: BaseTunerLayer, key: str) -> dict[str, nn.Parameter]:
        """The parameters of the module with this key in one of PEFT's layers, by name."""

    @abstractmethod
    def adapterhub_config(self, backbone: Backbone) -> dict[str, Any]:
        """The `config` of an AdapterHub folder (`adapters.LoRAConfig`, `adapters.IA3Config`).

        Raises:
            UserError: AdapterHub's library cannot compute this.
        """

    @abstractmethod
    def _initial(self, name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        """What a parameter is before training."""

    def _paths(self, backbone: Backbone, targets: Sequence[str]) -> list[str]:
        anatomy = backbone.anatomy
        adapterhub = zip(("intermediate", "output"), anatomy.adapterhub_linears, strict=True)
        known = {**anatomy.linears, **{name: anatomy.linears[ours] for name, ours in adapterhub if ours in anatomy.linears}}
        for target in targets:
            if target not in known:
                kind = backbone.config.model_type
                raise UserError(
                    f"method.targets={list(targets)}: a layer of a {kind} model has no linear map {target!r}. "
                    f"{suggest(target, known, 'linear maps here')}"
                )
        return list(dict.fromkeys(known[target] for target in targets))

    def _read(self, backbone: Backbone, folder: Path) -> dict[str, torch.Tensor]:
        """The tensors of a folder of PEFT or AdapterHub, by our names."""
        if "peft_type" in read_description(folder):
            prefix = f"{backbone.model.base_model_prefix}."
            return {
                name.removeprefix(_PEFT_PREFIX).removeprefix(prefix).removesuffix(self.file_suffix): tensor
                for name, tensor in read_file(folder, "peft").items()
            }
        ours = {theirs: name for name, theirs in self.adapterhub_names.items()}
        stored = {}
        for name, tensor in read_tensors(folder, backbone).items():
            linear, _, theirs = name.replace(".loras.", ".").rpartition(".")
            stored[f"{linear}.{ours.get(theirs, theirs)}"] = tensor
        return stored

    def _as_stored(self: AnyPeftMethod, stored: Mapping[str, torch.Tensor], backbone: Backbone, folder: Path) -> AnyPeftMethod:
        """The method with the targets and layers of a file."""
        roles = {path: role for role, path in reversed(backbone.anatomy.linears.items())}
        changed = {name.rpartition(".")[0] for name in stored}
        found = {
            (layer, role)
            for layer in range(len(backbone.layers))
            for path, role in roles.items()
            if f"{backbone.layer_key(layer)}.{path}" in changed
        }
        if not found:
            raise UserError(
                f"{folder} changes no linear map of this {backbone.config.model_type} model; its tensors are called "
                f"{', '.join(sorted(stored)[:2]) or 'nothing'}. It was made for another kind of model."
            )
        layers = {layer for layer, _ in found}
        return replace(
            self,
            targets=[role for role in backbone.anatomy.linears if role in {role for _, role in found}],
            leave_out=[layer for layer in range(len(backbone.layers)) if layer not in layers],
        )

    def _adapterhub_targets(self, backbone: Backbone) -> dict[str, Any]:
        """The part of AdapterHub's config that says what is changed."""
        anatomy = backbone.anatomy
        matrices = {anatomy.linears.get(role): letter for letter, role in _ADAPTERHUB_MATRICES.items()}
        intermediate, output = (anatomy.linears.get(role) for role in anatomy.adapterhub_linears)
        paths = self._paths(backbone, self.targets)
        strange = [path for path in paths if path not in (*matrices, intermediate, output)]
        if strange or len(matrices) < len(_ADAPTERHUB_MATRICES):
            what = f"changes of {', '.join(strange)}" if strange else "changes of queries, keys and values by one linear map"
            raise UserError(f"AdapterHub's library cannot compute {what}: its format has no name for them. Keep PEFT's format.")
        return {
            "selfattn_lora": any(path in matrices for path in paths),
            "attn_matrices": [letter for path, letter in matrices.items() if path in paths],
            "intermediate_lora": intermediate in paths, "output_lora": output in paths,
            "leave_out": sorted(set(range(len(backbone.layers))) - set(kept_layers(backbone, self.leave_out))),
        }  # fmt: skip


@dataclass(frozen=True)
class LoRA(PeftMethod):
    """`method=lora`.

    Attributes:
        rank: rows of A and columns of B (8: Gurgurov et al. 2025).
        alpha: the update's factor is alpha / rank.
        dropout: on what A reads, in training.
    """

    file_suffix: ClassVar[str] = ".weight"
    adapterhub_names: ClassVar[Mapping[str, str]] = {"lora_A": "lora_A", "lora_B": "lora_B"}
    has_shares: ClassVar[bool] = True

    targets: list[str] = setting(["query", "value"], one_of=_TARGETS)
    rank: int = setting(8, at_least=1)
    alpha: float = setting(8.0, above=0)
    dropout: float = setting(0.0, at_least=0, at_most=1)

    def peft_config(self, backbone: Backbone, names: Mapping[Where, str]) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank, lora_alpha=_whole(self.alpha), lora_dropout=self.dropout, target_modules=list(names.values())
        )

    def tensors(self, layer: BaseTunerLayer, key: str) -> dict[str, nn.Parameter]:
        return {"lora_A": layer.lora_A[key].weight, "lora_B": layer.lora_B[key].weight}

    def adapterhub_config(self, backbone: Backbone) -> dict[str, Any]:
        return {
            "architecture": "lora", "composition_mode": "add", **self._adapterhub_targets(backbone), "r": self.rank,
            "alpha": _whole(self.alpha), "dropout": self.dropout, "init_weights": "lora", "use_gating": False,
        }  # fmt: skip

    @classmethod
    def from_peft(cls, description: Mapping[str, Any]) -> LoRA:
        """The method behind the description of a PEFT folder.

        Raises:
            UserError: it asks for what xlt does not compute.
        """
        from peft import LoraConfig

        _check_computed(description, LoraConfig)
        begin = description.get("init_lora_weights", True)
        if isinstance(begin, str) and begin.lower() not in ("gaussian", "orthogonal", "eva", "true", "false"):
            raise UserError(
                f"xlt does not read LoRAs with init_lora_weights={begin}, for which PEFT changes the backbone's weights."
            )
        rank, alpha = int(description["r"]), float(description["lora_alpha"])
        if description.get("use_rslora"):  # alpha / √rank (Kalajdzievski 2023)
            alpha *= math.sqrt(rank)
        return cls(name="peft", targets=[], rank=rank, alpha=alpha, dropout=float(description.get("lora_dropout", 0.0)))

    def _initial(self, name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        if name.endswith("lora_B"):
            return torch.zeros(shape)
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


@dataclass(frozen=True)
class IA3(PeftMethod):
    """`method=ia3`.

    Attributes:
        at_input: the targets that are scaled where x enters; all others are scaled where y leaves. AdapterHub scales no inputs:
            for what its library computes, set `targets=[key,value,intermediate] at_input=[]` (`compat=adapterhub`).
    """

    file_suffix: ClassVar[str] = ""
    adapterhub_names: ClassVar[Mapping[str, str]] = {"ia3_l": "lora_B"}
    has_shares: ClassVar[bool] = False

    targets: list[str] = setting(["key", "value", "down"], one_of=_TARGETS)
    at_input: list[str] = setting(["down"], one_of=_TARGETS)

    def verify(self, where: str) -> None:
        super().verify(where)
        if strange := [target for target in self.at_input if target not in self.targets]:
            raise UserError(f"{where}.at_input: {', '.join(strange)} is not among {where}.targets={list(self.targets)}.")

    def compatible_with(self, repository: str) -> IA3:
        if repository != "adapterhub" or "down" not in self.at_input:
            return self
        return replace(
            self,
            targets=["intermediate" if target == "down" else target for target in self.targets],
            at_input=[target for target in self.at_input if target != "down"],
        )

    def peft_config(self, backbone: Backbone, names: Mapping[Where, str]) -> PeftConfig:
        from peft import IA3Config

        at_input = self._paths(backbone, self.at_input)
        read = [name for (_, path), name in names.items() if path in at_input]
        return IA3Config(target_modules=list(names.values()), feedforward_modules=read)

    def tensors(self, layer: BaseTunerLayer, key: str) -> dict[str, nn.Parameter]:
        return {"ia3_l": layer.ia3_l[key]}

    def adapterhub_config(self, backbone: Backbone) -> dict[str, Any]:
        if self.at_input:
            raise UserError(
                f"method.at_input={list(self.at_input)}: AdapterHub's library scales what linear maps put out, never what they "
                "read, so its format has no name for that. Keep PEFT's format, or train with compat=adapterhub."
            )
        return {
            "architecture": "lora", "composition_mode": "scale", **self._adapterhub_targets(backbone), "r": 1, "alpha": 1,
            "dropout": 0.0, "init_weights": "ia3", "use_gating": False,
        }  # fmt: skip

    @classmethod
    def from_peft(cls, description: Mapping[str, Any]) -> IA3:
        """The method behind the description of a PEFT folder.

        Raises:
            UserError: it asks for what xlt does not compute.
        """
        from peft import IA3Config

        _check_computed(description, IA3Config)
        return cls(name="peft", targets=[], at_input=[])

    def _initial(self, name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        return torch.ones(shape)

    def _as_stored(self, stored: Mapping[str, torch.Tensor], backbone: Backbone, folder: Path) -> IA3:
        method = super()._as_stored(stored, backbone, folder)
        rows = [name.rpartition(".")[0] for name, tensor in stored.items() if len(tensor) == 1]  # [1, in] rather than [out, 1]
        paths = backbone.anatomy.linears
        at_input = [role for role in method.targets if any(name.endswith(f".{paths[role]}") for name in rows)]
        return replace(method, at_input=at_input)


def from_adapterhub(config: Mapping[str, Any]) -> LoRA | IA3:
    """The method behind the `config` of an AdapterHub folder, its missing keys filled with their defaults.

    Raises:
        UserError: it asks for what xlt does not compute.
    """
    for key in ("use_gating", "use_dora", "vera_d", "vera_b"):
        if config.get(key):
            raise UserError(f"xlt does not compute LoRA and (IA)³ with {key}={config[key]}.")
    matrices = config.get("attn_matrices", ["q", "v"]) if config.get("selfattn_lora", True) else []
    if strange := [matrix for matrix in matrices if matrix not in _ADAPTERHUB_MATRICES]:
        raise UserError(f"attn_matrices={list(matrices)}: {suggest(strange[0], _ADAPTERHUB_MATRICES, 'matrices')}")
    targets = [_ADAPTERHUB_MATRICES[matrix] for matrix in matrices]
    targets += [name for name in ("intermediate", "output") if config.get(f"{name}_lora", False)]
    leave_out = [int(layer) for layer in config.get("leave_out") or []]
    rank, alpha = int(config.get("r", 8)), float(config.get("alpha", 8))
    if config.get("composition_mode", "add") == "add":
        dropout = float(config.get("dropout", 0.0))
        return LoRA(name="adapterhub", targets=targets, leave_out=leave_out, rank=rank, alpha=alpha, dropout=dropout)
    if (rank, alpha) != (1, 1.0):
        raise UserError(f"xlt computes (IA)³ with r=1 and alpha=1, not r={rank} and alpha={alpha:g}.")
    return IA3(name="adapterhub", targets=targets, leave_out=leave_out, at_input=[])


class PeftModule(Module):
    """A LoRA or (IA)³ attached to a backbone: PEFT's layers stand around linear maps.

    Attributes:
        layers: PEFT's layers, by the map that each is around; modules of the same kind share them.
    """

    def __init__(self, method: PeftMethod, backbone: Backbone) -> None:
        linears = method.linears(backbone)
        self.layers: dict[Where, BaseTunerLayer] = {}
        self._unmerged: list[tuple[nn.Module, dict[str, nn.Parameter]]] = []
        super().__init__(backbone)
        self.method = method
        self._inject(linears)
        backbone.activate()

    def parameters(self) -> dict[str, nn.Parameter]:
        """By the map's name from the encoder and PEFT's of the tensor: `encoder.layer.0.attention.self.query.lora_A`."""
        return {
            f"{self._name(where)}.{name}": parameter
            for where, layer in self.layers.items()
            for name, parameter in self.method.tensors(layer, self.key).items()
        }

    def adapterhub_parameters(self) -> dict[str, nn.Parameter]:
        """By their names in AdapterHub's files, without the module's name."""
        names = ((name.rpartition("."), parameter) for name, parameter in self.parameters().items())
        return {f"{linear}.loras.{self.method.adapterhub_names[ours]}": parameter for (linear, _, ours), parameter in names}

    def save(self, folder: Path) -> None:
        """In PEFT's format, for a model of the same class as the backbone's."""
        model = self.backbone.model
        prefix = "" if model is self.backbone.encoder else f"{model.base_model_prefix}."
        tensors = {
            f"{_PEFT_PREFIX}{prefix}{name}{self.method.file_suffix}": parameter.detach().cpu().contiguous()
            for name, parameter in self.parameters().items()
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = self._config({where: self._name(where) for where in self.layers})
        config.inference_mode = True
        config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
        fields = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
        (folder / CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True), encoding="utf-8")

    def save_for_adapterhub(self, folder: Path) -> None:
        """In AdapterHub's format, into an existing folder.

        Raises:
            UserError: AdapterHub's library cannot compute this.
        """
        config = self.method.adapterhub_config(self.backbone)
        write_tensors(self.adapterhub_parameters(), self.backbone, config, folder)

    def remove(self) -> None:
        self.unmerge()
        for where, layer in self.layers.items():
            layer._active_adapter = []  # else PEFT makes another module's parameters trainable
            layer.delete_adapter(self.key)
            if not getattr(layer, layer.adapter_layer_names[0]):
                setattr(*self._place(where), layer.base_layer)

    # ---- folded into the backbone

    def merge(self) -> None:
        """Fold the module into the backbone's weights, with its share of the composition in force: then it costs nothing to run.

        It can be trained no further until `unmerge`. The next composition that comes into force unmerges it, too.

        Raises:
            UserError: the module is not in force, or not alone, or the backbone is quantised.
        """
        self.unmerge()
        branches = self.backbone.composition.branches()
        for where, layer in self.layers.items():
            if type(layer.get_base_layer().weight) is not nn.Parameter:
                raise UserError(
                    "A module cannot be folded into the weights of a quantised backbone: they are too coarse for its changes. "
                    "Leave it unmerged, or load the backbone unquantised."
                )
            in_force = [key for _, shares in self._plan(where, branches[0]) for key in shares]
            if len(branches) > 1 or in_force != [self.key]:
                raise UserError(
                    f"This module cannot be folded into {self._name(where)}: only one that is in force there alone, in all rows "
                    "of the batch, can be. Activate a composition without the others first."
                )
        for layer in self.layers.values():
            linear = layer.get_base_layer()
            self._unmerged.append((linear, dict(linear.named_parameters(recurse=False))))
            for name, parameter in self._unmerged[-1][1].items():
                setattr(linear, name, copy.deepcopy(parameter))
            layer.merge(adapter_names=[self.key])

    def unmerge(self) -> None:
        """Give the backbone its own weights back, bit for bit."""
        for linear, parameters in self._unmerged:
            for name, parameter in parameters.items():
                setattr(linear, name, parameter)
        if self._unmerged:
            for layer in self.layers.values():
                layer.merged_adapters.clear()
        self._unmerged = []

    # ---- as a part of compositions

    def compose(self, branches: Sequence[Branch]) -> None:
        self.unmerge()
        if self.layers and not self.method.has_shares:
            shares = [sum(share for module, share in branch if module is self) for branch in branches]
            if not all(math.isclose(share, round(share)) for share in shares):
                raise UserError(
                    "(IA)³ scales what is there, so there is no share of it. Put modules of (IA)³ into a Stack or into the "
                    "branches of a Parallel, not into an Average."
                )
        for where in self.layers:
            plans = [self._plan(where, branch) for branch in branches]
            outermost = plans[0][0][0]
            vars(outermost).pop("forward", None)
            if all(plan == plans[0] for plan in plans):
                _put_in_force(plans[0])
            else:
                outermost.forward = partial(_forward_in_branches, outermost, plans, self._name(where))

    def _plan(self, where: Where, branch: Branch) -> Plan:
        """What is in force at a map for one branch, by PEFT's layers from the outermost inwards."""
        plan: Plan = []
        part = getattr(*self._place(where))
        while hasattr(part, "base_layer"):
            shares: dict[str, float] = {}
            for module, share in branch:
                if isinstance(module, PeftModule) and module.layers.get(where) is part:
                    shares[module.key] = shares.get(module.key, 0.0) + share
            plan.append((part, shares))
            part = part.base_layer
        return plan

    def _inject(self, linears: Sequence[Where]) -> None:
        """Let PEFT put its layers around the linear maps, and undo what else it does to the model."""
        from peft import inject_adapter_in_model

        model = self.backbone.model
        required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        names = {id(part): name for name, part in model.named_modules()}
        config = self._config({where: names[id(getattr(*self._place(where)))] for where in linears})
        inject_adapter_in_model(config, model, self.key)
        del model.peft_config
        self.layers = {where: getattr(*self._place(where)) for where in linears}
        for layer in self.layers.values():
            layer.train(model.training)
        for parameter, was_required in required:
            parameter.requires_grad_(was_required)
        for parameter in self.parameters().values():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()  # as PEFT does: what is trained needs the precision
            parameter.requires_grad_(True)

    def _config(self, names: Mapping[Where, str]) -> PeftConfig:
        config = self.method.peft_config(self.backbone, names)
        linear = getattr(*self._place(next(iter(names))))
        config.fan_in_fan_out = isinstance(linear.get_base_layer() if hasattr(linear, "base_layer") else linear, Conv1D)
        return config

    def _place(self, where: Where) -> tuple[nn.Module, str]:
        """The module that holds a linear map, or PEFT's layer around it, and the attribute that does."""
        layer, path = where
        holder, attribute, part = self.backbone.layers[layer], "", self.backbone.layers[layer]
        for name in path.split("."):
            holder, attribute, part = part, name, getattr(part, name)
            if isinstance(part, Site):
                holder, attribute, part = part, "original", part.original
        return holder, attribute

    def _name(self, where: Where) -> str:
        layer, path = where
        return f"{self.backbone.layer_key(layer)}.{path}"


def _put_in_force(plan: Plan) -> None:
    for layer, shares in plan:
        layer._active_adapter = list(shares)  # PEFT's set_adapter would also change what is trained
        for key, share in shares.items():
            if hasattr(layer, "set_scale"):
                layer.set_scale(key, share)


def _forward_in_branches(layer: BaseTunerLayer, plans: Sequence[Plan], name: str, states: torch.Tensor) -> torch.Tensor:
    """Each branch's rows of [branches · batch, ..., in] through a layer with that branch's modules."""
    if len(states) % len(plans):
        raise UserError(
            f"{name} reads states that are not those of a batch, {list(states.shape)}, so its LoRA or (IA)³ cannot differ "
            "between the branches of a Parallel. Run the branches one after the other, or leave this map out of method.targets."
        )
    results = []
    for plan, rows in zip(plans, states.chunk(len(plans)), strict=True):
        _put_in_force(plan)
        results.append(type(layer).forward(layer, rows))
    return torch.cat(results)


def _check_computed(description: Mapping[str, Any], config_class: type[PeftConfig]) -> None:
    """Refuse what a description asks for beyond the plain method."""
    usual = config_class().to_dict()
    for name, value in description.items():
        if name in usual and name not in _OF_NO_MATTER and value and value != usual[name]:
            raise UserError(f"xlt does not compute PEFT's {description['peft_type']} with {name}={value}.")


def _whole(number: float) -> int | float:
    """As the libraries write it."""
    return int(number) if number == int(number) else number
