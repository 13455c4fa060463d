"""Unlabelled text from a hub data set. GlotCC-V1 (Kargaran et al. 2024), the main source of Gurgurov et al. 2025, is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xlt.config import setting
from xlt.corpora.base import Corpus
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable


@dataclass(frozen=True)
class HubCorpus(Corpus):
    """A hub data set with one configuration a language and one document a row.

    Attributes:
        id: the data set's hub id.
        hub_revision: branch, tag or commit; None takes the newest and remembers it.
        language_column: column of the language table with the data set's spelling of languages.
        split: the split to read.
        column: the column that holds the text.
        drop_column: rows whose value here is not empty are left out (GlotCC: `quality-warnings`); None keeps all.
    """

    id: str = setting("cis-lmu/GlotCC-V1")
    hub_revision: str | None = setting(None, identity=False)
    language_column: str = setting("glotcc", is_name=True)
    split: str = setting("train")
    column: str = setting("content")
    drop_column: str | None = setting(None)

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        code = languages.code(language, self.language_column, self.id)
        source = hub.source(self.id, "dataset", self.hub_revision)
        hub.check_dataset_config(source, code)
        return hub.dataset_identity(source, code)

    def documents(self, language: Language, languages: LanguageTable, hub: Hub) -> Iterator[str]:
        code = languages.code(language, self.language_column, self.id)
        for row in hub.rows(hub.source(self.id, "dataset", self.hub_revision), code, self.split):
            if self.drop_column is None or not row[self.drop_column]:
                yield row[self.column] or ""
