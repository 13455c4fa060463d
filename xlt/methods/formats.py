"""Which method a stored module is of: AdapterHub's and PEFT's folders describe themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xlt.errors import UserError, suggest
from xlt.methods.base import Method
from xlt.methods.bottleneck import Bottleneck
from xlt.methods.checkpoints import read_description, read_file

_BOTTLENECK = {"mh_adapter": False, "output_adapter": True, "original_ln_before": True, "original_ln_after": True}
_SEQ_BN = {**_BOTTLENECK, "reduction_factor": 16, "non_linearity": "relu"}
_DOUBLE = {**_SEQ_BN, "mh_adapter": True, "original_ln_before": False, "non_linearity": "swish"}
_PARALLEL = {**_SEQ_BN, "is_parallel": True, "reduction_factor": 2, "scaling": 4.0, "original_ln_before": False}
_INVERTIBLE = {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}
_NAMED_CONFIGS: dict[str, dict[str, Any]] = {  # by today's names and those of adapter-transformers
    **dict.fromkeys(("seq_bn", "pfeiffer"), _SEQ_BN),
    **dict.fromkeys(("double_seq_bn", "houlsby"), _DOUBLE),
    **dict.fromkeys(("seq_bn_inv", "pfeiffer+inv"), {**_SEQ_BN, **_INVERTIBLE}),
    **dict.fromkeys(("double_seq_bn_inv", "houlsby+inv"), {**_DOUBLE, **_INVERTIBLE}),
    **dict.fromkeys(("par_bn", "parallel"), _PARALLEL),
    **dict.fromkeys(("scaled_par_bn", "scaled_parallel"), {**_PARALLEL, "scaling": "learned"}),
    "lora": {"architecture": "lora"},
    "ia3": {"architecture": "lora", "composition_mode": "scale", "attn_matrices": ["k", "v"], "intermediate_lora": True,
            "r": 1, "alpha": 1},
    "prefix_tuning": {"architecture": "prefix_tuning"},
}  # fmt: skip
_OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}  # before files carried a version


def method_of_folder(folder: Path) -> Method:
    """The method of a stored module, whose `load` attaches it.

    Raises:
        UserError: the folder is no module, or of a kind that xlt does not have.
    """
    description = read_description(folder)
    if "peft_type" in description:
        kind = str(description["peft_type"])
        if kind not in _PEFT_TYPES:
            raise UserError(f"{folder} is a PEFT module of type {kind}. {suggest(kind, _PEFT_TYPES, 'types that xlt reads')}")
        return _PEFT_TYPES[kind](description)
    config = full_config(description.get("config"), folder)
    if "version" not in description:
        config["non_linearity"] = _OLD_ACTIVATIONS.get(config.get("non_linearity"), config.get("non_linearity"))
        if description.get("type") == "text_task" and not any("invertible" in name for name in read_file(folder)):
            config["inv_adapter"] = None
    architecture = config.get("architecture") or "bottleneck"
    if architecture not in _ARCHITECTURES:
        raise UserError(f"{folder} is an adapter of the kind {architecture}. {suggest(architecture, _ARCHITECTURES, 'kinds')}")
    return _ARCHITECTURES[architecture](config)


def full_config(config: Any, folder: Path) -> dict[str, Any]:
    """A description's `config` as a mapping: it may be a name such as `pfeiffer+inv` or `seq_bn[reduction_factor=2]`.

    Raises:
        UserError: an unknown name, or a union of several kinds.
    """
    if isinstance(config, Mapping):
        config = dict(config)
        if nested := config.pop("invertible_adapter", None):  # adapter-transformers 1.x
            config |= {"inv_adapter": nested["block_type"], "inv_adapter_reduction_factor": nested["reduction_factor"]}
        return config
    text = str(config)
    found = re.fullmatch(r"([\w+]+)(?:\[(.*)\])?", text)
    if "|" in text or not found or found[1] not in _NAMED_CONFIGS:
        raise UserError(f"{folder}: the adapter's config is {text!r}. {suggest(text, _NAMED_CONFIGS, 'configs that xlt reads')}")
    result = dict(_NAMED_CONFIGS[found[1]])
    for assignment in filter(None, (part.strip() for part in (found[2] or "").split(","))):
        key, _, value = assignment.partition("=")
        result[key.strip()] = _value(value.strip())
    return result


def _value(text: str) -> Any:
    constants = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text.strip("\"'")


_ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Method]] = {"bottleneck": Bottleneck.from_adapterhub}
_PEFT_TYPES: dict[str, Callable[[Mapping[str, Any]], Method]] = {}
