"""Named random numbers: every draw comes from a generator that is seeded by what it is for.

A generator named `(seed, "masking", step)` yields the same numbers whatever ran before it, so a resumed run draws what
an undisturbed one would have drawn, and no part of a run disturbs the numbers of another.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def derive_seed(*names: int | str) -> int:
    """A seed in [0, 2^63) determined by `names` alone, on every machine."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*names: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*names)`."""
    return torch.Generator().manual_seed(derive_seed(*names))


class Draw:
    """A stream of small draws, named like a generator. It builds on `random.Random.random` alone, whose numbers are
    promised to be the same on every machine and in every Python version."""

    def __init__(self, *names: int | str) -> None:
        self._next = random.Random(derive_seed(*names)).random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._next() < probability

    def below(self, limit: int) -> int:
        """A whole number in [0, limit)."""
        return int(self._next() * limit)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, all alike."""
        return choices[self.below(len(choices))]

    def shuffled(self, elements: Iterable[T]) -> list[T]:
        """The elements in a random order (Fisher & Yates)."""
        result = list(elements)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result
