"""Tagging: words and their pieces, which of them carry labels, predictions for every word, and scores as seqeval's."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import tiny_backbone
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import accuracy_score
from sklearn.metrics import f1_score as label_f1_score
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import xlt
from xlt import cli
from xlt.analysis.bootstrap import intervals
from xlt.config import build
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.languages import load_languages
from xlt.miniature.views import ENTITY_TAGS
from xlt.random import generator
from xlt.steps.composition import Branch, Composition
from xlt.tasks.base import Task
from xlt.tasks.data import FileData
from xlt.tasks.sequence_classification import SequenceClassification
from xlt.tasks.tagging import Tagging
from xlt.tasks.words import encode_words
from xlt.training.masking import IGNORED

CPU = torch.device("cpu")
ENTITIES = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
COLUMNS = {"id": "id", "tokens": "tokens", "tags": "ner_tags"}
NER = Tagging(name="names", data=FileData(columns=COLUMNS), labels=ENTITIES, scored_by="entities", metric="f1")
POS = Tagging(name="pos", data=FileData(columns=COLUMNS), labels=["ADJ", "NOUN", "PUNCT", "VERB"])
PIECES = replace(NER, scheme="continuation", level="subword")

SENTENCES = [
    ["Ouagadougou", "is", "the", "capital", "of", "Burkina", "Faso", "."],
    ["تقع", "القاهرة", "في", "مصر", "،", "على", "النيل"],
    ["กรุงเทพ", "เป็น", "เมืองหลวง", "ของ", "ประเทศไทย"],
    ["北京", "是", "中国", "的", "首都", "。"],
    ["ħobż", "għall-", "anteprima", "1990-1995", "don't", "…", "½"],
    ["Malta"],
]


# ---- words and their pieces


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer that cuts words as those of BERT, of XLM-R or of Llama 3 do."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    framed = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special)
        made.post_processor = framed
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="[UNK]")
        made.post_processor = framed
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    made.train_from_iterator([" ".join(sentence) for sentence in SENTENCES], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", eos_token="[SEP]",
        unk_token=None if kind == "bytes" else "[UNK]",
    )  # fmt: skip


every_tokenizer = pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bytes"])


def check_pieces(sentences: Sequence[Sequence[str]], tokenizer: Any) -> int:
    """Hold rows against the tokenizer on the whole sentence and where it says that pieces lie; returns how many it made."""
    rows = encode_words(sentences, tokenizer, 10_000)
    assert [row["example"] for row in rows] == list(range(len(sentences)))
    pieces = 0
    for row, words in zip(rows, sentences, strict=True):
        assert row["words"] == list(range(len(words)))
        assert row["input_ids"] == tokenizer(" ".join(words))["input_ids"]
        whole = tokenizer(" ".join(words), add_special_tokens=False, return_offsets_mapping=True)
        word_at = [number for number, word in enumerate(words) for _ in f" {word}"][1:]  # a space belongs to the word behind it
        assert [place for place in row["word_of"] if place >= 0] == [word_at[end - 1] for _, end in whole["offset_mapping"]]
        pieces += len(whole["input_ids"])
    return pieces


@every_tokenizer
def test_pieces_of_words_are_those_of_the_sentence(kind: str) -> None:
    assert check_pieces(SENTENCES, tokenizer(kind)) > 1.5 * sum(map(len, SENTENCES)), "words are cut up"


@pytest.mark.parametrize(
    "name",
    [
        "bert-base-multilingual-cased",
        pytest.param("xlm-roberta-base", marks=pytest.mark.slow),
        pytest.param("meta-llama/Meta-Llama-3-8B", marks=pytest.mark.slow),
    ],
)
def test_pieces_of_real_words_by_real_tokenizers(name: str, shared: Path) -> None:
    real = AutoTokenizer.from_pretrained(shared / "mirror" / "models-tokenizer-only" / name)
    sentences = list(SENTENCES)
    for treebank in ("ar_pud", "zh_gsd", "am_att", "mt_mudt", "sa_ufal"):
        folder = shared / "mirror" / "universal-dependencies" / "universal_dependencies" / treebank
        (file,) = folder.glob("*test*.parquet")
        sentences += pyarrow.parquet.read_table(file, columns=["tokens"])["tokens"].slice(0, 30).to_pylist()
    assert len(sentences) > 150
    check_pieces(sentences, real)


@pytest.mark.parametrize("nothing", ["\u0000", "", "\u200b", " "])
@every_tokenizer
def test_a_word_without_pieces_has_one_nevertheless(nothing: str, kind: str) -> None:
    """So that no label moves to the word behind it."""
    (row,) = NER.encode([{"tokens": [nothing, "Malta", nothing], "tags": ["O", "B-LOC", "O"]}], tokenizer(kind), 64)
    assert set(row["word_of"]) - {-1} == {0, 1, 2}
    firsts = [label for label in row["labels"] if label != IGNORED]
    assert [ENTITIES[label] for label in firsts] == ["O", "B-LOC", "O"]


# ---- reading


def read(tmp_path: Path, *rows: dict[str, Any], task: Tagging = NER, **fields: Any) -> list[dict[str, Any]]:
    """The test examples in a file of the rows."""
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = FileData(path=f"{tmp_path}/@split.jsonl", **{"columns": COLUMNS, **fields})
    languages = load_languages()
    return replace(task, data=data).examples(languages.find("mt"), languages, None)["test"]  # type: ignore[arg-type]


def test_examples(tmp_path: Path) -> None:
    """Numbers stand for classes, names stay, and labels that the task does not have are spelled otherwise."""
    rows = [
        {"id": "a", "tokens": ["Fra", "Malta", "2020"], "ner_tags": [0, 5, 7], "spans": "left out"},
        {"id": "b", "tokens": ["Malta"], "ner_tags": ["B-LOC"]},
    ]
    found = read(tmp_path, *rows, classes={"ner_tags": [*ENTITIES, "B-DATE"]}, spelling={"B-DATE": "O"})
    assert found == [
        {"id": "a", "tokens": ["Fra", "Malta", "2020"], "tags": ["O", "B-LOC", "O"]},
        {"id": "b", "tokens": ["Malta"], "tags": ["B-LOC"]},
    ]
    assert NER.labels_of(found[0]) == NER.gold(found[0]) == ["O", "B-LOC", "O"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ner_tags": ["O", "B-MISC"]}, r"test\.jsonl, row 1: the label 'B-MISC' is none of the declared ones.*B-PER, I-PER"),
        ({"ner_tags": ["O", 9]}, r"row 1: the label '9' is none"),
        ({"ner_tags": ["O"]}, r"row 1: each word needs a tag; it has 2 words and 1 tags"),
        ({"ner_tags": "O O"}, r"row 1: .* it has 2 words and no list of tags: 'O O'"),
        ({"tokens": [], "ner_tags": []}, r"row 1: its tokens are no list of words: \[\]"),
        ({"tokens": "ba"}, r"row 1: its tokens are no list of words: 'ba'"),
        ({"tokens": ["ba", None]}, r"row 1: its tokens are no list of words: \['ba', None\]"),
    ],
    ids=["undeclared", "number_without_class", "too_few", "no_list_of_tags", "no_words", "no_list_of_words", "no_word"],
)
def test_rows_that_are_no_examples(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    right = {"id": "a", "tokens": ["ba", "be"], "ner_tags": ["O", "O"]}
    wrong = {**right, **changes}
    with pytest.raises(UserError, match=complaint):
        read(tmp_path, right, wrong)
    with pytest.raises(ValueError):
        NER.read({"tokens": wrong["tokens"], "tags": wrong["ner_tags"]})


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        (replace(NER, labels=["O"]), r"at least two labels"),
        (replace(NER, labels=[*ENTITIES, "O"]), r"each once"),
        (replace(NER, labels=ENTITIES[:-1]), r"lacks I-LOC: for task\.scored_by=entities"),
        (replace(NER, labels=ENTITIES[1:]), r"lacks O:"),
        (replace(POS, scheme="continuation"), r"lacks .*B-UN.*task\.scheme=continuation"),
        (replace(NER, level="subword"), r"task\.level=subword: with task\.scheme=first only the first sub-word"),
        (replace(NER, metric="accuracy"), r"task\.metric=accuracy is no choice.*f1, precision, recall"),
        (replace(POS, metric="f1"), r"task\.metric=f1 is no choice"),
        (replace(NER, data=FileData(columns={"tokens": "tokens"})), r"column of the tags"),
    ],
)
def test_what_a_task_cannot_be(task: Tagging, complaint: str) -> None:
    for right in (NER, POS, PIECES, replace(POS, scheme="repeat", level="subword")):
        right.verify("task")
    with pytest.raises(UserError, match=complaint):
        task.verify("task")


def test_labels_of_another_task() -> None:
    """Sub-words can be scored only as they were labelled; a word's first sub-word has its label in every scheme."""
    NER.check_source(replace(NER, scheme="repeat"))
    PIECES.check_source(replace(NER, scheme="continuation"))
    with pytest.raises(UserError, match=r"source_task\.scheme=continuation"):
        PIECES.check_source(NER)
    with pytest.raises(UserError, match=r"have to be the same, in the same order"):
        NER.check_source(replace(NER, labels=ENTITIES[::-1]))
    with pytest.raises(UserError, match=r"another kind"):
        NER.check_source(SequenceClassification(labels=ENTITIES))


# ---- which sub-words carry labels


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Bur", "##ki", "##na", "Fa", "##so", "is", "be", "##autiful"]


@cache
def by_hand() -> PreTrainedTokenizerFast:
    numbers = {piece: number for number, piece in enumerate(VOCABULARY)}
    made = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")


BURKINA = {"tokens": ["Burkina", "Faso", "is", "beautiful"], "tags": ["B-LOC", "I-LOC", "O", "O"]}


@pytest.mark.parametrize(
    ("scheme", "labels"),
    [
        ("first", "B-LOC - - I-LOC - O O -"),
        ("continuation", "B-LOC I-LOC I-LOC I-LOC I-LOC O O O"),
        ("repeat", "B-LOC B-LOC B-LOC I-LOC I-LOC O O O"),
    ],
)
def test_schemes(scheme: str, labels: str) -> None:
    """[CLS] Bur ##ki ##na Fa ##so is be ##autiful [SEP]"""
    task = replace(NER, scheme=scheme)
    rows = task.encode([BURKINA, {"tokens": ["is"], "tags": ["O"]}], by_hand(), 64)
    assert " ".join(VOCABULARY[number] for number in rows[0]["input_ids"]) == "[CLS] Bur ##ki ##na Fa ##so is be ##autiful [SEP]"
    expected = [IGNORED if label == "-" else ENTITIES.index(label) for label in labels.split()]
    assert rows[0]["labels"] == [IGNORED, *expected, IGNORED]
    batch = task.batch(rows, by_hand(), 64)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["labels"][0].tolist() == [IGNORED, *expected, *[IGNORED] * (batch["labels"].shape[1] - 9)]
    assert task.count(batch) == len([label for label in expected if label != IGNORED]) + 1
    assert "labels" not in task.batch(task.encode([{"tokens": ["is"]}], by_hand(), 64), by_hand(), 64)


@pytest.mark.parametrize("scheme", ["first", "continuation", "repeat"])
@every_tokenizer
def test_a_sentence_longer_than_the_model(scheme: str, kind: str) -> None:
    """Windows are cut between words; together they hold each word once, with the labels that it has in one row."""
    task = replace(NER, scheme=scheme)
    example = {"tokens": SENTENCES[0] * 5, "tags": ["B-LOC", "O", "O", "O", "O", "B-ORG", "I-ORG", "O"] * 5}
    rows = task.encode([{"tokens": ["Malta"], "tags": ["B-LOC"]}, example], tokenizer(kind), 24)
    windows = [row for row in rows if row["example"] == 1]
    assert len(windows) > 3
    assert all(len(row["input_ids"]) <= 24 for row in rows)
    assert [number for row in windows for number in row["words"]] == list(range(40))
    (whole,) = task.encode([example], tokenizer(kind), 10_000)
    labels = [label for row in windows for label, place in zip(row["labels"], row["word_of"], strict=True) if place >= 0]
    assert labels == [label for label, place in zip(whole["labels"], whole["word_of"], strict=True) if place >= 0]


# ---- a whole composition


MODELS = {"wordpiece": "bert", "unigram": "xlm_roberta", "bytes": "llama"}


def composition(kind: str, task: Tagging = NER, max_length: int = 32) -> Composition:
    """On a model with random weights."""
    backbone = tiny_backbone(MODELS[kind], language_head=False, vocab_size=len(tokenizer(kind)))
    backbone.tokenizer = tokenizer(kind)
    return Composition(backbone, task, [Branch(task.head(backbone, generator(0)))], max_length, CPU)


def tagged(number: int, words: Sequence[str]) -> dict[str, Any]:
    """An example whose tags go with the words."""
    tags = [ENTITIES[sum(map(ord, word)) % 7] for word in words]
    return {"id": str(number), "tokens": list(words), "tags": tags}


EXAMPLES = [tagged(number, words) for number, words in enumerate([*SENTENCES, SENTENCES[0] * 3])]


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["first", "continuation", "repeat"])
def test_the_loss_is_the_sum_over_labelled_tokens(scheme: str) -> None:
    whole = composition("wordpiece", replace(NER, scheme=scheme))
    whole.model.eval()
    rows = whole.encode(EXAMPLES)
    batch = whole.maker(rows)(range(len(rows)), generator(0))
    expected = []
    for row in rows:  # one at a time, without padding
        ids = torch.tensor([row["input_ids"]])
        scores = whole.branches[0].head(whole.backbone.hidden_states(ids, torch.ones_like(ids)), torch.ones_like(ids))[0]
        expected += [
            float(cross_entropy(scores[place], torch.tensor(label)))
            for place, label in enumerate(row["labels"]) if label != IGNORED
        ]  # fmt: skip
    assert whole.count(batch) == len(expected)
    assert (len(expected) == sum(len(example["tokens"]) for example in EXAMPLES)) == (scheme == "first")
    assert float(whole.loss(batch, CPU)) == pytest.approx(sum(expected), rel=1e-4)


@pytest.mark.parametrize("level", ["word", "subword"])
@every_tokenizer
def test_every_word_has_a_prediction(kind: str, level: str) -> None:
    """In the order of the words and examples, whatever batches they were made in; a long sentence's windows are joined."""
    whole = composition(kind, replace(NER, scheme="repeat", level=level))
    with torch.no_grad():
        whole.branches[0].head.layers[-1].weight.normal_(generator=generator(1))
    assert len(whole.encode(EXAMPLES)) > len(EXAMPLES), "one is longer than the model"
    alone = [whole.predict([example])[0]["label"] for example in EXAMPLES]
    for batch_size in (2, 64):
        assert [prediction["label"] for prediction in whole.predict(EXAMPLES, batch_size)] == alone
    assert [len(tags) for tags in alone] == [len(example["tokens"]) for example in EXAMPLES]
    if level == "subword":
        pieces = [sum(place >= 0 for row in whole.encode([example]) for place in row["word_of"]) for example in EXAMPLES]
        assert [sum(map(len, words)) for words in alone] == pieces
        firsts = [[word[0] for word in words] for words in alone]
        words = composition(kind, replace(NER, scheme="repeat"))
        words.branches[0].head.load_state_dict(whole.branches[0].head.state_dict())
        assert firsts == [prediction["label"] for prediction in words.predict(EXAMPLES)]
    assert len({str(tag) for tags in alone for tag in tags}) >= 3


def test_nothing_to_label() -> None:
    assert composition("wordpiece").predict([{"tokens": []}, {"tokens": ["Malta"]}])[0] == {"label": []}


@pytest.mark.parametrize(
    ("kind", "task"),
    [("wordpiece", NER), ("unigram", replace(NER, scheme="repeat")), ("wordpiece", PIECES), ("bytes", PIECES)],
    ids=["first", "repeat", "continuation", "continuation_by_bytes"],
)
def test_what_is_learnt_by_heart_is_said_again(kind: str, task: Tagging) -> None:
    """Labels, scores and predictions belong to the same words, in every window: a score of 1 is within reach, and it is not
    where the labels are moved by one word."""
    # A decoder labels a piece before it sees the next: words with the same first piece look alike where windows begin.
    examples, max_length = (EXAMPLES[::6], 64) if kind == "bytes" else (EXAMPLES, 32)
    torch.manual_seed(0)
    whole = composition(kind, task, max_length)
    whole.model.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(whole.model.parameters(), lr=5e-3, weight_decay=0)
    rows = whole.encode(examples)
    assert len(rows) > len(examples)
    batch = whole.maker(rows)(range(len(rows)), generator(0))
    for _ in range(200):
        loss = whole.loss(batch, CPU) / whole.count(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert whole.score(examples) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    moved = [{**example, "tags": [*example["tags"][1:], *example["tags"][:1]]} for example in examples]
    assert whole.score(moved)["f1"] < 0.5


# ---- scores


def entity_scores(gold: Sequence[list[str]], predicted: Sequence[list[str]]) -> dict[str, float]:
    """By seqeval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scores that are undefined
        found = (score(gold, predicted) for score in (f1_score, precision_score, recall_score))
        return dict(zip(("f1", "precision", "recall"), map(float, found), strict=True))


def test_entity_scores_worked_out_by_hand() -> None:
    """Gold has four entities. Three are predicted: one is right, one ends too early, one is of another type."""
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "I-ORG", "O"], ["O", "B-LOC"]]
    predicted = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "O", "O"], ["O", "O"]]
    assert NER.counts(gold, predicted).tolist() == [[1, 2, 2], [0, 1, 1], [0, 0, 1]]
    assert NER.score(gold, predicted) == pytest.approx({"f1": 2 / 7, "precision": 1 / 3, "recall": 1 / 4})


@pytest.mark.parametrize(
    ("gold", "predicted", "counts"),
    [
        ("B-LOC O", "I-LOC O", [1, 1, 1]),  # an I- that continues nothing begins an entity
        ("B-LOC I-LOC", "I-PER I-LOC", [0, 2, 1]),  # as it does behind another type
        ("B-LOC B-LOC", "B-LOC I-LOC", [0, 1, 2]),
        ("B-LOC O", "O B-LOC", [0, 1, 1]),
    ],
)
def test_malformed_and_misplaced_entities(gold: str, predicted: str, counts: list[int]) -> None:
    assert NER.counts([gold.split()], [predicted.split()]).tolist() == [counts]


@pytest.mark.parametrize("sentences", [1, 3, 200])
def test_entity_scores_are_those_of_seqeval(sentences: int) -> None:
    """On tags in any order, well-formed or not."""
    draw = np.random.default_rng(sentences)
    lengths = draw.integers(20, 30, sentences)
    gold = [draw.choice(ENTITIES, length, p=[0.4, *[0.1] * 6]).tolist() for length in lengths]
    predicted = [[tag if draw.random() < 0.8 else str(draw.choice(ENTITIES)) for tag in tags] for tags in gold]
    expected = entity_scores(gold, predicted)
    assert 0 < expected["f1"] < 1
    assert NER.score(gold, predicted) == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("gold", "predicted"), [("B-LOC O", "O O"), ("O O", "B-LOC O"), ("O O", "O O")])
def test_nothing_found_or_nothing_there_is_zero(gold: str, predicted: str) -> None:
    scores = NER.score([gold.split()], [predicted.split()])
    assert scores == {"f1": 0, "precision": 0, "recall": 0} == entity_scores([gold.split()], [predicted.split()])


def test_scores_of_words_are_those_of_scikit_learn() -> None:
    """A label that is never predicted, as one that training lacks, counts as an F1 of zero; one that is nowhere does not."""
    draw = np.random.default_rng(0)
    gold = [draw.choice(["ADJ", "NOUN", "VERB"], length).tolist() for length in draw.integers(1, 9, 50)]
    predicted = [[tag if draw.random() < 0.7 and tag != "ADJ" else "NOUN" for tag in tags] for tags in gold]
    flat = [tag for tags in gold for tag in tags], [tag for tags in predicted for tag in tags]
    assert POS.counts(gold, predicted).shape == (50, 16)
    assert POS.score(gold, predicted) == pytest.approx(
        {"accuracy": accuracy_score(*flat), "macro_f1": label_f1_score(*flat, average="macro")}
    )
    assert POS.score([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]]) == pytest.approx(
        {"accuracy": 2 / 3, "macro_f1": (0.8 + 0) / 2}
    )


@pytest.mark.parametrize(
    ("scheme", "predicted", "counts"),
    [
        ("continuation", "B-LOC I-LOC I-LOC|I-LOC I-LOC|O|O O", [1, 1, 1]),
        ("continuation", "B-LOC I-LOC I-LOC|I-LOC O|O|O O", [0, 1, 1]),  # right by words
        ("repeat", "B-LOC B-LOC B-LOC|I-LOC I-LOC|O|O O", [3, 3, 3]),  # Bur, ##ki, and ##na Fa ##so
        ("repeat", "B-LOC I-LOC I-LOC|I-LOC I-LOC|O|O O", [0, 1, 3]),
    ],
)
def test_entities_of_sub_words(scheme: str, predicted: str, counts: list[int]) -> None:
    """Against the labels that `scheme` gives the pieces of Bur ##ki ##na|Fa ##so|is|be ##autiful, as seqeval scores these."""
    task = replace(NER, scheme=scheme, level="subword")
    words = [word.split() for word in predicted.split("|")]
    assert task.counts([BURKINA["tags"]], [words]).tolist() == [counts]
    (row,) = task.encode([BURKINA], by_hand(), 64)
    gold = [ENTITIES[label] for label in row["labels"] if label != IGNORED]
    expected = entity_scores([gold], [[tag for word in words for tag in word]])
    assert task.score([BURKINA["tags"]], [words]) == pytest.approx(expected)


def test_words_of_sub_words() -> None:
    task = replace(POS, scheme="repeat", level="subword")
    scores = task.score([["NOUN", "VERB"]], [[["NOUN", "NOUN", "ADJ"], ["VERB"]]])
    assert scores["accuracy"] == 3 / 4


def test_intervals_resample_sentences() -> None:
    draw = np.random.default_rng(0)
    gold = [draw.choice(ENTITIES, 6).tolist() for _ in range(100)]
    predicted = [[tag if draw.random() < 0.8 else "O" for tag in tags] for tags in gold]
    score, found = NER.score(gold, predicted), intervals(NER.metrics, NER.counts(gold, predicted), 200, seed=0)
    assert found.keys() == score.keys() == set(NER.known_metrics)
    assert all(low < score[name] < high for name, (low, high) in found.items())


# ---- the data sets


def task_of(name: str) -> Tagging:
    return build(cli.compose([f"task={name}"]).task, "task", Task)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["wikiann", "masakhaner", "conll2003", "mini_entities"])
def test_sets_of_names_have_the_same_labels(name: str) -> None:
    task = task_of(name)
    assert (task.labels, task.scored_by, task.metric) == (ENTITIES, "entities", "f1")
    assert (task.scheme, task.level) == ("first", "word")
    assert tuple(task.labels) == ENTITY_TAGS
    task_of("masakhaner").check_source(task)


def real(shared: Path, task: str, lang: str, *more: str) -> dict[str, list[dict[str, Any]]]:
    experiment = Experiment.from_config(cli.compose([f"task={task}", f"lang={lang}", f"paths.mirror={shared}/mirror", *more]))
    return experiment.task.examples(experiment.targets[0], experiment.languages, experiment.hub)


@pytest.mark.parametrize(
    ("task", "lang", "file", "others"),
    [("masakhaner", "swa", "masakhane/masakhaner/swa", {7, 8}), ("conll2003", "en", "eriktks/conll2003/conll2003", {7, 8})],
)
def test_real_names(task: str, lang: str, file: str, others: set[int], shared: Path) -> None:
    """Every sentence is read; dates and whatever else has no label of the task's are names of nothing."""
    examples = real(shared, task, lang)["test"]
    table = pyarrow.parquet.read_table(shared / "mirror" / file / "test-00000-of-00001.parquet").to_pylist()
    assert [example["tokens"] for example in examples] == [row["tokens"] for row in table]
    expected = [["O" if tag in others else ENTITIES[tag] for tag in row["ner_tags"]] for row in table]
    assert [example["tags"] for example in examples] == expected
    assert set().union(*expected) == set(ENTITIES)


def test_classes_are_held_against_the_data_set(shared: Path) -> None:
    with pytest.raises(UserError, match=r"declares the classes O, B-PER.*task\.data\.classes\.ner_tags"):
        real(shared, "masakhaner", "yo", "task.data.classes.ner_tags=[O,B-LOC,I-LOC,B-ORG,I-ORG,B-PER,I-PER,B-DATE,I-DATE]")


def test_a_language_without_the_data_set(shared: Path) -> None:
    with pytest.raises(UserError, match=r"eriktks/conll2003 has no Swahili.*it has: en.*source_task="):
        real(shared, "conll2003", "sw")


# ---- runs


@pytest.mark.parametrize(
    ("model", "task", "least"),
    [("miniature", "mini_entities", 0.5), ("miniature_llama", "mini_pos", 0.7)],
)
@pytest.mark.slow
def test_a_run_from_words_to_score(model: str, task: str, least: float, tmp_path: Path) -> None:
    """It learns something, and its predictions, scored by others, have the scores of its record."""
    record = xlt.run(
        f"model={model}", "data=miniature", f"task={task}", "lang=qaa", "method=none", "train=demo", "device=cpu",
        "task.data.sizes.test=300", f"paths.outputs={tmp_path}",
    )  # fmt: skip
    with record.predictions_path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    gold, predicted = ([row[side] for row in rows] for side in ("gold", "predicted"))
    if task == "mini_entities":
        expected = entity_scores(gold, predicted)
    else:
        flat = [tag for tags in gold for tag in tags], [tag for tags in predicted for tag in tags]
        expected = {"accuracy": accuracy_score(*flat), "macro_f1": label_f1_score(*flat, average="macro")}
    assert record["metrics"] == pytest.approx(expected)
    assert record["metrics"][record["metric"]] > least
    assert record["task_type"] == "token-classification"
    (said,) = xlt.load(record).predict([{"tokens": ["ba", "be"]}])
    assert len(said["label"]) == 2


@pytest.mark.slow
def test_english_names_teach_swahili_ones(shared: Path, tmp_path: Path) -> None:
    """From CoNLL-2003 to MasakhaNER, on the small multilingual model."""
    record = xlt.run(
        "model=hf", f"model.path={shared}/models/mini-multilingual", "method=none", "train=demo", "train.task.epochs=1",
        "task=masakhaner", "source_task=conll2003", "source=en", "lang=swa", "transfer=zero_shot", "device=cpu",
        'source_task.data.splits.train="train[:100]"', 'source_task.data.splits.validation="validation[:50]"',
        'task.data.splits.test="test[:100]"', f"paths.mirror={shared}/mirror", f"paths.outputs={tmp_path}",
    )  # fmt: skip
    assert (record["lang"], record["test_size"], record["metric"]) == ("sw", 100, "f1")
    assert 0 <= record["metrics"]["f1"] < 1
