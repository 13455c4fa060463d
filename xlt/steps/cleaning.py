"""What happens to a document before it is decided whether it is kept. It depends on the document alone, so that several
processes can do it; they import nothing else of xlt than this file needs."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xlt.corpora.base import LeftOut
from xlt.corpora.near_duplicates import signature
from xlt.steps.guard import Guard

if TYPE_CHECKING:
    import numpy as np

_UNDECODABLE = "\ufffd"  # what bytes are replaced by that are no UTF-8
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # Unicode's category Cc but for the line break


@dataclass(frozen=True)
class Cleaned:
    """A document in its normal form.

    Attributes:
        text: without what is guarded.
        digest: of the text, by which equal documents are found and the split is made.
        guarded: sentences that were taken out.
        undecodable: whether bytes of it could not be read as UTF-8; they are left out.
        signature: by which near duplicates are found; None where nobody asks for them.
    """

    text: str
    digest: bytes
    guarded: int
    undecodable: bool
    signature: np.ndarray | None


@dataclass(frozen=True)
class Cleaning:
    """Cleans lots of documents.

    Attributes:
        guard: takes out what must not be learnt.
        salt: of the digests.
        near_duplicates: whether these are looked for.
    """

    guard: Guard
    salt: bytes
    near_duplicates: bool

    def __call__(self, documents: Sequence[str | LeftOut]) -> list[Cleaned | LeftOut]:
        return [document if isinstance(document, LeftOut) else self._cleaned(document) for document in documents]

    def _cleaned(self, document: str) -> Cleaned:
        text, guarded = self.guard.without(clean(document))
        found = signature(text) if self.near_duplicates and text else None
        return Cleaned(text, digest(text, self.salt), guarded, _UNDECODABLE in document, found)


def clean(document: str) -> str:
    """One document in its normal form; line breaks are kept, every other control character becomes a space."""
    text = document.encode(errors="ignore").decode().replace(_UNDECODABLE, "")  # lone surrogates cannot be written
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub(" ", text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def digest(text: str, salt: bytes = b"") -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16, salt=salt).digest()
