"""Checkpoints of modules in AdapterHub's folders: what the files and the tensors in them are called.

A folder holds `adapter_config.json` and `adapter.safetensors`, in older folders `pytorch_adapter.bin`. A tensor goes by the name
that it has in the model, with the module's name inside and, if a model with head was saved, the prefix of the encoder:
`bert.encoder.layer.0.output.adapters.mt.adapter_up.weight`. Here names are without both. Files are written with the prefix:
AdapterHub's reader finds fusion layers without it in models without head only.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from xlt.backbones.activations import ACTIVATIONS
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError, suggest

NAME = "xlt"  # of our modules inside their files
CONFIG, FUSION_CONFIG, HEAD_CONFIG = "adapter_config.json", "adapter_fusion_config.json", "head_config.json"
VERSION = "adapters.1.3.0"  # the library whose format is written
_ADAPTERHUB_ACTIVATIONS = {"leakyrelu": "leaky_relu"}  # its names that are not transformers'
_FILES = {"adapter": ("adapter.safetensors", "pytorch_adapter.bin")}
_FILES["fusion"] = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
_FILES["head"] = ("model_head.safetensors", "pytorch_model_head.bin")
_FILES["peft"] = ("adapter_model.safetensors", "adapter_model.bin")
_OLD_NAMES = {  # of adapter-transformers 1.x
    "layer_text_lang_adapters": "adapters", "layer_text_task_adapters": "adapters", "attention_text_lang_adapters": "adapters",
    "attention_text_task_adapters": "adapters", "invertible_lang_adapters": "invertible_adapters",
}  # fmt: skip
_HOLDERS = "adapters|invertible_adapters|loras|prefix_tunings|adapter_fusion_layer"  # the module's name stands behind these


def activation_named(name: str) -> str:
    """transformers' name of an activation that an AdapterHub file names.

    Raises:
        UserError: there is no such activation.
    """
    activation = _ADAPTERHUB_ACTIVATIONS.get(str(name).lower(), str(name).lower())
    if activation not in ACTIVATIONS:
        raise UserError(f"xlt does not know the activation {name}. {suggest(activation, ACTIVATIONS, 'activations')}")
    return activation


def adapterhub_activation(activation: str) -> str:
    """The other way round."""
    return next((theirs for theirs, ours in _ADAPTERHUB_ACTIVATIONS.items() if ours == activation), activation)


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
        what: `adapter`, `fusion`, `head` or `peft`.

    Raises:
        UserError: there are none, or the file holds more than tensors (it is not opened then).
    """
    safe, old = (folder / name for name in _FILES[what])
    path = safe if safe.is_file() else old
    if not path.is_file():
        raise UserError(f"{folder} holds no weights: neither {safe.name} nor {old.name}.")
    try:
        tensors = load_file(path) if path == safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as a file of tensors alone ({reason}).") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"{path} cannot be read as a file of tensors alone (there is something else in it).")
    return tensors


def read_tensors(folder: Path, backbone: Backbone, what: str = "adapter") -> dict[str, torch.Tensor]:
    """The tensors of a module by their names from the encoder, without the module's name.

    Raises:
        UserError: the folder cannot be read, or says that it was made for another kind of model.
    """
    file = FUSION_CONFIG if what == "fusion" else CONFIG
    description = read_description(folder, file)
    if "name" not in description:
        raise UserError(f"{folder / file} does not say what the module is called in the weights: it has no name.")
    check_fits(description, folder, backbone)
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
    stored = named_as_stored(tensors, backbone, name)
    save_file({key: _ready(tensor) for key, tensor in stored.items()}, folder / _FILES[what][0])
    _describe(folder / (FUSION_CONFIG if what == "fusion" else CONFIG), backbone, config, name, **more)


def write_head(
    tensors: Mapping[str, torch.Tensor], backbone: Backbone, config: Mapping[str, Any], folder: Path, name: str = NAME
) -> None:
    """Write a head as AdapterHub's library does, for its models with several heads (`BertAdapterModel`).

    Args:
        tensors: by their names in the head, which are numbers of layers: `1.weight`.
        config: the kind of head and its settings.
        name: the head's name in the file.
    """
    save_file({f"heads.{name}.{key}": _ready(tensor) for key, tensor in tensors.items()}, folder / _FILES["head"][0])
    _describe(
        folder / HEAD_CONFIG, backbone, config, name,
        model_class=f"{type(backbone.encoder).__name__.removesuffix('Model')}AdapterModel",
    )  # fmt: skip


def _ready(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _describe(path: Path, backbone: Backbone, config: Mapping[str, Any], name: str, **more: Any) -> None:
    description = {
        "config": dict(config), "name": name, "version": VERSION, "model_type": backbone.config.model_type,
        "model_class": type(backbone.encoder).__name__, "hidden_size": backbone.config.hidden_size,
        "model_name": None,  # the folder that the model was read from is of no use elsewhere
        **more,
    }  # fmt: skip
    path.write_text(json.dumps(description, indent=2, sort_keys=True), encoding="utf-8")


def named_as_stored(tensors: Mapping[str, torch.Tensor], backbone: Backbone, module: str = NAME) -> dict[str, torch.Tensor]:
    """Tensors by their names in AdapterHub's model, from tensors by their names from the encoder; the reverse of `plain_name`."""
    return {
        f"{backbone.model.base_model_prefix}." + re.sub(rf"(^|\.)({_HOLDERS})\.", rf"\g<0>{module}.", written, count=1): tensor
        for key, tensor in tensors.items()
        for written in _with_own_norm(key, tensors)
    }


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


def check_fits(description: Mapping[str, Any], folder: Path, backbone: Backbone) -> None:
    """Refuse what says that it was made for another kind of model."""
    found = {key: description[key] for key in ("model_type", "hidden_size") if description.get(key) is not None}
    here = {key: getattr(backbone.config, key) for key in found}
    if found != here:
        was, now = (", ".join(f"{key.replace('_', ' ')} {value}" for key, value in said.items()) for said in (found, here))
        raise UserError(f"{folder} does not fit this backbone: it was made for a model of {was}, and this one is of {now}.")


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
