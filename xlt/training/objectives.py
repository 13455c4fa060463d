"""What a loop minimises, and how batches for it are made.

An objective makes a batch on the CPU from examples, moves it to the device together with whatever can be worked out
beforehand, and computes the *sum* of the losses of its rows: the loop divides by the batch's `count`, so that the
gradient does not depend on how the batch was split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.random import generator
from xlt.training.batches import Batch, pad
from xlt.training.masking import IGNORED, mask_tokens
from xlt.training.packing import TokenFile
from xlt.training.settings import LanguageTraining

_LENGTH_STEP = 32  # batches of lines are padded to a multiple of this, so that few shapes occur
_VALIDATION_SEED = 20_250_201  # validation masks are the same at every evaluation and for every module
_VALIDATION_ROWS = 64  # examples whose masks are drawn together, however many of them the memory holds at a time


class Objective(Protocol):
    """What the loop asks of an objective."""

    def count(self, batch: Batch) -> int:
        """How many losses the batch's sum is over."""

    def loss(self, batch: Batch, device: torch.device) -> torch.Tensor:
        """The sum of the losses of the rows of `batch`, a scalar."""


class LanguageModelling:
    """Masked or causal language modelling on a token file, as the backbone was pretrained. An encoder-decoder reads the masked
    text and writes the whole one (denoising; of BART's noises the masking alone, Lewis et al. 2020).

    Args:
        backbone: with its language head.
        settings: masking and lengths.
    """

    def __init__(self, backbone: Backbone, settings: LanguageTraining) -> None:
        self.backbone = backbone
        self.settings = settings
        self.objective = backbone.anatomy.objective
        if self.objective != "causal" and backbone.tokenizer.mask_token_id is None:
            raise UserError(
                "The backbone's tokenizer has no mask token, so no text can be masked for it. Language modules need a model that "
                "was pretrained on masked text, or a decoder."
            )
        self._special = torch.tensor(sorted(backbone.tokenizer.all_special_ids))
        self._unknown = backbone.tokenizer.unk_token_id
        by_words = self.objective != "causal" and settings.masking == "whole_words"
        self._begins_word = begins_word(backbone.tokenizer) if by_words else None

    def make(self, tokens: TokenFile, indices: Sequence[int], draw: torch.Generator) -> Batch:
        """A batch: `input_ids`, `attention_mask`, `labels`, for encoder-decoders `decoder_input_ids`, all [rows, length]."""
        rows = [tokens[index] for index in indices]
        multiple = 1 if self.settings.layout == "packed" else _LENGTH_STEP
        lengths = torch.tensor([len(row) for row in rows])
        ids = pad(rows, self.backbone.tokenizer.pad_token_id, multiple)
        attention = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        whole = ids.masked_fill(attention == 0, IGNORED)
        if self.objective == "causal":
            return {"input_ids": ids, "attention_mask": attention, "labels": whole}
        special = torch.isin(ids, self._special) | (attention == 0)
        if self._unknown is not None:
            special &= (ids != self._unknown) | (attention == 0)
        inputs, labels = mask_tokens(
            ids, special, self.backbone.tokenizer.mask_token_id, len(self.backbone.tokenizer),
            self.settings.mask_probability, self.settings.masking, draw, self._words(ids),
        )  # fmt: skip
        if self.objective == "denoising":
            return {"input_ids": inputs, "attention_mask": attention, "labels": whole, "decoder_input_ids": ids}
        return {"input_ids": inputs, "attention_mask": attention, "labels": labels}

    def _words(self, ids: torch.Tensor) -> torch.Tensor | None:
        """The number of each position's word in the batch [rows, length]; None where words do not matter."""
        if self._begins_word is None:
            return None
        begins = self._begins_word[ids]
        begins[:, 0] = True  # no word goes on from one row to the next
        return begins.flatten().cumsum(0).view_as(ids)

    def validation_batches(self, tokens: TokenFile, batch_size: int) -> Iterator[Batch]:
        """Batches over the first validation examples, the same ones with the same masks each time and for any `batch_size`."""
        size = min(len(tokens), self.settings.validation_examples)
        for start in range(0, size, _VALIDATION_ROWS):
            draw = generator(_VALIDATION_SEED, "validation", start)
            drawn = self.make(tokens, range(start, min(start + _VALIDATION_ROWS, size)), draw)
            for first in range(0, len(drawn["input_ids"]), batch_size):
                yield {name: tensor[first : first + batch_size] for name, tensor in drawn.items()}

    def count(self, batch: Batch) -> int:
        labels = batch["labels"] if self.objective == "masked" else batch["labels"][:, 1:]
        return int((labels != IGNORED).sum())

    def loss(self, batch: Batch, device: torch.device) -> torch.Tensor:
        labels = batch["labels"]
        if self.objective != "masked":  # each position predicts the token after it
            labels = torch.cat([labels[:, 1:], torch.full((len(labels), 1), IGNORED)], dim=1)
        # Worked out on the CPU: the language head, the costliest part, then runs where there is a loss and nowhere else.
        positions = (labels.flatten() != IGNORED).nonzero().squeeze(1)
        targets = to_device(labels.flatten()[positions], device)
        read = ("input_ids", "attention_mask", "decoder_input_ids")
        hidden = self.backbone.hidden_states(**{name: to_device(batch[name], device) for name in read if name in batch})
        chosen = hidden.flatten(0, 1).index_select(0, to_device(positions, device))
        return cross_entropy(self.backbone.language_head(chosen).float(), targets, reduction="sum")

    @torch.no_grad()
    def evaluate(self, tokens: TokenFile, batch_size: int, device: torch.device) -> dict[str, float]:
        """Mean loss per predicted token in nats, and its exponential, over the validation examples."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for batch in self.validation_batches(tokens, batch_size):
            total += self.loss(batch, device).double().cpu()
            count += self.count(batch)
        loss = float(total) / max(count, 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def begins_word(tokenizer: Any) -> torch.Tensor:
    """Of each token of the vocabulary, whether a word begins with it: [vocabulary].

    Raises:
        UserError: the tokenizer does not mark words as WordPiece (`##`), SentencePiece (`▁`) or byte-level BPE (`Ġ`) do.
    """
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]  # ids may have gaps
    special = set(tokenizer.all_special_tokens)
    if any(piece.startswith("##") for piece in pieces):
        return torch.tensor([piece in special or not piece.startswith("##") for piece in pieces])
    if any(piece.startswith(("▁", "Ġ")) for piece in pieces):
        return torch.tensor([piece in special or piece.startswith(("▁", "Ġ")) for piece in pieces])
    raise UserError(
        "masking=whole_words: the backbone's tokenizer does not say where words begin (neither ##, ▁ nor Ġ). Use masking=exact."
    )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device, without waiting for the copy."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
