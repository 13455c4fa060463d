"""Pseudo-perplexity: worked out by hand, one mask at a time, and in whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_tiny_model, sentence, tiny_backbone, tiny_tokenizer
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

import xlt.tasks.pseudo_perplexity as implementation
from xlt.backbones.backbone import Backbone
from xlt.cli import compose, exit_status
from xlt.config import build
from xlt.errors import UserError
from xlt.experiment import READY_MADE, Experiment
from xlt.random import generator
from xlt.tasks.base import Task
from xlt.tasks.data import HubData
from xlt.tasks.pseudo_perplexity import PseudoPerplexity, Query, log_likelihoods

DATA = HubData(id="tiny/sentences", columns={"text": "sentence"})
TASK = PseudoPerplexity(name="pppl", data=DATA)
MINIATURE = next((READY_MADE / "backbone").glob("miniature-*"))


def counted(log_likelihood: float, predicted: int, **others: int) -> dict[str, Any]:
    """What a prediction's label holds."""
    return {"log_likelihood": log_likelihood, "predicted": predicted, "tokens": 2, "characters": 5, "unknown": 0, **others}


def opened(kind: str, tokenizer: PreTrainedTokenizerFast | None = None) -> Backbone:
    backbone = tiny_backbone(kind)
    backbone.tokenizer = tokenizer or tiny_tokenizer()
    return backbone


def without_special_tokens() -> PreTrainedTokenizerFast:
    """The tiny tokenizer, which then puts nothing around a text."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    return tokenizer


def predict(backbone: Backbone, texts: list[str], max_length: int = 64, **settings: Any) -> list[dict[str, Any]]:
    """The labels of the predictions for some texts."""

    def nothing_else(split: str) -> list[dict[str, Any]]:
        raise AssertionError(f"{split} is not asked for")

    task = PseudoPerplexity(data=DATA, **settings)
    return [found["label"] for found in task.predict(backbone, [{"text": text} for text in texts], max_length, nothing_else)]


@torch.no_grad()
def one_mask_at_a_time(backbone: Backbone, ids: list[int], positions: list[int]) -> float:
    """Σ ln p(x_i | all others), by the model's own output."""
    total = 0.0
    for position in positions:
        masked = torch.tensor([ids])
        masked[0, position] = backbone.tokenizer.mask_token_id
        scores = backbone.model(input_ids=masked, attention_mask=torch.ones_like(masked)).logits
        total += float(scores[0, position].double().log_softmax(dim=-1)[ids[position]])
    return total


def texts(words: list[str] | None = None) -> list[str]:
    """Texts of very different lengths, some twice; of given words, or of the tiny tokenizer's."""
    draw = generator("texts")
    lengths = [1, 23, 4, 4, 11, 2, 17, 1]
    if words is None:
        return [sentence(draw, length) for length in lengths]
    return [" ".join(words[int(number)] for number in torch.randint(len(words), (length,), generator=draw)) for length in lengths]


# ---- the formulas


def test_the_formulas_worked_out_by_hand() -> None:
    """p = .5 and .25 → (.125)^(−1/2) = 2.83; with two special tokens at p = 1, which count → (.125)^(−1/4) = 1.68."""
    log_likelihood = math.log(0.5) + math.log(0.25)
    assert TASK.score([None], [counted(log_likelihood, 2)])["pseudo_perplexity"] == pytest.approx(2.8284, abs=1e-4)
    assert TASK.score([None], [counted(log_likelihood, 4)])["pseudo_perplexity"] == pytest.approx(1.6818, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (math.exp(2 / 2) + math.exp(9 / 3)) / 2),
        ({"over": "corpus"}, math.exp((2 + 9) / (2 + 3))),
        ({"per": "character"}, (math.exp(2 / 5) + math.exp(9 / 6)) / 2),
        ({"over": "corpus", "per": "character"}, math.exp((2 + 9) / (5 + 6))),
    ],
    ids=["sentences", "corpus", "characters", "corpus_characters"],
)
def test_what_is_averaged(settings: dict[str, str], expected: float) -> None:
    labels = [counted(-2.0, 2), counted(-9.0, 3, tokens=6, characters=6, unknown=3)]
    scores = PseudoPerplexity(data=DATA, **settings).score([None, None], labels)
    assert scores == pytest.approx({"pseudo_perplexity": expected, "unknown_share": 3 / 8})


def test_a_sentence_of_which_nothing_can_be_predicted_does_not_count() -> None:
    nothing = counted(0.0, 0, tokens=1, unknown=1)
    for settings in ({}, {"over": "corpus"}, {"per": "character"}):
        task = PseudoPerplexity(data=DATA, **settings)
        assert task.score([None] * 2, [counted(-2.0, 2), nothing]) == task.score([None], [counted(-2.0, 2)])


def test_scores_of_many_test_sets_at_a_time() -> None:
    """As the intervals need them: each from the sums of its own examples."""
    labels = [counted(-float(number), 1 + number % 3, unknown=number % 2) for number in range(10)]
    weights = np.random.default_rng(0).integers(3, size=(4, 10))
    for over in ("sentences", "corpus"):
        task = PseudoPerplexity(data=DATA, over=over)
        scores = task.metrics(weights @ task.counts([None] * 10, labels))
        for number, row in enumerate(weights):
            chosen = [label for label, times in zip(labels, row, strict=True) for _ in range(times)]
            expected = task.score([None] * len(chosen), chosen)
            assert {name: values[number] for name, values in scores.items()} == pytest.approx(expected)


# ---- masked models


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", ["bert", "xlm_roberta", "modernbert", "deberta_v2", "miniature"])
def test_a_masked_model_is_asked_for_one_token_at_a_time(kind: str, special: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever sentences go through it together: several passes of several rows, and the language head in parts."""
    monkeypatch.setattr(implementation, "_TOKENS_IN_A_PASS", 150)
    monkeypatch.setattr(implementation, "_SCORED_TOGETHER", 7)
    backbone = Backbone.open(MINIATURE, language_head=True) if kind == "miniature" else opened(kind)
    backbone.model.eval()
    whole = [piece for piece in backbone.tokenizer.get_vocab() if piece.isalpha() and piece.isascii()]
    given = texts(sorted(whole) if kind == "miniature" else None)
    found = predict(backbone, given, special_tokens=special)
    for text, label in zip(given, found, strict=True):
        ids = backbone.tokenizer(text)["input_ids"]
        positions = list(range(len(ids))) if special else list(range(1, len(ids) - 1))
        assert label["log_likelihood"] == pytest.approx(one_mask_at_a_time(backbone, ids, positions), rel=1e-5)
        assert (label["predicted"], label["tokens"]) == (len(positions), len(ids) - 2)
        assert (label["characters"], label["unknown"]) == (len(text), 0)
    assert len({round(label["log_likelihood"], 3) for label in found}) > 5


def test_unknown_and_cut_sentences() -> None:
    """Unknown tokens are predicted as any other; what is cut off counts nowhere."""
    backbone = opened("bert")
    first, second = predict(backbone, ["ba ? be", "ba be ? bi bo"], max_length=5)
    assert (first["predicted"], first["tokens"], first["unknown"], first["characters"]) == (5, 3, 1, 7)
    assert first["log_likelihood"] == pytest.approx(one_mask_at_a_time(backbone, [2, 5, 1, 6, 3], list(range(5))), rel=1e-5)
    assert (second["predicted"], second["tokens"], second["unknown"], second["characters"]) == (5, 3, 1, 7)
    assert second["log_likelihood"] == pytest.approx(one_mask_at_a_time(backbone, [2, 5, 6, 1, 3], list(range(5))), rel=1e-5)


def test_a_pass_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In tokens; a row that alone is longer goes alone. And the language head reads what is asked for, nothing else."""
    monkeypatch.setattr(implementation, "_TOKENS_IN_A_PASS", 40)
    backbone, shapes, read = opened("bert"), [], []
    hidden_states, language_head = backbone.hidden_states, backbone.language_head

    def seen(ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return hidden_states(ids, attention)

    def scored(states: torch.Tensor) -> torch.Tensor:
        read.append(len(states))
        return language_head(states)

    monkeypatch.setattr(backbone, "hidden_states", seen)
    monkeypatch.setattr(backbone, "language_head", scored)
    given = [" ".join(["ba"] * length) for length in (50, 3, 6)]
    predict(backbone, given)
    assert shapes == [(1, 52)] * 52 + [(5, 8), (5, 8), (3, 5)]  # the last of the 8 copies go with some of the shorter ones
    assert sum(read) == 52 + 8 + 5


# ---- causal models


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_the_perplexity_of_a_causal_model(kind: str) -> None:
    """That of the loss that transformers computes: the first special token is not predicted, all others are."""
    backbone = opened(kind)
    given = texts()
    for text, label in zip(given, predict(backbone, given), strict=True):
        ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
        loss = float(backbone.model(input_ids=ids, labels=ids).loss)
        assert label["predicted"] == ids.shape[1] - 1 == label["tokens"] + 1
        assert math.exp(-label["log_likelihood"] / label["predicted"]) == pytest.approx(math.exp(loss), rel=1e-5)


@torch.no_grad()
def test_the_first_token_is_predicted_only_behind_a_special_one() -> None:
    text, ids = "ba be bi", torch.tensor([[5, 6, 7]])
    alone, with_others = opened("llama", without_special_tokens()), opened("llama")
    (label,) = predict(alone, [text])
    losses = cross_entropy(alone.model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    assert (label["predicted"], label["tokens"]) == (2, 3)
    assert label["log_likelihood"] == pytest.approx(-float(losses), rel=1e-5)
    (label,) = predict(with_others, [text], special_tokens=False)
    behind = torch.cat([torch.tensor([[2]]), ids], dim=1)
    losses = cross_entropy(with_others.model(input_ids=behind).logits[0, :-1], ids[0], reduction="sum")
    assert (label["predicted"], label["tokens"]) == (3, 3)
    assert label["log_likelihood"] == pytest.approx(-float(losses), rel=1e-5)
    (nothing,) = predict(alone, ["ba"])
    assert (nothing["predicted"], nothing["log_likelihood"]) == (0, 0.0)


def test_queries_that_ask_for_several_tokens() -> None:
    """A masked model reads none of them; a causal one reads those that come before."""
    masked, causal = opened("bert"), opened("llama")
    query, other = Query([2, 5, 6, 7, 3], [1, 2]), Query([2, 5, 9, 7, 3], [1])
    both, first = log_likelihoods(masked, [query])[0], log_likelihoods(masked, [Query([2, 5, 4, 7, 3], [1])])[0]
    assert both == pytest.approx(first + log_likelihoods(masked, [Query([2, 4, 6, 7, 3], [2])])[0], rel=1e-5)
    assert log_likelihoods(causal, [Query(query.ids, [1]), other]) == pytest.approx([log_likelihoods(causal, [other])[0]] * 2)


# ---- what cannot be


@pytest.mark.parametrize("kind", ["mbart", "m2m_100"])
def test_encoder_decoders_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"encoder-decoder.*Take an encoder"):
        predict(opened(kind), ["ba"])


def test_a_tokenizer_without_a_mask() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="no mask token"):
        predict(opened("bert", tokenizer), ["ba"])


@pytest.mark.parametrize("text", [None, " \n", 3])
def test_rows_without_text(text: Any) -> None:
    with pytest.raises(ValueError, match="no text"):
        TASK.read({"text": text})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ("task.metric=accuracy", r"task\.metric=accuracy is no choice.*pseudo_perplexity"),
        ("task.over=words", r"task\.over=words is no choice.*corpus, sentences"),
        ("task.per=word", r"task\.per=word is no choice"),
        ("~task.data.columns.text", "column of the text"),
    ],
)
def test_settings_that_cannot_be(changes: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        build(compose(["lang=mt", "task=pppl", changes]).task, "task", Task)


def test_an_encoder_decoder_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "mbart", "mbart")
    with pytest.raises(UserError, match="mbart is an encoder-decoder"):
        _ = experiment(tmp_path, "model=hf", f"model.path={model}", "lang=qaa").evaluations


# ---- whole runs


def experiment(folder: Path, *overrides: str) -> Experiment:
    return Experiment.from_config(compose(["task=mini_pppl", "data=miniature", f"paths.outputs={folder}", *overrides]))


def run(folder: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record and the predictions of a run."""
    assert exit_status([*overrides, "device=cpu", f"paths.outputs={folder}"]) == 0
    (record,) = folder.glob("runs/**/result.json")
    (predictions,) = folder.glob("store/evaluation/*/predictions.jsonl")
    return json.loads(record.read_text()), [json.loads(line) for line in predictions.read_text().splitlines()]


def test_a_run_on_an_invented_language(tmp_path: Path) -> None:
    """Of those of its own the miniature model expects more than of those of another one: 18 and 1202 over 500 sentences."""
    scores = {}
    for code in ("qaa", "qad"):
        given = ["model=miniature", "data=miniature", "task=mini_pppl", "method=none", f"lang={code}", "task.data.sizes.test=20"]
        record, predictions = run(tmp_path / code, *given)
        assert (record["metric"], record["test_size"], record["metrics"]["unknown_share"]) == ("pseudo_perplexity", 20, 0)
        each = [math.exp(-row["predicted"]["log_likelihood"] / row["predicted"]["predicted"]) for row in predictions]
        scores[code] = record["metrics"]["pseudo_perplexity"]
        assert scores[code] == pytest.approx(sum(each) / 20)
        low, high = record["intervals"]["pseudo_perplexity"]
        assert low < scores[code] < high
        assert {row["gold"] for row in predictions} == {None}
    assert 10 * scores["qaa"] < scores["qad"]


@pytest.mark.slow
def test_a_language_module_lowers_it(tmp_path: Path) -> None:
    fixed = ["model=miniature", "data=miniature", "task=mini_pppl", "lang=qad", "train=demo", "task.data.sizes.test=100"]
    before, _ = run(tmp_path / "before", *fixed, "method=none")
    after, _ = run(tmp_path / "after", *fixed, "method=seq_bn_inv", "train.language.loop.steps=200")
    assert 2 * after["metrics"]["pseudo_perplexity"] < before["intervals"]["pseudo_perplexity"][0]


def test_real_sentences(shared: Path, tmp_path: Path) -> None:
    """FLORES-200's Maltese on a real model, by name and column of the hub; its first sentence one mask at a time."""
    model = shared / "models" / "mini-multilingual"
    if not model.is_dir():
        pytest.skip("no real model is here: no folder shared/models/mini-multilingual beside the checkout")
    given = ["task=pppl", "lang=mt", "method=none", "model=hf", f"model.path={model}", f"paths.mirror={shared / 'mirror'}"]
    record, predictions = run(tmp_path, *given, 'task.data.splits.test="devtest[:3]"')
    assert record["test_size"] == 3
    assert 0 < record["metrics"]["unknown_share"] < 0.3  # its tokenizer lacks ħ, ġ and ż
    backbone = Backbone.open(model, language_head=True)
    backbone.model.eval()
    wanted = Experiment.from_config(compose([*given, f"paths.outputs={tmp_path}"]))
    first = wanted.task.examples(wanted.targets[0], wanted.languages, wanted.hub)["test"][0]
    ids = backbone.tokenizer(first["text"])["input_ids"]
    expected = one_mask_at_a_time(backbone, ids, list(range(len(ids))))
    assert predictions[0]["predicted"]["log_likelihood"] == pytest.approx(expected, rel=1e-5)
    assert predictions[0]["predicted"]["characters"] == len(first["text"])
