"""What a sentence of the miniature world says, before any language says it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xlt.miniature.inventory import NAME_OF_ROLE, Concept, Inventory
from xlt.random import Draw

ROLES = ("subject", "object", "place")
_BY_KIND = 0.1  # chance of a thing to be named by its kind
ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2  # as in XNLI


@dataclass(frozen=True)
class Phrase:
    """A thing, perhaps with a property and the name that it bears."""

    noun: Concept
    adjective: Concept | None = None
    name: tuple[Concept, ...] = ()
    plural: bool = False

    def is_implied_by(self, other: Phrase, inventory: Inventory) -> bool:
        """Whether this phrase holds of whatever `other` holds of."""
        return (
            self.noun in (other.noun, inventory.kind_of(other.noun))
            and self.adjective in (None, other.adjective)
            and self.name in ((), other.name)
            and self.plural == other.plural
        )


@dataclass(frozen=True)
class Clause:
    """Someone does something to something, perhaps somewhere.

    Attributes:
        topic: index of the topic.
    """

    topic: int
    verb: Concept
    subject: Phrase
    object: Phrase
    place: Phrase | None = None
    negated: bool = False
    past: bool = False

    def phrases(self) -> dict[str, Phrase]:
        """The phrases that there are, by role."""
        found = {role: getattr(self, role) for role in ROLES}
        return {role: phrase for role, phrase in found.items() if phrase is not None}

    def content(self) -> list[Concept]:
        """The content words: noun and adjective of each phrase, and the verb; names aside."""
        phrases = self.phrases().values()
        return [self.verb, *(p.noun for p in phrases), *(p.adjective for p in phrases if p.adjective)]

    @property
    def sentiment(self) -> int:
        """1 praises, -1 blames, 0 neither: what the evaluating words say, turned round by negation."""
        said = {phrase.adjective.polarity for phrase in self.phrases().values() if phrase.adjective} - {0}
        polarity = said.pop() if len(said) == 1 else 0
        return -polarity if self.negated else polarity

    def triples(self) -> Iterator[tuple[str, Concept, Concept]]:
        """What the clause says of the graph; words of different topics and things named by their kind are not in it."""
        for start, relation, end in (
            (self.subject.noun, "CapableOf", self.verb),
            (self.object.noun, "ReceivesAction", self.verb),
            (self.subject.noun, "AtLocation", self.place and self.place.noun),
            *((phrase.noun, "HasProperty", phrase.adjective) for phrase in self.phrases().values()),
        ):
            is_thing = start.kind is not None and (relation != "AtLocation" or end is None or end.kind is not None)
            if end is not None and is_thing and start.topic == end.topic:
                yield relation, start, end


def relation(premise: Clause, hypothesis: Clause, inventory: Inventory) -> int:
    """What an affirmative premise says of a hypothesis: ENTAILMENT, NEUTRAL or CONTRADICTION, by the logic of the world.

    A phrase may lose its property or its name, or be named by its kind; a clause may lose its place; a denied clause
    contradicts whatever entails it affirmed, and a thing has no two opposite properties.
    """
    same_deed = (premise.verb, premise.past) == (hypothesis.verb, hypothesis.past)
    given, asked = premise.phrases(), hypothesis.phrases()

    def implied(changed: dict[str, Phrase]) -> bool:
        return same_deed and all(role in given and p.is_implied_by(given[role], inventory) for role, p in changed.items())

    if implied(asked):
        return CONTRADICTION if hypothesis.negated else ENTAILMENT
    turned = {
        role: replace(phrase, adjective=inventory.opposite[phrase.adjective]) if phrase.adjective else phrase
        for role, phrase in asked.items()
    }
    one_turned = ({**asked, role: turned[role]} for role in asked)
    if not hypothesis.negated and any(implied(phrases) for phrases in one_turned):
        return CONTRADICTION
    return NEUTRAL


@dataclass(frozen=True)
class Speaker:
    """Draws what is said.

    Attributes:
        topicality: chance of a content word to come from the topic.
        elaboration: chance of each optional phrase: a property of the subject, one of the object, a place.
        evaluation: chance of a property to be praise or blame.
        naming: chance of a phrase to bear a name.
        negation: chance of a clause to be denied.
    """

    inventory: Inventory
    topicality: float
    elaboration: float
    evaluation: float
    naming: float
    negation: float

    def clause(self, draw: Draw, topic: int) -> Clause:
        """A clause on a topic."""
        deed = draw.pick(self.inventory.topics[self._topic(draw, topic)].deeds)
        subject = self._phrase(draw, topic, deed.agent, "subject")
        patient = self._phrase(draw, topic, deed.patient, "object")
        place = self._phrase(draw, topic, 0, "place", subject.noun) if draw.chance(self.elaboration) else None
        clause = Clause(topic, deed.verb, subject, patient, place, draw.chance(self.negation), draw.chance(0.5))
        return _of_one_opinion(clause, self.inventory)

    def _topic(self, draw: Draw, topic: int) -> int:
        """The topic that a word is taken from."""
        count = len(self.inventory.topics)
        if count == 1 or draw.chance(self.topicality):
            return topic
        return (topic + 1 + draw.below(count - 1)) % count

    def _phrase(self, draw: Draw, topic: int, kind: int, role: str, found_there: Concept | None = None) -> Phrase:
        chosen = self.inventory.topics[self._topic(draw, topic)]
        noun = draw.pick(chosen.things[kind])
        if found_there is not None and found_there.kind is not None and found_there.topic == noun.topic:
            noun = draw.pick(chosen.places[found_there.kind])
        if draw.chance(_BY_KIND):
            noun = chosen.kind_words[kind]
        described = role != "place" and draw.chance(self.elaboration)
        adjective = self._property(draw, topic, kind) if described else None
        names = self.inventory.names[NAME_OF_ROLE[role]]
        name = tuple(draw.pick(names) for _ in range(1 + draw.below(2))) if draw.chance(self.naming) else ()
        return Phrase(noun, adjective, name, plural=draw.chance(0.3))

    def _property(self, draw: Draw, topic: int, kind: int) -> Concept:
        if draw.chance(self.evaluation):
            return draw.pick(draw.pick(self.inventory.evaluations))
        return draw.pick(draw.pick(self.inventory.topics[self._topic(draw, topic)].properties[kind]))


def _of_one_opinion(clause: Clause, inventory: Inventory) -> Clause:
    """The clause with its object praised or blamed as its subject is."""
    first, second = clause.subject.adjective, clause.object.adjective
    if first and second and first.polarity * second.polarity < 0:
        return replace(clause, object=replace(clause.object, adjective=inventory.opposite[second]))
    return clause
