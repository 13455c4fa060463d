"""Words: roots of a family, changed by the sound laws of its branches and languages, and spelt in a script.

A root is a string of phonemes, each written here as the Latin letter that stands for it. All languages of a family begin
with the same roots. The laws of the branch, then those of the language, apply to every word without exception, as sound
laws do; a part of the words is replaced by new ones, and a part borrowed from a neighbour. Names are the same everywhere,
but for the script.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from xlt.miniature.inventory import Concept
from xlt.random import Draw

CONSONANTS, VOWELS = "pbtdkgfvszxhmnlrjwcq", "aeiouy"
_V = f"[{VOWELS}]"

SOUND_LAWS = (
    ("p", "f"), ("t", "s"), ("k", "x"), ("b", "v"), ("d", "z"), ("g", "h"), ("s", "h"), ("f", "h"), ("x", "h"), ("r", "l"),
    ("c", "s"), ("w", "v"), ("q", "k"), ("v", "w"), ("z", "r"), ("j", "z"), ("h", "q"), ("m", "n"), ("l", "j"),
    (f"(?<={_V})p(?={_V})", "b"), (f"(?<={_V})t(?={_V})", "d"), (f"(?<={_V})k(?={_V})", "g"), (f"(?<={_V})s(?={_V})", "z"),
    ("t(?=[iey])", "c"), ("k(?=[iey])", "c"), ("g(?=[iey])", "j"), ("n$", "m"), ("^s", "c"), ("^k", "q"), ("^m", "b"),
    ("a", "o"), ("e", "i"), ("o", "u"), ("u", "y"), ("i", "e"), ("y", "i"), ("a$", "e"), ("o$", "a"), ("i(?=.+a)", "e"),
    ("u(?=.+a)", "o"),
)  # fmt: skip
"""The laws that there are: a pattern and what stands in its place. `t` becomes `s` everywhere, `p` becomes `b` between vowels."""

_TEMPLATES = ("CVCV", "CVCVC", "VCVC", "CVC", "CVCCV", "CVCVCV")
_LONGEST = 9

_ALPHABETS = {
    "Latn": "pbtdkgfvszxhmnlrjwcqaeiouy",
    "Cyrl": "пбтдкгфвсзхһмнлрјўчқаеиоуы",
    "Grek": "πβτδκγφϝσζχϸμνλρϳϻψξαειουω",
    "Geor": "პბტდკგფვსზხჰმნლრჲწჩყაეიოუჷ",
    "Armn": "պբտդկգֆվսզխհմնլրյւչքաեիօըո",
}
"""Of each alphabet by its ISO 15924 code, the letters for `CONSONANTS + VOWELS`."""

_SYLLABARIES = {"Ethi": "ፐበተደከገፈቨሰዘኀሀመነለረየወቸቀአ"}
"""Of each syllabary the first syllable of every consonant, and of no consonant at all; the others follow it in Unicode."""
_AFTER_THE_FIRST = dict(zip(f"{VOWELS}-", (3, 4, 2, 6, 1, 0, 5), strict=True))  # the syllable of each vowel, and of none

SCRIPTS = (*_ALPHABETS, *_SYLLABARIES)


def spell(sounds: str, script: str) -> str:
    """Phonemes in a script. A syllabary has one letter for a consonant with the vowel that follows it."""
    if script in _ALPHABETS:
        return sounds.translate(str.maketrans(CONSONANTS + VOWELS, _ALPHABETS[script]))
    first = dict(zip(f"{CONSONANTS}-", _SYLLABARIES[script], strict=True))
    syllables = re.findall(f"([{CONSONANTS}]?)([{VOWELS}])|([{CONSONANTS}])", sounds)
    return "".join(chr(ord(first[onset or alone or "-"]) + _AFTER_THE_FIRST[vowel or "-"]) for onset, vowel, alone in syllables)


def letters(script: str) -> str:
    """All letters of a script that words can hold."""
    if script in _ALPHABETS:
        return _ALPHABETS[script]
    syllables = [onset + vowel for onset in ("", *CONSONANTS) for vowel in ("", *VOWELS) if onset or vowel]
    return "".join(spell(syllable, script) for syllable in syllables)


@dataclass(frozen=True)
class Ancestry:
    """Where a language's words come from.

    Attributes:
        family: names the roots and their shape.
        branch: names the laws that the language shares with its nearest relatives.
        branch_laws, own_laws: how many sound laws the branch went through, and the language after it.
        replaced: share of the words that are no descendants of the family's.
        borrowed: share of the words that come from the lender.
    """

    family: str
    branch: str
    branch_laws: int
    own_laws: int
    replaced: float
    borrowed: float


class Lexicon:
    """The word of one language for each concept, no two alike.

    Args:
        seed: of the world.
        code: names what the language does on its own.
        lender: the language from which words are borrowed.
    """

    def __init__(
        self, seed: int, code: str, ancestry: Ancestry, script: str, concepts: list[Concept], lender: Lexicon | None
    ) -> None:
        roots, names = _Roots(seed, ancestry.family), _Roots(seed, "names")
        own_roots = Draw(seed, "own roots", code)
        laws = _laws(Draw(seed, "laws", ancestry.family, ancestry.branch), ancestry.branch_laws)
        laws += _laws(Draw(seed, "laws", code), ancestry.own_laws)
        fate = Draw(seed, "fate", code)
        taken: set[str] = set()
        sounds: dict[Concept, str] = {}
        for concept in sorted(concepts, key=lambda concept: concept.part != "name"):  # names first: they are nowhere changed
            inherited = changed(roots.of(concept), laws)
            is_new, is_borrowed = fate.chance(ancestry.replaced), fate.chance(ancestry.borrowed)
            new = roots.draw(own_roots, concept)
            if concept.part == "name":
                word = names.of(concept)
            elif is_borrowed and lender is not None and concept.part != "function":
                word = lender._sounds[concept]
            else:
                word = new if is_new else inherited
            longer = Draw(seed, "longer", "names" if concept.part == "name" else ancestry.family, concept.gloss)
            while word in taken or not word:  # no two concepts share a word
                word = (word + longer.pick(CONSONANTS) + longer.pick(VOWELS))[-_LONGEST:]
            taken.add(word)
            sounds[concept] = word
        self._sounds = {concept: sounds[concept] for concept in concepts}
        self.words = self.written(script)

    def written(self, script: str) -> dict[Concept, str]:
        """The words in a script, the language's own or another."""
        return {concept: spell(word, script) for concept, word in self._sounds.items()}


class _Roots:
    """The roots of a family: it uses some of the phonemes, and words of a few shapes."""

    def __init__(self, seed: int, family: str) -> None:
        self._names = (seed, "roots", family)
        draw = Draw(*self._names)
        self._consonants = draw.shuffled(CONSONANTS)[:14]
        self._vowels = draw.shuffled(VOWELS)[:5]
        self._templates = draw.shuffled(_TEMPLATES)[:3]

    def of(self, concept: Concept) -> str:
        """The family's root for a concept."""
        return self.draw(Draw(*self._names, concept.gloss), concept)

    def draw(self, draw: Draw, concept: Concept) -> str:
        """A new root in the family's manner; that of a function word has two sounds."""
        template = "CV" if concept.part == "function" else draw.pick(self._templates)
        return "".join(draw.pick(self._consonants if place == "C" else self._vowels) for place in template)


def _laws(draw: Draw, count: int) -> list[tuple[str, str]]:
    return draw.shuffled(SOUND_LAWS)[:count]


def changed(word: str, laws: list[tuple[str, str]]) -> str:
    """A word after sound laws, each of which applies to what the one before it has left."""
    for pattern, sound in laws:
        word = re.sub(pattern, sound, word)
    return word
