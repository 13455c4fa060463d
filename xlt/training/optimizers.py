"""What makes steps of gradients: AdamW, and what only looks at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

MakeOptimizer = Callable[[Sequence[dict[str, Any]], float], torch.optim.Optimizer]
"""Makes an optimiser of groups of parameters, each with its `weight_decay`, and the peak of the learning rate."""


def adamw(groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(list(groups), lr=learning_rate, fused=True)


class SquaredGradients(torch.optim.Optimizer):
    """Leaves the parameters as they are, and sums up the squares of their gradients over the batches.

    The state of a parameter that has got a gradient holds `squares`, of its shape.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> None:
        super().__init__(list(groups), {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                squares = self.state[parameter].setdefault("squares", torch.zeros_like(parameter))
                squares.addcmul_(parameter.grad, parameter.grad)
