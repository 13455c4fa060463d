"""`data=miniature` and `data=mini_conceptnet`: unlabelled text of the invented languages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from xlt.config import setting
from xlt.corpora.base import Corpus, LeftOut
from xlt.corpora.conceptnet import AssertionCorpus
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.miniature.hub import assertions
from xlt.miniature.lexicon import SCRIPTS
from xlt.miniature.world import World
from xlt.steps.assertions import Assertion, parse


@dataclass(frozen=True)
class MiniatureCorpus(Corpus):
    """Text without end, of which `max_bytes` are taken.

    Attributes:
        transliterated: share of the documents that are written in one of `scripts` instead of the language's own.
        scripts: ISO 15924 codes.
        world: the miniature world.
    """

    transliterated: float = setting(0.0, at_least=0, at_most=1)
    scripts: list[str] = setting([], one_of=SCRIPTS)
    world: World = field(default_factory=World)

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return self.world.revision(language, f"data={self.name}")

    def documents(self, language: Language, languages: LanguageTable, hub: Hub) -> Iterator[str]:
        return self.world.documents(language.key, self.transliterated, self.scripts)


@dataclass(frozen=True)
class MiniatureConceptNet(AssertionCorpus):
    """The concept graph of the miniature world in sentences.

    Attributes:
        world: the miniature world.
    """

    world: World = field(default_factory=World)

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return {**self.world.revision(language, f"data={self.name}"), "predicates": self.chosen_predicates}

    def documents(self, language: Language, languages: LanguageTable, hub: Hub) -> Iterator[str | LeftOut]:
        lines = assertions(self.world, language.key)
        return self.sentences(found for line in lines if isinstance(found := parse(line.encode()), Assertion))
