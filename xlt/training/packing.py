"""Token files: examples of token ids under one another in one flat, memory-mapped array.

`<split>.ids.npy` holds the ids of all examples, `<split>.starts.npy` where each begins, with the total at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_CHUNK = 1000  # documents tokenised in one call


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


def write_tokens(folder: Path, split: str, examples: Iterable[list[int]], vocabulary_size: int) -> tuple[int, int]:
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
    for chunk in _chunks(texts):
        yield from tokenizer(chunk, truncation=True, max_length=length, return_attention_mask=False)["input_ids"]


def packed(documents: Iterable[str], tokenizer: Any, length: int) -> Iterator[list[int]]:
    """Blocks of exactly `length` ids: documents one after the other, a separator behind each, cut into blocks that begin
    and end with the tokenizer's special tokens. The incomplete last block is left out, unless it is the only one."""
    begin, end = _frame(tokenizer)
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    room = length - len(begin) - len(end)
    waiting: list[int] = []
    blocks = 0
    for chunk in _chunks(documents):
        for ids in tokenizer(chunk, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            waiting += [*ids, separator] if ids else []
        cut = len(waiting) - len(waiting) % room
        for start in range(0, cut, room):
            yield [*begin, *waiting[start : start + room], *end]
        blocks += cut // room
        waiting = waiting[cut:]
    if not blocks and waiting:
        yield [*begin, *waiting, *end]


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare, framed = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    return framed[:start], framed[start + len(bare) :]


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
