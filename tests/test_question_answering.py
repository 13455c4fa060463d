"""Extractive question answering: reading, windows, loss, spans, scores, data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WORDS, sentence, tiny_backbone, tiny_tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

import xlt
from xlt import cli
from xlt.backbones.backbone import Backbone, load_tokenizer
from xlt.backbones.heads import QuestionAnsweringHead
from xlt.config import build
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.languages import load_languages
from xlt.random import generator
from xlt.steps.composition import Branch, Composition
from xlt.tasks.base import Task
from xlt.tasks.data import FileData
from xlt.tasks.question_answering import QuestionAnswering, normalised

CPU = torch.device("cpu")
COLUMNS = {"id": "id", "context": "context", "question": "question", "answers": "answers"}
TASK = QuestionAnswering(data=FileData(columns=COLUMNS))
ROW = {"id": "a", "context": "ba be, bi bo ba be.", "question": "bu?", "answers": {"text": ["bi bo"], "answer_start": [7]}}


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: [CLS] question [SEP] context [SEP]."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def example(context: str, answer: str, question: str = "bu bu", start: int | None = None) -> dict[str, Any]:
    start = context.index(answer) if start is None else start
    return {"context": context, "question": question, "answers": [answer], "start": start, "language": "en"}


def words(count: int) -> str:
    """A context of different words."""
    return " ".join(WORDS[:count])


def text_of(row: dict[str, Any], context: str) -> str:
    """What stands between the first and the last token of the answer."""
    first, last = (row[name] - row["context"] for name in ("start", "end"))
    return context[row["offsets"][first, 0] : row["offsets"][last, 1]]


def read(rows: Sequence[dict[str, Any]], folder: Path, task: QuestionAnswering = TASK) -> list[dict[str, Any]]:
    """The test examples of a file with these rows."""
    (folder / "en.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = FileData(path=f"{folder}/@lang.jsonl", splits={"test": "all"}, columns=COLUMNS)
    languages = load_languages()
    task = QuestionAnswering(**{**vars(task), "data": data})
    return task.examples(languages.find("en"), languages, None)["test"]  # type: ignore[arg-type]


# ---- reading


def test_examples(tmp_path: Path) -> None:
    more = {**ROW, "answers": {"text": ["bi bo", "bi"], "answer_start": [7, 7]}}
    first, second = read([ROW, more], tmp_path)
    assert first == {
        "id": "a", "context": ROW["context"], "question": "bu?", "answers": ["bi bo"], "start": 7, "language": "en",
    }  # fmt: skip
    assert second["answers"] == ["bi bo", "bi"]
    assert second["id"] != first["id"], "an id that occurs twice"


@pytest.mark.parametrize(
    ("answer", "declared", "found"),
    [("bi", 7, 7), ("bi", 3, 7), ("bi", 90, 7), ("ba", 0, 0), ("ba", 14, 13), ("ba", 5, 0), ("be.", -1, 16)],
)
def test_an_answer_that_stands_elsewhere_is_found_at_the_nearest_place(answer: str, declared: int, found: int) -> None:
    row = {**ROW, "answers": {"text": [answer], "answer_start": [declared]}}
    assert TASK.read(row)["start"] == found


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"answers": {"text": [], "answer_start": []}}, r"en\.jsonl, row 1: there is no answer in it.*SQuAD 2\.0"),
        ({"answers": {"text": [" "], "answer_start": [2]}}, "there is no answer in it"),
        ({"answers": {"text": ["du"], "answer_start": [7]}}, r"row 1: the answer 'du' is not in the context"),
        ({"answers": {"text": ["bi", "bo"], "answer_start": [7]}}, "2 answers and 1 places"),
        ({"answers": ["bi"]}, r"have to be lists .*answer_start.* and are \['bi'\]"),
        ({"answers": {"text": ["bi"]}}, "have to be lists"),
        ({"context": " "}, "there is no context in it"),
        ({"question": None}, "there is no question in it: None"),
    ],
)
def test_rows_that_are_no_examples(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        read([ROW, {**ROW, **changes}], tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metric": "accuracy"}, r"task\.metric=accuracy is no choice.*exact_match, f1"),
        ({"data": FileData(columns={"context": "context", "question": "question"})}, "column of the answers"),
    ],
)
def test_what_the_task_has_to_say(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        QuestionAnswering(**{"data": TASK.data} | changes).verify("task")


# ---- windows


def test_a_context_that_fits_is_one_row() -> None:
    context = "ba be, bi bo ba be."
    (row,) = TASK.encode([example(context, "bi bo", "bu bu")], pair_tokenizer(), 64)
    offsets = row.pop("offsets").tolist()
    assert [context[start:end] for start, end in offsets] == ["ba", "be", ",", "bi", "bo", "ba", "be", "."]
    assert row == {
        "input_ids": [2, 9, 9, 3, 5, 6, 1, 7, 8, 5, 6, 1, 3], "token_type_ids": [0] * 4 + [1] * 9,
        "example": 0, "context": 4, "start": 7, "end": 8,
    }  # fmt: skip


def test_windows_worked_out_by_hand() -> None:
    """16 tokens, of which special ones and the question take 5: 11 of the context at a time, of which 4 are shared."""
    task = QuestionAnswering(stride=4, max_question_length=3)
    context = words(20)
    rows = task.encode([example(context, "fa fe fi")], pair_tokenizer(), 16)
    ids = [row["input_ids"] for row in rows]
    assert ids == [[2, 9, 9, 3, *range(5 + first, 5 + last), 3] for first, last in [(0, 11), (7, 18), (14, 20)]]
    assert [(row["start"], row["end"]) for row in rows] == [(0, 0), (4 + 10 - 7, 4 + 12 - 7), (0, 0)]
    assert text_of(rows[1], context) == "fa fe fi"


@pytest.mark.parametrize(("answer", "windows"), [("da de", [0]), ("do du", [0, 1]), ("fa fe", [1]), (" ".join(WORDS[6:18]), [])])
def test_an_answer_may_be_in_one_window_in_two_or_in_none(answer: str, windows: list[int]) -> None:
    """Of the windows 0-10, 7-17 and 14-19; where it is cut, the first token is the target."""
    rows = QuestionAnswering(stride=4, max_question_length=3).encode([example(words(20), answer)], pair_tokenizer(), 16)
    assert [number for number, row in enumerate(rows) if row["start"]] == windows
    assert all(text_of(rows[number], words(20)) == answer for number in windows)
    assert all(row["start"] == row["end"] == 0 for number, row in enumerate(rows) if number not in windows)


@pytest.mark.parametrize(("stride", "shared"), [(0, 0), (5, 5), (15, 15), (128, 15)])
@pytest.mark.parametrize("question", [1, 10, 30, 50])
def test_a_stride_that_is_too_long_for_the_model_shrinks(stride: int, shared: int, question: int) -> None:
    """64 positions leave 61; a question takes 30 of them at most, and windows share half of the other 31 at most."""
    asked = " ".join(["bu"] * question)
    rows = QuestionAnswering(stride=stride).encode([example(words(60) + " " + words(60), "ba", asked)], pair_tokenizer(), 64)
    assert len(rows) > 1
    assert all(row["input_ids"][1 : row["context"]] == [9] * min(question, 30) + [3] for row in rows)
    assert all(len(row["input_ids"]) == 64 for row in rows[:-1])
    for before, after in pairwise(rows):
        places = [{tuple(place) for place in row["offsets"].tolist()} for row in (before, after)]
        assert len(places[0] & places[1]) == shared
    assert rows[0]["offsets"][0, 0] == 0
    assert rows[-1]["offsets"][-1, 1] == len(words(60)) * 2 + 1


def test_a_long_question_loses_its_end() -> None:
    task = QuestionAnswering(max_question_length=3)
    (row,) = task.encode([example("ba be", "be", "da de di do du")], pair_tokenizer(), 64)
    assert row["input_ids"] == [2, 10, 11, 12, 3, 5, 6, 3]
    assert (row["start"], row["end"]) == (6, 6)


def test_many_examples_are_numbered_in_order() -> None:
    draw = generator("examples")
    contexts = [sentence(draw, 1 + number % 40) for number in range(600)]
    rows = TASK.encode([example(context, context.split()[-1]) for context in contexts], pair_tokenizer(), 32)
    numbers = [row["example"] for row in rows]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(600))
    assert len(rows) > 700
    assert all(text_of(row, contexts[row["example"]]) == contexts[row["example"]].split()[-1] for row in rows if row["start"])


def test_the_second_of_two_equal_words_is_the_answer_where_the_data_say_so() -> None:
    (row,) = TASK.encode([example("ba be ba", "ba", start=6)], pair_tokenizer(), 32)
    assert (row["start"], row["end"]) == (row["context"] + 2, row["context"] + 2)


def test_white_space_around_an_answer_is_no_part_of_it() -> None:
    (row,) = TASK.encode([example("ba be bi", " be ")], pair_tokenizer(), 32)
    assert (row["start"], row["end"]) == (row["context"] + 1, row["context"] + 1)


def test_examples_without_answers_have_rows_without_targets() -> None:
    rows = TASK.encode([{"context": "ba be", "question": "bu"}], pair_tokenizer(), 32)
    assert "start" not in rows[0]
    assert set(TASK.batch(rows, pair_tokenizer(), 384)) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_batch() -> None:
    rows = TASK.encode([example("ba be bi", "be bi"), example("ba", "ba")], pair_tokenizer(), 32)
    batch = TASK.batch(rows, pair_tokenizer(), 384)
    assert batch["input_ids"].shape == (2, 32)
    assert batch["attention_mask"].sum(dim=1).tolist() == [8, 6]
    assert (batch["starts"].tolist(), batch["ends"].tolist()) == ([5, 4], [6, 4])


def test_what_cannot_be_encoded() -> None:
    tokenizer = pair_tokenizer()
    with pytest.raises(UserError, match="makes nothing of a context"):
        TASK.encode([{"context": "\u3000", "question": "bu"}], tokenizer, 32)

    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="where in the text its tokens stand"):
        TASK.encode([example("ba", "ba")], Slow(), 32)


# ---- loss


class Says(QuestionAnsweringHead):
    """A head that says what the hidden states [rows, length, 2] hold."""

    def __init__(self) -> None:
        super().__init__(2, 2, 0.0)
        self.layers = torch.nn.Sequential()


def test_the_loss_is_the_mean_of_start_and_end_over_real_tokens() -> None:
    scores = torch.randn(2, 8, 2, generator=generator(0))
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    batch = {"attention_mask": mask, "starts": torch.tensor([5, 0]), "ends": torch.tensor([6, 0])}
    expected = 0.0
    for row, (length, start, end) in enumerate([(8, 5, 6), (5, 0, 0)]):
        for side, target in ((0, start), (1, end)):
            exponentials = scores[row, :length, side].exp()
            expected -= float((exponentials[target] / exponentials.sum()).log()) / 2
    assert float(TASK.loss(Says(), scores, batch)) == pytest.approx(expected, rel=1e-5)
    assert TASK.count({**batch, "input_ids": mask}) == 2
    scores[1, 5:] += 100  # padding
    assert float(TASK.loss(Says(), scores, batch)) == pytest.approx(expected, rel=1e-5)


# ---- spans


def brute_force(start: Sequence[float], end: Sequence[float], longest: int) -> list[tuple[float, int, int]]:
    """All spans of a context's tokens, best first."""
    spans = [
        (start[first] + end[last], first, last)
        for first in range(len(start))
        for last in range(first, min(first + longest, len(start)))
    ]
    return sorted(spans, reverse=True)


@pytest.mark.parametrize("longest", [1, 3, 30])
@pytest.mark.parametrize("n_best", [1, 5, 1000])
def test_the_best_spans_are_those_of_an_exhaustive_search(longest: int, n_best: int) -> None:
    task = QuestionAnswering(max_answer_length=longest, n_best=n_best)
    rows = task.encode([example(words(count), "ba") for count in (1, 4, 12)], pair_tokenizer(), 32)
    scores = {name: torch.randn(3, 32, generator=generator(name)) for name in ("start", "end")}
    scores["start"][:, :4] += 50  # the question
    scores["end"][:, 17:] += 50  # behind the contexts
    found = task.answers(scores, rows)
    for number, row in enumerate(rows):
        context = slice(row["context"], row["context"] + len(row["offsets"]))
        expected = brute_force(scores["start"][number, context].tolist(), scores["end"][number, context].tolist(), longest)
        expected = expected[:n_best]
        offsets = row["offsets"]
        assert [span[1:] for span in found[number]] == [(offsets[first, 0], offsets[last, 1]) for _, first, last in expected]
        assert [span[0] for span in found[number]] == pytest.approx([score for score, _, _ in expected], abs=1e-5)


def test_the_best_window_answers() -> None:
    """Spans that two windows share count once, with their better score."""
    task = QuestionAnswering(n_best=3)
    answers = [[(1.0, 0, 2), (0.5, 3, 5)], [(2.0, 3, 8), (1.5, 0, 2), (-4.0, 6, 8)]]
    prediction = task.join({"context": "ba be bi"}, [{}, {}], answers)
    probability = np.exp(2.0) / np.exp([2.0, 1.5, 0.5]).sum()
    assert prediction == {"label": "be bi", "start": 3, "score": 2.0, "probability": pytest.approx(probability)}


def test_white_space_that_belongs_to_a_token_is_no_part_of_the_answer() -> None:
    prediction = TASK.join({"context": "ba  be bi"}, [{}], [[(1.0, 2, 7)]])
    assert (prediction["label"], prediction["start"], prediction["probability"]) == ("be", 4, 1.0)


# ---- a whole composition


def shaken_branches(backbone: Backbone, count: int) -> list[Branch]:
    """Heads with large random weights."""
    heads = [TASK.head(backbone, generator(seed)) for seed in range(count)]
    with torch.no_grad():
        for number, head in enumerate(heads):
            for parameter in head.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator("head", number)))
    return [Branch(head, None, weight) for head, weight in zip(heads, (0.75, 0.25), strict=False)]


@pytest.fixture(params=["bert", "llama"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    found = tiny_backbone(request.param, language_head=False)
    found.tokenizer = pair_tokenizer()
    return found


@pytest.fixture
def examples() -> list[dict[str, Any]]:
    draw = generator("examples")
    contexts = [sentence(draw, 1 + (number * 13) % 70) for number in range(23)]
    return [
        {**example(context, context.split()[len(context.split()) // 2]), "id": str(number)}
        for number, context in enumerate(contexts)
    ]


def test_predictions_come_in_the_order_of_the_examples(backbone: Backbone, examples: list[dict[str, Any]]) -> None:
    """Whatever batches they were made in; each is a span of its context."""
    composition = Composition(backbone, TASK, shaken_branches(backbone, 1), 32, CPU)
    assert max(row["example"] for row in composition.encode(examples)) < len(composition.encode(examples)) - 10
    alone = [composition.predict([one])[0] for one in examples]
    assert len({prediction["label"] for prediction in alone}) > 15
    for one, prediction in zip(examples, alone, strict=True):
        assert prediction["label"]
        assert one["context"].startswith(prediction["label"], prediction["start"])
        assert len(prediction["label"].split()) <= TASK.max_answer_length
    for batch_size in (4, 64):
        together = composition.predict(examples, batch_size)
        assert [prediction["label"] for prediction in together] == [prediction["label"] for prediction in alone]
    right = [{**one, "answers": ["no", prediction["label"]]} for one, prediction in zip(examples, alone, strict=True)]
    assert composition.score(right) == {"f1": 1.0, "exact_match": 1.0}


def test_the_scores_of_an_ensemble_add_up(backbone: Backbone, examples: list[dict[str, Any]]) -> None:
    branches = shaken_branches(backbone, 2)
    together = Composition(backbone, TASK, branches, 64, CPU)
    apart = [Composition(backbone, TASK, [Branch(branch.head)], 64, CPU) for branch in branches]
    examples = examples[:6]
    rows = together.encode(examples)
    batch = TASK.batch(rows, backbone.tokenizer, 384)
    predictions = together.predict(examples)
    with torch.no_grad():
        hidden = backbone.hidden_states(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"])
        said = [TASK.scores(branch.head, hidden, batch) for branch in branches]
    summed = {name: 0.75 * said[0][name] + 0.25 * said[1][name] for name in ("start", "end")}
    spans = TASK.answers(summed, rows)
    expected = [
        max(span for row, answer in zip(rows, spans, strict=True) if row["example"] == number for span in answer)
        for number in range(6)
    ]
    assert [prediction["score"] for prediction in predictions] == pytest.approx([span[0] for span in expected], abs=1e-4)
    assert [prediction["start"] for prediction in predictions] == [span[1] for span in expected]
    labels = [[prediction["label"] for prediction in composition.predict(examples)] for composition in (together, *apart)]
    assert labels[0] != labels[1] != labels[2], "the two would not have said the same"


def test_a_model_learns_where_the_answers_are(backbone: Backbone) -> None:
    """The answer is always `tu`, wherever it stands, and then also in contexts that were not trained on."""
    draw = generator("contexts")
    contexts = [sentence(draw, 6 + number % 18, first="ba").replace("tu", "to") for number in range(40)]
    places = [int(torch.randint(len(context.split()), (), generator=draw)) for context in contexts]
    changed = [
        " ".join([*context.split()[:place], "tu", *context.split()[place:]])
        for context, place in zip(contexts, places, strict=True)
    ]
    trained, others = [[example(context, "tu") for context in part] for part in (changed[:20], changed[20:])]
    composition = Composition(backbone, TASK, [Branch(TASK.head(backbone, generator(0)))], 32, CPU)
    rows = composition.encode(trained)
    batch = composition.maker(rows)(range(len(rows)), generator(0))
    before = composition.score(others)
    optimiser = torch.optim.Adam(composition.model.parameters(), lr=5e-3)
    for _ in range(100):
        optimiser.zero_grad()
        composition.loss(batch, CPU).backward()
        optimiser.step()
    assert before["exact_match"] < 0.3
    assert composition.score(others)["exact_match"] > 0.9


# ---- scores


@pytest.mark.parametrize(
    ("gold", "predicted", "f1", "exact_match"),
    [
        (["Denver Broncos"], "the denver broncos!", 1, 1),
        (["Denver Broncos"], "Broncos", 2 / 3, 0),
        (["Broncos", "Denver"], "Denver", 1, 1),
        (["a b", "b c d"], "c d", 0.8, 0),
        (["1.5 million"], "15 million", 1, 1),
        (["x x y"], "x y y", 2 / 3, 0),
        (["Denver"], "", 0, 0),
        (["the"], "a", 0, 1),
        (["北京大学"], "北京", 0, 0),
        (["Theory"], "the ory", 0, 0),
    ],
)
def test_scores_worked_out_by_hand(gold: list[str], predicted: str, f1: float, exact_match: float) -> None:
    score = TASK.score([{"answers": gold, "language": "zh"}], [predicted])
    assert score == pytest.approx({"f1": f1, "exact_match": exact_match})


def test_scores_are_means_over_examples() -> None:
    gold = [
        {"answers": ["ba"], "language": "en"},
        {"answers": ["be bi"], "language": "en"},
        {"answers": ["bo"], "language": "en"},
    ]
    assert TASK.score(gold, ["ba", "be", "bu"]) == pytest.approx({"f1": (1 + 2 / 3 + 0) / 3, "exact_match": 1 / 3})
    assert TASK.counts(gold, ["ba", "be", "bu"]) == pytest.approx(np.array([[1, 1, 1], [2 / 3, 0, 1], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "The «Big» Apple's", ["big", "apples"]),
        ("es", "los Estados Unidos", ["estados", "unidos"]),
        ("de", "Der Wagen des Jahres, einer", ["wagen", "jahres"]),
        ("vi", "những con mèo của Lan", ["con", "mèo", "lan"]),
        ("ar", "الكتاب، والقلم", ["كتاب", "و", "قلم"]),
        ("hi", "यह एक किताब है।", ["यह", "एक", "किताब", "है"]),
        ("zh", "《红楼梦》 by 曹雪芹123", ["红", "楼", "梦", "by", "曹", "雪", "芹", "123"]),
        ("fi", "The talo", ["the", "talo"]),
    ],
)
def test_the_normalisation_of_mlqa(language: str, text: str, words: list[str]) -> None:
    assert normalised(text, "mlqa", language) == words
    assert normalised(text, "squad", language) != words or language == "es" or not text.isascii()


def test_the_normalisation_of_squad_is_the_same_in_all_languages() -> None:
    assert normalised("Der «Wagen», the car", "squad", "de") == ["der", "«wagen»", "car"]


def peer_scores(gold: Sequence[str], predicted: str) -> tuple[float, float]:
    """What SQuAD 1.1's evaluation computes, another way: precision and recall from lists that shrink as words are matched."""

    def words(text: str) -> list[str]:
        kept = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())
        return [word for word in re.sub(r"\b(?:an?|the)\b", "\n", kept).split() if word]

    def f1(target: list[str], answer: list[str]) -> float:
        left, matched = list(target), 0
        for word in answer:
            if word in left:
                left.remove(word)
                matched += 1
        if matched == 0:
            return 0.0
        precision, recall = matched / len(answer), matched / len(target)
        return 2 * precision * recall / (precision + recall)

    return max(f1(words(text), words(predicted)) for text in gold), max(words(text) == words(predicted) for text in gold)


def test_the_scores_are_those_of_squads_evaluation() -> None:
    draw = np.random.default_rng(0)
    pieces = [
        "The",
        "a",
        "an",
        "cat",
        "Cat,",
        "(dog)",
        "x-ray",
        "theatre",
        "1,000",
        "«é»",
        "\u00a0",
        "u.s.",
        "'s",
        "an-other",
        "…",
    ]
    texts = [" ".join(draw.choice(pieces, draw.integers(1, 6))) for _ in range(600)]
    gold = [texts[number : number + 3] for number in range(0, 500)]
    expected = [peer_scores(answers, text) for answers, text in zip(gold, texts[100:], strict=True)]
    counts = TASK.counts([{"answers": answers, "language": "en"} for answers in gold], texts[100:])
    assert counts[:, :2] == pytest.approx(np.array(expected, dtype=float))
    assert 0.2 < counts[:, 0].mean() < 0.8
    assert 0.005 < counts[:, 1].mean() < 0.8


# ---- data sets


def choice(name: str, *overrides: str) -> Any:
    return build(cli.compose(["lang=mt", f"task={name}", *overrides]).task, "task", Task)


@pytest.mark.parametrize(("name", "count"), [("squad", 1), ("xquad", 12), ("mlqa", 7), ("tydiqa", 9)])
def test_the_languages_of_the_data_sets_are_in_the_table(name: str, count: int) -> None:
    task, languages = choice(name), load_languages()
    assert len(task.data.configs) == count
    assert all(languages.find(key).key == key for key in task.data.configs)
    task.check_source(choice("squad"))


TYDIQA_NAMES = ("arabic", "bengali", "english", "finnish", "indonesian", "korean", "russian", "swahili", "telugu")


@pytest.fixture
def tydiqa(tmp_path: Path) -> Path:
    """A data set in TyDiQA's layout: two rows of each language, in turns, in each split."""
    folder = tmp_path / "mirror" / "google-research-datasets" / "tydiqa"
    (folder / "secondary_task").mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [
            {**ROW, "id": f"{language}-{split}{number}-0", "title": "no", "question": f"{language}?"}
            for number in range(2)
            for language in TYDIQA_NAMES
        ]
        (folder / "secondary_task" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"\n  - split: {split}\n    path: secondary_task/{split}.jsonl" for split in ("train", "validation"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: secondary_task\n  data_files:{files}\n---\n")
    return tmp_path / "mirror"


def test_tydiqa_has_all_languages_in_one_configuration(tydiqa: Path, tmp_path: Path) -> None:
    config = cli.compose([
        "model=miniature", "data=miniature", "method=none", "task=tydiqa", "lang=sw", f"paths.mirror={tydiqa}",
        f"paths.outputs={tmp_path}/outputs",
    ])  # fmt: skip
    experiment = Experiment.from_config(config)
    task, asked = experiment.task, set()
    for key in task.data.configs:
        language = experiment.languages.find(key)
        splits = task.examples(language, experiment.languages, experiment.hub)
        assert {split: len(examples) for split, examples in splits.items()} == {"train": 1, "validation": 1, "test": 2}
        (question,) = {one["question"] for examples in splits.values() for one in examples}
        asked.add(question)
    assert asked == {f"{name}?" for name in TYDIQA_NAMES}


# ---- real data


XQUAD = ["task=xquad", "source_task=squad", "source=en", "transfer=zero_shot", "data=miniature", "method=none", "device=cpu"]


@pytest.mark.parametrize("lang", ["ar", "zh", "th", "en"])
def test_gold_answers_are_spans_of_tokens_in_every_script(lang: str, shared: Path, tmp_path: Path) -> None:
    """None is lost between windows, and what a token more or less costs is small. Some contexts begin with U+FEFF."""
    model = shared / "models" / "mini-multilingual"
    config = cli.compose([
        *XQUAD, "model=hf", f"model.path={model}", f"lang={lang}", f"paths.mirror={shared}/mirror",
        f"paths.outputs={tmp_path}", "task.data.splits.test='validation[:300]'",
    ])  # fmt: skip
    experiment = Experiment.from_config(config)
    task = experiment.task
    examples = task.examples(experiment.targets[0], experiment.languages, experiment.hub)["test"]
    assert len(examples) == 300
    assert any(one["context"].startswith("\ufeff") for one in examples) == (lang != "en")
    rows = task.encode(examples, load_tokenizer(model), 256)
    recovered = {row["example"]: text_of(row, examples[row["example"]]["context"]) for row in rows if row["start"]}
    assert recovered.keys() == set(range(300))
    score = task.score([task.gold(one) for one in examples], [recovered[number] for number in range(300)])
    assert score["exact_match"] > 0.98
    assert score["f1"] > 0.99


@pytest.mark.slow
def test_from_english_to_spanish(shared: Path, tmp_path: Path) -> None:
    """Questions about other articles than those trained on; the English ones are those that XQuAD translates."""
    record = xlt.run(
        *XQUAD, "model=hf", f"model.path={shared}/models/mini-multilingual", "lang=es", "train=quick", "train.task.epochs=1",
        "source_task.data.splits={train: 'validation[:80]', validation: 'validation[607:620]', test: null}",
        "task.data.splits.test='validation[700:720]'", f"paths.mirror={shared}/mirror", f"paths.outputs={tmp_path}",
    )  # fmt: skip
    assert record["test_size"] == 20
    assert record["metrics"].keys() == {"f1", "exact_match"}
    passage = "Sevilla es una ciudad del sur de España."
    (prediction,) = xlt.load(record).predict([{"question": "¿Qué es Sevilla?", "context": passage}])
    assert passage.startswith(prediction["label"], prediction["start"])


@pytest.mark.slow
def test_the_invented_world_can_be_asked(tmp_path: Path) -> None:
    """A span of words drawn at random, even of the right length, is the answer in 8 of 100 cases."""
    record = xlt.run(
        "model=miniature", "data=miniature", "task=mini_questions", "lang=qaa", "method=none", "task_method=full",
        "train=miniature", "train.task.epochs=5", "train.task.evaluate_every=40", "task.data.sizes.test=200", "device=cpu",
        f"paths.outputs={tmp_path}",
    )  # fmt: skip
    low, _ = record["intervals"]["exact_match"]
    assert low > 0.2
