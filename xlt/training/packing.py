"""Token files: examples of token ids under one another in one flat, memory-mapped array.

`<split>.ids.npy` holds the ids of all examples, `<split>.starts.npy` where each begins, with the total at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xlt.processes import in_lots

_LOT = 1_000_000  # characters tokenised in one call, by all cores


class TokenFile:
    """The examples of one split, read from the disk as they are needed."""

    def __init__(self, folder: Path, split: str) -> None:
        self._ids = np.load(folder / f"{split}.ids.npy", mmap_mode="r")
        self._starts = np.load(folder / f"{split}.starts.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """The ids of one example, special tokens included: [length]."""
        return self._ids[self._starts[index] : self._starts[index + 1]]

    @property
    def tokens(self) -> int:
        """All ids of the split together."""
        return int(self._starts[-1])


def write_tokens(folder: Path, split: str, examples: Iterable[Sequence[int]], vocabulary_size: int) -> tuple[int, int]:
    """Write a split; returns how many examples and ids it has. Memory use does not grow with the ids."""
    kind = np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)
    starts = [0]
    raw = folder / f"{split}.ids.raw"
    with raw.open("wb") as file:
        for ids in examples:
            file.write(np.asarray(ids, dtype=kind).tobytes())
            starts.append(starts[-1] + len(ids))
    with (folder / f"{split}.ids.npy").open("wb") as file, raw.open("rb") as content:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (starts[-1],)}
        np.lib.format.write_array_header_1_0(file, header)
        while block := content.read(1 << 24):
            file.write(block)
    raw.unlink()
    np.save(folder / f"{split}.starts.npy", np.asarray(starts, dtype=np.int64))
    return len(starts) - 1, starts[-1]


def lines(documents: Iterable[str], tokenizer: Any, length: int) -> Iterator[list[int]]:
    """Each line of each document as one example of at most `length` ids, special tokens included; the rest is cut off."""
    texts = (line for document in documents for line in document.splitlines() if line.strip())
    for lot in in_lots(texts, _LOT, len):
        yield from tokenizer(lot, truncation=True, max_length=length, return_attention_mask=False)["input_ids"]


def packed(documents: Iterable[str], tokenizer: Any, length: int) -> Iterator[np.ndarray]:
    """Blocks of exactly `length` ids: documents one after the other, a separator behind each, cut into blocks that begin
    and end with the tokenizer's special tokens. The incomplete last block is left out, unless it is the only one."""
    begin, end = _frame(tokenizer)
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    room = length - len(begin) - len(end)
    waiting = np.empty(0, dtype=np.int64)
    blocks = 0
    for lot in in_lots(documents, _LOT, len):
        rows = tokenizer(lot, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        waiting = np.concatenate([waiting, *([*ids, separator] for ids in rows if ids)])
        whole = len(waiting) // room
        inside = waiting[: whole * room].reshape(whole, room)
        frames = [np.broadcast_to(np.array(frame, dtype=waiting.dtype), (whole, len(frame))) for frame in (begin, end)]
        yield from np.concatenate([frames[0], inside, frames[1]], axis=1)
        blocks += whole
        waiting = waiting[whole * room :]
    if not blocks and len(waiting):
        yield np.concatenate([begin, waiting, end])


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare, framed = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    return framed[:start], framed[start + len(bare) :]
