"""Where sparse modules change a backbone, and how far two of them change the same weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from xlt.methods.sparse_files import Stored


@dataclass(frozen=True)
class Part:
    """What a module changes in a part of a model, which is a layer or one of the tensors outside the layers.

    Attributes:
        weights: in the tensors of the part that the module changes.
        changed: how many of them it does.
        mass: Σ|φ| over them.
    """

    weights: int
    changed: int
    mass: float


@dataclass(frozen=True)
class Overlap:
    """What two modules both change.

    Attributes:
        shared: weights that both change.
        by_chance: how many it would be if either had drawn as many in each tensor as it has: Σ k_a · k_b / n over the tensors.
        agreeing: share of those shared that both change in the same direction; NaN without any.
    """

    shared: int
    by_chance: float
    agreeing: float


def parts(stored: Mapping[str, Stored]) -> dict[str, Part]:
    """A module's changes by the part of the model that they are in; a layer goes by its name, `bert.encoder.layer.3`."""
    found: dict[str, list[tuple[str, Stored]]] = {}
    for name, one in stored.items():
        layer = re.match(r".*?\.\d+(?=\.)", name)
        found.setdefault(layer[0] if layer else name, []).append((name, one))
    return {
        part: Part(
            sum(torch.Size(one.size).numel() for _, one in tensors),
            sum(one.values.numel() for _, one in tensors),
            sum(float(one.values.abs().sum(dtype=torch.float64)) for _, one in tensors),
        )
        for part, tensors in found.items()
    }


def overlap(one: Mapping[str, Stored], other: Mapping[str, Stored]) -> Overlap:
    """What two modules of the same backbone both change, tensors aside that one of them changes as a whole."""
    shared, by_chance, agreeing = 0, 0.0, 0
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if a.positions is None or b.positions is None:
            continue
        in_b = torch.isin(a.positions, b.positions)
        in_a = torch.isin(b.positions, a.positions)
        shared += int(in_b.sum())
        by_chance += len(a.positions) * len(b.positions) / torch.Size(a.size).numel()
        agreeing += int((a.values[in_b].sign() == b.values[in_a].sign()).sum())
    return Overlap(shared, by_chance, agreeing / shared if shared else float("nan"))
