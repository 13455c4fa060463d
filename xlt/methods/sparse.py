"""Sparse fine-tuning: a module is a difference in few of the backbone's own weights (LT-SFT, Ansell et al. 2022, section 3).

The lottery-ticket recipe: train everything, θ0 → θ1; choose the K weights with the largest |θ1 - θ0|; go back to θ0; train those
K alone, θ0 → θ2. The module is φ = θ2 - θ0. Modules are added up, θ0 + φ_language + φ_task, in any order; a task module is
trained on θ0 + φ_source, of which it holds nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.config import setting
from xlt.errors import UserError
from xlt.methods import sparse_files
from xlt.methods.base import Method
from xlt.methods.differences import Difference, DifferenceModule, own_weights
from xlt.methods.selection import largest
from xlt.methods.sparse_files import Stored
from xlt.training.optimizers import MakeOptimizer, SquaredGradients
from xlt.training.settings import LoopSettings


@dataclass(frozen=True)
class SparseFineTuning(Method):
    """`method=lt_sft`, `fish_mask`, `rand_sft` and `bitfit`, by how the weights are chosen.

    Weights are chosen in the encoder, its embeddings included. Its norms stay as they are. What is trained through the language
    head trains that, too, all of it but norms and the output embedding.

    Attributes:
        selection: `magnitude`: the largest changes of a dense phase; `fisher`: the largest mean squared gradients of a
            dense phase that changes nothing, a head included (empirical Fisher information of batches at θ0: FISH masks, Sung et
            al. 2021, section 3.1); `random`; `biases`: all biases (BitFit, Ben Zaken et al. 2022), where nothing says how many.
        count: how many weights are chosen.
        density: their share of those that can be.
        reduction_factor: as many as bottleneck adapters with this reduction factor in all layers have, without biases, and for
            language modules an invertible one: 2 · layers · hidden² / reduction_factor, the layers counted with one more.
        norms: whether weights of norms can be chosen.
        fixed_output_embedding: whether, for language modules, the output embedding stays that of the backbone where it is tied to
            the input embedding (but where a head reads the input embedding itself, as mDeBERTa's does).
        regularisation: λ of λ · Σ|θ - θ0| / N in the loss of language modules, in both phases; the sum is over what is trained,
            N the number of the model's parameters.
        language_head: whether what is stored of the language head is in force, too, where the backbone has one.
        dense_steps, dense_epochs: length of the dense phase; None for both: as the run's training.
        dense_learning_rate: of the dense phase; None: as the run's training.
    """

    selection: str = setting("magnitude", one_of=("magnitude", "fisher", "random", "biases"))
    count: int | None = setting(None, at_least=1)
    density: float | None = setting(None, above=0, at_most=1)
    reduction_factor: float | None = setting(None, above=0)
    norms: bool = setting(False)
    fixed_output_embedding: bool = setting(True)
    regularisation: float = setting(0.0, at_least=0)
    language_head: bool = setting(True)
    dense_steps: int | None = setting(None, at_least=1)
    dense_epochs: float | None = setting(None, above=0)
    dense_learning_rate: float | None = setting(None, above=0)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        sizes = {name: getattr(self, name) for name in ("count", "density", "reduction_factor")}
        given = [f"{name}={value}" for name, value in sizes.items() if value is not None]
        if len(given) != (self.selection != "biases"):
            needed = "one of count, density and reduction_factor" if self.selection != "biases" else "nothing: all biases are"
            raise UserError(f"{where}: how many weights are chosen is said by {needed}. Found {', '.join(given) or 'none'}.")
        if self.dense_steps is not None and self.dense_epochs is not None:
            raise UserError(f"{where}: the dense phase takes either dense_steps or dense_epochs. Set the other one to null.")
        if self.selection == "fisher" and self.dense_learning_rate is not None:
            raise UserError(f"{where}.dense_learning_rate is of no use with selection=fisher, whose dense phase changes nothing.")

    @property
    def has_dense_phase(self) -> bool:
        """Whether what is chosen depends on gradients of all weights."""
        return self.selection in ("magnitude", "fisher")

    def phases(self, settings: LoopSettings) -> list[LoopSettings]:
        if not self.has_dense_phase:
            return [settings]
        dense = settings if self.selection == "magnitude" else dataclasses.replace(settings, clip_norm=None)
        if self.dense_steps is not None or self.dense_epochs is not None:
            length = {"steps": self.dense_steps, "epochs": self.dense_epochs, "min_steps": None, "max_steps": None}
            dense = dataclasses.replace(dense, **length)
        if self.dense_learning_rate is not None:
            dense = dataclasses.replace(dense, learning_rate=self.dense_learning_rate)
        return [dense, settings]

    def create(self, backbone: Backbone, generator: torch.Generator, language_head: bool = False) -> SparseModule:
        return NewSparseModule(self, backbone, generator, language_head)

    def load(self, backbone: Backbone, folder: Path) -> SparseModule:
        stored, description = sparse_files.read(folder)
        sparse_files.check_model(description, folder, backbone)
        fitting = _fitting(stored, backbone, folder)
        if not self.language_head:
            prefix = f"{backbone.model.base_model_prefix}."
            fitting = {name: one for name, one in fitting.items() if name.startswith(prefix)}
        return SparseModule(backbone, fitting, description.get("fixed_output_embedding", False))


class SparseModule(DifferenceModule):
    """Differences in few of a backbone's weights."""

    def __init__(self, backbone: Backbone, stored: Mapping[str, Stored], fixed_output_embedding: bool) -> None:
        super().__init__(backbone, fixed_output_embedding)
        tensors = own_weights(backbone)
        with self.own_weights_in_force():
            for name, one in stored.items():
                change = one.values - tensors[name].detach() if one.replaces else one.values
                self.differences[name] = Difference(tensors[name], one.positions, change)

    def save(self, folder: Path) -> None:
        """Write xlt's format."""
        stored = {name: Stored(tuple(one.weight.shape), one.change, one.positions) for name, one in self.differences.items()}
        sparse_files.write(stored, self.backbone, folder, fixed_output_embedding=self.fixed_output_embedding)

    def save_for_composable_sft(self, folder: Path, dense: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write composable-sft's format into an existing folder.

        Args:
            dense: tensors of a task's head, by their names in the model.
        """
        prefix = f"{self.backbone.model.base_model_prefix}."
        inside = {name: one for name, one in self.differences.items() if name.startswith(prefix)}
        sparse = {name: Stored(tuple(one.weight.shape), one.change, one.all_positions()) for name, one in inside.items()}
        head = {name: one.sums.view_as(one.weight) for name, one in self.differences.items() if name not in inside}
        sparse_files.write_composable_sft(sparse, {**head, **(dense or {})}, folder / sparse_files.COMPOSABLE_SFT)


class NewSparseModule(SparseModule):
    """A module that is about to be trained.

    Args:
        generator: what is chosen at random comes from it.
        language_head: whether it is trained through the language head, which is then a part of it.
    """

    def __init__(self, method: SparseFineTuning, backbone: Backbone, generator: torch.Generator, language_head: bool) -> None:
        super().__init__(backbone, {}, method.fixed_output_embedding and language_head)
        self.method = method
        self._generator = generator
        self._language_head = language_head
        self._squares: SquaredGradients | None = None
        output = backbone.model.get_output_embeddings()
        fixed = _of_norms(backbone) if not method.norms else set()
        fixed |= {id(output.weight)} if output is not None and output.weight is not _input_embedding(backbone) else set()
        free = {name: weight for name, weight in own_weights(backbone).items() if id(weight) not in fixed}
        prefix = f"{backbone.model.base_model_prefix}."
        self._encoder = {name: weight for name, weight in free.items() if name.startswith(prefix)}
        self._head = {name: weight for name, weight in free.items() if language_head and name not in self._encoder}
        self._count = self._chosen_count()

    def count(self) -> int:
        return self._count + sum(weight.numel() for weight in self._head.values())

    def begin(self, phase: int, kept: Mapping[str, torch.Tensor]) -> None:
        positions = dict.fromkeys(self._encoder) if self._is_dense(phase) else kept or self._choose()
        self.train_differences({**positions, **dict.fromkeys(self._head)})

    def optimizer(self, phase: int) -> MakeOptimizer:
        return self._square if self.method.selection == "fisher" and phase == 0 else super().optimizer(phase)

    def end(self, phase: int) -> dict[str, torch.Tensor]:
        """After the dense phase, the positions of the largest changes, or gradients; the weights are those of before.

        Raises:
            UserError: there are none, or some are not finite.
        """
        if not self._is_dense(phase):
            return {}
        scores = self._changes() if self._squares is None else self._squared_gradients()
        if not any(score.any() for score in scores.values()):
            raise UserError("The dense phase changed no weight or met no gradient: nothing can be chosen. Train it for longer.")
        chosen = largest(scores, self._count)
        self._squares = None
        for difference in self.differences.values():
            difference.stop()
        with self.own_weights_in_force():
            self.differences = {}
        return {name: positions.cpu() for name, positions in chosen.items()}

    def penalty(self) -> torch.Tensor | None:
        """λ / N · Σ|θ - θ0| of a language module (Ansell et al. 2022, section 3.1; N as in their code)."""
        trained = [one for one in self.differences.values() if one.values is not None]
        if not trained or not self.method.regularisation or not self._language_head:
            return None
        size = sum(weight.numel() for weight in own_weights(self.backbone).values())
        return self.method.regularisation / size * sum((one.values.flatten() - one.pristine).abs().sum() for one in trained)

    def _is_dense(self, phase: int) -> bool:
        return self.method.has_dense_phase and phase == 0

    def _changes(self) -> dict[str, torch.Tensor]:
        """|θ1 - θ0| of each tensor, [n]; the values become their own changes: a copy of them would be one of the whole model."""
        changes = {}
        for name in self._encoder:
            changes[name] = self.differences[name].values.detach().flatten()
            changes[name].sub_(self.differences[name].pristine).abs_()
        return {name: change.float() for name, change in changes.items()}

    def _square(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        self._squares = SquaredGradients(groups, learning_rate)
        return self._squares

    def _squared_gradients(self) -> dict[str, torch.Tensor]:
        """Σ g² over the batches for each tensor, [n]."""
        values = {name: self.differences[name].values for name in self._encoder}
        return {name: self._squares.state[one].get("squares", torch.zeros_like(one)) for name, one in values.items()}

    def _choose(self) -> dict[str, torch.Tensor | None]:
        """What is trained where no dense phase tells."""
        if self.method.selection == "biases":
            return dict.fromkeys(name for name, weight in self._encoder.items() if _is_bias(name, weight))
        scores = {name: torch.rand(weight.numel(), generator=self._generator) for name, weight in self._encoder.items()}
        return dict(largest(scores, self._count))

    def _chosen_count(self) -> int:
        """How many weights of the encoder are chosen.

        Raises:
            UserError: none, or more than there are.
        """
        method, config = self.method, self.backbone.config
        sizes = {name: weight.numel() for name, weight in self._encoder.items()}
        if method.selection == "biases":
            count = sum(size for name, size in sizes.items() if _is_bias(name, self._encoder[name]))
        elif method.reduction_factor is not None:
            layers = len(self.backbone.layers) + self._language_head
            count = round(2 * layers * config.hidden_size**2 / method.reduction_factor)
        else:
            count = method.count or int(method.density * sum(sizes.values()))
        if not 0 < count <= sum(sizes.values()):
            what = "biases" if method.selection == "biases" else "weights"
            raise UserError(
                f"method={method.name} is to train {count:,} {what} of this {config.model_type} backbone, which has "
                f"{sum(sizes.values()):,} weights that can be chosen. Set count, density or reduction_factor so that it is a "
                "number in between, or take another method."
            )
        return count


def _input_embedding(backbone: Backbone) -> nn.Parameter:
    return backbone.model.get_input_embeddings().weight


def _is_bias(name: str, weight: nn.Parameter) -> bool:
    return name.endswith(".bias") and weight.ndim == 1


def _of_norms(backbone: Backbone) -> set[int]:
    """The identities of the weights and biases of norms: a part whose weight is a vector scales, and nothing else does."""
    parts = [dict(part.named_parameters(recurse=False)) for part in backbone.model.modules()]
    return {id(one) for own in parts if "weight" in own and own["weight"].ndim == 1 for one in own.values()}


def _fitting(stored: Mapping[str, Stored], backbone: Backbone, folder: Path) -> dict[str, Stored]:
    """Those of the stored differences that are for tensors of this backbone, which has no pooler.

    Raises:
        UserError: a difference is for a tensor that it does not have, or has in another size; it need not have the head's.
    """
    tensors, prefix = own_weights(backbone), f"{backbone.model.base_model_prefix}."
    if backbone.anatomy.has_pooler:
        stored = {name: one for name, one in stored.items() if not name.startswith(f"{prefix}pooler.")}
    of_heads = {name for name, one in stored.items() if one.positions is None and not name.startswith(prefix)}
    unfit = [
        f"{name} {list(one.size)}" + (f" (here {list(tensors[name].shape)})" if name in tensors else "")
        for name, one in stored.items()
        if (name in tensors and tuple(tensors[name].shape) != one.size) or (name not in tensors and name not in of_heads)
    ]
    if unfit:
        raise UserError(
            f"{folder} does not fit this backbone. It changes tensors that are not here, or are of another size, as with another "
            f"vocabulary: {', '.join(unfit[:3])}. Use the backbone that it was trained on."
        )
    return {name: one for name, one in stored.items() if name in tensors}
