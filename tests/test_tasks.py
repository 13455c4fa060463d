"""Sequence classification: reading, heads, predictions, scores and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, sentence, tiny_tokenizer
from sklearn.metrics import accuracy_score, f1_score

from xlt.analysis.bootstrap import intervals, paired_gain
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.languages import load_languages
from xlt.methods.none import NoAdaptation
from xlt.random import generator
from xlt.steps.composition import Composition, load_head, save_task_module
from xlt.tasks.data import HubData
from xlt.tasks.sequence_classification import ClassificationHead, SequenceClassification

CPU = torch.device("cpu")
COLUMNS = {"id": "index_id", "text": "text", "label": "category"}
TASK = SequenceClassification(
    name="topics", data=HubData(id="tiny/topics", language_column="flores", columns=COLUMNS), labels=list(LABELS)
)
ROW = {"index_id": 7, "text": "ba be bi", "category": "kiki"}


class Rows:
    """A hub with one data set, the same rows in every split."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self._rows = rows

    def source(self, name: str, kind: str, revision: str | None) -> tuple[str, str]:
        return name, kind

    def rows(self, source: Any, config: str | None, split: str) -> Sequence[dict[str, Any]]:
        assert (source, config) == (("tiny/topics", "dataset"), "mlt_Latn")
        return self._rows


def read(*rows: dict[str, Any], task: SequenceClassification = TASK) -> dict[str, list[dict[str, Any]]]:
    languages = load_languages()
    return task.examples(languages.find("mt"), languages, Rows(*rows))  # type: ignore[arg-type]


# ---- reading


def test_examples() -> None:
    other = {"index_id": 9, "text": "bo", "category": "bouba", "url": "left out"}
    expected = [{"id": "7", "text": "ba be bi", "label": "kiki"}, {"id": "9", "text": "bo", "label": "bouba"}]
    assert read(ROW, other) == {"train": expected, "validation": expected, "test": expected}


def test_rows_without_an_id_are_numbered_and_splits_that_a_task_lacks_are_left_out() -> None:
    splits = {"train": None, "validation": None, "test": "test"}
    data = HubData(id="tiny/topics", language_column="flores", splits=splits, columns={"text": "text", "label": "category"})
    task = SequenceClassification(data=data, labels=list(LABELS))
    assert {split: [example["id"] for example in examples] for split, examples in read(ROW, ROW, task=task).items()} == {
        "test": ["0", "1"]
    }


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
        read(ROW, row)


def test_an_empty_split() -> None:
    with pytest.raises(UserError, match=r"no examples in tiny/topics, mlt_Latn, train"):
        read()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": ["kiki"]}, "at least two labels"),
        ({"labels": ["kiki", "kiki"]}, "each once"),
        ({"metric": "f1"}, r"task\.metric=f1 is no choice.*macro_f1"),
        ({"data": HubData(columns={"text": "text"})}, "column of the label"),
    ],
)
def test_what_a_task_has_to_say(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        SequenceClassification(**{"labels": list(LABELS), "data": TASK.data} | changes).verify("task")


def test_a_transfer_setting_needs_its_splits() -> None:
    TASK.require_splits("train", "test", transfer="in_language")
    data = HubData(splits={"train": None, "test": "test"})
    with pytest.raises(UserError, match=r"needs labels in the split train and validation.*has: test.*task\.data\.splits") as told:
        SequenceClassification(data=data).require_splits("train", "validation", "test", transfer="in_language")
    assert "train=test" not in str(told.value), "nobody is advised to train on test data"


# ---- batches and heads


def test_a_batch() -> None:
    examples = [{"text": "ba be", "label": "bouba"}, {"text": " ".join(["bi"] * 50), "label": "kiki"}]
    batch = TASK.batch(examples, tiny_tokenizer(), 12)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, *[0] * 8], [2, *[7] * 10, 3]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 12]
    assert batch["labels"].tolist() == [1, 0]
    assert "labels" not in TASK.batch([{"text": "ba"}], tiny_tokenizer(), 12)


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
    return Composition(backbone, head, TASK, 32, CPU)


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
    batch = composition.make(examples, range(len(examples)), generator(0))
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
    save_task_module(tmp_path, NoAdaptation().create(backbone, generator(0)), composition.head)
    loaded = Composition(backbone, load_head(tmp_path, TASK.head(backbone, generator(5))), TASK, 32, CPU)
    assert loaded.predict(examples) == composition.predict(examples)


# ---- scores


def test_scores_worked_out_by_hand() -> None:
    """F1 of a: 1/2 (precision 1/2, recall 1/2); of b: 4/5 (2/3, 1); of c, never predicted: 0."""
    scores = TASK.score(["a", "a", "b", "b", "c"], ["a", "b", "b", "b", "a"])
    assert scores == pytest.approx({"macro_f1": (0.5 + 0.8 + 0) / 3, "accuracy": 3 / 5})


def answers(size: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Gold labels and predictions, seven of ten of them right."""
    draw = np.random.default_rng(seed)
    gold = draw.choice(list(LABELS), size).tolist()
    right = draw.permutation(np.arange(size) < 0.7 * size)
    return gold, [label if keep else LABELS[label == LABELS[0]] for label, keep in zip(gold, right, strict=True)]


def test_intervals_are_reproducible() -> None:
    gold, predicted = answers(40)
    assert intervals(TASK.resampled_scores, gold, predicted, 100, seed=1) == intervals(
        TASK.resampled_scores, gold, predicted, 100, seed=1
    )
    assert intervals(TASK.resampled_scores, gold, predicted, 100, seed=1) != intervals(
        TASK.resampled_scores, gold, predicted, 100, seed=2
    )


def test_an_interval_is_as_wide_as_the_sample_makes_it() -> None:
    """Of an accuracy p over n examples: p ± 1.96 · sqrt(p (1 − p) / n)."""
    for size in (50, 200, 800):
        low, high = intervals(TASK.resampled_scores, *answers(size), 1000, seed=0)["accuracy"]
        assert low < 0.7 < high
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / size), rel=0.15)


def test_a_lower_confidence_makes_a_narrower_interval() -> None:
    gold, predicted = answers(100)
    wide = intervals(TASK.resampled_scores, gold, predicted, 500, seed=0)["accuracy"]
    narrow = intervals(TASK.resampled_scores, gold, predicted, 500, seed=0, confidence=0.5)["accuracy"]
    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


def test_every_metric_has_an_interval_that_contains_its_value() -> None:
    gold, predicted = answers(60)
    score = TASK.score(gold, predicted)
    interval = intervals(TASK.resampled_scores, gold, predicted, 200, seed=0)
    assert interval.keys() == score.keys()
    assert all(low < score[name] < high for name, (low, high) in interval.items())


def test_nothing_to_doubt_about_a_perfect_answer() -> None:
    gold, _ = answers(30)
    assert intervals(TASK.resampled_scores, gold, gold, 50, seed=0)["accuracy"] == (1.0, 1.0)


def test_scores_of_many_test_sets_at_a_time_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    gold, predicted = (draw.choice(["a", "b", "c", "d"], 30, p=[0.4, 0.4, 0.19, 0.01]).tolist() for _ in range(2))
    draws = draw.integers(30, size=(20, 30))
    scores = TASK.resampled_scores(gold, predicted, draws)
    for number, chosen in enumerate(draws):
        sample = [gold[i] for i in chosen], [predicted[i] for i in chosen]
        assert scores["macro_f1"][number] == pytest.approx(f1_score(*sample, average="macro"))
        assert scores["accuracy"][number] == pytest.approx(accuracy_score(*sample))
        assert (
            super(type(TASK), TASK).resampled_scores(gold, predicted, draws[[number]])["macro_f1"][0]
            == scores["macro_f1"][number]
        )


def test_a_gain_is_the_difference_of_the_means_over_runs() -> None:
    gold = ["a", "b"] * 50
    half, all_right, none_right = ["a"] * 100, gold, ["b", "a"] * 50
    gain, (low, high) = paired_gain(TASK.resampled_scores, gold, [half, none_right], [half, all_right], "accuracy")
    assert gain == pytest.approx((0.5 + 1.0) / 2 - (0.5 + 0.0) / 2)
    assert (low, high) == pytest.approx((gain, gain))  # every example gains alike, so that resampling changes nothing


def test_pairing_cancels_what_makes_examples_hard() -> None:
    """Two runs that err on the same examples, but for a few: the interval of the gain is that of these few."""
    gold, before = answers(1000)
    after = [*gold[:50], *before[50:]]
    gain, (low, high) = paired_gain(TASK.resampled_scores, gold, [before], [after], "accuracy", seed=1)
    mended = sum(a != b for a, b in zip(before, after, strict=True)) / 1000
    assert gain == pytest.approx(mended)
    assert 0 < low < gain < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(mended * (1 - mended) / 1000), rel=0.2)
