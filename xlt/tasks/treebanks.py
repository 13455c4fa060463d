"""Universal Dependencies (Nivre et al. 2020) on the hub, whose data set has had two forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xlt.config import setting
from xlt.errors import UserError
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.tasks.data import HubData

_UPOS = [
    "NOUN", "PUNCT", "ADP", "NUM", "SYM", "SCONJ", "ADJ", "PART", "DET", "CCONJ", "PROPN", "PRON", "X", "_", "ADV", "INTJ",
    "VERB", "AUX",
]  # fmt: skip
_PER_WORD = ("tokens", "upos", "head", "deprel")


@dataclass(frozen=True)
class Treebank(HubData):
    """Treebanks as rows of one form: id, text, and for each syntactic word `tokens`, `upos` (names), `head` (the number of its
    head among the sentence's words, counted from 1; 0 for the root) and `deprel`.

    The older form numbers parts of speech, spells heads as text, and lists multiword tokens and empty nodes between the words,
    without a head. The newer one names parts of speech and lists words alone. Heads count words in both, as in CoNLL-U, so that
    they stay right when what has no head is left out.

    Attributes:
        classes: the parts of speech in the order of the older form.
    """

    classes: dict[str, list[str]] = setting({"upos": _UPOS}, neutral=True)

    def read(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[dict[str, Any]]:
        for row in super().read(language, languages, hub, split):
            missing = [column for column in ("text", *_PER_WORD) if column not in row]
            if missing:
                raise UserError(
                    f"{self.describe(language, languages, split)} is no treebank of Universal Dependencies: it has no column "
                    f"{', '.join(missing)}, only {', '.join(row)}. Choose another task.data.id."
                )
            yield _words_alone(row)


def _words_alone(row: dict[str, Any]) -> dict[str, Any]:
    words = [place for place, head in enumerate(row["head"]) if str(head).isdigit()]
    columns = {name: [row[name][place] for place in words] for name in _PER_WORD}
    columns["head"] = [int(head) for head in columns["head"]]
    return {"id": row["sent_id"] if "sent_id" in row else row.get("idx"), "text": row["text"], **columns}
