"""Near duplicates: documents that share most of their word sequences with an earlier one (Lee et al. 2022, section 4.2)."""

from __future__ import annotations

import importlib.util
from typing import Any

from xlt.errors import UserError

_WORDS = 5  # in a row, as in Lee et al. 2022
_PERMUTATIONS = 128


class NearDuplicates:
    """The documents met so far, by their MinHash signatures (Broder 1997). Memory grows with their number, by about 5 KB each.

    Args:
        threshold: Jaccard similarity of the sets of five words in a row from which two documents count as near duplicates. It is
            estimated; documents close to it may fall on either side.
    """

    def __init__(self, threshold: float) -> None:
        check_installed()
        from datasketch import MinHashLSH

        self._met = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._threshold = threshold
        self._signatures: list[Any] = []

    def met(self, text: str) -> bool:
        """Whether a document like this one was met before; if not, it counts as met from now on."""
        from datasketch import MinHash

        words = text.casefold().split()
        grams = {" ".join(words[start : start + _WORDS]) for start in range(max(1, len(words) - _WORDS + 1))}
        signature = MinHash(num_perm=_PERMUTATIONS)
        signature.update_batch([gram.encode() for gram in grams])
        if any(self._signatures[number].jaccard(signature) >= self._threshold for number in self._met.query(signature)):
            return True
        self._met.insert(len(self._signatures), signature)
        self._signatures.append(signature)
        return False


def check_installed() -> None:
    """Refuse to begin without the library.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("datasketch") is None:
        raise UserError(
            "near_duplicates needs the package datasketch, which is not installed: pip install 'xlt[near-duplicates]'. Equal "
            "documents are left out without it (deduplicate)."
        )
