"""Differences in a backbone's own weights: what modules add to some of them, and which of that is in force.

The weights are changed in place. They are never changed back by subtraction, which leaves rounding behind: every difference
keeps what the backbone had at its positions, and what is in force is summed up anew, in fp64, whenever that changes. So the
weights depend on what is in force alone, not on the order in which it came, and without differences they are what they were,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from xlt.backbones.backbone import Backbone

if TYPE_CHECKING:
    from xlt.methods.sparse import SparseModule


class Difference:
    """What a module changes in one tensor of a backbone. Made while no difference is in force.

    Attributes:
        weight: the backbone's tensor.
        positions: flat positions of what is changed, row by row, ascending, [k]; None: all of it.
        pristine: the backbone's own values there, [k].
        change: what is added to them, [k].
        values: while it is trained, what is: the sums, [k], or [k, 1] where the tensor is a matrix, so that the loop decays them
            like the matrix; else None.
    """

    def __init__(self, weight: nn.Parameter, positions: torch.Tensor | None, change: torch.Tensor | None = None) -> None:
        self.weight = weight
        self.positions = positions if positions is None else positions.to(weight.device)
        self.pristine = self._read().clone()
        self._change = change if change is None else change.to(weight.device).flatten()
        self.values: nn.Parameter | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None
        self._below: torch.Tensor | None = None  # what other differences in force add at the positions

    @property
    def change(self) -> torch.Tensor:
        return self._change if self.values is None else self.values.detach().flatten() - self.pristine.to(self.values.dtype)

    def all_positions(self) -> torch.Tensor:
        """The positions where they are wanted even if they are all."""
        return torch.arange(self.weight.numel(), device=self.weight.device) if self.positions is None else self.positions

    def train(self) -> None:
        """Make `values`, the backbone's own, which get the weight's gradient at the positions; it is freed at once."""
        begin = self.pristine.to(torch.promote_types(self.weight.dtype, torch.float32), copy=True)
        self.values = nn.Parameter(begin if self.weight.ndim == 1 else begin[:, None])
        self.weight.requires_grad_(True)
        self._hook = self.weight.register_post_accumulate_grad_hook(self._gather)

    def freeze(self) -> None:
        """Keep what was learnt."""
        if self.values is None:
            return
        self._change = self.change
        self.stop()

    def stop(self) -> None:
        """Train it no more, and forget what was learnt."""
        self.values = None
        self.weight.requires_grad_(False)
        self._hook.remove()

    def follow(self) -> None:
        """Go to the device of the weight."""
        device = self.weight.device
        self.pristine = self.pristine.to(device)
        self._change = self._change if self._change is None else self._change.to(device)
        self.positions = self.positions if self.positions is None else self.positions.to(device)

    def write(self, values: torch.Tensor) -> None:
        """Put [k] values into the weight at the positions."""
        if self.positions is None:
            self.weight.detach().view(-1).copy_(values)
        else:
            self.weight.detach().view(-1)[self.positions] = values.to(self.weight.dtype)

    @torch.no_grad()
    def write_values(self) -> None:
        """Put what is being trained into the weight, on top of what else is in force."""
        values = self.values.flatten()
        self.write(values if self._below is None else values + self._below)

    def meet(self, others: bool) -> None:
        """Take note of what the weight is before this difference is in force.

        Args:
            others: whether another difference changes the weight.
        """
        self._below = self._read().to(self.values.dtype) - self.pristine.to(self.values.dtype) if others else None

    def _read(self) -> torch.Tensor:
        flat = self.weight.detach().view(-1)
        return flat if self.positions is None else flat[self.positions]

    def _gather(self, weight: torch.Tensor) -> None:
        gradient = weight.grad.view(-1)
        gradient = gradient if self.positions is None else gradient[self.positions]
        gradient = gradient.to(self.values.dtype).view_as(self.values)
        self.values.grad = gradient if self.values.grad is None else self.values.grad + gradient
        weight.grad = None


class Weights:
    """A backbone's own weights, with differences in force. One for all sparse modules of a backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._in_force: dict[SparseModule, float] = {}
        self._tied: nn.Parameter | None = None

    @torch.no_grad()
    def put_in_force(self, shares: Mapping[SparseModule, float]) -> None:
        """Choose the differences that the weights are with.

        Args:
            shares: the modules whose differences they are, each with the factor before it; of one that is being trained it is 1.
        """
        if shares == self._in_force:
            return
        for module in {**self._in_force, **shares}:
            for difference in module.differences.values():
                difference.follow()
                if module in self._in_force:
                    difference.write(difference.pristine)
        self._set_output_embedding(any(module.fixed_output_embedding for module in shares))
        stored: dict[nn.Parameter, list[tuple[Difference, float]]] = {}
        for module, share in shares.items():
            for difference in module.differences.values():
                if difference.values is None:
                    stored.setdefault(difference.weight, []).append((difference, share))
        for parts in stored.values():
            _write_sum(parts)
        for module in shares:
            for difference in module.differences.values():
                if difference.values is not None:
                    difference.meet(difference.weight in stored)
                    difference.write_values()
        self._in_force = dict(shares)

    def write_values(self, module: SparseModule) -> None:
        """Bring the weights up to what an optimiser made of a module that is in force."""
        if module in self._in_force:
            for difference in module.differences.values():
                if difference.values is not None:
                    difference.write_values()

    def _set_output_embedding(self, fixed: bool) -> None:
        """Give the language head an output embedding of its own, that of the backbone, or tie it to the input embedding again."""
        output = self._backbone.model.get_output_embeddings()
        if output is None:
            return
        if fixed and self._tied is None and output.weight is self._backbone.model.get_input_embeddings().weight:
            self._tied = output.weight
            output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=False)
        elif not fixed and self._tied is not None:
            output.weight, self._tied = self._tied, None


def _write_sum(parts: Sequence[tuple[Difference, float]]) -> None:
    """A weight's own values plus the differences that are in force there, each with its share."""
    if len(parts) == 1:
        ((difference, share),) = parts
        difference.write((difference.pristine.double() + share * difference.change.double()).to(difference.weight.dtype))
        return
    positions, place = torch.cat([difference.all_positions() for difference, _ in parts]).unique(return_inverse=True)
    changes = torch.cat([share * difference.change.double() for difference, share in parts])
    own = torch.empty_like(positions, dtype=torch.float64)
    own[place] = torch.cat([difference.pristine for difference, _ in parts]).double()
    weight = parts[0][0].weight.detach()
    weight.view(-1)[positions] = (own + torch.zeros_like(own).index_add_(0, place, changes)).to(weight.dtype)
