"""The miniature backbones: pretrained like any other from scratch, but for how a BERT's attention begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from xlt.backbones.models import ScratchModel
from xlt.config import setting

_NEIGHBOURS = (-1, 1, -2, 2)  # where the heads of the first layer look, in turn
_AMPLITUDE = 0.05  # of the positions' waves, beside word embeddings of standard deviation 0.02


@dataclass(frozen=True)
class MiniatureModel(ScratchModel):
    """`model=miniature` and `model=miniature_llama`.

    A BERT has to find out from random position embeddings which positions are neighbours. At this size that takes far more
    text than all the rest: masked language modelling stays at the loss of single pieces for tens of thousands of steps.
    Its first layer therefore begins with heads that look at the neighbours: positions are waves of several frequencies,
    keys read them as they are and queries turned by the distance that the head looks over, so that their product is
    greatest there. Everything is trained from then on. Decoders with rotary embeddings need none of it.

    Attributes:
        sharpness: how strongly the heads begin to prefer their neighbour; 0 begins as BERT does.
    """

    sharpness: float = setting(6.0, at_least=0)

    def initialise(self, model: nn.Module) -> None:
        if self.sharpness and model.config.model_type == "bert":
            look_at_neighbours(model, self.sharpness)


@torch.no_grad()
def look_at_neighbours(model: nn.Module, sharpness: float) -> None:
    """Make the heads of a BERT's first layer look at the positions next to theirs."""
    heads = model.config.num_attention_heads
    head_width = model.config.hidden_size // heads
    width = head_width - head_width % 2
    # The golden section keeps the waves from falling together again within the length of an input.
    frequencies = math.pi * (torch.arange(width // 2) + 0.618) / (width // 2)
    positions = model.bert.embeddings.position_embeddings.weight
    angles = torch.arange(len(positions))[:, None] * frequencies
    positions.zero_()
    positions[:, :width] = _AMPLITUDE * torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
    attention = model.bert.encoder.layer[0].attention.self
    for head in range(heads):
        rows = slice(head * head_width, head * head_width + width)
        turned = frequencies * _NEIGHBOURS[head % len(_NEIGHBOURS)]
        turns = torch.stack([turned.cos(), -turned.sin(), turned.sin(), turned.cos()], dim=1).view(-1, 2, 2)
        for projection, matrix in ((attention.key, torch.eye(width)), (attention.query, torch.block_diag(*turns))):
            projection.weight[head * head_width : (head + 1) * head_width] = 0.0
            projection.weight[rows, :width] = math.sqrt(sharpness) * matrix
