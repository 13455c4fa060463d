"""The path on real text, real labels and a real pretrained model, where these lie beside the checkout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import xlt
from xlt.cli import compose
from xlt.config import build
from xlt.hub import Hub
from xlt.languages import load_languages
from xlt.tasks.base import Task
from xlt.tasks.data import SPLITS

LANGUAGES = load_languages()


def settings(shared: Path, tmp_path: Path) -> list[str]:
    """Maltese on the small multilingual model, from the mirror."""
    return [
        "model=hf", f"model.path={shared}/models/mini-multilingual", "lang=mt", f"paths.mirror={shared}/mirror",
        f"paths.outputs={tmp_path}/outputs", "train=quick", "device=cpu",
    ]  # fmt: skip


@pytest.mark.slow
def test_maltese_from_text_to_score(shared: Path, tmp_path: Path) -> None:
    short = ["train.language.loop.steps=10", "train.task.epochs=2"]
    record = xlt.run(*settings(shared, tmp_path), *short)
    assert record["test_size"] == 204
    assert record["model"] == "mini-multilingual"
    assert len(xlt.load(record).predict(["Il-gvern ħabbar il-liġi l-ġdida."])) == 1


@pytest.mark.slow
def test_labels_teach_something(shared: Path, tmp_path: Path) -> None:
    """Even this weak model beats always answering the most frequent label (51 of 204, macro-F1 .06) by far."""
    record = xlt.run(*settings(shared, tmp_path), "lang=en", "method=none", "train.task.epochs=4")
    low, _ = record["intervals"]["macro_f1"]
    assert low > 0.1


# ---- every labelled data set of the mirror: task, languages by our keys, and the size of each split

SIB200 = "en mt yo bo am si ug ckb kmr cy sw jv su ro th bn ne qu ay gn es de fr zh ar hi ru id"
DATA_SETS: list[tuple[str, str, dict[str, int]]] = [
    ("sib200", SIB200, {"train": 701, "validation": 99, "test": 204}),
    ("nusax", "ace ban bbc bug en id jv min nij su", {"train": 500, "validation": 100, "test": 400}),
    ("smsa", "id", {"train": 11_000, "validation": 1_260, "test": 500}),
    ("americasnli", "ay bzd gn qu tar", {"validation": 743, "test": 750}),
    ("americasnli", "cni", {"validation": 658, "test": 750}),
    ("americasnli", "nah", {"validation": 376, "test": 738}),
    ("americasnli", "oto", {"validation": 222, "test": 748}),
    ("xnli", "en", {"train": 2_344, "validation": 2_490, "test": 5_010}),
    ("xnli", "sw ur es", {"validation": 2_490, "test": 5_010}),
    ("xnli", "de", {"validation": 2_495, "test": 5_010}),
    ("multinli", "en", {"train": 2_344, "validation": 7_727}),
]
EVERY = [(task, language, sizes) for task, languages, sizes in DATA_SETS for language in languages.split()]


@pytest.mark.parametrize(("name", "language", "sizes"), EVERY, ids=[f"{task}-{language}" for task, language, _ in EVERY])
def test_a_data_set_in_a_language(name: str, language: str, sizes: dict[str, int], shared: Path, tmp_path: Path) -> None:
    """Every row is an example, splits have the sizes that the mirror states, and just the declared labels occur."""
    task = build(compose([f"task={name}", f"lang={language}"]).task, "task", Task)
    found, hub = LANGUAGES.find(language), Hub(shared / "mirror", tmp_path)
    assert found.key == language
    examples = task.examples(found, LANGUAGES, hub)
    assert {split: len(chosen) for split, chosen in examples.items()} == sizes
    assert {split for split in SPLITS if task.has_split(split, found, LANGUAGES, hub)} == set(sizes)
    for chosen in examples.values():
        assert len({example["id"] for example in chosen}) == len(chosen)
    labels = {label for chosen in examples.values() for example in chosen for label in task.labels_of(example)}
    assert labels == set(task.labels)


def test_the_mirror_holds_no_other_language(shared: Path) -> None:
    """What is listed above is all that it has of these data sets."""
    for name in ("sib200", "nusax", "smsa", "americasnli", "xnli", "multinli"):
        data = build(compose([f"task={name}", "lang=en"]).task, "task", Task).data
        header = (shared / "mirror" / data.id / "README.md").read_text(encoding="utf-8")
        there = set(re.findall(r"^- config_name: (\S+)$", header, re.MULTILINE)) - {"all_languages"}
        listed = {data._names(LANGUAGES.find(key), LANGUAGES)[1] for task, key, _ in EVERY if task == name}
        assert listed == there
