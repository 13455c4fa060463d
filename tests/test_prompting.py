"""Prompting: prompts, likelihoods worked out by hand, and whole runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sentence, tiny_backbone, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xlt.backbones.backbone import Backbone
from xlt.cli import compose, exit_status
from xlt.config import build, identity
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.random import generator
from xlt.tasks.base import Example, Task
from xlt.tasks.data import HubData
from xlt.tasks.prompting import Prompting
from xlt.tasks.sequence_classification import PairClassification, SequenceClassification

COLUMNS = {"text": "text", "premise": "premise", "hypothesis": "hypothesis", "label": "label"}
DATA = HubData(id="tiny/topics", columns=COLUMNS)
LABELS = ["ki", "bo bu", "ta"]
TOPICS = SequenceClassification(name="topics", data=DATA, labels=LABELS)
PAIRS = PairClassification(name="pairs", data=DATA, labels=LABELS)
TEMPLATE = "{text} sa {label}"
EXAMPLES = [{"text": "ba be bi", "label": "ki"}, {"text": "ga", "label": "ta"}, {"text": "da de di do du ba", "label": "bo bu"}]
_DEMONSTRATED = {"ka": "ki", "ke": "bo bu", "ki": "ta", "ko": "ki", "ku": "ki"}
TRAIN = [{"text": f"ba {word}", "label": label} for word, label in _DEMONSTRATED.items()]


def prompting(of: SequenceClassification = TOPICS, template: str = TEMPLATE, **settings: Any) -> Prompting:
    task = Prompting(data=of.data, of=of, template=template, separator=" so ", **settings)
    task.verify("task")
    return task


@pytest.fixture
def backbone() -> Backbone:
    backbone = tiny_backbone("llama")
    backbone.tokenizer = tiny_tokenizer()
    return backbone


def predict(
    backbone: Backbone, task: Prompting, examples: Sequence[Example] = EXAMPLES, length: int = 64
) -> list[dict[str, Any]]:
    def read(split: str) -> list[Example]:
        assert split == "train"
        assert task.shots
        return TRAIN

    return task.predict(backbone, examples, 64, read)


@torch.no_grad()
def log_likelihood(backbone: Backbone, prompt: str, label: str) -> float:
    """Σ ln p of the label's words behind the prompt, by the model's own output."""
    tokens, words = (backbone.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, label))
    ids = torch.tensor([[2, *tokens, *words]])
    probabilities = backbone.model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    return sum(float(probabilities[len(tokens) + place, word]) for place, word in enumerate(words))


def read_back(task: Prompting, example: Example, demonstrations: Sequence[str], length: int) -> list[tuple[str, str]]:
    """What the model reads before each label and what it is asked for, in words; and nothing behind the label."""
    tokenizer = tiny_tokenizer()
    result = []
    for query in task.prompt(example, demonstrations, tokenizer, length)[0]:
        assert list(query.asked) == list(range(query.asked[0], len(query.ids)))
        assert query.ids[0] == 2
        result.append((tokenizer.decode(query.ids[1 : query.asked[0]]), tokenizer.decode(query.ids[query.asked[0] :])))
    return result


# ---- likelihoods


@pytest.mark.parametrize("normalise", ["sum", "mean"])
def test_likelihoods_worked_out_by_hand(normalise: str, backbone: Backbone) -> None:
    lengths = {label: len(label.split()) if normalise == "mean" else 1 for label in LABELS}
    for example, prediction in zip(EXAMPLES, predict(backbone, prompting(normalise=normalise)), strict=True):
        expected = {label: log_likelihood(backbone, f"{example['text']} sa", label) / lengths[label] for label in LABELS}
        assert prediction["log_likelihoods"] == pytest.approx(expected, rel=1e-5)
        assert prediction["label"] == max(expected, key=expected.__getitem__)
        assert prediction["demonstrations"] == 0


def test_the_mean_does_not_prefer_short_labels(backbone: Backbone) -> None:
    """The label of two words is never likelier than one of one word here, but often in the mean."""
    draw = generator("texts")
    given = [{"text": sentence(draw, 1 + number % 9), "label": "ki"} for number in range(40)]
    by_sum, by_mean = (
        Counter(found["label"] for found in predict(backbone, prompting(normalise=normalise), given))
        for normalise in ("sum", "mean")
    )
    assert by_sum["bo bu"] < by_mean["bo bu"]


def test_the_order_of_the_labels_does_not_matter(backbone: Backbone) -> None:
    turned = SequenceClassification(name="topics", data=DATA, labels=LABELS[::-1])
    for shots in (0, 2):
        one, other = (predict(backbone, prompting(task, shots=shots)) for task in (TOPICS, turned))
        for first, second in zip(one, other, strict=True):
            assert first["label"] == second["label"]
            assert first["log_likelihoods"] == pytest.approx(second["log_likelihoods"])


def test_equal_likelihoods_are_decided_alike_in_any_order(backbone: Backbone) -> None:
    with torch.no_grad():
        backbone.model.lm_head.weight.zero_()
    one_word = {"bo bu": "bo"}
    for labels in (LABELS, LABELS[::-1]):
        task = prompting(SequenceClassification(data=DATA, labels=labels), verbalisers=one_word)
        assert [found["label"] for found in predict(backbone, task)] == ["bo bu"] * 3


def test_verbalisers(backbone: Backbone) -> None:
    """Stand for the label in what is scored and in demonstrations; answers are the labels all the same."""
    task = prompting(shots=1, choice="first", verbalisers={"ki": "ma me"})
    found = predict(backbone, task)
    for example, prediction in zip(EXAMPLES, found, strict=True):
        prompt = f"ba ka sa ma me so {example['text']} sa"
        expected = {"ki": "ma me", "bo bu": "bo bu", "ta": "ta"}
        expected = {label: log_likelihood(backbone, prompt, words) for label, words in expected.items()}
        assert prediction["log_likelihoods"] == pytest.approx(expected, rel=1e-5)
        assert prediction["label"] in LABELS


def byte_level() -> PreTrainedTokenizerFast:
    """Whose pieces begin with the space before a word, as GPT-2's and Llama 3's do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", *alphabet, "Ġk", "Ġki"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "k"), ("Ġk", "i")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>")


def metaspace() -> PreTrainedTokenizerFast:
    """Whose pieces begin with a mark for the space, as Llama 2's do."""
    letters = "▁abegikost"
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", *letters, "▁k", "▁ki"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "k"), ("▁k", "i")]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>")


@pytest.mark.parametrize("tokenizer", [byte_level(), metaspace()], ids=["byte_level", "metaspace"])
def test_a_label_is_cut_into_tokens_where_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    """With the space before it, if that is part of its first piece."""
    task = prompting(SequenceClassification(data=DATA, labels=["ki", "ta"]))
    queries, _ = task.prompt({"text": "be ki"}, [], tokenizer, 64)
    pieces = [tokenizer.convert_ids_to_tokens([query.ids[place] for place in query.asked]) for query in queries]
    assert [piece.replace("Ġ", "▁") for piece in pieces[0]] == ["▁ki"]
    assert [piece.replace("Ġ", "▁") for piece in pieces[1]] in (["t", "a"], ["▁", "t", "a"])
    for query, label in zip(queries, ("ki", "ta"), strict=True):
        assert list(query.ids) == tokenizer(f"be ki sa {label}")["input_ids"]


# ---- prompts


def test_a_prompt_holds_the_demonstrations() -> None:
    task = prompting(shots=2, choice="first")
    demonstrations = task.demonstrations(TRAIN)
    assert demonstrations == ["ba ka sa ki", "ba ke sa bo bu"]
    expected = "ba ka sa ki so ba ke sa bo bu so ba be bi sa"
    assert read_back(task, EXAMPLES[0], demonstrations, 64) == [(expected, label) for label in LABELS]
    assert read_back(task, EXAMPLES[0], [], 64) == [("ba be bi sa", label) for label in LABELS]


def test_demonstrations_are_balanced() -> None:
    """One of each label, then a second of those that have one."""
    task = prompting(shots=5, choice="first")
    assert task.demonstrations(TRAIN) == ["ba ka sa ki", "ba ke sa bo bu", "ba ki sa ta", "ba ko sa ki", "ba ku sa ki"]
    many = [{"text": f"ba {number}", "label": LABELS[number % 7 % 3]} for number in range(70)]
    for choice in ("first", "drawn"):
        labels = Counter(text.split(" sa ")[1] for text in prompting(shots=7, choice=choice).demonstrations(many))
        assert sorted(labels.values()) == [2, 2, 3]


def test_demonstrations_are_drawn_by_their_seed() -> None:
    many = [{"text": f"ba {number}", "label": LABELS[number % 3]} for number in range(60)]
    first, same, other = (prompting(shots=4, seed=seed).demonstrations(many) for seed in (0, 0, 1))
    assert first == same != other
    assert first != prompting(shots=4, choice="first").demonstrations(many)


def test_fewer_examples_than_demonstrations() -> None:
    with pytest.raises(UserError, match=r"task\.shots=6, and there are 5 training examples: take task\.shots=5 or less"):
        prompting(shots=6).demonstrations(TRAIN)


@pytest.mark.parametrize(
    ("length", "read"),
    [
        (18, "ba ka sa ki so ba ke sa bo bu so ba be bi sa"),  # 1 + 15 + the longest label
        (17, "ba ke sa bo bu so ba be bi sa"),
        (13, "ba ke sa bo bu so ba be bi sa"),
        (12, "ba be bi sa"),
        (7, "ba be bi sa"),
        (6, "ba be sa"),
        (5, "ba sa"),
    ],
)
def test_what_a_prompt_loses_where_it_does_not_fit(length: int, read: str) -> None:
    """The first demonstrations, then the end of the text; the same for every label, and of labels nothing."""
    task = prompting(shots=2, choice="first")
    assert read_back(task, EXAMPLES[0], task.demonstrations(TRAIN), length) == [(read, label) for label in LABELS]


def test_no_room_for_the_text() -> None:
    with pytest.raises(UserError, match=r"In 4 tokens .* no room for the text"):
        prompting().prompt(EXAMPLES[0], [], tiny_tokenizer(), 4)


def test_a_text_of_characters_that_are_several_tokens_each() -> None:
    """Is cut between characters, whatever the number of tokens that are too many."""
    task = prompting(SequenceClassification(data=DATA, labels=["ki", "ta"]), template="{text}: {label}")
    for length in range(7, 30):
        queries, _ = task.prompt({"text": "ኣኤ ኢኦኡአ"}, [], byte_level(), length)
        assert max(len(query.ids) for query in queries) <= length
        text = byte_level().decode(queries[0].ids).removesuffix(": ki")
        assert text
        assert "ኣኤ ኢኦኡአ".startswith(text)


def test_pairs(backbone: Backbone) -> None:
    """Both texts are in the prompt; where it does not fit, the longer one loses its end."""
    task = prompting(PAIRS, "{premise} sa {hypothesis} su {label}")
    example = {"premise": "ba be bi bo bu", "hypothesis": "ga ge gi", "label": "ki"}
    assert read_back(task, example, [], 64)[0] == ("ba be bi bo bu sa ga ge gi su", "ki")
    assert read_back(task, example, [], 12)[0] == ("ba be bi bo sa ga ge gi su", "ki")
    (found,) = predict(backbone, task, [example])
    expected = log_likelihood(backbone, "ba be bi bo bu sa ga ge gi su", "bo bu")
    assert found["log_likelihoods"]["bo bu"] == pytest.approx(expected, rel=1e-5)


def test_the_braces_of_a_text_are_its_own() -> None:
    texts = {"text": "{label} {0} {"}
    assert prompting()._filled(texts, "ki") == "{label} {0} { sa ki"


# ---- what cannot be


@pytest.mark.parametrize("kind", ["bert", "mbart"])
def test_models_that_are_no_decoders(kind: str) -> None:
    backbone = tiny_backbone(kind)
    backbone.tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match=r"is no decoder.*miniature_llama.*Llama.*mGPT"):
        predict(backbone, prompting())


def test_labels_that_the_tokenizer_cannot_tell_apart(backbone: Backbone) -> None:
    task = prompting(SequenceClassification(data=DATA, labels=["positive", "negative"]))
    with pytest.raises(UserError, match=r"makes \[UNK\] of 'negative', as of positive\..*task\.verbalisers\.negative"):
        predict(backbone, task)
    backbone.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("-", "")
    with pytest.raises(UserError, match=r"makes nothing of '-'\..*task\.verbalisers\.ki"):
        predict(backbone, prompting(verbalisers={"ki": "-"}))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"template": "{text}"},
            r"task\.template='\{text\}' does not fit task\.of=topics: .* \{text\} and \{label\}",
        ),
        ({"template": "{label} {text}"}, r"end in \{label\}"),
        ({"template": "{text} {text} {label}"}, "each once"),
        ({"template": "{text} {topic} {label}"}, "does not fit"),
        ({"template": "{text} {{label}"}, "does not fit"),
        ({"template": "{text} { {label}"}, "does not fit"),
        ({"of": PAIRS}, r"it has to hold \{premise\} \{hypothesis\} and \{label\}"),
        ({"verbalisers": {"kii": "ma"}}, r"task\.verbalisers: there is no label kii\. Did you mean ki"),
        ({"verbalisers": {"ki": " "}}, r"task\.verbalisers\.ki is empty"),
        ({"metric": "f1"}, r"task\.metric=f1 is no choice.*macro_f1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        prompting(**settings)


def test_data_of_its_own() -> None:
    with pytest.raises(UserError, match=r"task\.of\.data"):
        Prompting(data=HubData(id="other", columns=COLUMNS), of=TOPICS).verify("task")


# ---- configuration and whole runs

MINI = ["model=miniature_llama", "task=prompting", "task.of=mini_topic", "lang=qaa", "method=none"]


def built(*overrides: str) -> Prompting:
    return build(compose(["lang=mt", "task=prompting", *overrides]).task, "task", Task)


def test_any_classification_task_can_be_prompted_for() -> None:
    """What it is made of comes from that task."""
    for choice in ("sib200", "mini_topic", "mini_sentiment"):
        task, alone = built(f"task.of={choice}"), build(compose(["lang=mt", f"task={choice}"]).task, "task", Task)
        assert task.of == alone
        assert (task.name, task.metric, task.data) == (f"prompting_{choice}", alone.metric, alone.data)
        assert (task.known_metrics, task.hub_type) == (alone.known_metrics, "text-classification")
    assert built().of.name == "sib200"
    assert built("task@task.of=mini_topic") == built("task.of=mini_topic")
    assert built("seed=3").seed == 3
    assert built("task.of=mini_sentiment", "+task.verbalisers.positive=good").verbalisers == {"positive": "good"}


def test_other_tasks_cannot() -> None:
    with pytest.raises(UserError, match=r"task\.of\._target_=.*SequenceClassification"):
        built("task.of=pppl")


def test_what_identifies_it() -> None:
    """The task that it answers, with its class, its labels and its data."""
    found = identity(prompting(PAIRS, "{premise} {hypothesis} {label}"))
    assert found["of"]["_target_"].endswith("PairClassification")
    assert found["of"]["labels"] == LABELS
    assert found != identity(prompting(PAIRS, "{premise} {hypothesis} {label}", shots=1))
    assert identity(built("task.of=mini_topic"))["of"]["data"] != identity(built("task.of=mini_sentiment"))["of"]["data"]


def test_encoders_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = compose([*MINI, "model=miniature", f"paths.outputs={tmp_path}"])
    with pytest.raises(UserError, match="miniature is no decoder"):
        _ = Experiment.from_config(config).evaluations


@pytest.mark.parametrize("shots", [0, 1])
def test_examples_are_those_of_the_task_itself(shots: int, tmp_path: Path) -> None:
    """Made once for all prompts; training examples are needed for demonstrations alone."""
    overrides = [*MINI, f"paths.outputs={tmp_path}", f"task.shots={shots}"]
    (alone,) = Experiment.from_config(compose([*overrides[:1], "task=mini_topic", *overrides[3:6]])).evaluations
    (evaluation,) = Experiment.from_config(compose(overrides)).evaluations
    assert evaluation.examples.fingerprint == alone.examples.fingerprint
    without = Experiment.from_config(compose([*overrides, "task.of.data.splits.train=null"]))
    if shots:
        with pytest.raises(UserError, match=r"in the split train"):
            _ = without.evaluations
    else:
        assert without.evaluations


@pytest.mark.parametrize("shots", [0, 4])
def test_a_run(shots: int, tmp_path: Path) -> None:
    sizes = "task.of.data.sizes={train: 12, validation: 4, test: 30}"
    assert exit_status([*MINI, f"task.shots={shots}", sizes, f"paths.outputs={tmp_path}", "device=cpu", "threads=1"]) == 0
    (record,) = tmp_path.glob("runs/**/result.json")
    found = json.loads(record.read_text())
    (predictions,) = tmp_path.glob("store/evaluation/*/predictions.jsonl")
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    right = sum(row["gold"] == row["predicted"] for row in rows)
    assert (found["task"], found["metric"], found["task_type"]) == ("prompting_mini_topic", "accuracy", "text-classification")
    assert found["metrics"]["accuracy"] == pytest.approx(right / 30)
    assert {len(row["log_likelihoods"]) for row in rows} == {len(built("task.of=mini_topic").of.labels)}
    assert all(row["predicted"] in row["log_likelihoods"] for row in rows)
    held = [row["demonstrations"] for row in rows]
    assert max(held) <= shots
    assert bool(sum(held)) == bool(shots)
