"""How attached modules work together: in a stack, on average, or side by side in branches of a batch.

A composition is a tree. Its leaves are modules (`xlt.methods.base.Module`), which say what they do at a site; its inner
nodes say how. `Backbone.activate` puts one into force.

    Stack(language, task)              one after the other
    Average(mt, ar, weights=[2, 1])    the weighted mean of what they make of the same input
    Parallel(Stack(a, x), Stack(b, y)) each on its own copy of the batch, in one pass
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from xlt.errors import UserError

if TYPE_CHECKING:
    from xlt.backbones.sites import Norm, Site
    from xlt.methods.base import Module

Branch = list[tuple["Module", float]]  # modules in their order, each with its share


class Composable(ABC):
    """A node of the tree."""

    @abstractmethod
    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        """What becomes of a block's h (`xlt.backbones.anatomy`), [batch, sequence, hidden] → the same shape.

        Args:
            residual: the block's x.
            norm: the norm that closes the block, None in pre-norm models.
        """

    @abstractmethod
    def closes(self, site: Site) -> bool | None:
        """Whether the block is to end as it was pretrained, after the last adapter here; None where there is no adapter."""

    @abstractmethod
    def branches(self) -> list[Branch]:
        """The modules of each copy of the batch: one branch, or as many as a `Parallel` has.

        Raises:
            UserError: modules that cannot work together.
        """


class Stack(Composable):
    """Modules one after the other, the first nearest to the pretrained block (MAD-X, Pfeiffer et al. 2020, section 3)."""

    def __init__(self, *children: Composable) -> None:
        self.children = children

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        for child in self.children:
            hidden = child.at_site(site, hidden, residual, norm)
        return hidden

    def closes(self, site: Site) -> bool | None:
        said = [closes for child in self.children if (closes := child.closes(site)) is not None]
        return said[-1] if said else None

    def branches(self) -> list[Branch]:
        result: list[Branch] = [[]]
        for child in self.children:
            below = child.branches()
            if len(result) > 1 and len(below) > 1:
                raise UserError("A composition can branch once: there are two Parallel in this stack.")
            result = [[*lower, *upper] for lower in result for upper in below]
        return result


class Average(Composable):
    """The weighted mean of what modules make of the same input, residual included; weights are made to sum to 1.

    Low-rank updates enter with their share of the update. Of invertible adapters the first module's is used, whole.

    Args:
        weights: a share each; None gives all the same.
        divides_twice: divide by the number of modules once more, as AdapterHub's `Average` does (`compat=adapterhub`).
    """

    def __init__(self, *children: Composable, weights: Sequence[float] | None = None, divides_twice: bool = False) -> None:
        if not children:
            raise UserError("An average needs at least one module.")
        weights = [1.0] * len(children) if weights is None else list(weights)
        if len(weights) != len(children) or sum(weights) <= 0:
            raise UserError(f"An average of {len(children)} modules needs as many weights, with a sum above 0: found {weights}.")
        self.children = children
        self.weights = [weight / sum(weights) / (len(weights) if divides_twice else 1) for weight in weights]

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        if self.closes(site) is None:  # nothing here changes h
            return hidden
        return sum(
            weight * child.at_site(site, hidden, residual, norm)
            for child, weight in zip(self.children, self.weights, strict=True)
        )

    def closes(self, site: Site) -> bool | None:
        return _agreed(self.children, site)

    def branches(self) -> list[Branch]:
        below = [child.branches() for child in self.children]
        if any(len(branches) > 1 for branches in below):
            raise UserError("An average cannot hold branches: put the Average inside the Parallel.")
        return [
            [(module, weight * share) for (branch,), weight in zip(below, self.weights, strict=True) for module, share in branch]
        ]


class Parallel(Composable):
    """Several compositions in one pass, each on its own copy of the batch: rows [0, batch) belong to the first, and so on."""

    def __init__(self, *children: Composable) -> None:
        if not children:
            raise UserError("Parallel needs at least one composition.")
        self.children = children

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        rows = zip(self.children, hidden.chunk(len(self.children)), residual.chunk(len(self.children)), strict=True)
        return torch.cat([child.at_site(site, h, x, norm) for child, h, x in rows])

    def closes(self, site: Site) -> bool | None:
        return _agreed(self.children, site)

    def branches(self) -> list[Branch]:
        below = [child.branches() for child in self.children]
        if any(len(branches) > 1 for branches in below):
            raise UserError("A composition can branch once: there is a Parallel inside a Parallel.")
        return [branch for (branch,) in below]


def _agreed(children: Sequence[Composable], site: Site) -> bool | None:
    said = [child.closes(site) for child in children]
    if all(closes is None for closes in said):
        return None
    if len({closes is not False for closes in said}) > 1:  # where a child has no adapter, its block ends as it was pretrained
        raise UserError("Modules side by side have to agree on whether the pretrained norm closes the block (final_norm).")
    return said[0] is not False
