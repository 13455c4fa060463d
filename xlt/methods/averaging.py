"""Several modules made into one by averaging their parameters (Wortsman et al. 2022), as AdapterHub's `average_adapter` does.

Not what `Average` computes: that averages what the modules put out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xlt.errors import UserError
from xlt.methods.base import Module


def average_parameters(modules: Sequence[Module], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """Σ w_i θ_i / Σ w_i of every parameter, by name; invertible adapters included.

    Raises:
        UserError: the modules do not have the same parameters, or there is no weight for each.
    """
    if not modules or len(weights) != len(modules) or sum(weights) <= 0:
        raise UserError(f"An average of {len(modules)} modules needs as many weights, with a sum above 0: found {list(weights)}.")
    every = [module.parameters() for module in modules]
    shapes = [{name: tuple(parameter.shape) for name, parameter in parameters.items()} for parameters in every]
    different = sorted({name for other in shapes for name, _ in shapes[0].items() ^ other.items()})
    if different:
        raise UserError(
            f"Modules can be averaged where they have the same parameters of the same sizes. These differ in {different[0]}"
            + (f" and {len(different) - 1} more." if len(different) > 1 else ".")
        )
    total = sum(weights)
    with torch.no_grad():
        return {
            name: sum(weight / total * parameters[name] for parameters, weight in zip(every, weights, strict=True))
            for name in every[0]
        }
