"""Text: what cleaning does to a document, which documents are kept on which side, and what word pieces know of it."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlt.backbones.backbone import load_tokenizer
from xlt.cli import compose
from xlt.corpora.base import Corpus, LeftOut
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.languages import Language, load_languages
from xlt.random import Draw
from xlt.steps.backbone import TokenizerStep
from xlt.steps.base import Workbench
from xlt.steps.cleaning import clean
from xlt.steps.text import TextStep, read_documents
from xlt.steps.tokens import tokenizer_fit
from xlt.store import Artifact


@dataclass(frozen=True)
class Documents(Corpus):
    """A corpus of the documents that it is given."""

    texts: list[str] = field(default_factory=list)

    def revision(self, *arguments: Any) -> dict[str, Any]:
        return {}

    def documents(self, *arguments: Any) -> Iterator[str]:
        return iter(self.texts)


@dataclass(frozen=True)
class Split:
    """What a text step made."""

    train: list[str]
    validation: list[str]
    card: dict[str, Any]


def build(folder: Path, texts: list[str], seed: int = 0, **settings: Any) -> Split:
    corpus = Documents(name="documents", texts=texts, **settings)
    languages = load_languages()
    folder.mkdir()
    runtime = SimpleNamespace(languages=languages, hub=None)  # all that a text asks for
    bench = Workbench({}, folder, folder, runtime, {})  # type: ignore[arg-type]
    TextStep(corpus, languages.find("mt"), {}, seed).build(bench)
    card = json.loads((folder / "card.json").read_text())
    assert bench.summary == card
    return Split(*(list(read_documents(folder, split)) for split in ("train", "validation")), card)


TEXTS = [f"document {number}" for number in range(400)]


# ---- cleaning


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("  ba \t be  ", "ba be"),
        ("ba\r\nbe\rbi\nbo", "ba\nbe\nbi\nbo"),
        ("ba\n\n  \n\tbe\n", "ba\nbe"),
        ("ba\x00be\x07bi\x85bo\x1fbu", "ba be bi bo bu"),
        ("ba\u2028be\u2029bi\u00a0bo\u3000bu", "ba be bi bo bu"),
        ("e\u0301", "é"),
        ("\u1100\u1161\u11a8", "각"),
        ("ﬁ", "ﬁ"),  # a compatibility character is not a composed one
        ("ba\ufffd", "ba"),
        ("हिन्\u200dदी", "हिन्\u200dदी"),  # joiners are part of the spelling
        ("\n \t", ""),
        ("", ""),
    ],
)
def test_clean(document: str, expected: str) -> None:
    assert clean(document) == expected


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))


@given(texts)
def test_clean_text_is_in_normal_form(document: str) -> None:
    text = clean(document)
    assert clean(text) == text
    assert unicodedata.is_normalized("NFC", text)
    assert not [character for character in text if unicodedata.category(character) == "Cc" and character != "\n"]
    assert all(line == line.strip() and line for line in text.split("\n")) or text == ""
    assert text.splitlines() == [line for line in text.split("\n") if line]  # no other line break is left


@given(texts)
def test_cleaning_keeps_every_letter(document: str) -> None:
    def letters(text: str) -> str:
        return "".join(unicodedata.normalize("NFC", text).split()).translate(dict.fromkeys([*range(32), *range(127, 160)]))

    assert unicodedata.normalize("NFD", letters(clean(document))) == unicodedata.normalize("NFD", letters(document))


def test_a_letter_and_its_accent_come_together_where_rubbish_was_between_them() -> None:
    assert clean("e\ufffd\u0301") == "é"


def test_text_can_be_written_whatever_it_was() -> None:
    clean("ba \ud800 be").encode()


# ---- what is kept where


def test_every_document_lands_on_one_side(tmp_path: Path) -> None:
    split = build(tmp_path / "a", TEXTS)
    assert sorted(split.train + split.validation) == sorted(TEXTS)
    assert split.train == [text for text in TEXTS if text in set(split.train)]  # in the order of the source
    assert 20 <= len(split.validation) <= 60  # about a tenth


def test_the_share_of_validation_text(tmp_path: Path) -> None:
    assert len(build(tmp_path / "a", TEXTS, validation_fraction=0.5).validation) == pytest.approx(200, abs=40)


def test_equal_documents_are_kept_once(tmp_path: Path) -> None:
    """Equal after cleaning, wherever they stand; without deduplication all of them fall on the same side."""
    repeated = [*TEXTS, *(f" {text}\r\n" for text in TEXTS[:100])]
    split = build(tmp_path / "a", repeated)
    assert sorted(split.train + split.validation) == sorted(TEXTS)
    assert split.card["repeated"] == 100
    everything = build(tmp_path / "b", repeated, deduplicate=False)
    assert len(everything.train) + len(everything.validation) == 500
    assert not set(everything.train) & set(everything.validation)


def test_the_side_depends_on_content_and_seed_alone(tmp_path: Path) -> None:
    first = build(tmp_path / "a", TEXTS)
    backwards = build(tmp_path / "b", TEXTS[::-1])
    assert backwards.validation == first.validation[::-1]
    part = build(tmp_path / "c", TEXTS[:200])
    assert part.validation == [text for text in first.validation if text in TEXTS[:200]]
    reseeded = build(tmp_path / "d", TEXTS, seed=1)
    assert set(reseeded.validation) != set(first.validation)
    assert build(tmp_path / "e", TEXTS, seed=1) == reseeded


def test_caps(tmp_path: Path) -> None:
    """Neither side grows beyond its bytes; what validation has no room for does not go into training."""
    whole = build(tmp_path / "a", TEXTS)
    split = build(tmp_path / "b", TEXTS, max_bytes=1000, validation_max_bytes=100)
    for name, kept, cap in (("train", split.train, 1000), ("validation", split.validation, 100)):
        size = sum(len(text.encode()) for text in kept)
        assert split.card[name] == {"documents": len(kept), "bytes": size}
        assert cap - 20 < size <= cap
        assert kept == getattr(whole, name)[: len(kept)]


def test_the_cap_in_csv_lines(tmp_path: Path) -> None:
    """As many lines of the CSV file as would fit if all were equally long; a record that is cut is lost. Against Python's csv."""
    draw = Draw("csv")
    texts = [
        "\n".join(
            f"word {draw.below(1000)}{', ' * draw.chance(0.3)}{chr(34) * draw.chance(0.2)}" for _ in range(1 + draw.below(5))
        )
        for _ in range(300)
    ]
    whole = build(tmp_path / "a", texts)
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([["text"], *([text] for text in whole.train)])
    physical = file.getvalue().splitlines(keepends=True)
    room = len(physical) * 3000 // len(file.getvalue())
    records = list(csv.reader(io.StringIO("".join(physical[:room]), newline="")))[1:]
    expected = [record[0] for record in records if record[0] in whole.train]
    assert len(records) - len(expected) <= 1
    split = build(tmp_path / "b", texts, cap="csv_lines", max_bytes=3000)
    assert split.train == expected == whole.train[: len(expected)]
    assert split.validation == whole.validation
    assert split.card["over_the_cap"] == len(whole.train) - len(expected)
    assert build(tmp_path / "c", texts, cap="csv_lines", max_bytes=None).train == whole.train


@pytest.mark.parametrize("near_duplicates", [None, 0.8])
def test_several_processes_make_the_same_text(
    near_duplicates: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if near_duplicates is not None:
        pytest.importorskip("datasketch", reason="near duplicates are found by the package datasketch (xlt[near-duplicates])")
    texts = [*TEXTS, LeftOut("weight"), *TEXTS[:30], *(f"{text} and more of it" for text in TEXTS[:50])]
    alone = build(tmp_path / "a", texts, near_duplicates=near_duplicates)
    monkeypatch.setattr("xlt.steps.text._LOT", 500)
    monkeypatch.setattr("xlt.processes._ALONE", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert build(tmp_path / "b", texts, near_duplicates=near_duplicates) == alone
    assert alone.card["repeated"] == 30


def test_bytes_are_counted_not_characters(tmp_path: Path) -> None:
    split = build(tmp_path / "a", [f"ⴰⵎⴰⵣⵉⵖ {number}" for number in range(400)], max_bytes=1000)
    assert 970 < split.card["train"]["bytes"] == sum(len(text.encode()) for text in split.train) <= 1000


@pytest.mark.parametrize("settings", [{}, {"max_bytes": 1000, "validation_max_bytes": 100}])
def test_the_card_adds_up(settings: dict[str, int], tmp_path: Path) -> None:
    """Every document that was read is either kept or counted under the reason why it is not."""
    split = build(tmp_path / "a", [*TEXTS[:50], "", " \n", TEXTS[0], *TEXTS[50:]], **settings)
    card = split.card
    kept = card["train"]["documents"] + card["validation"]["documents"]
    assert card["documents_read"] == card["empty"] + card["repeated"] + card["over_the_cap"] + kept
    assert (card["empty"], card["repeated"]) == (2, 1)
    assert bool(card["over_the_cap"]) == bool(settings)
    assert kept == len(split.train) + len(split.validation)


def test_reading_stops_when_the_training_text_is_full(tmp_path: Path) -> None:
    assert build(tmp_path / "a", TEXTS * 5, deduplicate=False, max_bytes=1000).card["documents_read"] < 200


def test_more_documents_than_are_held_in_memory(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(5000)]
    split = build(tmp_path / "a", texts)
    assert sorted(split.train + split.validation) == sorted(texts)


def test_what_a_source_leaves_out_is_counted(tmp_path: Path) -> None:
    texts = [*TEXTS[:100], LeftOut("quality-warnings"), LeftOut("weight"), *TEXTS[100:], LeftOut("weight")]
    card = build(tmp_path / "a", texts).card  # type: ignore[arg-type]
    assert card["left_out"] == {"weight": 2, "quality-warnings": 1}
    kept = card["train"]["documents"] + card["validation"]["documents"]
    assert card["documents_read"] == sum(card["left_out"].values()) + kept == 403


def test_documents_with_undecodable_bytes_are_kept_without_them_and_counted(tmp_path: Path) -> None:
    split = build(tmp_path / "a", [*TEXTS[:100], b"b\xffa be".decode(errors="replace"), b"\xfe bo".decode(errors="replace")])
    assert {"ba be", "bo"} <= {*split.train, *split.validation}
    assert split.card["undecodable"] == 2


def test_no_cap(tmp_path: Path) -> None:
    split = build(tmp_path / "a", TEXTS * 20, deduplicate=False, max_bytes=None)
    assert split.card["over_the_cap"] == 0
    assert len(split.train) + len(split.validation) == 8000


def test_the_portrait_of_a_text(tmp_path: Path) -> None:
    """Letters alone have a script; samples are different training documents, the same at every reading order."""
    texts = [f"ბაგა {number}" for number in range(100)] + [f"document\n{number}" for number in range(100)] * 3
    split = build(tmp_path / "a", texts, deduplicate=False)
    letters = Counter("GEORGIAN" if c in GEORGIAN else "LATIN" for text in split.train for c in text if c.isalpha())
    assert split.card["scripts"] == {name: pytest.approx(n / letters.total(), abs=1e-6) for name, n in letters.items()}
    assert split.card["lines"] == sum(len(text.split("\n")) for text in split.train)
    assert split.card["characters"] == sum(map(len, split.train))
    samples = split.card["samples"]
    assert len(set(samples)) == len(samples) == 10
    assert set(samples) <= set(split.train)
    assert build(tmp_path / "b", texts[::-1], deduplicate=False).card["samples"] == samples
    assert build(tmp_path / "c", texts, seed=1, deduplicate=False).card["samples"] != samples


def test_near_duplicates(tmp_path: Path) -> None:
    """Of documents that differ in a word or two, the first is kept; others that share half of their words are."""
    pytest.importorskip("datasketch", reason="near duplicates are found by the package datasketch (xlt[near-duplicates])")
    draw = Draw("near duplicates")
    originals = [[f"word{draw.below(5000)}" for _ in range(120)] for _ in range(40)]
    near = [[*words[:-1], "changed"] for words in originals]  # 115 of 117 sequences of five words in common
    far = [[*words[:60], *(f"other{draw.below(5000)}" for _ in range(60))] for words in originals]
    texts = [" ".join(words) for words in [*originals, *near, *far]]
    split = build(tmp_path / "a", texts, near_duplicates=0.8, validation_fraction=0.5)
    assert sorted(split.train + split.validation) == sorted(texts[:40] + texts[80:])
    assert split.card["left_out"] == {"near duplicate": 40}
    assert len(build(tmp_path / "b", texts).train) > 100


def test_near_duplicates_without_the_package(monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    experiment = Experiment.from_config(compose([*overrides, "data.near_duplicates=0.8"]))
    with pytest.raises(UserError, match=r"xlt\[near-duplicates\]"):
        experiment.text(experiment.targets[0])


@pytest.mark.parametrize("texts", [[], ["", " "], ["the only one"], ["the same one"] * 50])
def test_too_little_text(texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Maltese from data=documents has [01] different documents"):
        build(tmp_path / "a", texts)


def test_the_fingerprint_knows_what_changes_the_text() -> None:
    language = load_languages().find("mt")

    def fingerprint(language: Language = language, seed: int = 0, revision: str = "a", **settings: Any) -> str:
        return TextStep(Documents(**settings), language, {"content": revision}, seed).fingerprint

    assert fingerprint() == fingerprint(name="renamed")
    others = [
        fingerprint(seed=1), fingerprint(revision="b"), fingerprint(max_bytes=2000), fingerprint(deduplicate=False),
        fingerprint(language=dataclasses.replace(language, key="yo")), fingerprint(near_duplicates=0.8),
    ]  # fmt: skip
    assert len({fingerprint(), *others}) == 7


# ---- word pieces


GEORGIAN = "აბგდ"


def text_step(texts: list[str]) -> TextStep:
    return TextStep(Documents(name="documents", texts=texts), load_languages().find("mt"), {}, 0)


def tokenizer_step(alphabet: str, vocabulary_size: int = 120) -> TokenizerStep:
    return TokenizerStep("pieces", (text_step(TEXTS),), vocabulary_size, 32, alphabet)


@pytest.fixture(scope="module")
def texts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of `TEXTS`, split."""
    folder = tmp_path_factory.mktemp("text") / "mt"
    build(folder, TEXTS)
    return folder


def learnt(texts_folder: Path, folder: Path, alphabet: str, vocabulary_size: int = 120) -> Any:
    """The tokenizer that a step makes of the text."""
    folder.mkdir()
    bench = Workbench({"text_mt": Artifact(texts_folder, {})}, folder, folder, SimpleNamespace(), {})  # type: ignore[arg-type]
    tokenizer_step(alphabet, vocabulary_size).build(bench)
    tokenizer = load_tokenizer(folder)
    assert bench.summary == {"vocabulary": len(tokenizer)}
    return tokenizer


def test_letters_of_the_alphabet_are_known_though_the_text_lacks_them(texts_folder: Path, tmp_path: Path) -> None:
    """At the beginning of a word and within it; without an alphabet the word is one unknown token."""
    tokenizer = learnt(texts_folder, tmp_path / "with", GEORGIAN)
    assert tokenizer.tokenize("ბაგა") == ["ბ", "##ა", "##გ", "##ა"]
    assert tokenizer.tokenize("დ document") == ["დ", *tokenizer.tokenize("document")]
    assert {*GEORGIAN, *(f"##{letter}" for letter in GEORGIAN)} <= tokenizer.get_vocab().keys()
    assert tokenizer.tokenize("ბევა") == ["[UNK]"], "two letters of it are not in the alphabet"
    without = learnt(texts_folder, tmp_path / "without", "")
    assert without.tokenize("ბაგა") == ["[UNK]"]
    assert not {*GEORGIAN} & {*"".join(without.get_vocab())}


def test_letters_of_the_alphabet_are_pieces_like_any_other(texts_folder: Path, tmp_path: Path) -> None:
    """No special tokens, which texts would be cut at and skipped by; and what the text holds is learnt as before."""
    tokenizer = learnt(texts_folder, tmp_path / "with", GEORGIAN)
    without = learnt(texts_folder, tmp_path / "without", "")
    assert tokenizer.all_special_tokens == without.all_special_tokens
    assert tokenizer.decode(tokenizer("ბაგა document")["input_ids"], skip_special_tokens=True) == "ბაგა document"
    for word in ("document", "documents", "37"):
        assert tokenizer.tokenize(word) == without.tokenize(word)
    assert tokenizer.tokenize("document") == ["document"]


def test_letters_of_the_alphabet_that_the_text_holds(texts_folder: Path, tmp_path: Path) -> None:
    """They are no second pieces, and words are still learnt from them."""
    tokenizer = learnt(texts_folder, tmp_path / "with", "document")
    without = learnt(texts_folder, tmp_path / "without", "")
    assert tokenizer.tokenize("document 7") == without.tokenize("document 7") == ["document", "7"]
    assert tokenizer.tokenize("todo") == ["t", "##o", "##d", "##o"]


def test_an_alphabet_has_neither_order_nor_repetitions(texts_folder: Path, tmp_path: Path) -> None:
    first, second = (learnt(texts_folder, tmp_path / str(n), of) for n, of in enumerate((GEORGIAN, "დბაგგაბ")))
    assert first.get_vocab() == second.get_vocab()


def test_the_vocabulary_keeps_its_size(texts_folder: Path, tmp_path: Path) -> None:
    """The alphabet takes its place in it."""
    with_alphabet, without = (learnt(texts_folder, tmp_path / str(n), of, 60) for n, of in enumerate((GEORGIAN, "")))
    assert len(with_alphabet) == len(without) == 60


def test_the_alphabet_is_part_of_a_tokenizer_s_fingerprint() -> None:
    assert tokenizer_step(GEORGIAN).fingerprint != tokenizer_step("").fingerprint
    assert tokenizer_step(GEORGIAN).fingerprint == tokenizer_step(GEORGIAN).fingerprint


def test_how_well_a_tokenizer_fits(texts_folder: Path, tmp_path: Path) -> None:
    """By hand: six words of 23 + 26 bytes make six pieces, of which one is unknown."""
    tokenizer = learnt(texts_folder, tmp_path / "with", "")
    assert tokenizer.tokenize("document ბაგა 7") == ["document", "[UNK]", "7"]
    fit = tokenizer_fit(tokenizer, ["document ბაგა 7", "document document document"])
    assert fit == {"words": 6, "tokens": 6, "fertility": 1.0, "bytes_per_token": 49 / 6, "unknown_share": 1 / 6}
