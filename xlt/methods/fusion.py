"""AdapterFusion (Pfeiffer et al. 2021): attention over what several adapters make of the same input, learnt on top of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import VERSION, fill, read_description, read_tensors, write_tensors
from xlt.backbones.composition import Branch
from xlt.backbones.sites import Norm, Site
from xlt.config import setting
from xlt.errors import UserError
from xlt.languages import Language
from xlt.methods.base import Method, Module
from xlt.methods.bottleneck import Bottleneck, BottleneckModule
from xlt.methods.formats import method_of_folder

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.language_module import LanguageModuleStep

SETUP = "adapter_setup.json"


class FusionLayer(nn.Module):
    """Scores s_i = (W_q q + b_q) · (W_k u_i + b_k), without 1/√d; the output is Σ softmax(s)_i W_v u_i (section 3.2)."""

    def __init__(self, hidden: int, value: bool, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden, bias=False) if value else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        """Query [batch, sequence, hidden] and the adapters' u [batch, sequence, adapters, hidden] → [batch, sequence, hidden]."""
        return (self.weights(query, changes).unsqueeze(-1) * (changes if self.value is None else self.value(changes))).sum(dim=-2)

    def weights(self, query: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        """The share of each adapter, [batch, sequence, adapters]."""
        scores = (self.query(query).unsqueeze(-2) * self.key(changes)).sum(dim=-1)
        return self.dropout(scores).softmax(dim=-1)


@dataclass(frozen=True)
class Fusion(Method):
    """`method=fusion`: bottleneck adapters, frozen, with a fusion layer at each of their sites.

    Attributes:
        members: the modules that are fused, each by the choices in which it differs from the run:
            `method.members=["data=glotcc", "data=conceptnet"]`, `["lang=mt method=seq_bn_inv", "lang=ar method=seq_bn_inv"]`.
        trained_on: `task`: with the task module, on labels (Gurgurov et al. 2025; Pfeiffer et al. 2021). `text`: as a language
            module of its own. `nothing`: left as it begins; what it then computes is a nearly uniform mean (Faisal &
            Anastasopoulos 2024, in code).
        value: whether there is a value matrix.
        query_before_norm: the query is h rather than what the last member reads.
        regularisation: weight of Σ ‖I − W_v‖² in the loss.
    """

    library: ClassVar[str | None] = "adapters"

    members: list[str] = setting([], identity=False)  # what they are is told by their modules' fingerprints
    trained_on: str = setting("task", one_of=("task", "text", "nothing"))
    value: bool = setting(True)
    query_before_norm: bool = setting(False)
    regularisation: float = setting(0.01, at_least=0)

    @property
    def trained_with_task(self) -> bool:  # type: ignore[override]
        return self.trained_on == "task"

    def draw(self, experiment: Experiment, language: Language) -> LanguageModuleStep:
        if len(self.members) < 2:
            raise UserError(
                f"method=fusion needs at least two members, found {list(self.members)}. For example: "
                '\'method.members=["data=glotcc","lang=ar method=seq_bn"]\'.'
            )
        members = [experiment.member(choices, language) for choices in self.members]
        for choices, member in zip(self.members, members, strict=True):
            # What a module from the hub is of is known only when it is there.
            if not member.external and not isinstance(member.method, Bottleneck):
                raise UserError(
                    f"The member {choices!r} cannot be fused: method={member.method.name} makes no bottleneck adapters. "
                    "seq_bn, seq_bn_inv, madx2, double_seq_bn and par_bn do."
                )
        tokens = [experiment.tokens(language)] if self.trained_on == "text" else []
        return experiment.language_module_step(self, language, tokens, members)

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> FusionModule:
        module = FusionModule(self, backbone, backbone.modules[-len(self.members) :])
        with torch.no_grad():
            for layer in module.layers.values():
                for name, parameter in layer.named_parameters():
                    if parameter.is_meta:
                        continue
                    if name == "value.weight":
                        parameter.copy_(torch.eye(len(parameter)) + 1e-6 * (1 - torch.eye(len(parameter))))
                    elif parameter.ndim == 1:
                        parameter.zero_()
                    else:
                        parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.02, generator=generator))
        module.trained = self.trained_on == "nothing"
        return module

    def load(self, backbone: Backbone, folder: Path) -> FusionModule:
        names = _members_of_setup(folder)
        for name in names:
            method_of_folder(folder / name).load(backbone, folder / name)
        return self.load_layers(backbone, folder / ",".join(names), backbone.modules[-len(names) :])

    def load_layers(self, backbone: Backbone, folder: Path, members: Sequence[Module]) -> FusionModule:
        """Attach the fusion layers of an AdapterHub folder over members that are attached."""
        module = FusionModule(self, backbone, members)
        # AdapterHub has fusion layers in the layers that the members leave out, too.
        left_out = set(range(len(backbone.layers))) - {layer for layer, _ in module.layers}
        unused = tuple(f"{backbone.layer_key(layer)}." for layer in left_out)
        fill(module.parameters(), read_tensors(folder, backbone, "fusion"), folder, unused)
        module.freeze()
        return module

    @classmethod
    def from_adapterhub(cls, config: dict[str, Any], members: Sequence[str]) -> Fusion:
        """The method behind the description of an AdapterHub folder.

        Raises:
            UserError: it asks for what xlt does not compute.
        """
        for key, computed in {"key": True, "query": True, "residual_before": False, "temperature": False}.items():
            if bool(config.get(key, computed)) != computed:
                raise UserError(f"xlt does not compute fusion layers with {key}={config[key]}.")
        return cls(
            name="adapterhub",
            members=list(members),
            value=config.get("value", True),
            query_before_norm=config.get("query_before_ln", False),
            regularisation=0.01 if config.get("regularization") else 0.0,
        )


class FusionModule(Module):
    """Fusion layers over attached members.

    Attributes:
        layers: by layer and place.
        trained: whether the fusion layers have been trained, or are meant not to be.
    """

    def __init__(self, method: Fusion, backbone: Backbone, members: Sequence[Module]) -> None:
        strange = [type(member).__name__ for member in members if not isinstance(member, BottleneckModule)]
        if strange or len(members) != len(method.members):
            raise UserError(
                f"A fusion of {list(method.members)} is over as many bottleneck adapters (seq_bn, seq_bn_inv, double_seq_bn, "
                f"par_bn); found {len(members)} modules{', among them ' + strange[0] if strange else ''}."
            )
        super().__init__(backbone, members)
        self.method = method
        self.trained = True
        config = backbone.config
        names = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
        dropout = next((getattr(config, name) for name in names if hasattr(config, name)), 0.0)
        like = {"device": backbone.model.device, "dtype": backbone.model.dtype}
        self.layers: dict[tuple[int, str], FusionLayer] = {}
        for where in sorted({where for member in members for where in member.adapters}):
            layer = FusionLayer(config.hidden_size, method.value, dropout).to(**like).train(backbone.model.training)
            backbone.site(*where).adapters[self.key] = layer
            self.layers[where] = layer

    def parameters(self) -> dict[str, nn.Parameter]:
        places = self.backbone.anatomy.places
        return {
            f"{self.backbone.layer_key(layer)}.{places[place].key}.adapter_fusion_layer.{name}": parameter
            for (layer, place), fusion in self.layers.items()
            for name, parameter in fusion.named_parameters()
        }

    def penalty(self) -> torch.Tensor | None:
        """regularisation · Σ_layers ‖I − W_v‖² (Pfeiffer et al. 2021's code)."""
        values = [layer.value.weight for layer in self.layers.values() if layer.value is not None]
        if not values or not self.method.regularisation or not values[0].requires_grad:
            return None
        identity = torch.eye(len(values[0]), device=values[0].device)
        return self.method.regularisation * sum((identity - value).square().sum() for value in values)

    def save(self, folder: Path) -> None:
        """The layout of AdapterHub's `save_adapter_setup`: a folder a member, one for the fusion layers."""
        names = [f"member_{number}" for number in range(len(self.members))]
        for name, member in zip(names, self.members, strict=True):
            (folder / name).mkdir()
            member.save(folder / name, name)
        name = ",".join(names)
        (folder / name).mkdir()
        config = {
            "key": True, "query": True, "value": self.method.value, "query_before_ln": self.method.query_before_norm,
            "regularization": self.method.regularisation > 0, "residual_before": False, "temperature": False,
            "value_before_softmax": True, "value_initialized": self.method.value, "dropout_prob": None,
        }  # fmt: skip
        write_tensors(self.parameters(), self.backbone, config, folder / name, "fusion", name=name, adapter_names=names)
        children = [{"type": "single", "children": [member]} for member in names]
        setup = {"adapter_setup": {"type": "Fuse", "children": children}, "head_setup": None, "version": VERSION}
        (folder / SETUP).write_text(json.dumps(setup, indent=2), encoding="utf-8")

    def remove(self) -> None:
        for where in self.layers:
            del self.backbone.site(*where).adapters[self.key]
        self.backbone.remove_empty_sites()

    # ---- as a part of compositions

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        where = (site.layer_index, site.place)
        adapters = [member.adapters[where] for member in self.members if where in member.adapters]
        if not adapters:
            return hidden
        self._check_trained(site)
        read, kept = adapters[-1].inputs(hidden, residual, norm)
        changes = torch.stack([adapter.change(read) for adapter in adapters], dim=-2)
        return self.layers[where](hidden if self.method.query_before_norm else read, changes) + kept

    def closes(self, site: Site) -> bool | None:
        said = [closes for member in self.members if (closes := member.closes(site)) is not None]
        return said[-1] if said else None

    def branches(self) -> list[Branch]:
        return [[*((member, 1.0) for member in self.members), (self, 1.0)]]

    def _check_trained(self, site: Site) -> None:
        if self.trained:
            return
        if not (site.training and torch.is_grad_enabled()):
            raise UserError(
                "This fusion layer was never trained: it would put out a nearly uniform mean of its members. Train it "
                "(method.trained_on=task or text), or say that you want that (method.trained_on=nothing)."
            )
        self.trained = True


def _members_of_setup(folder: Path) -> list[str]:
    setup = read_description(folder, SETUP).get("adapter_setup") or {}
    children = setup.get("children", [])
    if setup.get("type") != "Fuse" or any(child["type"] != "single" for child in children):
        raise UserError(f"{folder / SETUP} is not the setup of a fusion over adapters alone, which is what xlt reads.")
    return [child["children"][0] for child in children]
