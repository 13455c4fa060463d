"""Which method a stored module is of: AdapterHub's and PEFT's folders describe themselves, those of sparse modules are known by
their files."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xlt.backbones.checkpoints import read_description, read_file
from xlt.errors import UserError, suggest
from xlt.methods.base import Method
from xlt.methods.bottleneck import Bottleneck
from xlt.methods.low_rank import IA3, LoRA, from_adapterhub
from xlt.methods.prefix_tuning import PrefixTuning
from xlt.methods.sparse import SparseFineTuning
from xlt.methods.sparse_files import is_sparse

_BOTTLENECK = {"mh_adapter": False, "output_adapter": True, "original_ln_before": True, "original_ln_after": True}
_SEQ_BN = {**_BOTTLENECK, "reduction_factor": 16, "non_linearity": "relu"}
_DOUBLE = {**_SEQ_BN, "mh_adapter": True, "original_ln_before": False, "non_linearity": "swish"}
_PARALLEL = {**_SEQ_BN, "is_parallel": True, "reduction_factor": 2, "scaling": 4.0, "original_ln_before": False}
_PARALLEL["init_weights"] = "mam_adapter"
_INVERTIBLE = {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}
_NAMED_CONFIGS: dict[str, dict[str, Any]] = {  # by today's names and those of adapter-transformers
    "seq_bn": _SEQ_BN, "pfeiffer": _SEQ_BN,
    "double_seq_bn": _DOUBLE, "houlsby": _DOUBLE,
    "seq_bn_inv": {**_SEQ_BN, **_INVERTIBLE}, "pfeiffer+inv": {**_SEQ_BN, **_INVERTIBLE},
    "double_seq_bn_inv": {**_DOUBLE, **_INVERTIBLE}, "houlsby+inv": {**_DOUBLE, **_INVERTIBLE},
    "par_bn": _PARALLEL, "parallel": _PARALLEL,
    "scaled_par_bn": {**_PARALLEL, "scaling": "learned"}, "scaled_parallel": {**_PARALLEL, "scaling": "learned"},
    "lora": {"architecture": "lora"},
    "ia3": {"architecture": "lora", "composition_mode": "scale", "attn_matrices": ["k", "v"], "intermediate_lora": True,
            "r": 1, "alpha": 1},
    "prefix_tuning": {"architecture": "prefix_tuning"},
    "prefix_tuning_flat": {"architecture": "prefix_tuning", "flat": True},
}  # fmt: skip
_OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}  # before files carried a version


def method_of_folder(folder: Path) -> Method:
    """The method of a stored module, whose `load` attaches it.

    Raises:
        UserError: the folder is no module, or of a kind that xlt does not have.
    """
    if is_sparse(folder):
        return SparseFineTuning(name="sparse")
    description = read_description(folder)
    if "peft_type" in description:
        kind = str(description["peft_type"])
        if kind not in _PEFT_TYPES:
            raise UserError(f"{folder} is a PEFT module of type {kind}. {suggest(kind, _PEFT_TYPES, 'types that xlt reads')}")
        return _PEFT_TYPES[kind](description)
    config = full_config(description.get("config"), folder)
    if config.get("leave_out"):  # AdapterHub does not count from the end: such a number leaves nothing out there
        config["leave_out"] = [layer for layer in config["leave_out"] if layer >= 0]
    if "version" not in description and "non_linearity" in config:
        config["non_linearity"] = _OLD_ACTIVATIONS.get(config["non_linearity"], config["non_linearity"])
    if description.get("type") == "text_task" and not any("invertible" in name for name in read_file(folder)):
        config["inv_adapter"] = None  # task adapters of old versions declare that of their language adapter
    if "r" in config and re.match(r"adapters\.(0|1\.0)\.", str(description.get("version"))):
        config["alpha"] = config["r"]  # versions before 1.1.0 left the factor alpha / r out
    architecture = config.get("architecture") or "bottleneck"
    if architecture not in _ARCHITECTURES:
        raise UserError(f"{folder} is an adapter of the kind {architecture}. {suggest(architecture, _ARCHITECTURES, 'kinds')}")
    return _ARCHITECTURES[architecture](config)


def full_config(config: Any, folder: Path) -> dict[str, Any]:
    """A description's `config` as a mapping: it may be a name such as `pfeiffer+inv` or `seq_bn[reduction_factor=2]`.

    Raises:
        UserError: an unknown name, or a union of several kinds.
    """
    is_union = isinstance(config, Mapping) and config.get("architecture") == "union"
    if isinstance(config, Mapping) and not is_union:
        config = dict(config)
        if nested := config.pop("invertible_adapter", None):  # adapter-transformers 1.x
            config |= {"inv_adapter": nested.get("block_type"), "inv_adapter_reduction_factor": nested.get("reduction_factor")}
        return config
    text = str(config)
    if is_union or "|" in text:
        raise UserError(f"{folder} is a union of several kinds of adapters, {text}. xlt reads modules of one kind.")
    found = re.fullmatch(r"([^\[\]]+?)\s*(?:\[(.*)\])?", text)
    if not found or found[1] not in _NAMED_CONFIGS:
        name = found[1] if found else text
        raise UserError(f"{folder}: the adapter's config is {text!r}. {suggest(name, _NAMED_CONFIGS, 'configs that xlt reads')}")
    try:
        return {**_NAMED_CONFIGS[found[1]], **_assignments(found[2] or "")}
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"{folder}: the adapter's config is {text!r}, and what is in its brackets is not a list of key=value ({error})."
        ) from error


def _assignments(text: str) -> dict[str, Any]:
    """`reduction_factor=2, non_linearity="gelu"` as a mapping; the values are constants."""
    call = ast.parse(f"dict({text})", mode="eval").body
    if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("it holds something else")
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


_ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Method]] = {
    "bottleneck": Bottleneck.from_adapterhub,
    "lora": from_adapterhub,
    "prefix_tuning": PrefixTuning.from_adapterhub,
}
_PEFT_TYPES: dict[str, Callable[[Mapping[str, Any]], Method]] = {"IA3": IA3.from_peft, "LORA": LoRA.from_peft}
