"""Differences in a backbone's own weights: what modules add to some of them, and which of that is in force.

The weights are changed in place. They are never changed back by subtraction, which leaves rounding behind: every difference
keeps what the backbone had at its positions, and what is in force is summed up anew, in fp64, whenever that changes. So the
weights depend on what is in force alone, not on the order in which it came, and without differences they are what they were,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Branch
from xlt.errors import UserError
from xlt.methods.base import Module


class Difference:
    """What a module changes in one tensor of a backbone. Made while no difference is in force.

    Args:
        change: what is added to the backbone's own values, [k]; or
        sums: what they become, [k]. Neither of them is needed for a difference that is about to be trained.

    Attributes:
        weight: the backbone's tensor.
        positions: flat positions of what is changed, row by row, ascending, [k]; None: all of it.
        pristine: the backbone's own values there, [k].
        values: while it is trained, what is: the sums, [k], or [k, 1] where the tensor is a matrix, so that the loop decays them
            like the matrix; else None.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        positions: torch.Tensor | None,
        change: torch.Tensor | None = None,
        sums: torch.Tensor | None = None,
    ) -> None:
        self.weight = weight
        self.positions = positions if positions is None else positions.to(weight.device)
        self.pristine = self._read().clone()
        self._change = change if change is None else change.to(weight.device).flatten()
        self._sums = sums if sums is None else sums.to(weight.device).flatten()
        self.values: nn.Parameter | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None
        self._below: torch.Tensor | None = None  # what other differences in force add at the positions

    @property
    def change(self) -> torch.Tensor:
        """What is added to the backbone's own values, [k]."""
        sums = self._known_sums()
        return self._change if sums is None else sums - self.pristine.to(sums.dtype)

    @property
    def sums(self) -> torch.Tensor:
        """What the backbone's own values become with this difference alone, [k]."""
        sums = self._known_sums()
        return (self.pristine.double() + self._change.double()).to(self.weight.dtype) if sums is None else sums

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
        self._sums = self.values.detach().flatten()
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
        self._sums = self._sums if self._sums is None else self._sums.to(device)
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

    def _known_sums(self) -> torch.Tensor | None:
        return self._sums if self.values is None else self.values.detach().flatten()

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
    """A backbone's own weights, with differences in force. One for all modules of a backbone that are differences."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._in_force: dict[DifferenceModule, float] = {}
        self._tied: nn.Parameter | None = None

    @torch.no_grad()
    def put_in_force(self, shares: Mapping[DifferenceModule, float]) -> None:
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

    def write_values(self, module: DifferenceModule) -> None:
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


class DifferenceModule(Module):
    """A module that is differences in the backbone's own weights.

    Attributes:
        weights: the backbone's, which all such modules of it share.
        differences: by the names of the tensors in a model with head.
        fixed_output_embedding: whether the language head has an output embedding of its own while the module is in force.

    Raises:
        UserError: the backbone is quantised.
    """

    def __init__(self, backbone: Backbone, fixed_output_embedding: bool = False) -> None:
        if backbone.quantised:
            raise UserError(
                "This method changes the backbone's own weights, which quantised ones cannot be (model.quantisation). Take the "
                "backbone unquantised, or a method that leaves it frozen, such as method=lora."
            )
        others = [module.weights for module in backbone.modules if isinstance(module, DifferenceModule)]
        self.weights = others[0] if others else Weights(backbone)
        self.differences: dict[str, Difference] = {}
        self.fixed_output_embedding = fixed_output_embedding
        self._sum_before_pass: torch.utils.hooks.RemovableHandle | None = None
        super().__init__(backbone)

    def train_differences(self, positions: Mapping[str, torch.Tensor | None]) -> None:
        """Begin to train new differences, those of before forgotten.

        Args:
            positions: flat positions in each tensor that is trained, by its name; None: all of it.
        """
        self.freeze()
        tensors = own_weights(self.backbone)
        with self.own_weights_in_force():
            self.differences = {name: Difference(tensors[name], chosen) for name, chosen in positions.items()}
            for difference in self.differences.values():
                difference.train()
        self._sum_before_pass = self.backbone.encoder.register_forward_pre_hook(
            lambda encoder, inputs: self.weights.write_values(self)
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        """The sums θ0 + φ at the chosen positions of each tensor, [k] or [k, 1], while they are trained."""
        named = ((name, difference.values) for name, difference in self.differences.items())
        return {name: values for name, values in named if values is not None}

    def passes_gradients(self) -> list[nn.Parameter]:
        return [difference.weight for difference in self.differences.values() if difference.values is not None]

    def freeze(self) -> None:
        for difference in self.differences.values():
            difference.freeze()
        if self._sum_before_pass is not None:
            self._sum_before_pass.remove()

    def remove(self) -> None:
        self.freeze()
        self.weights.put_in_force({})

    def compose(self, branches: Sequence[Branch]) -> None:
        shares: list[dict[DifferenceModule, float]] = []
        for branch in branches:
            shares.append({})
            for module, share in branch:
                if isinstance(module, DifferenceModule):
                    shares[-1][module] = shares[-1].get(module, 0.0) + share
        if any(other != shares[0] for other in shares):
            raise UserError(
                "Modules that change the backbone's own weights, which all rows of a batch share, cannot differ between the "
                "branches of a Parallel. Run the branches one after the other."
            )
        self.weights.put_in_force(shares[0])

    @contextmanager
    def own_weights_in_force(self) -> Iterator[None]:
        """The backbone with its own weights, while differences are made or exchanged."""
        self.weights.put_in_force({})
        yield
        self.backbone.activate(self.backbone.composition)


def own_weights(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The backbone's own parameters by their names in a model with head, whether it has one or not."""
    prefix = f"{backbone.model.base_model_prefix}."
    named = {f"{prefix}{name}": weight for name, weight in backbone.own_parameters(backbone.encoder).items()}
    if backbone.model is not backbone.encoder:
        named |= {name: one for name, one in backbone.own_parameters(backbone.model).items() if not name.startswith(prefix)}
    return named


def _write_sum(parts: Sequence[tuple[Difference, float]]) -> None:
    """A weight's own values plus the differences that are in force there, each with its share."""
    if len(parts) == 1 and parts[0][1] == 1:
        parts[0][0].write(parts[0][0].sums)
        return
    weight = parts[0][0].weight.detach().view(-1)
    if any(difference.positions is None for difference, _ in parts):
        positions, size = slice(None), len(weight)
        places = [slice(None) if difference.positions is None else difference.positions for difference, _ in parts]
    else:
        positions, joint = torch.cat([difference.positions for difference, _ in parts]).unique(return_inverse=True)
        places, size = joint.split([len(difference.positions) for difference, _ in parts]), len(positions)
    own, change = torch.zeros(2, size, dtype=torch.float64, device=weight.device)
    for (difference, share), place in zip(parts, places, strict=True):
        own[place] = difference.pristine.double()
        change[place] += share * difference.change.double()
    weight[positions] = (own + change).to(weight.dtype)
