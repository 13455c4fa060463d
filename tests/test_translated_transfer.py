"""Translate-train, translate-test, and translations together with few shots: what is learnt from what, and what must come out the
same."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_transfer import draw, evaluation, task_module
from word_translators import Reversing

import xlt
from xlt import cli
from xlt.errors import UserError
from xlt.runner import Record
from xlt.steps.examples import read_examples
from xlt.steps.task_module import Labels, Shots
from xlt.steps.translated_examples import TranslatedExamplesStep
from xlt.store import Artifact, Store

TRAIN = ["transfer=translate_train", "source=yo", "translator=copying"]
TEST = ["transfer=translate_test", "source=yo", "translator=copying"]
SHOTS = ["transfer=few_shot_translate", "source=yo", "translator=copying"]


@pytest.fixture
def same_texts(overrides: list[str], world: Path, tmp_path: Path) -> list[str]:
    """The tiny experiment on a data set whose two languages have the same texts."""
    mirror = tmp_path / "mirror" / "tiny" / "topics"
    shutil.copytree(world / "mirror" / "tiny" / "topics", mirror)
    shutil.rmtree(mirror / "data" / "mlt_Latn")
    shutil.copytree(mirror / "data" / "yor_Latn", mirror / "data" / "mlt_Latn")
    return [*overrides, f"paths.mirror={tmp_path}/mirror", "train.task.learning_rate=1e-2"]


def made(record: Record, kind: str) -> Artifact:
    """The artifact of a kind behind a record."""
    (label,) = [name for name in record["fingerprints"] if name.startswith(f"{kind}/")]
    return Store(Path(record["store"])).peek(kind, label.partition("/")[2], record["fingerprints"][label])


def described(labels: Labels) -> tuple[Any, ...]:
    translated = isinstance(labels.examples, TranslatedExamplesStep)
    original = labels.examples.original if translated else labels.examples
    module = labels.language_module.language.key if labels.language_module else None
    return original.language.key, labels.examples.language.key, module, labels.shots, labels.repeat, labels.validates


# ---- what is drawn


def test_translate_train_learns_from_the_source_and_its_translation(overrides: list[str]) -> None:
    step = evaluation(overrides, *TRAIN)
    (learnt,) = step.task_modules
    assert [described(labels) for labels in learnt.sources] == [
        ("yo", "yo", "yo", None, 1, True),
        ("yo", "mt", "mt", None, 1, True),
    ]
    assert learnt.sources[1].examples.splits == ("train", "validation")
    assert (step.examples.language.key, step.language_module.language.key) == ("mt", "mt")


def test_the_source_can_be_left_out(overrides: list[str]) -> None:
    learnt = task_module(overrides, *TRAIN, "transfer.with_source=false")
    assert [described(labels) for labels in learnt.sources] == [("yo", "mt", "mt", None, 1, True)]


def test_into_all_targets(overrides: list[str]) -> None:
    """The source, which is one of the targets, is not translated into itself."""
    several = [*TRAIN, "lang=[mt,yo]", "transfer.targets=all"]
    learnt = [step.task_modules[0] for step in draw([*overrides, *several]).evaluations]
    assert learnt[0].fingerprint == learnt[1].fingerprint == task_module(overrides, *TRAIN).fingerprint
    each = [step.task_modules[0] for step in draw([*overrides, *several, "transfer.targets=one"]).evaluations]
    assert [len(step.sources) for step in each] == [2, 1]
    assert each[1].fingerprint == task_module(overrides, "lang=yo").fingerprint


def test_few_shots_beside_translations(overrides: list[str]) -> None:
    """The shots alone are met ten times; no label of the target decides between checkpoints."""
    learnt = task_module(overrides, *SHOTS, "shots=4", "transfer.choice=first")
    assert [described(labels) for labels in learnt.sources] == [
        ("yo", "yo", "yo", None, 1, True), ("yo", "mt", "mt", None, 1, True), ("mt", "mt", "mt", Shots(4, "first"), 10, False)
    ]  # fmt: skip


def test_no_shots_are_translate_train(overrides: list[str]) -> None:
    none = evaluation(overrides, *SHOTS, "shots=0")
    assert none.fingerprint == evaluation(overrides, *TRAIN).fingerprint
    assert none.fingerprint != evaluation(overrides, *SHOTS, "shots=4").fingerprint


def test_a_cap_takes_the_same_examples_of_the_source_and_its_translation(overrides: list[str]) -> None:
    learnt = task_module(overrides, *TRAIN, "transfer.cap=10", "seed=3")
    assert [labels.shots for labels in learnt.sources] == [Shots(10, "drawn", 3)] * 2


def test_translate_test_learns_what_zero_shot_does(overrides: list[str]) -> None:
    step = evaluation(overrides, *TEST)
    assert step.task_modules[0].fingerprint == task_module(overrides, "transfer=zero_shot", "source=yo").fingerprint
    assert (step.language.key, step.examples.language.key, step.language_module.language.key) == ("mt", "yo", "yo")
    assert (step.examples.original.language.key, step.examples.splits) == ("mt", ("test",))


def test_one_translation_for_all_seeds_and_methods(overrides: list[str]) -> None:
    steps = [task_module(overrides, *TRAIN, *more).sources[1].examples for more in ([], ["seed=1"], ["method=none"])]
    shots = task_module(overrides, *SHOTS, "shots=4", "seed=2").sources[1].examples
    assert len({step.fingerprint for step in (*steps, shots)}) == 1


# ---- what must come out the same


@pytest.mark.parametrize("method", ["none", "seq_bn"])
def test_copied_labels_are_the_source_duplicated(method: str, same_texts: list[str]) -> None:
    """Where both languages have the same texts, translate-train with copies is multi-source training on the two, bit for bit."""
    command = [*same_texts, f"method={method}"]
    translated = xlt.run(*command, *TRAIN)
    duplicated = xlt.run(*command, "transfer=multi_source", "source=[yo,mt]")
    assert translated["fingerprint"] != duplicated["fingerprint"]
    files = [made(record, "task_module").manifest["files"]["head.safetensors"] for record in (translated, duplicated)]
    assert files[0] == files[1]
    assert translated.predictions() == duplicated.predictions()
    assert translated["metrics"] == duplicated["metrics"]


def test_translating_the_test_set_of_the_source_is_in_language_evaluation(same_texts: list[str]) -> None:
    """Into its own language it is the same evaluation; of the same texts in another language, copied, it predicts the same."""
    own = evaluation(same_texts, *TEST, "lang=yo")
    assert own.fingerprint == evaluation(same_texts, "lang=yo").fingerprint
    learnt = [*same_texts, "method=seq_bn", "task_method=lora", "train.task.epochs=8"]
    in_language = xlt.run(*learnt, "lang=yo")
    copied = xlt.run(*learnt, *TEST)
    assert (copied["lang"], in_language["lang"]) == ("mt", "yo")
    assert copied.predictions() == in_language.predictions()
    assert len({row["predicted"] for row in copied.predictions()}) == 2


def test_an_epoch_is_as_long_as_all_parts(overrides: list[str]) -> None:
    """Σ ceil(n / B) · u: 48 of the source, 48 translated, 5 shots met ten times, in batches of 20."""
    record = xlt.run(*overrides, *SHOTS, "shots=5", "method=seq_bn", "train.task.batch_size=20", "train.task.epochs=1")
    assert record["training"]["task_module"]["steps"] == 2 * math.ceil(48 / 20) + 10 * math.ceil(5 / 20)
    uneven = xlt.run(*overrides, *SHOTS, "shots=5", "transfer.upsample=1", "method=seq_bn", "train.task.batch_size=20",
                     "train.task.epochs=1")  # fmt: skip
    assert uneven["training"]["task_module"]["steps"] == 2 * math.ceil(48 / 20) + 1


# ---- records, predictions, kills


def test_records_name_how_labels_came(overrides: list[str]) -> None:
    names = ("transfer", "source", "translator", "shots", "lang")
    train, test, shots = (
        xlt.run(*overrides, *setting, "method=none", "train.task.epochs=1") for setting in (TRAIN, TEST, [*SHOTS, "shots=3"])
    )
    assert [train[name] for name in names] == ["translate_train", ["yo"], "copying", None, "mt"]
    assert [test[name] for name in names] == ["translate_test", ["yo"], "copying", None, "mt"]
    assert [shots[name] for name in names] == ["few_shot_translate", ["yo"], "copying", 3, "mt"]
    plain = xlt.run(*overrides, "method=none", "translator=copying", "train.task.epochs=1")
    assert plain["translator"] is None, "nothing was translated"
    assert test["test_size"] == plain["test_size"] == 40
    ids = [[(row["id"], row["gold"]) for row in record.predictions()] for record in (test, plain)]
    assert ids[0] == ids[1], "comparable example by example"


def test_cards_tell_translated_labels_from_others(overrides: list[str]) -> None:
    record = xlt.run(*overrides, *SHOTS, "shots=3", "method=none", "train.task.epochs=1")
    text = (made(record, "task_module").folder / "README.md").read_text()
    assert "| Task | topics in Yoruba, Maltese (translated from Yoruba by copying), Maltese |" in text


def test_new_texts_are_translated_before_they_are_labelled(overrides: list[str], tmp_path: Path) -> None:
    """What was scored on translations is asked in the target language, as the test set was."""
    reversing = [
        "transfer=translate_test",
        "source=yo",
        "+translator._target_=word_translators.Reversing",
        "+translator.name=back",
    ]
    record = xlt.run(*overrides, *reversing, "method=none", "train.task.learning_rate=1e-2")
    assert record["translator"] == "back"
    (originals,) = [found for found in Store(Path(record["store"])).list("examples") if found.manifest["label"] == "topics-mt"]
    rows = read_examples(originals, "test")
    Reversing.given.clear()
    answers = xlt.load(record).predict([row["text"] for row in rows[:10]])
    assert Reversing.given == [row["text"] for row in rows[:10]]
    assert Reversing.opened[-1] == ("mt", "yo")
    found = record.predictions()[:10]
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in found]
    assert [answer["probabilities"] for answer in answers] == [pytest.approx(row["probabilities"], abs=1e-5) for row in found]


# ---- labels on spans


def test_spans_are_learnt_from_with_a_projection(tmp_path: Path) -> None:
    """Entities of the miniature world by copying: the run's labels are those of the source."""
    command = ["model=miniature", "task=mini_entities", "lang=qad", "source=qaa", "method=none", "train=miniature",
               "train.task.epochs=1", f"paths.outputs={tmp_path}", "transfer=translate_train", "translator=copying",
               "task.data.sizes.test=50"]  # fmt: skip
    with pytest.raises(UserError, match=r"transfer\.projection=markers"):
        xlt.run(*command)
    record = xlt.run(*command, "transfer.projection=markers")
    artifact = made(record, "translated_examples")
    assert (artifact.summary["train"]["left_out"], artifact.summary["train"]["examples"]) == (0, 200)
    assert any("<a>" in text for text, _ in artifact.summary["translation"]["samples"])


# ---- what cannot be


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["transfer=translate_train", "source=yo"], "translates Yoruba into Maltese: say what does, for example translator="),
        (["transfer=translate_test", "source=yo"], "translates Maltese into Yoruba: say what does"),
        (["transfer=translate_train", "translator=copying"], "say in which, for example source=en"),
        (["transfer=translate_test", "translator=copying"], "say in which, for example source=en"),
        (["transfer=translate_test", "source=[mt,yo]", "translator=copying"], "has one source language"),
        ([*SHOTS], "shots=100"),
        ([*TRAIN, "transfer.validation=target"], "looks at no label of the target"),
        ([*SHOTS, "shots=3", "transfer.validation=target"], "no labels of the target to spare"),
        ([*TEST, "transfer.validation=target"], "reads the source's language alone"),
        ([*TRAIN, "lang=yo", "transfer.with_source=false"], "leaves nothing to learn from"),
        ([*TRAIN, "transfer.projection=markers"], "belong to whole texts: leave it out"),
        ([*TRAIN, "transfer.projection=marker"], "Did you mean markers"),
        ([*TRAIN, "translator=copyng"], "copying"),
    ],
)
def test_refused_before_any_work(
    more: list[str], complaint: str, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.exit_status([*overrides, *more]) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    outputs = Path(next(text for text in overrides if text.startswith("paths.outputs=")).partition("=")[2])
    assert not list(outputs.rglob("artifact.json"))


MINIATURE = ["model=miniature", "data=miniature", "lang=qad", "source=qaa", "method=none", "translator=copying"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["task=mini_pos", "transfer=translate_train"], "a label for each word"),
        (["task=mini_pos", "transfer=translate_test"], "a label for each word"),
        (["task=mini_parsing", "transfer=few_shot_translate", "shots=3", "transfer.projection=markers"], "a label for each word"),
        (["task=mini_entities", "transfer=translate_train"], "transfer.projection=markers"),
        (["task=mini_questions", "transfer=translate_test"], "Choose transfer=translate_train"),
    ],
)
def test_labels_that_do_not_outlive_a_translation(more: list[str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        _ = draw([*MINIATURE, f"paths.outputs={tmp_path}", *more]).evaluations


def test_every_setting_is_in_its_file() -> None:
    """What a class can be told, its YAML shows."""
    import dataclasses
    import importlib

    for name in ("translate_train", "few_shot_translate", "translate_test"):
        content = yaml.safe_load((Path(__file__).parents[1] / "conf" / "transfer" / f"{name}.yaml").read_text())
        module, _, attribute = content.pop("_target_").rpartition(".")
        fields = dataclasses.fields(getattr(importlib.import_module(module), attribute))
        assert {field.name for field in fields} == set(content)
