"""Batches as a function of the step: batch t is the same whether the run was resumed before it or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from xlt.random import generator

Batch = dict[str, torch.Tensor]


class Batches(Dataset):
    """The batches of a training run.

    Examples come in a fresh order each epoch, one epoch right after the other, so that every batch is full.

    Args:
        size: number of examples.
        batch_size: examples in a batch.
        seed: names the orders and everything else that is drawn.
        make: makes the batch from the examples' indices and a generator.
    """

    def __init__(self, size: int, batch_size: int, seed: int, make: Callable[[Sequence[int], torch.Generator], Batch]) -> None:
        self.size = size
        self.batch_size = batch_size
        self._seed = seed
        self._make = make
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __getitem__(self, step: int) -> Batch:
        """The batch of one optimiser step, counted from 0."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        indices = [int(self._order(place // self.size)[place % self.size]) for place in places]
        return self._make(indices, generator(self._seed, "batch", step))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> torch.Tensor:
        return torch.randperm(self.size, generator=generator(self._seed, "order", epoch))


class SeveralSources(Dataset):
    """Batches of which each comes from one source alone.

    In an epoch each source has its number of batches, in an order drawn anew; within a source the examples go on from batch to
    batch as in `Batches`.

    Args:
        sources: the batches of each.
        shares: how many batches of each an epoch has.
        seed: names the orders.
    """

    def __init__(self, sources: Sequence[Batches], shares: Sequence[int], seed: int) -> None:
        self.sources = sources
        self.shares = shares
        self.batch_size = sources[0].batch_size
        self.size = sum(shares) * self.batch_size
        self._seed = seed

    def __getitem__(self, step: int) -> Batch:
        """The batch of one optimiser step, counted from 0."""
        epoch, place = divmod(step, sum(self.shares))
        order = self._order(epoch)
        source = order[place]
        earlier = epoch * self.shares[source] + order[:place].count(source)
        return self.sources[source][earlier]

    def _order(self, epoch: int) -> list[int]:
        """The source of each batch of an epoch."""
        sources = [source for source, share in enumerate(self.shares) for _ in range(share)]
        return [sources[place] for place in torch.randperm(len(sources), generator=generator(self._seed, "sources", epoch))]


def shares_of(sizes: Sequence[int], batch_size: int, sampling: str, temperature: float = 1.0) -> list[int]:
    """How many batches of each source an epoch has. Together they are as many as the examples fill.

    Args:
        sizes: the examples of each, a repeated one counted as often.
        sampling: `proportional` to the sizes, which is every example once; `uniform`; or `tempered`, proportional to the sizes to
            the power of 1 / temperature (temperature 1 is proportional, infinity uniform).
    """
    whole = [-(-size // batch_size) for size in sizes]
    if sampling == "proportional":
        return whole
    power = 0.0 if sampling == "uniform" else 1 / temperature
    weights = [size**power for size in sizes]
    return [max(1, round(sum(whole) * weight / sum(weights))) for weight in weights]


def pad(sequences: Sequence[Sequence[int]], value: int, multiple: int = 1, at_most: int | None = None) -> torch.Tensor:
    """Rows of equal length [rows, length]; the length is rounded up to a `multiple` so that few shapes occur, but not beyond
    `at_most`, which no sequence exceeds."""
    longest = max(len(sequence) for sequence in sequences)
    length = -(-longest // multiple) * multiple
    length = length if at_most is None else min(length, at_most)
    result = torch.full((len(sequences), length), value, dtype=torch.long)
    for row, sequence in zip(result, sequences, strict=True):
        row[: len(sequence)] = torch.from_numpy(np.array(sequence, dtype=np.int64))
    return result
