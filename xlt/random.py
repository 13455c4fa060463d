"""Named random numbers: every draw comes from a generator that is seeded by what it is for.

A generator named `(seed, "masking", step)` yields the same numbers whatever ran before it, so a resumed run draws what
an undisturbed one would have drawn, and no part of a run disturbs the numbers of another.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*names: int | str) -> int:
    """A seed in [0, 2^63) determined by `names` alone, on every machine."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*names: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*names)`."""
    return torch.Generator().manual_seed(derive_seed(*names))
