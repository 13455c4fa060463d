"""What a translation model minimises, and the surgery that gives it a language that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from torch.nn.functional import cross_entropy

from xlt.languages import Language
from xlt.training.batches import Batch, pad
from xlt.training.masking import IGNORED
from xlt.training.objectives import to_device
from xlt.translation.decoding import batches_by_length
from xlt.translation.model import TranslationModel, TranslationTokenizer

Example = tuple[list[int], list[int]]
"""What the encoder reads and what the decoder has to write: `language text end` each."""

_LENGTH_STEP = 8  # batches are padded to a multiple of this, so that few shapes occur


class Translating:
    """Cross-entropy of the target's tokens given the source and the tokens before them, as transformers computes it from labels.

    Args:
        label_smoothing: share of the probability that is wanted of all tokens alike (Szegedy et al. 2016), in training.
    """

    def __init__(self, model: TranslationModel, label_smoothing: float = 0.0) -> None:
        self._model = model
        self._label_smoothing = label_smoothing

    def make(self, examples: Sequence[Example], indices: Sequence[int], draw: torch.Generator) -> Batch:
        """A batch: `input_ids`, `attention_mask` [rows, source length], `decoder_input_ids`, `labels` [rows, target length]."""
        return self._batch([examples[index] for index in indices])

    def count(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, batch: Batch, device: torch.device) -> torch.Tensor:
        return self._loss(batch, device, self._label_smoothing)

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example], tokens: int, device: torch.device) -> dict[str, float]:
        """Mean loss per target token in nats, without smoothing.

        Args:
            tokens: that are read together.
        """
        total, count = torch.zeros((), dtype=torch.float64), 0
        for numbers in batches_by_length([len(source) + len(target) for source, target in examples], tokens):
            batch = self._batch([examples[number] for number in numbers])
            total += self._loss(batch, device, 0.0).double().cpu()
            count += self.count(batch)
        return {"loss": float(total) / max(count, 1)}

    def _batch(self, chosen: Sequence[Example]) -> Batch:
        padding = self._model.tokenizer.padding
        sources, targets = zip(*chosen, strict=True)
        lengths = torch.tensor([len(source) for source in sources])
        ids = pad(sources, padding, _LENGTH_STEP)
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "decoder_input_ids": pad([[self._model.start, *target[:-1]] for target in targets], padding, _LENGTH_STEP),
            "labels": pad(targets, IGNORED, _LENGTH_STEP),
        }

    def _loss(self, batch: Batch, device: torch.device, label_smoothing: float) -> torch.Tensor:
        labels = batch["labels"].flatten()
        positions = (labels != IGNORED).nonzero().squeeze(1)  # found on the CPU: the device need not be waited for
        read = ("input_ids", "attention_mask", "decoder_input_ids")
        logits = self._model.model(**{name: to_device(batch[name], device) for name in read}, use_cache=False).logits
        chosen = logits.flatten(0, 1).index_select(0, to_device(positions, device)).float()
        targets = to_device(labels[positions], device)
        return cross_entropy(chosen, targets, reduction="sum", label_smoothing=label_smoothing)


def examples_of(
    tokenizer: TranslationTokenizer, pairs: Sequence[tuple[str, str]], source: Language, target: Language, max_length: int
) -> list[Example]:
    """Pairs of sentences as ids."""
    sources, targets = zip(*pairs, strict=True) if pairs else ((), ())
    return list(zip(tokenizer.ids(sources, source, max_length), tokenizer.ids(targets, target, max_length), strict=True))


@torch.no_grad()
def add_language(model: nn.Module, tokenizer: Any, token: str, copy_from: str | None, draw: torch.Generator) -> int:
    """Give a model a token for one more language, and return its id.

    The embeddings get a row for it unless they have one to spare; all others stay. The row is drawn from a normal distribution
    with the mean and standard deviation of all of them together, or copied.

    Args:
        copy_from: the token of another language whose embedding it begins with; None draws one.
    """
    added = AddedToken(token, special=True, normalized=False)
    if not tokenizer.is_fast:  # that of M2M100 does not count its languages, and would give the new one the number of one of them
        tokenizer.added_tokens_decoder = {_free_number(tokenizer): added}
    tokenizer.add_tokens([added], special_tokens=True)
    number = tokenizer.convert_tokens_to_ids(token)
    known = model.get_input_embeddings().weight.detach()
    mean, deviation = known.mean(), known.std()
    if number >= len(known):
        model.resize_token_embeddings(number + 1, mean_resizing=False)
    embeddings = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part}
    row = mean + deviation * torch.randn(known.shape[1], generator=draw)
    for weight in embeddings.values():
        weight[number] = row.to(weight) if copy_from is None else weight[tokenizer.convert_tokens_to_ids(copy_from)]
    return number


def _free_number(tokenizer: Any) -> int:
    """The first number behind the vocabulary that stands for nothing yet."""
    number = len(tokenizer)
    while tokenizer.convert_ids_to_tokens(number) not in (None, tokenizer.unk_token):
        number += 1
    return number
