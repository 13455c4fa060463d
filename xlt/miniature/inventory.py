"""What can be spoken of in the miniature world: concepts, and the graph of what is true of them.

Each topic has its own kinds of things, deeds and properties. The first kind of a topic are its places, which have no
properties. A deed has a kind that does it and a kind that it is done to; a property belongs to a kind. Names and the words
of praise and blame belong to no topic. None of this depends on a language.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from xlt.random import Draw

KINDS = 4  # of each topic, the places among them
_PLACES_OF_A_KIND = 3
_CLASSES = {"PER": "subject", "ORG": "object", "LOC": "place"}
NAME_OF_ROLE = {role: entity for entity, role in _CLASSES.items()}  # which names go with the phrase of a role


@dataclass(frozen=True)
class Concept:
    """Something that every language has a word for.

    Attributes:
        gloss: its name, `law.thing17`; unique.
        part: `noun`, `verb`, `adjective`, `name` or `function`.
        topic: the topic's index; None for what belongs to none.
        kind: of a noun, and of the property of one: the index of its kind in the topic. None for a word that names a kind.
        polarity: 1 praises, -1 blames.
    """

    gloss: str
    part: str
    topic: int | None = None
    kind: int | None = None
    polarity: int = 0


@dataclass(frozen=True)
class Deed:
    """A verb with the kinds of those who do it and of those to whom it is done."""

    verb: Concept
    agent: int
    patient: int


@dataclass
class Topic:
    """The concepts of one topic.

    Attributes:
        kind_words: the word for each kind, `places` first.
        things: the members of each kind.
        places: of each kind, the places where its members are found.
        properties: of each kind, pairs of opposites.
    """

    kind_words: list[Concept] = field(default_factory=list)
    things: list[list[Concept]] = field(default_factory=list)
    places: list[list[Concept]] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    properties: list[list[tuple[Concept, Concept]]] = field(default_factory=list)


FUNCTION_WORDS = {
    word: Concept(word, "function")
    for word in ("not", "in", "plural", "past", "accusative", "who", "what", "where")
}  # fmt: skip


class Inventory:
    """All concepts of a world.

    Args:
        seed: of the graph: which kind does what to which, and where.
        topics: names of the topics.
        nouns, verbs, adjectives: how many of each a topic has; nouns are shared out among its kinds, adjectives come in
            pairs of opposites.
        evaluations: words of praise and blame, in pairs of opposites.
        names: of persons, organisations and places, as many of each.
    """

    def __init__(
        self, seed: int, topics: list[str], nouns: int, verbs: int, adjectives: int, evaluations: int, names: int
    ) -> None:
        draw = Draw(seed, "inventory")
        self.topics = [self._topic(draw, index, name, nouns, verbs, adjectives) for index, name in enumerate(topics)]
        self.evaluations = [
            (Concept(f"good{i}", "adjective", polarity=1), Concept(f"bad{i}", "adjective", polarity=-1))
            for i in range(evaluations // 2)
        ]
        self.names = {
            entity: [Concept(f"{entity}{i}", "name") for i in range(number, names, len(_CLASSES))]
            for number, entity in enumerate(_CLASSES)
        }  # fmt: skip
        self.opposite: dict[Concept, Concept] = {}
        pairs = [pair for topic in self.topics for kind in topic.properties for pair in kind]
        for one, other in [*pairs, *self.evaluations]:
            self.opposite |= {one: other, other: one}

    def _topic(self, draw: Draw, index: int, name: str, nouns: int, verbs: int, adjectives: int) -> Topic:
        topic = Topic()
        for kind in range(KINDS):
            topic.kind_words.append(Concept(f"{name}.kind{kind}", "noun", index))
            members = range(kind, nouns, KINDS)
            topic.things.append([Concept(f"{name}.thing{i}", "noun", index, kind) for i in members])
            pairs = range(kind - 1, adjectives // 2, KINDS - 1) if kind else ()  # places have none
            topic.properties.append(
                [
                    (
                        Concept(f"{name}.quality{i}+", "adjective", index, kind),
                        Concept(f"{name}.quality{i}-", "adjective", index, kind),
                    )
                    for i in pairs
                ]
            )
        topic.places = [draw.shuffled(topic.things[0])[:_PLACES_OF_A_KIND] for _ in range(KINDS)]
        for i in range(verbs):
            agent, patient = 1 + i % (KINDS - 1), 1 + draw.below(KINDS - 1)
            topic.deeds.append(Deed(Concept(f"{name}.deed{i}", "verb", index), agent, patient))
        return topic

    def concepts(self) -> Iterator[Concept]:
        """All concepts, in a fixed order."""
        yield from FUNCTION_WORDS.values()
        for topic in self.topics:
            yield from topic.kind_words
            for things in topic.things:
                yield from things
            yield from (deed.verb for deed in topic.deeds)
            for pairs in topic.properties:
                yield from (concept for pair in pairs for concept in pair)
        yield from (concept for pair in self.evaluations for concept in pair)
        for names in self.names.values():
            yield from names

    def triples(self) -> Iterator[tuple[str, Concept, Concept]]:
        """The graph: (relation, start, end), the relations named as in ConceptNet."""
        for topic in self.topics:
            for kind, things in enumerate(topic.things):
                for thing in things:
                    yield "IsA", thing, topic.kind_words[kind]
                    yield from (("AtLocation", thing, place) for place in topic.places[kind] if kind)
                    yield from (("HasProperty", thing, concept) for pair in topic.properties[kind] for concept in pair)
            for deed in topic.deeds:
                yield from (("CapableOf", thing, deed.verb) for thing in topic.things[deed.agent])
                yield from (("ReceivesAction", thing, deed.verb) for thing in topic.things[deed.patient])
        for one, other in self.opposite.items():
            yield "Antonym", one, other

    def kind_of(self, noun: Concept) -> Concept | None:
        """The word for the kind of a thing; None for a word that is one itself."""
        return None if noun.kind is None else self.topics[noun.topic].kind_words[noun.kind]
