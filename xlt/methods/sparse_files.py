"""Files of sparse differences: xlt's own folder, and that of composable-sft (Ansell et al. 2022).

xlt's folder holds `sparse.json`, which says what model the differences are for, and `sparse.safetensors`, with
`<name>.positions` (flat, row by row; left out where a tensor is changed everywhere) and `<name>.changes` for every tensor.
composable-sft's holds `pytorch_diff.bin`, a pickle of two mappings: `diffs`, whose positions are flat with the *first* dimension
running fastest and are stored as steps from one to the next, and `abs`, tensors that replace the model's, such as its head.
Names are those of the parameters of a model with head: `bert.embeddings.word_embeddings.weight`.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import check_fits, read_description
from xlt.errors import UserError

DESCRIPTION, TENSORS = "sparse.json", "sparse.safetensors"
COMPOSABLE_SFT = "pytorch_diff.bin"
_SMALLEST = 1e-7  # change that composable-sft stores
_SMALL_NUMBERS = 1 << 31  # what positions in 32 bits are below
_NUMPY_NUMBERS = [  # what a pickle of a numpy integer calls, by its names before and since numpy 2
    np.dtype, type(np.dtype("int64")), scalar, (scalar, "numpy.core.multiarray.scalar")
]  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """What a file says of a tensor.

    Attributes:
        size: of the tensor.
        values: [k], or of the tensor's size where it is changed everywhere.
        positions: flat, row by row, ascending, [k]; None: all.
        replaces: whether the values take the place of the model's, rather than being added to them.
    """

    size: tuple[int, ...]
    values: torch.Tensor
    positions: torch.Tensor | None = None
    replaces: bool = False


def is_sparse(folder: Path) -> bool:
    """Whether a folder holds sparse differences, in either format."""
    return (folder / DESCRIPTION).is_file() or (folder / COMPOSABLE_SFT).is_file()


def read(folder: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The differences of a folder by the names of their tensors, and what describes them; nothing does in composable-sft's.

    Raises:
        UserError: the folder cannot be read.
    """
    if not (folder / DESCRIPTION).is_file():
        return read_composable_sft(folder / COMPOSABLE_SFT), {}
    description = read_description(folder, DESCRIPTION)
    try:
        tensors = load_file(folder / TENSORS)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{folder / TENSORS} cannot be read ({str(error).splitlines()[0]}).") from error
    sizes = {name: tuple(size) for name, size in description["sizes"].items()}
    if missing := [name for name in sizes if f"{name}.changes" not in tensors]:
        raise UserError(f"{folder / TENSORS} lacks {missing[0]}.changes, which {DESCRIPTION} lists. Fetch the folder anew.")
    stored = {
        name: Stored(size, tensors[f"{name}.changes"], positions if positions is None else positions.long())
        for name, size in sizes.items()
        for positions in [tensors.get(f"{name}.positions")]
    }
    return stored, description


def check_model(description: Mapping[str, Any], folder: Path, backbone: Backbone) -> None:
    """Refuse differences that say that they were made for another kind of model, or with another vocabulary."""
    check_fits(description, folder, backbone)
    vocabulary = description.get("vocabulary")
    if None not in (vocabulary, backbone.tokenizer) and vocabulary != backbone.vocabulary:
        raise UserError(
            f"{folder} was trained with another vocabulary than this backbone has: the rows of the embeddings that it changes "
            "stand for other pieces here. Use the backbone that it was trained on."
        )


def write(stored: Mapping[str, Stored], backbone: Backbone, folder: Path, **more: Any) -> None:
    """Write xlt's format into an existing folder.

    Args:
        more: what else describes the differences.
    """
    tensors = {f"{name}.changes": one.values.detach().cpu().contiguous() for name, one in stored.items()}
    for name, one in stored.items():
        if one.positions is not None:
            small = np.prod(one.size) < _SMALL_NUMBERS
            tensors[f"{name}.positions"] = one.positions.cpu().to(torch.int32 if small else torch.int64)
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    description = {
        "model_type": backbone.config.model_type, "hidden_size": backbone.config.hidden_size,
        "vocabulary": None if backbone.tokenizer is None else backbone.vocabulary,
        "sizes": {name: list(one.size) for name, one in stored.items()}, **more,
    }  # fmt: skip
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")


def read_composable_sft(path: Path) -> dict[str, Stored]:
    """The differences of a `pytorch_diff.bin`. Its steps are numpy numbers, which are let in; nothing else that could run is.

    Raises:
        UserError: it is not such a file, or holds more than tensors and numbers.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
        sparse = {name: _decoded(one) for name, one in content["diffs"].items()}
        dense = {name: Stored(tuple(one.shape), one.detach(), replaces=True) for name, one in content["abs"].items()}
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} holds more than tensors and numbers ({found[1]}), and what else a pickle holds can run code. If you "
                "trust it, open it with torch.load(path, weights_only=False) and store anew what is needed of it: "
                "torch.save({'diffs': content['diffs'], 'abs': content['abs']}, path)."
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as sparse differences of composable-sft ({reason}).") from error
    return {**sparse, **dense}


def write_composable_sft(sparse: Mapping[str, Stored], dense: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a `pytorch_diff.bin`.

    Args:
        sparse: differences with positions. Those below 1e-7 are left out, as the library does.
        dense: whole tensors, by name.
    """
    diffs = {}
    for name, one in sparse.items():
        large = one.values.abs() > _SMALLEST
        positions, values = _reordered(one.positions[large].cpu(), one.size), one.values[large].cpu()
        positions, order = positions.sort()
        steps = positions.diff(prepend=positions.new_zeros(1))
        diffs[name] = {"size": torch.Size(one.size), "index_steps": steps.tolist(), "values": values[order]}
    torch.save({"diffs": diffs, "abs": {name: tensor.detach().cpu() for name, tensor in dense.items()}}, path)


def _decoded(one: Mapping[str, Any]) -> Stored:
    size = tuple(one["size"])
    columns_first = torch.tensor(np.asarray(one["index_steps"], dtype=np.int64)).cumsum(0)
    positions, order = _reordered(columns_first, size[::-1]).sort()
    return Stored(size, one["values"].detach()[order], positions)


def _reordered(positions: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Flat positions in a tensor of this size, as flat positions in the one with its dimensions in reverse order."""
    result, factor = torch.zeros_like(positions), 1
    for coordinates, length in zip(torch.unravel_index(positions, tuple(size)), size, strict=True):
        result += coordinates * factor
        factor *= length
    return result
