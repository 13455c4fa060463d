"""The miniature world: invented languages, what is said in them, and the knobs of both.

world = World()                      # conf/world/miniature.yaml holds the same and says what each knob means
speech = world.language("qad")
speech.say(clause, draw).text
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from xlt.config import identity, setting
from xlt.errors import UserError, suggest
from xlt.languages import Language
from xlt.miniature.grammar import Grammar, Typology
from xlt.miniature.inventory import KINDS, Inventory
from xlt.miniature.lexicon import SCRIPTS, Ancestry, Lexicon
from xlt.miniature.meaning import Clause, Speaker
from xlt.random import Draw

GENERATOR_VERSION = 1
"""Raised by whoever changes what the generator makes of the same settings."""


@dataclass(frozen=True)
class Design(Typology):
    """One invented language.

    Attributes:
        name: as the table of languages calls it.
        family: languages of one family begin with the same roots.
        branch: languages of one branch share its sound laws.
        script: ISO 15924 code.
        own_laws: sound laws of the language alone, times `world.distance`.
        replaced: share of the words that no relative has, times `world.distance`.
        borrowed: share of the words taken from `lender`.
        lender: code of a language with no lender of its own.
    """

    name: str = setting("", is_name=True)
    family: str = setting("???", is_name=True)
    branch: str = setting("???", is_name=True)
    script: str = setting("Latn", one_of=SCRIPTS)
    own_laws: int = setting(3, at_least=0)
    replaced: float = setting(0.1, at_least=0, at_most=1)
    borrowed: float = setting(0.0, at_least=0, at_most=1)
    lender: str | None = setting(None)


@dataclass(frozen=True)
class World:
    """`world:` of the configuration.

    Attributes:
        seed: another one makes other words, laws and facts.
        topics: their names.
        nouns, verbs, adjectives: concepts a topic has of each.
        evaluations: words of praise and blame.
        names: of persons, organisations and places, as many of each.
        topicality: chance of a content word to come from the topic of its sentence. At 1 / number of topics, topics
            cannot be told from the text.
        elaboration: chance of each of a sentence's three optional parts; content words number 3 to 6.
        evaluation: chance of a property to be praise or blame.
        naming: chance of a thing to bear a name.
        negation: chance of a sentence to be denied.
        misspelt: chance of a content word to be misspelt, in texts and tasks alike.
        document: sentences of a document of unlabelled text, all on one topic.
        branch_laws: sound laws that a branch went through, times `distance`.
        distance: how far languages have moved from their roots; 0 leaves those of a family with the same words.
        languages: the languages by code, qaa to qtz (ISO 639-3 keeps these for private use).
    """

    seed: int = setting(0, at_least=0)
    topics: list[str] = setting(["farming", "seafaring", "music", "law", "medicine", "trade"])
    nouns: int = setting(16, at_least=2 * KINDS)
    verbs: int = setting(6, at_least=KINDS - 1)
    adjectives: int = setting(8, at_least=2 * (KINDS - 1))
    evaluations: int = setting(8, at_least=2)
    names: int = setting(21, at_least=3)
    topicality: float = setting(0.8, at_least=0, at_most=1)
    elaboration: float = setting(0.5, at_least=0, at_most=1)
    evaluation: float = setting(0.3, at_least=0, at_most=1)
    naming: float = setting(0.15, at_least=0, at_most=1)
    negation: float = setting(0.15, at_least=0, at_most=1)
    misspelt: float = setting(0.0, at_least=0, at_most=1)
    document: int = setting(4, at_least=1)
    branch_laws: int = setting(3, at_least=0)
    distance: float = setting(1.0, at_least=0)
    languages: dict[str, Design] = field(default_factory=dict, metadata={"identity": False})

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if not self.topics or len(set(self.topics)) < len(self.topics):
            raise UserError(f"{where}.topics={list(self.topics)} has to name topics, each once.")
        for code, design in self.languages.items():
            here = f"{where}.languages.{code}"
            if not re.fullmatch("q[a-t][a-z]", code):
                raise UserError(f"{here}: codes of invented languages run from qaa to qtz.")
            if sorted(design.order) != sorted("SVOX"):
                raise UserError(f"{here}.order={design.order} has to hold each of S, V, O and X once.")
            lender = self.languages.get(design.lender) if design.lender else None
            if design.lender and (lender is None or lender.lender):
                free = [other for other, it in self.languages.items() if not it.lender and other != code]
                hint = suggest(design.lender, free, "languages that can lend")
                raise UserError(f"{here}.lender={design.lender} has to be a language with no lender of its own. {hint}")

    @cached_property
    def inventory(self) -> Inventory:
        """The concepts and the graph."""
        return Inventory(self.seed, self.topics, self.nouns, self.verbs, self.adjectives, self.evaluations, self.names)

    @cached_property
    def speaker(self) -> Speaker:
        """Who draws what is said."""
        return Speaker(self.inventory, self.topicality, self.elaboration, self.evaluation, self.naming, self.negation)

    def design(self, language: Language, asked_by: str) -> Design:
        """The design of a language.

        Raises:
            UserError: the language is none of this world.
        """
        if language.key not in self.languages:
            raise UserError(
                f"{asked_by} has invented languages alone, not {language.name} (lang={language.key}). "
                f"{suggest(language.key, self.languages, 'languages')}"
            )
        return self.languages[language.key]

    def revision(self, language: Language, asked_by: str) -> dict[str, Any]:
        """What, besides the world's own fields, determines all that is said in a language."""
        design = self.design(language, asked_by)
        lender = {"lends": identity(self.languages[design.lender])} if design.lender else {}
        return {"generator": GENERATOR_VERSION, "language": identity(design), **lender}

    def lexicon(self, code: str) -> Lexicon:
        """The words of a language."""
        if code not in self._lexicons:
            design = self.languages[code]
            ancestry = Ancestry(
                design.family, design.branch, round(self.branch_laws * self.distance), round(design.own_laws * self.distance),
                min(1.0, design.replaced * self.distance), design.borrowed,
            )  # fmt: skip
            lender = self.lexicon(design.lender) if design.lender else None
            self._lexicons[code] = Lexicon(self.seed, code, ancestry, design.script, list(self.inventory.concepts()), lender)
        return self._lexicons[code]

    def grammar(self, code: str, script: str | None = None) -> Grammar:
        """What says clauses in a language, written in its own script or in another."""
        lexicon = self.lexicon(code)
        words = lexicon.written(script) if script else lexicon.words
        return Grammar(words, self.languages[code], self.misspelt)

    def documents(self, code: str, transliterated: float = 0.0, scripts: Sequence[str] = ()) -> Iterator[str]:
        """Unlabelled text without end: documents of some sentences on one topic. No two languages tell of the same.

        Args:
            transliterated: chance of a document to be written in one of `scripts` instead of the language's own.
        """
        own, others = self.grammar(code), [self.grammar(code, script) for script in scripts]
        draw, spelling = Draw(self.seed, "text", code), Draw(self.seed, "spelling", "text", code)
        writing = Draw(self.seed, "script", "text", code)
        while True:
            topic = draw.below(len(self.topics))
            clauses = [self.speaker.clause(draw, topic) for _ in range(self.document)]
            grammar = writing.pick(others) if others and writing.chance(transliterated) else own
            yield " ".join(grammar.say(clause, spelling).text for clause in clauses)

    def clauses(self, view: str, split: str) -> Iterator[Clause]:
        """What labelled sentences say, without end: the same in every language, topics in turn."""
        draw = Draw(self.seed, "labelled", view, split)
        while True:
            for topic in draw.shuffled(range(len(self.topics))):
                yield self.speaker.clause(draw, topic)

    def table_rows(self) -> list[dict[str, str]]:
        """The languages as rows of the table of languages."""
        return [
            {"iso3": code, "name": design.name, "script": design.script, "family": design.family, "genus": design.branch}
            for code, design in self.languages.items()
        ]

    @cached_property
    def _lexicons(self) -> dict[str, Lexicon]:
        return {}
