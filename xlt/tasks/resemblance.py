"""Whether two texts say the same in the same words: what of them is compared, and how much of it has to agree."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache

_IGNORED = {"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf"}
_WORD = re.compile(r"\w+")
_IN_COMMON = 0.6  # of the words of two texts together; an edited sentence has more


class Resemblance:
    """Texts, to be told from others: a text resembles one of them if it has the same letters and digits, or if most words that
    the two have are in both (Jaccard similarity of at least .6).

    Args:
        texts: whatever else is to be left aside if it resembles one of them.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._words = [_words(text) for text in texts]
        self._keys = {key(text) for text in texts}
        self._with: defaultdict[str, list[int]] = defaultdict(list)
        for number, words in enumerate(self._words):
            for word in words:
                self._with[word].append(number)

    def __contains__(self, text: str) -> bool:
        if key(text) in self._keys:
            return True
        words = _words(text)
        common = Counter(number for word in words for number in self._with.get(word, ()))
        return any(
            count >= _IN_COMMON * (len(words) + len(self._words[number]) - count) for number, count in common.most_common(5)
        )


def key(sentence: str) -> str:
    """What of a sentence is compared: its letters, marks and digits in lower case."""
    return unicodedata.normalize("NFC", sentence).casefold().translate(_ignored())


def _words(text: str) -> set[str]:
    return set(_WORD.findall(unicodedata.normalize("NFC", text).casefold()))


@lru_cache
def _ignored() -> dict[int, None]:
    """Punctuation, symbols, spaces and control characters."""
    characters = map(chr, range(sys.maxunicode + 1))
    return {ord(character): None for character in characters if unicodedata.category(character) in _IGNORED}
