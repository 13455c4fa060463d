"""Invertible adapters (MAD-X, Pfeiffer et al. 2020, section 3.3): a map of the embeddings' output that can be undone before
the output embedding, so that a language's pieces are read and written in the same changed space."""

from __future__ import annotations

import torch
from torch import nn

from xlt.backbones.activations import activation_function


class InvertibleAdapter(nn.Module):
    """NICE coupling of the halves x1, x2 of a vector: y1 = x1 + F(x2), y2 = x2 + G(y1). [..., hidden] → [..., hidden].

    F and G are linear maps through hidden / (2 · reduction_factor) dimensions with a non-linearity between them.
    """

    def __init__(self, hidden: int, reduction_factor: int, activation: str) -> None:
        super().__init__()
        self.first = hidden // 2
        second = hidden - self.first
        self.F = _two_layers(second, second // reduction_factor, self.first, activation)
        self.G = _two_layers(self.first, self.first // reduction_factor, second, activation)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x1, x2 = hidden_states[..., : self.first], hidden_states[..., self.first :]
        y1 = x1 + self.F(x2)
        return torch.cat([y1, x2 + self.G(y1)], dim=-1)

    def inverse(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The x with forward(x) = `hidden_states`."""
        y1, y2 = hidden_states[..., : self.first], hidden_states[..., self.first :]
        x2 = y2 - self.G(y1)
        return torch.cat([y1 - self.F(x2), x2], dim=-1)


def _two_layers(inputs: int, inside: int, outputs: int, activation: str) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, inside), activation_function(activation), nn.Linear(inside, outputs))
