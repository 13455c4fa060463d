"""Checkpoints of modules in AdapterHub's folders: what the files and the tensors in them are called.

A folder holds `adapter_config.json` and `adapter.safetensors`, in older folders `pytorch_adapter.bin`. A tensor goes by the name
that it has in the model, with the module's name inside and, if a model with head was saved, the prefix of the encoder:
`bert.encoder.layer.0.output.adapters.mt.adapter_up.weight`. Here names are without both.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.errors import UserError

NAME = "xlt"  # of our modules inside their files
CONFIG = "adapter_config.json"
_VERSION = "adapters.1.3.0"  # the library whose format is written
_FILES = {"adapter": ("adapter.safetensors", "pytorch_adapter.bin")}
_FILES["fusion"] = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
_FILES["head"] = ("model_head.safetensors", "pytorch_model_head.bin")
_OLD_NAMES = {  # of adapter-transformers 1.x
    "layer_text_lang_adapters": "adapters", "layer_text_task_adapters": "adapters", "attention_text_lang_adapters": "adapters",
    "attention_text_task_adapters": "adapters", "invertible_lang_adapters": "invertible_adapters",
}  # fmt: skip
_HOLDERS = "adapters|invertible_adapters|loras|prefix_tunings|adapter_fusion_layer"  # the module's name stands behind these


def read_description(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """The JSON file that describes a folder.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a module that xlt can read: it has no {name}.") from error
    except ValueError as error:
        raise UserError(f"{folder / name} is not JSON ({error}).") from error


def read_file(folder: Path, what: str = "adapter") -> dict[str, torch.Tensor]:
    """The tensors of a folder by their names in the file.

    Args:
        what: `adapter`, `fusion` or `head`.

    Raises:
        UserError: there are none, or the file holds more than tensors (it is not opened then).
    """
    safe, old = (folder / name for name in _FILES[what])
    if safe.is_file():
        return load_file(safe)
    if not old.is_file():
        raise UserError(f"{folder} holds no weights: neither {safe.name} nor {old.name}.")
    try:
        return torch.load(old, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{old} cannot be read as a file of tensors alone ({str(error).splitlines()[0]}).") from error


def read_tensors(folder: Path, backbone: Backbone, what: str = "adapter") -> dict[str, torch.Tensor]:
    """The tensors of a module by their names from the encoder, without the module's name."""
    description = read_description(folder, "adapter_fusion_config.json" if what == "fusion" else CONFIG)
    tensors = {
        plain_name(name, description["name"], backbone.model.base_model_prefix): tensor
        for name, tensor in read_file(folder, what).items()
    }
    return {_without_own_norm(name, tensors): tensor for name, tensor in tensors.items() if not _is_second_norm(name, tensors)}


def write_tensors(
    tensors: Mapping[str, torch.Tensor], backbone: Backbone, config: Mapping[str, Any], folder: Path, what: str = "adapter",
    name: str = NAME, **more: Any,
) -> None:  # fmt: skip
    """Write a folder as AdapterHub's library does.

    Args:
        tensors: by their names from the encoder, without the module's name.
        config: the kind of module and its settings.
        name: the module's name in the files.
        more: what else the description holds.
    """
    stored = {}
    for key, tensor in tensors.items():
        for written in _with_own_norm(key, tensors):
            stored[re.sub(rf"(^|\.)({_HOLDERS})\.", rf"\1\2.{name}.", written, count=1)] = (
                tensor.detach().cpu().contiguous().clone()
            )
    save_file(stored, folder / _FILES[what][0])
    description = {
        "config": dict(config), "hidden_size": backbone.config.hidden_size, "model_type": backbone.config.model_type, "name": name,
        "model_class": type(backbone.encoder).__name__, "model_name": backbone.config.name_or_path, "version": _VERSION, **more,
    }  # fmt: skip
    path = folder / ("adapter_fusion_config.json" if what == "fusion" else CONFIG)
    path.write_text(json.dumps(description, indent=2, sort_keys=True), encoding="utf-8")


def plain_name(name: str, module: str, prefix: str) -> str:
    """A tensor's name without the encoder's prefix and the module's name, in today's words."""
    name = name.removeprefix(f"{prefix}.")
    for old, new in _OLD_NAMES.items():
        name = name.replace(f"{old}.", f"{new}.")
    return re.sub(rf"(^|\.)({_HOLDERS})\.{re.escape(module)}\.", r"\1\2.", name)


def fill(
    parameters: Mapping[str, nn.Parameter], stored: Mapping[str, torch.Tensor], folder: Path, unused: tuple[str, ...] = ()
) -> None:
    """Give a module its stored values.

    Args:
        unused: what the names of stored tensors begin with that may be left over.

    Raises:
        UserError: a tensor is missing, not expected, or of another size.
    """
    unexpected = sorted(name for name in stored.keys() - parameters.keys() if not name.startswith(unused))
    missing = sorted(parameters.keys() - stored.keys())
    resized = sorted(name for name in parameters.keys() & stored.keys() if stored[name].shape != parameters[name].shape)
    if unexpected or missing or resized:
        found = [("missing", missing), ("unexpected", unexpected), ("of another size", resized)]
        told = ", ".join(f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" for what, names in found if names)
        raise UserError(f"{folder} does not fit this backbone and these settings: {told}.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


# An adapter's own norm before it is stored twice: by its name, and as the first part of what it goes through.


def _is_second_norm(name: str, tensors: Mapping[str, torch.Tensor]) -> bool:
    return ".adapter_down.0." in name and name.replace(".adapter_down.0.", ".adapter_norm_before.") in tensors


def _without_own_norm(name: str, tensors: Mapping[str, torch.Tensor]) -> str:
    norm = name.replace(".adapter_down.1.", ".adapter_norm_before.")
    return name.replace(".adapter_down.1.", ".adapter_down.0.") if norm in tensors else name


def _with_own_norm(name: str, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    if ".adapter_norm_before." in name:
        return [name, name.replace(".adapter_norm_before.", ".adapter_down.0.")]
    norm = name.replace(".adapter_down.0.", ".adapter_norm_before.")
    return [name.replace(".adapter_down.0.", ".adapter_down.1.") if norm != name and norm in tensors else name]
