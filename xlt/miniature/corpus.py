"""`data=miniature`: unlabelled text of the invented languages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from xlt.corpora.base import Corpus
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.miniature.world import World


@dataclass(frozen=True)
class MiniatureCorpus(Corpus):
    """Text without end, of which `max_bytes` are taken.

    Attributes:
        world: the miniature world.
    """

    world: World = field(default_factory=World)

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return self.world.revision(language, f"data={self.name}")

    def documents(self, language: Language, languages: LanguageTable, hub: Hub) -> Iterator[str]:
        return self.world.documents(language.key)
