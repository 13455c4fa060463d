"""Near duplicates: documents that share most of their word sequences with an earlier one (Lee et al. 2022, section 4.2)."""

from __future__ import annotations

import hashlib
import importlib.util

import numpy as np

from xlt.errors import UserError

_WORDS = 5  # in a row, as in Lee et al. 2022
_PERMUTATIONS = 128


def signature(text: str) -> np.ndarray:
    """The MinHash signature (Broder 1997) of a text's sequences of five words: 128 numbers, of which two texts have as large a
    share in common, on average, as of their sequences (Jaccard similarity)."""
    from datasketch import MinHash

    words = text.casefold().split()
    grams = {" ".join(words[start : start + _WORDS]) for start in range(max(1, len(words) - _WORDS + 1))}
    minhash = MinHash(num_perm=_PERMUTATIONS)
    minhash.update_batch([gram.encode() for gram in grams])
    return minhash.hashvalues


class NearDuplicates:
    """The documents met so far, by their signatures. Memory grows with their number, by about 4 KB each.

    Args:
        threshold: Jaccard similarity of the sets of five words in a row from which two documents count as near duplicates. It is
            estimated; documents close to it may fall on either side.
    """

    def __init__(self, threshold: float) -> None:
        check_installed()
        from datasketch import MinHash, MinHashLSH

        self._met = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, hashfunc=_short)
        self._scheme = MinHash(num_perm=_PERMUTATIONS).scheme
        self._threshold = threshold
        self._signatures: list[np.ndarray] = []

    def met(self, signature: np.ndarray) -> bool:
        """Whether a document like the one with this signature was met before; if not, it counts as met from now on."""
        from datasketch import LeanMinHash

        minhash = LeanMinHash(seed=1, hashvalues=signature, scheme=self._scheme)
        for number in self._met.query(minhash):
            if np.mean(self._signatures[number] == signature) >= self._threshold:
                return True
        self._met.insert(len(self._signatures), minhash)
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


def _short(band: bytes) -> int:
    """A key of 8 bytes in the place of a hundred, of which the index would keep nine a document."""
    return int.from_bytes(hashlib.blake2b(band, digest_size=8).digest(), "big")
