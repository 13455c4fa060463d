"""Sequence classification: reading, heads, predictions, scores, their intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, sentence, tiny_tokenizer
from sklearn.metrics import accuracy_score, f1_score
from tokenizers.processors import TemplateProcessing

from xlt.analysis.bootstrap import intervals, paired_gain, paired_test
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.languages import load_languages
from xlt.methods.none import NoAdaptation
from xlt.random import generator
from xlt.steps.composition import Branch, Composition, load_head, save_task_module
from xlt.tasks.data import HubData
from xlt.tasks.sequence_classification import ClassificationHead, PairClassification, SequenceClassification

CPU = torch.device("cpu")
COLUMNS = {"id": "index_id", "text": "text", "label": "category"}
TASK = SequenceClassification(
    name="topics", data=HubData(id="tiny/topics", language_column="flores", columns=COLUMNS), labels=list(LABELS)
)
ROW = {"index_id": 7, "text": "ba be bi", "category": "kiki"}


class Rows:
    """A hub with one data set, whose splits hold the rows that are given for them."""

    def __init__(self, **rows: Sequence[dict[str, Any]]) -> None:
        self._rows = rows

    def source(self, name: str, kind: str, revision: str | None, export: bool) -> tuple[str, str]:
        return name, kind

    def splits(self, source: Any, config: str | None) -> list[str]:
        return list(self._rows)

    def rows(self, source: Any, config: str | None, split: str) -> Sequence[dict[str, Any]]:
        assert (source, config) == (("tiny/topics", "dataset"), "mlt_Latn")
        return self._rows[split]


def read(task: SequenceClassification = TASK, **rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    languages = load_languages()
    return task.examples(languages.find("mt"), languages, Rows(**rows))  # type: ignore[arg-type]


# ---- reading


def test_examples() -> None:
    other = {"index_id": 9, "text": "bo", "category": "bouba", "url": "left out"}
    expected = [{"id": "7", "text": "ba be bi", "label": "kiki"}, {"id": "9", "text": "bo", "label": "bouba"}]
    rows = [ROW, other]
    assert read(train=rows, validation=rows[:1], test=rows) == {"train": expected, "validation": expected[:1], "test": expected}


def test_rows_without_an_id_are_numbered() -> None:
    for columns in ({"text": "text", "label": "category"}, {**COLUMNS, "id": None}):
        task = replace(TASK, data=replace(TASK.data, columns=columns))
        assert [example["id"] for example in read(task, test=[ROW, ROW])["test"]] == ["0", "1"]


def test_ids_that_occur_twice_are_told_apart() -> None:
    assert [example["id"] for example in read(test=[ROW, {**ROW, "index_id": 8}, ROW, ROW])["test"]] == ["7", "8", "7#2", "7#3"]


@pytest.mark.parametrize(
    ("rows", "splits"),
    [
        ({"test": [ROW]}, ["test"]),
        ({"validation": [ROW], "test": [ROW], "unlabelled": [{}]}, ["validation", "test"]),
        ({"train": [], "validation": [ROW], "test": [ROW]}, ["validation", "test"]),
        ({"train": [ROW], "test": [ROW]}, ["train", "test"]),
    ],
    ids=["test only", "no train", "empty train", "one row to learn from"],
)
def test_splits_that_hold_nothing_are_left_out(rows: dict[str, Any], splits: list[str]) -> None:
    assert list(read(**rows)) == splits


def test_splits_that_a_task_leaves_out_are_not_read() -> None:
    task = replace(TASK, data=replace(TASK.data, splits={"train": None, "validation": None, "test": "test"}))
    assert list(read(task, train=[{}], validation=[{}], test=[ROW])) == ["test"]


def test_a_data_set_without_any_example_is_refused() -> None:
    for rows in ({}, {"train": [], "validation": [], "test": []}, {"other": [ROW]}):
        with pytest.raises(UserError, match=r"no examples in tiny/topics, mlt_Latn, any split"):
            read(**rows)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{**ROW, "index_id": number} for number in range(count)]


def test_without_a_validation_split_a_share_of_the_training_examples_is_one() -> None:
    """Every example is in one of the two, in the order of the data set; the draw is always the same one."""
    for share, size in ((0.1, 4), (0.5, 20), (0.001, 1)):
        task = replace(TASK, data=replace(TASK.data, validation_share=share))
        splits = read(task, train=numbered(40), test=numbered(3))
        assert list(splits) == ["train", "validation", "test"]
        train, validation = ([int(example["id"]) for example in splits[split]] for split in ("train", "validation"))
        assert len(validation) == size
        assert sorted(train + validation) == list(range(40))
        assert train == sorted(train) and validation == sorted(validation)
        assert read(replace(task, name="renamed"), train=numbered(40), test=numbered(3)) == splits, "names change no result"
    assert validation != [0] and train[-1] == 39, "drawn, not cut off"
    assert len(splits["test"]) == 3


def test_a_validation_split_of_its_own_is_left_alone() -> None:
    splits = read(train=numbered(40), validation=numbered(2))
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 40, "validation": 2}


def test_which_splits_there_are() -> None:
    languages = load_languages()

    def known(**rows: Sequence[dict[str, Any]]) -> list[bool | None]:
        maltese = languages.find("mt")
        return [TASK.has_split(split, maltese, languages, Rows(**rows)) for split in ("train", "validation", "test")]

    assert known(train=[ROW], test=[ROW]) == [True, True, True]
    assert known(validation=[ROW], test=[ROW]) == [False, True, True]
    assert known(test=[ROW]) == [False, False, True]


def test_which_splits_there_are_may_be_known_on_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "splits", lambda *_: None)
    languages = load_languages()
    data = replace(TASK.data, splits={"train": "train", "test": "test"})
    task, maltese = replace(TASK, data=data), languages.find("mt")
    assert [task.has_split(split, maltese, languages, Rows()) for split in ("train", "validation", "test")] == [None] * 3
    assert task.data.present(maltese, languages, Rows()) is None
    without_train = replace(TASK, data=replace(data, splits={"test": "test"}))
    assert without_train.has_split("train", maltese, languages, Rows()) is False


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({**ROW, "category": "baba"}, r"tiny/topics, mlt_Latn, train, row 1: the label 'baba' is none.*kiki, bouba"),
        ({**ROW, "text": " \n"}, r"tiny/topics, mlt_Latn, train, row 1: there is no text"),
        ({**ROW, "text": None}, r"row 1: there is no text in it: None"),
        ({"index_id": 1, "txet": "ba", "category": "kiki"}, r"mlt_Latn, train has no column text .*Did you mean txet\?"),
    ],
    ids=["undeclared_label", "white_space", "no_text", "missing_column"],
)
def test_rows_that_are_no_examples(row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read(train=[ROW, row])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": ["kiki"]}, "at least two labels"),
        ({"labels": ["kiki", "kiki"]}, "each once"),
        ({"metric": "f1"}, r"task\.metric=f1 is no choice.*macro_f1"),
        ({"data": HubData(columns={"text": "text"})}, "column of the label"),
        ({"data": HubData(columns={"text": "text", "label": None})}, "column of the label"),
    ],
)
def test_what_a_task_has_to_say(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        SequenceClassification(**{"labels": list(LABELS), "data": TASK.data} | changes).verify("task")


def pairs(**changes: Any) -> PairClassification:
    columns = {"premise": "premise", "hypothesis": "hypothesis", "label": "label"}
    return PairClassification(**{"data": HubData(columns=columns), "labels": list(LABELS)} | changes)


def test_what_a_task_on_pairs_reads() -> None:
    row = {"premise": "ba be", "hypothesis": "bi", "label": "kiki", "genre": "left out"}
    pairs().verify("task")
    assert pairs().read(row) == {"premise": "ba be", "hypothesis": "bi", "label": "kiki"}
    assert pairs().read({**row, "premise": " "})["premise"] == " ", "as it stands in test data that others score, too"
    for changes in ({"hypothesis": None}, {"premise": "", "hypothesis": " "}):
        with pytest.raises(ValueError, match="hypothesis in it"):
            pairs().read({**row, **changes})
    with pytest.raises(UserError, match="column of the hypothesis"):
        pairs(data=HubData(columns={"premise": "premise", "label": "label"})).verify("task")


def test_sources_whose_labels_mean_something_else_are_refused() -> None:
    TASK.check_source(replace(TASK, name="other", data=HubData(id="other/data")))
    with pytest.raises(UserError, match=r"labels bouba, kiki, and task=topics has kiki, bouba.*\+source_task\.data\.spelling"):
        TASK.check_source(replace(TASK, labels=list(reversed(LABELS))))
    with pytest.raises(UserError, match="of another kind"):
        TASK.check_source(pairs())


# ---- batches and heads


def batch_of(task: SequenceClassification, examples: Sequence[dict[str, Any]], length: int) -> dict[str, torch.Tensor]:
    tokenizer = tiny_tokenizer()
    return task.batch(task.encode(examples, tokenizer, length), tokenizer, length)


def test_a_batch() -> None:
    examples = [{"text": "ba be", "label": "bouba"}, {"text": " ".join(["bi"] * 50), "label": "kiki"}]
    batch = batch_of(TASK, examples, 12)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, *[0] * 8], [2, *[7] * 10, 3]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 12]
    assert batch["attention_mask"].tolist() == (batch["input_ids"] != 0).long().tolist()
    assert batch["labels"].tolist() == [1, 0]
    assert TASK.count(batch) == 2
    assert batch_of(TASK, [{"text": "ba"}], 12).keys() == {"input_ids", "attention_mask"}
    assert batch_of(TASK, examples[:1], 64)["input_ids"].shape == (1, 32), "few lengths occur"
    assert batch_of(TASK, examples, 40)["input_ids"].shape == (2, 40), "none is beyond what the model reads"


def test_a_batch_of_pairs() -> None:
    """The longer of the two texts is cut; where the tokenizer tells them apart, the model is told."""
    examples = [
        {"premise": "ba be", "hypothesis": "bi", "label": "bouba"},
        {"premise": "ba", "hypothesis": " ".join(["bi"] * 50), "label": "kiki"},
    ]
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    batch = pairs().batch(pairs().encode(examples, tokenizer, 10), tokenizer, 10)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, 7, 3, 0, 0, 0, 0], [2, 5, 3, 7, 7, 7, 7, 7, 7, 3]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [6, 10]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, *[1] * 7]]
    assert batch["labels"].tolist() == [1, 0]


@pytest.mark.parametrize(("pooling", "positions"), [("first", [0, 0, 0]), ("last", [4, 2, 0])])
@torch.no_grad()
def test_the_token_that_a_head_reads(pooling: str, positions: list[int]) -> None:
    """Scores change with that token's vector, and with no other."""
    head = ClassificationHead(8, 3, dropout=0.1, pooling=pooling).eval()
    hidden = torch.randn(3, 5, 8, generator=generator(0))
    mask = (torch.arange(5) < torch.tensor([5, 3, 1])[:, None]).long()
    expected = head(hidden, mask)
    for position in range(5):
        changed = hidden.clone()
        changed[:, position] += 1
        differs = (head(changed, mask) != expected).any(dim=1).tolist()
        assert differs == [position == read for read in positions]


def test_mean_pooling_leaves_padding_out() -> None:
    head = ClassificationHead(8, 3, dropout=0.1, pooling="mean").eval()
    hidden = torch.randn(2, 5, 8, generator=generator(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = head.layers(torch.stack([hidden[0].mean(dim=0), hidden[1, :3].mean(dim=0)]))
    assert torch.allclose(head(hidden, mask), expected, atol=1e-6)


@pytest.mark.parametrize(("architecture", "pooling"), [("bert", "first"), ("xlm_roberta", "first"), ("llama", "last")])
def test_heads_of_encoders_and_decoders(architecture: str, pooling: str, world: Path) -> None:
    """Encoders are read at the first token, decoders at the last; initial weights come from the generator alone."""
    backbone = Backbone.open(world / "models" / architecture)
    heads = [TASK.head(backbone, generator(seed)) for seed in (0, 0, 1)]
    assert heads[0].pooling == pooling
    first, same, other = (dict(head.named_parameters()) for head in heads)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))
    assert not any(parameter.any() for name, parameter in first.items() if name.endswith("bias"))
    assert all(parameter.requires_grad for parameter in first.values())


# ---- a whole composition


@pytest.fixture(params=["bert", "llama"])
def composition(request: pytest.FixtureRequest, world: Path) -> Composition:
    """With weights large enough to give different answers to different texts."""
    backbone = Backbone.open(world / "models" / request.param)
    head = TASK.head(backbone, generator(0))
    with torch.no_grad():
        for number, parameter in enumerate([*backbone.model.parameters(), *head.parameters()]):
            parameter.add_(torch.randn(parameter.shape, generator=generator(number)), alpha=0.3)
    return Composition(backbone, TASK, [Branch(head)], 32, CPU)


@pytest.fixture
def examples() -> list[dict[str, Any]]:
    draw = generator("examples")
    return [
        {"id": str(number), "text": sentence(draw, words=1 + (number * 7) % 25), "label": LABELS[number % 2]}
        for number in range(23)
    ]


def test_predictions_come_in_the_order_of_the_examples(composition: Composition, examples: list[dict[str, Any]]) -> None:
    """Whatever batches they were made in."""
    alone = [composition.predict([example])[0] for example in examples]
    assert len({round(prediction["probabilities"]["kiki"], 3) for prediction in alone}) > 15
    for batch_size in (4, 64):
        together = composition.predict(examples, batch_size)
        assert [prediction["label"] for prediction in together] == [prediction["label"] for prediction in alone]
        for prediction, expected in zip(together, alone, strict=True):
            assert prediction["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_probabilities(composition: Composition, examples: list[dict[str, Any]]) -> None:
    for prediction in composition.predict(examples):
        probabilities = prediction["probabilities"]
        assert list(probabilities) == list(LABELS)
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert prediction["label"] == max(probabilities, key=probabilities.__getitem__)


@torch.no_grad()
def test_the_loss_is_the_sum_of_the_examples(composition: Composition, examples: list[dict[str, Any]]) -> None:
    composition.model.eval()
    batch = composition.maker(composition.encode(examples))(range(len(examples)), generator(0))
    loss = composition.loss(batch, CPU)
    predictions = composition.predict(examples)
    expected = -sum(
        np.log(prediction["probabilities"][example["label"]]) for example, prediction in zip(examples, predictions, strict=True)
    )
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert composition.count(batch) == len(examples)


def test_the_score_compares_with_the_gold_labels(composition: Composition, examples: list[dict[str, Any]]) -> None:
    right = [
        {**example, "label": prediction["label"]}
        for example, prediction in zip(examples, composition.predict(examples), strict=True)
    ]
    assert composition.score(right) == {"macro_f1": 1.0, "accuracy": 1.0}
    turned = [{**example, "label": LABELS[example["label"] == LABELS[0]]} for example in right]
    assert composition.score(turned)["accuracy"] == 0.0


def test_a_stored_head_comes_back(composition: Composition, examples: list[dict[str, Any]], tmp_path: Path) -> None:
    backbone = composition.backbone
    save_task_module(tmp_path, NoAdaptation().create(backbone, generator(0)), composition.branches[0].head)
    loaded = Composition(backbone, TASK, [Branch(load_head(tmp_path, TASK.head(backbone, generator(5))))], 32, CPU)
    assert loaded.predict(examples) == composition.predict(examples)


# ---- scores


def test_scores_worked_out_by_hand() -> None:
    """F1 of a: 1/2 (precision 1/2, recall 1/2); of b: 4/5 (2/3, 1); of c, never predicted: 0. Of d, which occurs neither in gold
    nor in predictions, there is none."""
    scores = replace(TASK, labels=["d", "c", "a", "b"]).score(["a", "a", "b", "b", "c"], ["a", "b", "b", "b", "a"])
    assert scores == pytest.approx({"macro_f1": (0.5 + 0.8 + 0) / 3, "accuracy": 3 / 5})


def test_counts_of_test_sets_add_up() -> None:
    gold, predicted = answers(60)
    counts = TASK.counts(gold, predicted)
    assert counts.shape == (60, 4)
    assert (counts.sum(axis=1) == 1).all()
    parts = TASK.counts(gold[:20], predicted[:20]).sum(axis=0), TASK.counts(gold[20:], predicted[20:]).sum(axis=0)
    assert (parts[0] + parts[1] == counts.sum(axis=0)).all()


def answers(size: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Gold labels and predictions, seven of ten of them right."""
    draw = np.random.default_rng(seed)
    gold = draw.choice(list(LABELS), size).tolist()
    right = draw.permutation(np.arange(size) < 0.7 * size)
    return gold, [label if keep else LABELS[label == LABELS[0]] for label, keep in zip(gold, right, strict=True)]


def counted(size: int) -> np.ndarray:
    return TASK.counts(*answers(size))


def test_intervals_are_reproducible() -> None:
    counts = counted(40)
    assert intervals(TASK.metrics, counts, 100, seed=1) == intervals(TASK.metrics, counts, 100, seed=1)
    assert intervals(TASK.metrics, counts, 100, seed=1) != intervals(TASK.metrics, counts, 100, seed=2)


def test_an_interval_is_as_wide_as_the_sample_makes_it() -> None:
    """Of an accuracy p over n examples: p ± 1.96 · sqrt(p (1 − p) / n)."""
    for size in (50, 200, 800):
        low, high = intervals(TASK.metrics, counted(size), 1000, seed=0)["accuracy"]
        assert low < 0.7 < high
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / size), rel=0.15)


def test_intervals_are_those_of_test_sets_drawn_one_by_one() -> None:
    """The plain bootstrap: rows drawn with replacement, each test set scored by itself."""
    gold, predicted = answers(80)
    draw, scores = np.random.default_rng(3), []
    for _ in range(2000):
        chosen = draw.integers(80, size=80)
        scores.append(TASK.score([gold[i] for i in chosen], [predicted[i] for i in chosen])["macro_f1"])
    expected = np.percentile(scores, [2.5, 97.5])
    assert intervals(TASK.metrics, counted(80), 2000, seed=0)["macro_f1"] == pytest.approx(expected, abs=0.02)


def test_a_lower_confidence_makes_a_narrower_interval() -> None:
    counts = counted(100)
    wide = intervals(TASK.metrics, counts, 500, seed=0)["accuracy"]
    narrow = intervals(TASK.metrics, counts, 500, seed=0, confidence=0.5)["accuracy"]
    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


def test_every_metric_has_an_interval_that_contains_its_value() -> None:
    score = TASK.score(*answers(60))
    interval = intervals(TASK.metrics, counted(60), 200, seed=0)
    assert interval.keys() == score.keys()
    assert all(low < score[name] < high for name, (low, high) in interval.items())


def test_nothing_to_doubt_about_a_perfect_answer() -> None:
    gold, _ = answers(30)
    assert intervals(TASK.metrics, TASK.counts(gold, gold), 50, seed=0)["accuracy"] == (1.0, 1.0)


def test_scores_of_many_test_sets_at_a_time_are_those_of_scikit_learn() -> None:
    labels = ["a", "b", "c", "d"]
    task = replace(TASK, labels=labels)
    draw = np.random.default_rng(0)
    gold, predicted = (draw.choice(labels, 30, p=[0.4, 0.4, 0.19, 0.01]).tolist() for _ in range(2))
    draws = draw.integers(30, size=(20, 30))
    scores = task.metrics(task.counts(gold, predicted)[draws].sum(axis=1))
    assert scores["macro_f1"].shape == (20,)
    for number, chosen in enumerate(draws):
        sample = [gold[i] for i in chosen], [predicted[i] for i in chosen]
        assert scores["macro_f1"][number] == pytest.approx(f1_score(*sample, average="macro"))
        assert scores["accuracy"][number] == pytest.approx(accuracy_score(*sample))


# ---- gains and tests


def test_a_gain_is_the_difference_of_the_means_over_runs() -> None:
    gold = list(LABELS) * 50
    half, all_right, none_right = (TASK.counts(gold, predicted) for predicted in (["kiki"] * 100, gold, ["bouba", "kiki"] * 50))
    gain, (low, high) = paired_gain(TASK.metrics, [half, none_right], [half, all_right], "accuracy")
    assert gain == pytest.approx((0.5 + 1.0) / 2 - (0.5 + 0.0) / 2)
    assert (low, high) == pytest.approx((gain, gain))  # every example gains alike, so that resampling changes nothing


def test_pairing_cancels_what_makes_examples_hard() -> None:
    """Two runs that err on the same examples, but for a few: the interval of the gain is that of these few."""
    gold, before = answers(1000)
    after = [*gold[:50], *before[50:]]
    gain, (low, high) = paired_gain(TASK.metrics, [TASK.counts(gold, before)], [TASK.counts(gold, after)], "accuracy", seed=1)
    mended = sum(a != b for a, b in zip(before, after, strict=True)) / 1000
    assert gain == pytest.approx(mended)
    assert 0 < low < gain < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(mended * (1 - mended) / 1000), rel=0.2)


def test_a_test_of_equal_sides_finds_nothing() -> None:
    counts = counted(50)
    assert paired_test(TASK.metrics, [counts], [counts], "accuracy", samples=200) == 1.0


def test_a_test_of_a_clear_gain() -> None:
    """Ten of ten examples mended: only none or all of the coins give as much, 2 of 1024 cases."""
    gold = list(LABELS) * 5
    before = [LABELS[label == LABELS[0]] for label in gold]
    counts = [TASK.counts(gold, predicted) for predicted in (before, gold)]
    assert paired_test(TASK.metrics, [counts[0]], [counts[1]], "accuracy") == pytest.approx(2 / 1024, abs=0.0015)
    more = [TASK.counts(gold * 10, predicted * 10) for predicted in (before, gold)]
    assert paired_test(TASK.metrics, [more[0]], [more[1]], "macro_f1", samples=500) == pytest.approx(1 / 501)


def test_a_test_is_that_over_all_changes_of_sides() -> None:
    """Two runs on nine examples: every one of the 2 ** 9 changes of sides, each example's answers together in both runs."""
    draw = np.random.default_rng(4)
    gold = draw.choice(list(LABELS), 9).tolist()
    before, after = ([draw.choice(list(LABELS), 9).tolist() for _ in range(2)] for _ in range(2))
    after[0] = list(gold)

    def gain(sides: Sequence[list[list[str]]]) -> float:
        means = [np.mean([TASK.score(gold, run)["macro_f1"] for run in side]) for side in sides]
        return float(means[1] - means[0])

    gains = []
    for changed in product([False, True], repeat=9):
        sides = [
            [np.where(changed, other, own).tolist() for own, other in zip(*pair, strict=True)]
            for pair in ((before, after), (after, before))
        ]
        gains.append(gain(sides))
    exact = np.mean([abs(value) >= abs(gain([before, after])) - 1e-12 for value in gains])
    assert 0.02 < exact < 0.9, "a case that tells something"
    counts = [[TASK.counts(gold, run) for run in runs] for runs in (before, after)]
    found = paired_test(TASK.metrics, *counts, "macro_f1", samples=20_000, seed=1)
    assert found == pytest.approx(exact, abs=0.015)
    assert paired_test(TASK.metrics, counts[1], counts[0], "macro_f1", samples=20_000, seed=1) == pytest.approx(found, abs=1e-9)


def test_a_test_compares_as_many_runs_on_either_side() -> None:
    with pytest.raises(ValueError, match="as many runs"):
        paired_test(TASK.metrics, [counted(9)], [counted(9), counted(9)], "accuracy")
