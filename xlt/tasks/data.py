"""Where labelled examples come from: a data set of the hub, or whatever else yields its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from xlt.config import setting
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class LabelledData(ABC):
    """Fields that every source has.

    Attributes:
        splits: the source's names for train, validation and test; null for a split that it does not have.
        columns: the source's names for the fields of an example; without `id`, rows are numbered.
    """

    splits: dict[str, Any] = field(default_factory=lambda: {split: split for split in SPLITS})
    columns: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        """What identifies the data behind `rows`.

        Raises:
            UserError: the source does not have the language, or cannot be reached.
        """

    @abstractmethod
    def rows(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterable[dict[str, Any]]:
        """The rows of a split, by the source's name for it, in a fixed order."""

    @abstractmethod
    def describe(self, language: Language, languages: LanguageTable, split: str) -> str:
        """The split, for messages."""


@dataclass(frozen=True)
class HubData(LabelledData):
    """A data set of the hub.

    Attributes:
        id: the data set's hub id, or a local folder that `datasets.load_dataset` reads.
        hub_revision: branch, tag or commit; None takes the newest and remembers it.
        language_column: column of the language table with the data set's spelling of languages; `key` is xlt's own. None
            for a data set without configurations.
    """

    id: str = setting("???", identity=False)
    hub_revision: str | None = setting(None, identity=False)
    language_column: str | None = setting(None, is_name=True)

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        code = self._configuration(language, languages)
        source = hub.source(self.id, "dataset", self.hub_revision)
        hub.check_dataset_config(source, code)
        return hub.dataset_identity(source, code)

    def rows(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterable[dict[str, Any]]:
        source = hub.source(self.id, "dataset", self.hub_revision)
        return hub.rows(source, self._configuration(language, languages), split)

    def describe(self, language: Language, languages: LanguageTable, split: str) -> str:
        return f"{self.id}, {self._configuration(language, languages)}, {split}"

    def _configuration(self, language: Language, languages: LanguageTable) -> str | None:
        if self.language_column is None:
            return None
        return languages.code(language, self.language_column, self.id)
