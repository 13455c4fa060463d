"""Labels on spans of a text, and what of them is found again in a translation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from word_translators import Reversing

from xlt.cli import compose
from xlt.config import build
from xlt.errors import UserError
from xlt.hub import Hub
from xlt.languages import load_languages
from xlt.tasks.base import Example, LearntTask, Task
from xlt.tasks.words import split_words
from xlt.translation.projection import Markers, check_translatable

LANGUAGES = load_languages()
MALTESE, YORUBA = LANGUAGES.find("mt"), LANGUAGES.find("yo")
MARKERS = Markers()


def task(name: str, *more: str) -> Any:
    return build(compose([f"task={name}", "lang=mt", *more])["task"], "task", Task)


def through(of: LearntTask, example: Example, translate: Any) -> Example | None:
    """An example in Maltese, by marks that are translated along."""
    texts, spans = of.texts_of(example), of.spans_of(example)
    marked = translate([MARKERS.marked(text, places) for text, places in zip(texts, spans, strict=True)])
    found = [MARKERS.found(text, len(places)) for text, places in zip(marked, spans, strict=True)]
    if None in found:
        return None
    return of.translated(example, [text for text, _ in found], [places for _, places in found], MALTESE)


# ---- marks


def test_marks_stand_around_spans() -> None:
    assert MARKERS.marked("Ada lives in Paris.", [(13, 18), (0, 3)]) == "<b>Ada</b> lives in <a>Paris</a>."
    assert MARKERS.marked("nothing", []) == "nothing"


@pytest.mark.parametrize(
    ("returned", "plain", "parts"),
    [
        ("<a>Ada</a> lives in <b>Paris</b>.", "Ada lives in Paris.", ["Ada", "Paris"]),
        ("In <b>Parigi</b> vive <a>Ada</a>.", "In Parigi vive Ada.", ["Ada", "Parigi"]),
        ("< A > Ada < / A > lives in <b> Paris </b>.", "Ada lives in Paris.", ["Ada", "Paris"]),  # spaces and capitals of its own
        ("Ada<a> Ada</a>Ada <b>Paris </b>now", "Ada AdaAda Paris now", ["Ada", "Paris"]),  # a space in the mark keeps words apart
        ("<a>Ada</a><b>Paris</b>", "AdaParis", ["Ada", "Paris"]),
        ("<br> <a>Ada</a>  x <b>Paris</b>", "<br> Ada  x Paris", ["Ada", "Paris"]),  # no mark of ours, and spaces that were there
        ("<a>Ada</a> lives in Paris.", None, None),  # one is lost
        ("<a>Ada</a> <b>Paris", None, None),
        ("<a>Ada</a> <b> </b>Paris", None, None),  # nothing in it
        ("<a>Ada</a> <b>Paris</b> <b>Paris</b>", None, None),  # twice
        ("</a>Ada<a> <b>Paris</b>", None, None),  # the wrong way round
        ("<a>Ada <b>of</a> Paris</b>", None, None),  # one within another
        ("<a>Ada <b>Paris</b></a>", None, None),
        (" ", None, None),
    ],
)
def test_what_is_found_again(returned: str, plain: str | None, parts: list[str] | None) -> None:
    found = MARKERS.found(returned, 2)
    assert (found and found[0]) == plain
    assert (found and [found[0][start:end] for start, end in found[1]]) == parts


def test_more_spans_than_letters() -> None:
    words = [f"w{number}" for number in range(60)]
    starts = [sum(len(word) + 1 for word in words[:number]) for number in range(60)]
    spans = [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
    marked = MARKERS.marked(" ".join(words), spans)
    assert "<a>w0</a>" in marked and "<aa>w26</aa>" in marked and "<ba>w52</ba>" in marked
    assert MARKERS.found(marked, 60) == (" ".join(words), spans)


def test_a_text_with_such_marks_of_its_own_is_lost() -> None:
    assert MARKERS.found(MARKERS.marked("see <a>this</a> of Ada", [(19, 22)]), 1) is None


# ---- entities


SENTENCE = ["Ms.", "Ada", "Byron", "met", "M.", "Babbage", "in", "London", ",", "etc."]
TAGS = ["O", "B-PER", "I-PER", "O", "B-PER", "I-PER", "O", "B-LOC", "O", "O"]


def test_entities_come_back_exactly() -> None:
    example = {"id": "7", "tokens": SENTENCE, "tags": TAGS}
    assert through(task("wikiann"), example, list) == example
    adjacent = {"id": "8", "tokens": ["Ada", "Byron", "London"], "tags": ["B-PER", "B-PER", "I-LOC"]}
    assert through(task("wikiann"), adjacent, list) == adjacent, "neighbours, and an I- that begins an entity"
    none = {"id": "9", "tokens": ["(", "see", "...", ")"], "tags": ["O"] * 4}
    assert through(task("wikiann"), none, list) == none


def test_entities_move_with_their_words() -> None:
    """The words in reverse order, entities in one piece; the comma behind London sticks to it in the translation."""
    translator = Reversing("reversing")
    example = {"id": "7", "tokens": SENTENCE[1:8], "tags": TAGS[1:8]}
    assert through(task("wikiann"), example, lambda texts: translator.translate(texts, YORUBA, MALTESE)) == {
        "id": "7",
        "tokens": ["Londonmt", "inmt", "Mmt", ".", "Babbagemt", "metmt", "Adamt", "Byronmt"],
        "tags": ["B-LOC", "O", "B-PER", "I-PER", "I-PER", "O", "B-PER", "I-PER"],
    }


def test_entities_that_are_lost() -> None:
    translator = Reversing("reversing", loses="London")
    example = {"id": "7", "tokens": SENTENCE, "tags": TAGS}
    assert through(task("wikiann"), example, lambda texts: translator.translate(texts, YORUBA, MALTESE)) is None
    assert through(task("wikiann"), example, lambda texts: ["" for _ in texts]) is None


@pytest.mark.parametrize(
    ("text", "known", "words"),
    [
        ("Il-kelb, kiel.", (), ["Il-kelb", ",", "kiel", "."]),
        ("«Iva...», etc.", ("etc.",), ["«", "Iva", "...", "»", ",", "etc."]),
        ("la 3.5%", (), ["la", "3.5", "%"]),
        ("नमस्ते दुनिया।", (), ["नमस्ते", "दुनिया", "।"]),  # vowel signs are no punctuation
        ("  ", (), []),
    ],
)
def test_words_of_a_translation(text: str, known: tuple[str, ...], words: list[str]) -> None:
    assert split_words(text, known) == words


# ---- answers


QUESTION = {
    "id": "q", "context": "Rome is old.  Ada lives in Rome,\nnot in Paris.", "question": "Where does Ada live?",
    "answers": ["Rome"], "start": 27, "language": "yo",
}  # fmt: skip


def test_answers_come_back_exactly() -> None:
    """The second Rome, with the spaces and line breaks of the context."""
    assert QUESTION["context"][27:31] == "Rome"
    assert through(task("squad"), QUESTION, list) == {**QUESTION, "language": "mt"}


def test_the_first_of_several_answers_is_followed() -> None:
    example = {**QUESTION, "answers": ["Rome", "in Rome"]}
    assert through(task("squad"), example, list)["answers"] == ["Rome"]


def test_answers_move_with_their_words() -> None:
    translator = Reversing("reversing")
    found = through(task("squad"), QUESTION, lambda texts: translator.translate(texts, YORUBA, MALTESE))
    assert found["context"] == "Parismt. inmt notmt Romemt, inmt livesmt Adamt oldmt. ismt Romemt"
    assert found["question"] == "livemt? Adamt doesmt Wheremt"
    assert (found["start"], found["answers"]) == (found["context"].index("Rome"), ["Romemt"])
    assert through(task("squad"), QUESTION, lambda texts: Reversing("r", loses="old").translate(texts, YORUBA, MALTESE)) is None


# ---- real data


@pytest.mark.parametrize(
    ("name", "language", "split"), [("masakhaner", "yo", "train"), ("masakhaner", "sw", "test"), ("xquad", "de", "test")]
)
def test_labels_of_real_data_come_back_exactly(name: str, language: str, split: str, shared: Path, tmp_path: Path) -> None:
    """All examples, by marks and without a translation."""
    of, hub = task(name), Hub(shared / "mirror", tmp_path)
    examples = of.examples(LANGUAGES.find(language), LANGUAGES, hub)[split]
    assert len(examples) > 400
    for example in examples:
        own = {"language": "mt"} if name == "xquad" else {}
        assert through(of, example, list) == {**example, **own}


# ---- which tasks can be translated


@pytest.mark.parametrize("name", ["sib200", "nusax", "xnli", "mini_topic"])
def test_labels_of_whole_texts_need_no_projection(name: str) -> None:
    check_translatable(task(name), None)
    with pytest.raises(UserError, match="belong to whole texts: leave it out"):
        check_translatable(task(name), "markers")


@pytest.mark.parametrize("name", ["wikiann", "masakhaner", "squad", "tydiqa", "mini_entities", "mini_questions"])
def test_labels_of_spans_need_a_projection(name: str) -> None:
    check_translatable(task(name), "markers")
    with pytest.raises(UserError, match=rf"task={name} has labels on parts of its texts.*transfer.projection=markers"):
        check_translatable(task(name), None)


@pytest.mark.parametrize("name", ["ud_pos", "ud_dep", "mini_parsing"])
@pytest.mark.parametrize("projection", [None, "markers"])
def test_labels_of_words_are_refused(name: str, projection: str | None) -> None:
    with pytest.raises(UserError, match=r"a label for each word.*cannot be translated"):
        check_translatable(task(name), projection)
