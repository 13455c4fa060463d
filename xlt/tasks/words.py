"""Words and their pieces: how tasks on words read sentences that come in words."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Sequence
from itertools import groupby
from typing import Any

from xlt.tasks.base import Row


def encode_words(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> list[Row]:
    """Rows for sentences that come in words.

    Every word has a piece at least: one that the tokenizer makes nothing of (a control character, say) becomes the unknown
    token. A sentence that is longer than `max_length` takes several rows, cut between words.

    Returns:
        Rows with `input_ids`, `example` (the number of the sentence), `words` (the numbers of the row's words) and `word_of`
        (of each token, the place of its word in `words`, -1 for special tokens).
    """
    vocabulary = list(dict.fromkeys(word for sentence in sentences for word in sentence))
    prefix = _prefix(tokenizer)
    found = tokenizer([prefix + word for word in vocabulary], add_special_tokens=False)["input_ids"] if vocabulary else []
    at_start = found
    if prefix:
        at_start = tokenizer(vocabulary, add_special_tokens=False)["input_ids"]
    nothing = [tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.eos_token_id]
    pieces = {word: ids or nothing for word, ids in zip(vocabulary, found, strict=True)}
    first_pieces = {word: ids or nothing for word, ids in zip(vocabulary, at_start, strict=True)}
    before, after = special_tokens(tokenizer)
    room = max_length - len(before) - len(after)
    rows = []
    for number, sentence in enumerate(sentences):
        for window in _windows([(pieces if place else first_pieces)[word] for place, word in enumerate(sentence)], room):
            words = [place for place, _ in window]
            ids = [piece for _, word in window for piece in word]
            word_of = [position for position, (_, word) in enumerate(window) for _ in word]
            rows.append({
                "input_ids": [*before, *ids, *after], "example": number, "words": words,
                "word_of": [*[-1] * len(before), *word_of, *[-1] * len(after)],
            })  # fmt: skip
    return rows


def split_words(text: str, known: Container[str] = ()) -> list[str]:
    """The words of a text, with punctuation at their ends as words of its own.

    Args:
        known: words that stay whole with their punctuation, such as `etc.`
    """
    words = []
    for piece in text.split():
        start, end = 0, len(piece)
        if piece not in known:
            while start < end and _is_punctuation(piece[start]):
                start += 1
            while end > start and _is_punctuation(piece[end - 1]):
                end -= 1
        parts = *_runs(piece[:start]), piece[start:end], *_runs(piece[end:])
        words += [part for part in parts if part]
    return words


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and behind a text."""
    with_them, without = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(start for start in range(len(with_them)) if with_them[start : start + len(without)] == without)
    return with_them[:start], with_them[start + len(without) :]


def _windows(words: Sequence[list[int]], room: int) -> list[list[tuple[int, list[int]]]]:
    """Words with their numbers, in as few runs as fit into `room` pieces; a longer word loses its end."""
    windows: list[list[tuple[int, list[int]]]] = [[]]
    used = 0
    for number, whole in enumerate(words):
        word = whole[:room]
        if used + len(word) > room:
            windows.append([])
            used = 0
        windows[-1].append((number, word))
        used += len(word)
    return windows


def _prefix(tokenizer: Any) -> str:
    """What stands before a word that is not the first, for the tokenizer to cut it as it does inside a text: where a space
    belongs to the word behind it (byte-level BPE), that space."""
    apart = [piece for word in ("a", "a") for piece in tokenizer(word, add_special_tokens=False)["input_ids"]]
    return "" if tokenizer("a a", add_special_tokens=False)["input_ids"] == apart else " "


def _runs(punctuation: str) -> list[str]:
    """`...,` → `...`, `,`."""
    return ["".join(run) for _, run in groupby(punctuation)]


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
