"""The guard between text and evaluation: which sentences it takes out, and that language modules know of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from xlt.cli import compose
from xlt.errors import UserError
from xlt.experiment import Experiment, open_store
from xlt.runner import Session, runtime_of
from xlt.steps.guard import Guard, key
from xlt.steps.text import read_documents
from xlt.store import Artifact


@pytest.mark.parametrize(
    ("guarded", "document", "left"),
    [
        ("Il-kelb kiel il-ħobż.", "Il-kelb kiel il-ħobż.", ""),
        ("Il-kelb kiel il-ħobż.", "L-ewwel linja\nIl-kelb kiel il-ħobż\nl-aħħar linja", "L-ewwel linja\nl-aħħar linja"),
        ("Il-kelb kiel il-ħobż.", "Mela ejja. Il-kelb kiel il-ħobż. U mar.", "Mela ejja. U mar."),
        ("Il-kelb kiel il-ħobż. U mar jorqod.", "Ejja. U mar jorqod! Mela.", "Ejja. Mela."),  # a sentence of a longer example
        ("Il - kelb kiel , il - ħobż .", "IL-KELB KIEL «il-ħobż»", ""),  # tokens with spaces between them
        ("Mara\u0301 marret id-dar", "mar\u00e1 marret id-dar.", ""),  # other code points for the same letter
        ("नमस्ते दुनिया है।", "अच्छा। नमस्ते दुनिया है। ठीक।", "अच्छा। ठीक।"),
        ("今天天气非常好我们走。", "你好。今天天气非常好我们走。再见。", "你好。 再见。"),
        ("Dr.", "Dr. Borg u Dr. Vella", "Dr. Borg u Dr. Vella"),  # too short to mean anything
        ("Il-kelb kiel il-ħobż.", "Il-kelb kiel il-ħobż kollu.", "Il-kelb kiel il-ħobż kollu."),
    ],
)
def test_without(guarded: str, document: str, left: str) -> None:
    assert Guard([guarded]).without(document)[0] == left


def test_vowel_signs_and_tones_tell_words_apart() -> None:
    assert len({key("की बात"), key("का बात"), key("को बात")}) == 3
    assert key("ọ̀rọ̀") != key("ọ̀rọ")


def test_what_is_taken_out_is_counted() -> None:
    guard = Guard(["il-kelb kiel il-ħobż", "il-qattus xorob il-ħalib"])
    assert len(guard) == 2
    documents = ("Il-kelb kiel il-ħobż. Il-qattus xorob il-ħalib.", "Xejn.", "Il-qattus xorob il-ħalib\nIva.")
    assert [guard.without(document) for document in documents] == [("", 2), ("Xejn.", 0), ("Iva.", 1)]


# ---- in a run


def text_of(arguments: list[str]) -> Artifact:
    experiment = Experiment.from_config(compose(arguments))
    session = Session(open_store(experiment.settings), "auto", runtime_of(experiment, torch.device("cpu"), []))
    return session.realise(experiment.text(experiment.targets[0]))


@pytest.fixture
def leaking(overrides: list[str], world: Path, tmp_path: Path) -> list[str]:
    """The tiny experiment on text that holds every sentence of the labelled data, of which a quarter is training data."""
    files = sorted((world / "mirror" / "tiny" / "topics" / "data" / "mlt_Latn").glob("*.jsonl"))
    labelled = [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]
    others = (world / "text" / "mt.txt").read_text().splitlines()
    (tmp_path / "leaking.txt").write_text("".join(f"{text}\n" for text in [*others, *labelled]))
    return [*(text for text in overrides if not text.startswith("data.path")), f"data.path={tmp_path}/leaking.txt"]


@pytest.mark.parametrize("choice", ["task", "task=sib200 task.data.id=tiny/topics task.labels=[kiki,bouba]"])
def test_no_evaluation_sentence_is_left_in_the_text(choice: str, leaking: list[str], world: Path) -> None:
    def sentences(split: str) -> set[str]:
        file = world / "mirror" / "tiny" / "topics" / "data" / "mlt_Latn" / f"{split}.jsonl"
        return {json.loads(line)["text"] for line in file.read_text().splitlines()}

    def text(artifact: Artifact) -> set[str]:
        return {line for split in ("train", "validation") for line in read_documents(artifact.folder, split)}

    held_out = sentences("validation") | sentences("test")
    before, after = text_of(leaking), text_of([*leaking, f"data.guard=['{choice}']"])
    assert held_out <= text(before)
    assert text(after) == text(before) - held_out
    assert sentences("train") - held_out <= text(after)
    assert after.summary["guard"]["guarded"] == len(held_out)
    assert after.summary["guard"]["documents_touched"] == after.summary["left_out"]["guarded"] >= len(held_out)
    assert after.summary["empty"] == before.summary["empty"] == 0


def test_only_a_guarded_text_depends_on_labels(overrides: list[str]) -> None:
    def fingerprint(*others: str) -> str:
        experiment = Experiment.from_config(compose([*overrides, *others]))
        return experiment.text(experiment.targets[0]).fingerprint

    relabelled = "task.data.splits.test=validation"
    assert fingerprint() == fingerprint("data.guard=[]") == fingerprint(relabelled)
    assert len({fingerprint(), fingerprint("data.guard=[task]"), fingerprint("data.guard=[task]", relabelled)}) == 3


def test_data_that_there_is_not(overrides: list[str]) -> None:
    experiment = Experiment.from_config(compose([*overrides, "data.guard=['task=sib2000']"]))
    with pytest.raises(UserError, match=r"data\.guard='task=sib2000' cannot be: .*sib200"):
        experiment.text(experiment.targets[0])


def test_real_text_that_holds_a_real_test_set(shared: Path, tmp_path: Path) -> None:
    """The Swahili text of the mirror is made of the news that MasakhaNER is: most of its evaluation sentences stand in it."""
    arguments = [
        "model=hf", f"model.path={shared}/models/mini-multilingual", "lang=sw", "task=masakhaner", "data=glotcc",
        f"paths.mirror={shared}/mirror", f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    before, after = text_of(arguments), text_of([*arguments, "data.guard=[task]"])
    examples = [
        " ".join(example["tokens"]) for split in ("validation", "test") for example in _examples(arguments, split)
    ]  # fmt: skip
    wanted = {found for text in examples if len(found := key(text)) >= 8}

    def lines(artifact: Artifact) -> set[str]:
        documents = (text for split in ("train", "validation") for text in read_documents(artifact.folder, split))
        return {key(line) for document in documents for line in document.split("\n")}

    assert len(wanted & lines(before)) > 800
    assert not wanted & lines(after)
    assert after.summary["guard"]["sentences_left_out"] > 800


def _examples(arguments: list[str], split: str) -> list[dict]:
    experiment = Experiment.from_config(compose(arguments))
    return experiment.task.examples(experiment.targets[0], experiment.languages, experiment.hub)[split]
