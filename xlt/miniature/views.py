"""Labels: views of what the miniature world says, a row an example, in the columns of the field's data sets.

| view | row | as in |
| --- | --- | --- |
| topic | id, text, category | SIB-200 |
| sentiment | id, text, label: negative or positive | the 30-language sentiment sets |
| entities | id, tokens, ner_tags: O, B-PER, … | WikiANN |
| treebank | id, text, tokens, lemmas, upos, feats, head, deprel | Universal Dependencies |
| entailment | id, premise, hypothesis, label: entailment, neutral or contradiction | XNLI |
| questions | id, title, context, question, answers {text, answer_start} | SQuAD |
| sentences | id, sentence, topic; the row of a number means the same in every language | FLORES-200 |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from xlt.miniature.grammar import Sentence
from xlt.miniature.inventory import NAME_OF_ROLE
from xlt.miniature.meaning import CONTRADICTION, ENTAILMENT, NEUTRAL, Clause, Phrase, relation
from xlt.miniature.world import World
from xlt.random import Draw

Row = dict[str, Any]
ENTITY_TAGS = ("O", *(f"{place}-{entity}" for entity in NAME_OF_ROLE.values() for place in "BI"))
ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction")
_CONTEXT = 3  # sentences of a question's context


def rows(world: World, code: str, view: str, split: str) -> Iterator[Row]:
    """The rows of a view in a language, without end.

    Args:
        split: names what is said; it is the same in every language.
    """
    say = _Voice(world, code, view, split)
    return ({"id": str(number), **row} for number, row in enumerate(VIEWS[view](world, say, split)))


class _Voice:
    """Says clauses in a language; misspellings are drawn from a stream of its own."""

    def __init__(self, world: World, code: str, view: str, split: str) -> None:
        self._grammar = world.grammar(code)
        self._draw = Draw(world.seed, "spelling", view, split, code)

    def __call__(self, clause: Clause, asked: str | None = None) -> Sentence:
        return self._grammar.say(clause, self._draw, asked)


def _topic(world: World, say: _Voice, split: str) -> Iterator[Row]:
    for clause in world.clauses("topic", split):
        yield {"text": say(clause).text, "category": world.topics[clause.topic]}


def _sentiment(world: World, say: _Voice, split: str) -> Iterator[Row]:
    for clause in world.clauses("sentiment", split):
        if clause.sentiment:
            yield {"text": say(clause).text, "label": "positive" if clause.sentiment > 0 else "negative"}


def _entities(world: World, say: _Voice, split: str) -> Iterator[Row]:
    for clause in world.clauses("entities", split):
        tokens = say(clause).tokens
        yield {"tokens": [token.form for token in tokens], "ner_tags": [token.entity for token in tokens]}


def _treebank(world: World, say: _Voice, split: str) -> Iterator[Row]:
    for clause in world.clauses("treebank", split):
        sentence = say(clause)
        fields = {"tokens": "form", "lemmas": "lemma", "upos": "upos", "feats": "feats", "head": "head", "deprel": "deprel"}
        columns = {column: [getattr(token, name) for token in sentence.tokens] for column, name in fields.items()}
        yield {"text": sentence.text, **columns}


def _entailment(world: World, say: _Voice, split: str) -> Iterator[Row]:
    draw = Draw(world.seed, "hypotheses", split)
    for number, clause in enumerate(world.clauses("entailment", split)):
        premise = replace(clause, negated=False)
        label = (ENTAILMENT, NEUTRAL, CONTRADICTION)[number % 3]
        hypothesis = _hypothesis(premise, label, world, draw)
        yield {"premise": say(premise).text, "hypothesis": say(hypothesis).text, "label": ENTAILMENT_LABELS[label]}


def _hypothesis(premise: Clause, label: int, world: World, draw: Draw) -> Clause:
    """A clause of which the premise says what `label` names."""
    implied = _weakened(premise, world, draw)
    while True:
        candidate = implied
        if label == CONTRADICTION:
            role, phrase = draw.pick(list(implied.phrases().items()))
            opposite = world.inventory.opposite.get(phrase.adjective)
            turned = replace(phrase, adjective=opposite) if opposite else None
            candidate = replace(implied, **{role: turned}) if turned and draw.chance(0.5) else replace(implied, negated=True)
        if label == NEUTRAL:
            other = world.speaker.clause(draw, premise.topic)
            role, phrase = draw.pick(list(other.phrases().items()))
            candidate = replace(implied, **{role: phrase})
        if relation(premise, candidate, world.inventory) == label:
            return candidate


def _weakened(clause: Clause, world: World, draw: Draw) -> Clause:
    """A clause that another one entails: each part may go, each thing may be named by its kind."""

    def weaker(phrase: Phrase) -> Phrase:
        kind = world.inventory.kind_of(phrase.noun)
        return Phrase(
            kind if kind and draw.chance(0.3) else phrase.noun,
            None if draw.chance(0.3) else phrase.adjective,
            () if draw.chance(0.3) else phrase.name,
            phrase.plural,
        )

    place = weaker(clause.place) if clause.place and not draw.chance(0.3) else None
    return replace(clause, subject=weaker(clause.subject), object=weaker(clause.object), place=place)


def _questions(world: World, say: _Voice, split: str) -> Iterator[Row]:
    clauses, draw = world.clauses("questions", split), Draw(world.seed, "questions", split)
    while True:
        first = next(clauses)
        told = [replace(first, negated=False)]
        while len(told) < _CONTEXT:  # no deed is told of twice, so that a question has one answer
            other = replace(world.speaker.clause(draw, first.topic), negated=False)
            if other.verb not in {clause.verb for clause in told}:
                told.append(other)
        told = draw.shuffled(told)
        asked_of = draw.below(_CONTEXT)
        role = draw.pick(list(told[asked_of].phrases()))
        sentences = [say(clause) for clause in told]
        start, end = sentences[asked_of].span(role)
        before = sum(len(sentence.text) + 1 for sentence in sentences[:asked_of])
        answer = sentences[asked_of].text[start:end]
        yield {
            "title": world.topics[first.topic],
            "context": " ".join(sentence.text for sentence in sentences),
            "question": say(told[asked_of], asked=role).text,
            "answers": {"text": [answer], "answer_start": [before + start]},
        }


def _sentences(world: World, say: _Voice, split: str) -> Iterator[Row]:
    for clause in world.clauses("sentences", split):
        yield {"sentence": say(clause).text, "topic": world.topics[clause.topic]}


VIEWS: dict[str, Callable[[World, _Voice, str], Iterator[Row]]] = {
    "topic": _topic, "sentiment": _sentiment, "entities": _entities, "treebank": _treebank, "entailment": _entailment,
    "questions": _questions, "sentences": _sentences,
}  # fmt: skip
