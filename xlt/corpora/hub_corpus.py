"""Unlabelled text from a hub data set. GlotCC-V1 (Kargaran et al. 2024), the main source of Gurgurov et al. 2025, is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xlt.config import setting
from xlt.corpora.base import Corpus, LeftOut
from xlt.hub import Hub, Source
from xlt.languages import Language, LanguageTable


@dataclass(frozen=True)
class HubCorpus(Corpus):
    """A hub data set with one configuration a language and one document a row.

    Attributes:
        id: the data set's hub id.
        hub_revision: branch, tag or commit; None takes the newest and remembers it.
        language_column: column of the language table with the data set's spelling of languages.
        config: what the configurations are called; `@lang` in it stands for that spelling (Wikipedia: `20231101.@lang`).
        split: the split to read.
        column: the column that holds the text.
        drop_column: rows whose value here is not empty are left out (GlotCC: `quality-warnings`); None keeps all.
    """

    id: str = setting("cis-lmu/GlotCC-V1")
    hub_revision: str | None = setting(None, identity=False)
    language_column: str = setting("glotcc", is_name=True)
    config: str = setting("@lang", neutral=True)
    split: str = setting("train")
    column: str = setting("content")
    drop_column: str | None = setting(None)

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        source, config = self._source(language, languages, hub)
        hub.check_dataset_config(source, config)
        return hub.dataset_identity(source, config)

    def documents(self, language: Language, languages: LanguageTable, hub: Hub) -> Iterator[str | LeftOut]:
        for row in hub.rows(*self._source(language, languages, hub), self.split):
            if self.drop_column is not None and row[self.drop_column]:
                yield LeftOut(self.drop_column)
            else:
                yield row[self.column] or ""

    def _source(self, language: Language, languages: LanguageTable, hub: Hub) -> tuple[Source, str]:
        """The data set and its configuration for a language."""
        code = languages.code(language, self.language_column, self.id)
        return hub.source(self.id, "dataset", self.hub_revision), self.config.replace("@lang", code)
