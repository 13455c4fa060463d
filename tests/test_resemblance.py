"""Texts that say the same, and labels of another data set that are kept apart from the test texts made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS

from xlt.cli import compose
from xlt.errors import UserError
from xlt.experiment import Experiment, open_store
from xlt.runner import Session, runtime_of
from xlt.steps.examples import ExamplesStep
from xlt.tasks.resemblance import Resemblance, key


@pytest.mark.parametrize(
    ("text", "resembles"),
    [
        ("the food was good and cheap", True),
        ("The food was good, and cheap!", True),  # case and punctuation
        ("thefoodwasgoodandcheap", True),  # spaces
        ("the food was very good and cheap", True),  # 6 of 7 words in common
        ("the food was good", True),  # 4 of 6
        ("the food was bad and dear", False),  # 4 of 8
        ("good", False),
        ("", False),
    ],
)
def test_what_resembles_a_text(text: str, resembles: bool) -> None:
    assert (text in Resemblance(["the food was good and cheap", "nothing to do with it"])) is resembles


def test_the_most_alike_is_found_among_many() -> None:
    """Texts that share more words, but long ones, do not hide it."""
    long = [" ".join(["a", "b", "c", *(f"w{number}{place}" for place in range(30))]) for number in range(3)]
    assert "a b c" in Resemblance([*long, "a b c d"])


def test_keys_of_other_scripts() -> None:
    assert key("«Ħobż, ilma!»") == key("ħobż ilma")
    assert key("ส้มตำ อร่อย") != key("สมตำ อรอย"), "marks count"


def source_examples(overrides: list[str]) -> tuple[ExamplesStep, dict[str, Any]]:
    """The step that a task module learns from, and what it reports of its result."""
    experiment = Experiment.from_config(compose(overrides))
    (evaluation,) = experiment.evaluations
    step = evaluation.task_modules[0].sources[0].examples
    session = Session(open_store(experiment.settings), "auto", runtime_of(experiment, torch.device("cpu"), []))
    return step, session.realise(step).summary


def test_test_texts_are_not_learnt_from(overrides: list[str], world: Path, tmp_path: Path) -> None:
    """Of the source's 48 training texts, ten stand edited in another task's test set, and one in its training set."""
    shutil.copytree(world / "mirror", tmp_path / "mirror")
    shutil.copytree(tmp_path / "mirror/tiny/topics", tmp_path / "mirror/tiny/held")
    rows = [json.loads(line) for line in (world / "mirror/tiny/topics/data/yor_Latn/train.jsonl").read_text().splitlines()]
    for split, chosen in (("test", rows[:10]), ("train", rows[10:11])):
        edited = [json.dumps({**row, "text": f"Du: {row['text']}!"}) + "\n" for row in chosen]
        (tmp_path / f"mirror/tiny/held/data/yor_Latn/{split}.jsonl").write_text("".join(edited))
    plain = [
        *overrides, "transfer=zero_shot", "source=yo", "lang=mt", "method=none", f"paths.mirror={tmp_path}/mirror",
        "task@source_task=sib200", "source_task.name=origin", "source_task.data.id=tiny/topics",
        f"source_task.labels=[{','.join(LABELS)}]",
    ]  # fmt: skip
    guarded = [*plain, f'source_task.data.guard=["task=sib200 task.data.id=tiny/held task.labels=[{",".join(LABELS)}]"]']
    step, summary = source_examples(guarded)
    assert (summary["train"]["examples"], summary["guarded_train"], summary["validation"]["examples"]) == (38, 10, 24)
    assert step.fingerprint != source_examples(plain)[0].fingerprint
    assert source_examples(plain)[1]["train"]["examples"] == 48
    alone = [*overrides, "method=none", guarded[-1].removeprefix("source_")]
    assert source_examples(alone)[0].guards == (), "it is no other task's source"


def test_a_guard_that_cannot_be(overrides: list[str]) -> None:
    source = ["task@source_task=sib200", "source_task.data.id=tiny/topics", f"source_task.labels=[{','.join(LABELS)}]"]
    guard = 'source_task.data.guard=["task=nusaks"]'
    with pytest.raises(UserError, match=r"data.guard='task=nusaks' cannot be: task=nusaks is no choice. Did you mean nusax"):
        source_examples([*overrides, "transfer=zero_shot", "source=yo", *source, guard])


@pytest.mark.slow
def test_nusax_is_not_learnt_from_smsa(shared: Path, tmp_path: Path) -> None:
    """NusaX's Indonesian test sentences are SmSA's comments, half of them edited."""
    overrides = [
        "task=nusax", "task@source_task=smsa", "source=id", "lang=jv", "transfer=zero_shot", "method=none", "model=hf",
        f"model.path={shared}/models/mini-multilingual", f"paths.mirror={shared}/mirror", f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    _, summary = source_examples(overrides)
    assert summary["train"]["examples"] + summary["guarded_train"] == 11_000
    assert summary["guarded_train"] >= 300
