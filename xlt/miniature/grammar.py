"""How a language says a clause: the order of its parts, its affixes, and the dependency tree that goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from xlt.config import setting
from xlt.miniature.inventory import FUNCTION_WORDS, NAME_OF_ROLE, Concept
from xlt.miniature.meaning import Clause, Phrase
from xlt.random import Draw

_RELATION = {"subject": "nsubj", "object": "obj", "place": "obl"}
_QUESTION = {"subject": ("who", "PRON", "nsubj"), "object": ("what", "PRON", "obj"), "place": ("where", "ADV", "advmod")}
_PART_OF_SPEECH = {"noun": "NOUN", "verb": "VERB", "adjective": "ADJ", "name": "PROPN"}
_FEATURE = {"plural": "Number=Plur", "past": "Tense=Past", "accusative": "Case=Acc"}


@dataclass(frozen=True)
class Typology:
    """The grammar of a language.

    Attributes:
        order: of subject, verb, object and place: S, V, O and X in some order.
        adjective: before or after its noun.
        adposition: before or after its phrase.
        negation: before or after the verb.
        morphology: whether number, tense and case are words of their own (`isolating`) or affixes (`suffixing`, `prefixing`).
        case: whether objects are marked.
        concord: whether adjectives take the number of their noun.
    """

    order: str = setting("SVOX")
    adjective: str = setting("before", one_of=("before", "after"))
    adposition: str = setting("before", one_of=("before", "after"))
    negation: str = setting("before", one_of=("before", "after"))
    morphology: str = setting("suffixing", one_of=("isolating", "suffixing", "prefixing"))
    case: bool = setting(False)
    concord: bool = setting(False)

    def features(self) -> dict[str, int]:
        """The typological vector: each feature 0 or 1, named in the manner of URIEL's syntactic ones."""
        before = {
            f"S_{a}_BEFORE_{b}": int(self.order.index(a) < self.order.index(b)) for a, b in ("SV", "SO", "VO", "XS", "XV", "XO")
        }
        return {
            **before,
            "S_ADJECTIVE_BEFORE_NOUN": int(self.adjective == "before"),
            "S_PREPOSITION": int(self.adposition == "before"),
            "S_NEGATION_BEFORE_VERB": int(self.negation == "before"),
            "S_ISOLATING": int(self.morphology == "isolating"),
            "S_SUFFIXING": int(self.morphology == "suffixing"),
            "S_PREFIXING": int(self.morphology == "prefixing"),
            "S_CASE": int(self.case),
            "S_CONCORD": int(self.concord),
        }


@dataclass(frozen=True)
class Token:
    """A word of a sentence.

    Attributes:
        form: as it stands in the text.
        lemma: without affixes.
        upos, deprel: as in Universal Dependencies.
        head: place of the head in the sentence, counted from 1; 0 for the root.
        feats: morphological features, `Case=Acc|Number=Plur`.
        entity: B-PER, I-PER, …, or O.
        role: of the phrase that it belongs to; None outside phrases.
        start, end: its characters in the text.
    """

    form: str
    lemma: str
    upos: str
    deprel: str
    head: int = 0
    feats: str | None = None
    entity: str = "O"
    role: str | None = None
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Sentence:
    """What a language makes of a clause."""

    text: str
    tokens: tuple[Token, ...]

    def span(self, role: str) -> tuple[int, int]:
        """The characters of a phrase with its marks, an adposition of place aside."""
        own = [token for token in self.tokens if token.role == role]
        return own[0].start, own[-1].end


class _Node:
    """A word whose place in the sentence is not known yet."""

    def __init__(self, token: Token, head: _Node | None) -> None:
        self.token = token
        self.head = head


class Grammar:
    """Says clauses in one language.

    Args:
        words: the language's word for each concept.
        misspelt: chance of a content word to be written with two of its letters exchanged.
    """

    def __init__(self, words: Mapping[Concept, str], typology: Typology, misspelt: float = 0.0) -> None:
        self._words = words
        self._typology = typology
        self._misspelt = misspelt

    def say(self, clause: Clause, draw: Draw, asked: str | None = None) -> Sentence:
        """The sentence for a clause.

        Args:
            draw: for misspellings.
            asked: the role that a question asks for, whose phrase an interrogative replaces.
        """
        verb = self._inflected(clause.verb, ["past"] if clause.past else [], "root", None, draw)
        main = verb[-1] if self._typology.morphology == "isolating" else verb[0]
        if clause.negated:
            word = [_Node(self._function("not", "PART", "advmod"), main)]
            verb = word + verb if self._typology.negation == "before" else verb + word
        parts = {"V": verb}
        for letter, role in zip("SOX", ("subject", "object", "place"), strict=True):
            if role == asked:
                word, upos, deprel = _QUESTION[role]
                parts[letter] = [_Node(self._function(word, upos, deprel), main)]
            elif role in clause.phrases():
                parts[letter] = self._phrase(clause.phrases()[role], role, main, draw)
        nodes = [node for letter in self._typology.order for node in parts.get(letter, [])]
        mark = "?" if asked else "."
        nodes.append(_Node(Token(mark, mark, "PUNCT", "punct"), main))
        return _written(nodes)

    def _phrase(self, phrase: Phrase, role: str, verb: _Node, draw: Draw) -> list[_Node]:
        number = ["plural"] if phrase.plural else []
        marks = [*number, *(["accusative"] if role == "object" and self._typology.case else [])]
        noun = self._inflected(phrase.noun, marks, _RELATION[role], verb, draw)
        head = noun[-1] if self._typology.morphology == "isolating" else noun[0]
        entity = NAME_OF_ROLE[role]
        for number_in_name, concept in enumerate(phrase.name):
            token = self._content(concept, "flat" if number_in_name else "appos", draw)
            first = noun[-number_in_name] if number_in_name else head
            noun.append(_Node(replace(token, entity=f"{'I' if number_in_name else 'B'}-{entity}"), first))
        if phrase.adjective:
            agreeing = number if self._typology.concord else []
            adjective = self._inflected(phrase.adjective, agreeing, "amod", head, draw)
            noun = adjective + noun if self._typology.adjective == "before" else noun + adjective
        for node in noun:
            node.token = replace(node.token, role=role)
        if role == "place":
            word = [_Node(self._function("in", "ADP", "case"), head)]
            noun = word + noun if self._typology.adposition == "before" else noun + word
        return noun

    def _inflected(self, concept: Concept, marks: list[str], deprel: str, head: _Node | None, draw: Draw) -> list[_Node]:
        """A word with its marks: affixes of it, or particles before it."""
        token = self._content(concept, deprel, draw)
        affixes = "".join(self._words[FUNCTION_WORDS[mark]] for mark in marks)
        feats = "|".join(sorted(_FEATURE[mark] for mark in marks)) or None
        if self._typology.morphology == "isolating":
            word = _Node(token, head)
            particles = {"plural": ("PART", "det"), "past": ("AUX", "aux"), "accusative": ("ADP", "case")}
            return [*(_Node(self._function(mark, *particles[mark]), word) for mark in reversed(marks)), word]
        form = token.form + affixes if self._typology.morphology == "suffixing" else affixes + token.form
        return [_Node(replace(token, form=form, feats=feats), head)]

    def _content(self, concept: Concept, deprel: str, draw: Draw) -> Token:
        lemma = form = self._words[concept]
        if self._misspelt and draw.chance(self._misspelt):
            place = draw.below(len(form) - 1)
            form = form[:place] + form[place + 1] + form[place] + form[place + 2 :]
        return Token(form, lemma, _PART_OF_SPEECH[concept.part], deprel)

    def _function(self, word: str, upos: str, deprel: str) -> Token:
        form = self._words[FUNCTION_WORDS[word]]
        return Token(form, form, upos, deprel)


def _written(nodes: list[_Node]) -> Sentence:
    places = {id(node): number for number, node in enumerate(nodes, start=1)}
    text, tokens = "", []
    for node in nodes:
        text += " " if text and node.token.upos != "PUNCT" else ""
        start = len(text)
        text += node.token.form
        head = places[id(node.head)] if node.head else 0
        tokens.append(replace(node.token, head=head, start=start, end=len(text)))
    return Sentence(text, tuple(tokens))
