"""The step that translates labelled examples: what stays, what is translated, how often, and what a kill leaves."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sentence
from test_kill import Fuse, Killed
from word_translators import Reversing

from xlt import cli
from xlt.errors import UserError
from xlt.experiment import Experiment, open_store
from xlt.plan import Plan
from xlt.runner import Session, runtime_of
from xlt.steps import translated_examples
from xlt.steps.examples import read_examples
from xlt.steps.translated_examples import TranslatedExamplesStep
from xlt.store import Artifact
from xlt.translation.base import Translator
from xlt.translation.copying import Copying

COPYING, REVERSING = Copying("copying"), Reversing("reversing")


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What a translator was given belongs to one test."""
    Reversing.given.clear()
    yield
    Reversing.given.clear()


def experiment_of(overrides: list[str], translator: Translator) -> Experiment:
    return replace(Experiment.from_config(cli.compose([*overrides, "transfer=zero_shot", "source=yo"])), translator=translator)


def translation(
    experiment: Experiment, splits: tuple[str, ...] = ("train", "validation"), **options: Any
) -> TranslatedExamplesStep:
    """Of the labels of the source into the target."""
    (source,), (target,) = experiment.sources, experiment.targets
    examples = experiment.examples(experiment.source_task, source, splits, "the test")
    return experiment.translated_examples(examples, target, splits, **options)


def realised(experiment: Experiment, step: Any) -> Artifact:
    session = Session(open_store(experiment.settings), "auto", runtime_of(experiment, torch.device("cpu"), []))
    return session.realise(step)


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    return Fuse(monkeypatch)


@pytest.fixture
def lots_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translated_examples, "_LOT", 10)


# ---- what stays


def test_copies_are_the_examples_themselves(overrides: list[str]) -> None:
    experiment = experiment_of(overrides, COPYING)
    step = translation(experiment)
    copied, original = realised(experiment, step), realised(experiment, step.original)
    for split in ("train", "validation"):
        assert (copied.folder / f"{split}.jsonl").read_bytes() == (original.folder / f"{split}.jsonl").read_bytes()
        assert copied.summary[split] == {**original.summary[split], "left_out": 0}
    assert "test" not in copied.summary, "nothing is translated that nobody asked for"
    assert copied.summary["translation"] | {"samples": []} == {
        "texts": 72, "unchanged": 1.0, "length_ratio": 1.0, "empty": 0, "samples": []
    }  # fmt: skip


def test_labels_and_ids_stay_and_texts_change(overrides: list[str]) -> None:
    experiment = experiment_of(overrides, REVERSING)
    step = translation(experiment)
    before = read_examples(realised(experiment, step.original), "train")
    artifact = realised(experiment, step)
    after = read_examples(artifact, "train")
    assert [(example["id"], example["label"]) for example in after] == [(example["id"], example["label"]) for example in before]
    for old, new in zip(before, after, strict=True):
        assert new["text"] == " ".join(f"{word}mt" for word in reversed(old["text"].split()))
    assert Reversing.opened[-1] == ("yo", "mt")
    card = artifact.summary["translation"]
    assert (card["texts"], card["unchanged"], card["empty"]) == (72, 0.0, 0)
    assert card["length_ratio"] == pytest.approx(34 / 20, abs=1e-6), (
        "seven words of two letters and six spaces, two letters more each"
    )
    assert len(card["samples"]) in (9, 10)
    assert all(new == " ".join(f"{word}mt" for word in reversed(old.split())) for old, new in card["samples"])


def pairs_of(tmp_path: Path) -> tuple[list[str], dict[str, list[dict[str, str]]]]:
    """A task of pairs in files: each premise twice, one empty, one hypothesis that is a premise, too."""
    draw = torch.Generator().manual_seed(0)
    premises = [*(sentence(draw, 4) for _ in range(11)), ""]
    rows = [
        {"premise": premise, "hypothesis": premises[0] if (number, kind) == (3, 0) else sentence(draw, 3),
         "label": ("entailment", "neutral")[kind]}
        for number, premise in enumerate(premises)
        for kind in (0, 1)
    ]  # fmt: skip
    splits = {"train": rows[:16] + rows[-2:], "validation": rows[16:-2], "test": rows[:4]}
    for split, part in splits.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    task = [
        "task=labelled_files",
        "task._target_=xlt.tasks.sequence_classification.PairClassification",
        "task.labels=[entailment,neutral]",
        f"task.data.path={tmp_path}/@split.jsonl",
        "~task.data.columns",
        "+task.data.columns={text: null, premise: premise, hypothesis: hypothesis, label: label}",
    ]
    return task, splits


def test_each_text_of_a_pair_by_itself_and_equal_texts_once(overrides: list[str], tmp_path: Path) -> None:
    task, rows = pairs_of(tmp_path)
    experiment = experiment_of([*(text for text in overrides if not text.startswith("task.")), *task], REVERSING)
    artifact = realised(experiment, translation(experiment))
    different = {row[name] for split in ("train", "validation") for row in rows[split] for name in ("premise", "hypothesis")} - {
        ""
    }
    assert sorted(Reversing.given) == sorted(different), "each of the different texts once, the empty one never"
    for split in ("train", "validation"):
        for old, new in zip(rows[split], read_examples(artifact, split), strict=True):
            expected = {name: " ".join(f"{word}mt" for word in reversed(old[name].split())) for name in ("premise", "hypothesis")}
            assert {name: new[name] for name in ("premise", "hypothesis", "label")} == {**expected, "label": old["label"]}


def test_texts_that_come_back_empty_are_counted_and_said(overrides: list[str], caplog: pytest.LogCaptureFixture) -> None:
    experiment = experiment_of(overrides, Reversing("reversing", swallows="ki"))
    artifact = realised(experiment, translation(experiment))
    assert artifact.summary["translation"]["empty"] == sum("ki" in text for text in Reversing.given) >= 36
    assert artifact.summary["train"]["examples"] == 48
    assert f"{artifact.summary['translation']['empty']} of 72 different texts came back empty" in caplog.text


# ---- labels on spans


def miniature(task: str, tmp_path: Path, translator: Translator) -> Experiment:
    """From one invented language into another."""
    choices = ["model=miniature", "data=miniature", "transfer=zero_shot", "lang=qad", "source=qaa"]
    config = cli.compose([*choices, f"task={task}", f"paths.outputs={tmp_path}"])
    return replace(Experiment.from_config(config), translator=translator)


@pytest.mark.parametrize("task", ["mini_entities", "mini_questions"])
def test_spans_come_back_exactly_from_copying(task: str, tmp_path: Path) -> None:
    """All examples of the miniature world's views, but for the language that answers are compared in."""
    experiment = miniature(task, tmp_path, COPYING)
    step = translation(experiment, projection="markers")
    copied, original = realised(experiment, step), realised(experiment, step.original)
    for split in ("train", "validation"):
        language = {"language": "qad"} if task == "mini_questions" else {}
        assert read_examples(copied, split) == [{**example, **language} for example in read_examples(original, split)]
        assert copied.summary[split]["left_out"] == 0


def entities_of(example: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The type and the words of each."""
    found: list[tuple[str, list[str]]] = []
    for word, tag in zip(example["tokens"], example["tags"], strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], [word]))
        elif tag.startswith("I-"):
            found[-1][1].append(word)
    return found


def test_examples_that_lose_their_marks_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = miniature("mini_entities", tmp_path, Reversing("reversing", loses="a "))
    step = translation(experiment, projection="markers")
    before = read_examples(realised(experiment, step.original), "train")
    artifact = realised(experiment, step)
    after = {example["id"]: example for example in read_examples(artifact, "train")}
    entities = {example["id"]: sorted(entities_of(example)) for example in before}
    left_out = [example["id"] for example in before if example["id"] not in after]
    assert artifact.summary["train"]["left_out"] == len(left_out) > 0
    assert f"{len(left_out)} of the {len(before)} examples of train are left out" in caplog.text
    assert all(entities[name] for name in left_out), "a sentence without entities has no marks to lose"
    for name, example in after.items():
        found = [(kind, [word.removesuffix("qad") for word in words]) for kind, words in entities_of(example)]
        assert sorted(found) == entities[name]


def test_a_translator_that_keeps_no_mark_is_refused(tmp_path: Path) -> None:
    experiment = miniature("mini_questions", tmp_path, Reversing("reversing", loses=" "))
    with pytest.raises(UserError, match="the translator does not keep the marks"):
        realised(experiment, translation(experiment, projection="markers"))


# ---- lots, kills and the store


@pytest.mark.usefixtures("lots_of_ten")
def test_a_translation_that_broke_down_goes_on_where_it_was(overrides: list[str]) -> None:
    """It fails within the fourth lot: three are kept, the fourth is made again as a whole, and nothing else is."""
    whole = experiment_of(overrides, REVERSING)
    failing = experiment_of(overrides, Reversing("reversing", fails_after=34))
    step = translation(failing)
    texts = [example["text"] for split in step.splits for example in read_examples(realised(failing, step.original), split)]
    with pytest.raises(RuntimeError, match="broken down"):
        realised(failing, step)
    assert Reversing.given == texts[:34]
    assert not list(open_store(failing.settings).list("translated_examples"))
    Reversing.given.clear()
    artifact = realised(whole, translation(whole))
    assert Reversing.given == texts[30:]
    found = [example["text"] for split in step.splits for example in read_examples(artifact, split)]
    assert found == [" ".join(f"{word}mt" for word in reversed(text.split())) for text in texts]
    assert not list((open_store(whole.settings).root / ".work").iterdir()), "the lots go when the artifact is there"


@pytest.mark.usefixtures("lots_of_ten")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_translation_that_was_killed_again_and_again_translates_no_finished_lot_twice(
    overrides: list[str], fuse: Fuse, seed: int
) -> None:
    """Killed at any write, it ends as one that was left alone."""
    experiment = experiment_of(overrides, REVERSING)
    step, draw, kills = translation(experiment), random.Random(seed), 0
    original = realised(experiment, step.original)
    texts = [example["text"] for split in step.splits for example in read_examples(original, split)]
    lots = {
        f"{hashlib.sha256(json.dumps(lot).encode()).hexdigest()}.json": lot
        for lot in (texts[i : i + 10] for i in range(0, 72, 10))
    }
    work = open_store(experiment.settings).root / ".work"
    while True:
        Reversing.given.clear()
        kept = {text for file in work.rglob("*.json") for text in lots.get(file.name, ())}
        fuse.length = draw.randint(3, 9)
        try:
            artifact = realised(experiment, step)
            break
        except Killed:
            kills += 1
        assert kept.isdisjoint(Reversing.given)
        fuse.length = sys.maxsize
    assert kills >= 4
    assert kept, "no kill came after a lot: this shows nothing"
    assert kept.isdisjoint(Reversing.given)
    found = [example["text"] for split in step.splits for example in read_examples(artifact, split)]
    assert found == [" ".join(f"{word}mt" for word in reversed(text.split())) for text in texts]


@pytest.mark.usefixtures("lots_of_ten")
def test_a_finished_translation_whose_artifact_was_lost_on_the_way_loads_no_translator(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of(overrides, REVERSING)
    step = translation(experiment)
    monkeypatch.setattr(translated_examples, "write_examples", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        realised(experiment, step)
    monkeypatch.undo()
    assert len(Reversing.given) == 72
    monkeypatch.setattr(type(step.translator), "open", lambda *given: 1 / 0)
    monkeypatch.setattr(translated_examples, "_LOT", 10)
    assert realised(experiment, step).summary["train"]["examples"] == 48
    assert len(Reversing.given) == 72


def test_a_translator_that_loses_a_text_is_found_out(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reversing, "translate", lambda self, texts, source, target: list(texts)[1:])
    experiment = experiment_of(overrides, REVERSING)
    with pytest.raises(ValueError, match="shorter"):
        realised(experiment, translation(experiment))


def test_what_a_translation_depends_on(overrides: list[str]) -> None:
    """On data, languages, translator and splits; not on seeds, methods, and how the examples are learnt and scored."""

    def fingerprint(*more: str, translator: Translator = COPYING, splits: tuple[str, ...] = ("train", "validation")) -> str:
        return translation(experiment_of([*overrides, *more], translator), splits).fingerprint

    expected = fingerprint()
    for same in ("seed=3", "method=lora", "task.max_length=64", "task.metric=accuracy", "task.pooling=mean", "task.name=other"):
        assert fingerprint(same) == expected, same
    others = [fingerprint("task.labels=[bouba,kiki]"), fingerprint(translator=REVERSING), fingerprint(splits=("test",))]
    assert len({expected, *others}) == 4


def test_translating_into_the_same_language_is_no_translation(overrides: list[str]) -> None:
    experiment = experiment_of([*overrides, "lang=yo"], COPYING)
    assert translation(experiment) == experiment.examples(experiment.task, experiment.sources[0], (), "the test")


def test_the_plan_shows_it(overrides: list[str]) -> None:
    experiment = Experiment.from_config(
        cli.compose([*overrides, "transfer=translate_train", "source=yo", "translator=copying", "task.max_length=64"])
    )
    plan = Plan([experiment], open_store(experiment.settings))
    lines = [line.split() for line in plan.show(1e9).splitlines()]
    (line,) = [cells for cells in lines if cells and cells[0] == "translated_examples"]
    assert line[1:5] == ["topics-yo-to-mt-copying", "1", "miss", "3.2e+04"], "16 tokens read and 16 written of 1,000 examples"
    assert [cells[0] for cells in lines if cells].index("translator") < lines.index(line)


def test_the_estimate_counts_the_translator(tmp_path: Path) -> None:
    """A parameter an operation: 16 tokens read and as many written of each of 1,000 texts."""
    config = cli.compose(
        ["model=miniature", "task=mini_topic", "lang=qad", "source=qaa", "transfer=zero_shot", "translator=mini_translator",
         f"paths.outputs={tmp_path}"]
    )  # fmt: skip
    step = translation(Experiment.from_config(config))
    estimate = step.estimate()
    assert estimate.tokens == 2 * 1000 * 16
    assert estimate.flops == estimate.tokens * step.translator.model.estimate().trainable
