"""Every labelled data set of the mirror in every language that it has there: a task module is trained for an epoch on a few of
its examples, or in zero-shot transfer on those of another language, and scored. The model is tiny: scores mean nothing here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_real_data import LANGUAGES, SIB200

import xlt
from xlt import cli
from xlt.config import build
from xlt.hub import Hub
from xlt.record import Record
from xlt.tasks.base import Task

ENGLISH = ["transfer=zero_shot", "source=en"]
TREEBANKS = {
    "mt": 1123,
    "wo": 1188,
    "fo": 1020,
    "myv": 1217,
    "gv": 1172,
    "se": 2257,
    "ta": 400,
    "ug": 1656,
    "en": 12544,
    "bxr": 19,
}
TEST_TREEBANKS = "bm hsb yo am sa ar de zh"
RUNS: list[tuple[str, str, list[str]]] = [
    ("sib200", SIB200, []),
    ("nusax", "ace ban bbc bug en id jv min nij su", []),
    ("smsa", "id", []),
    ("americasnli", "ay bzd cni gn nah oto qu tar", [*ENGLISH, "source_task=xnli"]),
    ("xnli", "en", []),
    ("xnli", "sw ur es de", ENGLISH),
    ("multinli", "en", ["task.data.splits.test=validation_matched"]),
    ("masakhaner", "ha ig rw lg pcm sw wo yo", []),
    ("conll2003", "en", []),
    ("ud_pos", " ".join(TREEBANKS), []),
    ("ud_pos", TEST_TREEBANKS, ENGLISH),
    ("ud_pos", "fo", [*ENGLISH, "+task.data.configs.fo=fo_oft", "task.name=ud_pos_oft"]),
    ("ud_dep", " ".join(TREEBANKS), []),
    ("ud_dep", TEST_TREEBANKS, ENGLISH),
    ("ud_dep", "fo", [*ENGLISH, "+task.data.configs.fo=fo_oft", "task.name=ud_dep_oft"]),
    ("squad", "en", ["task.data.splits={train: validation, validation: null, test: validation}"]),
    ("xquad", "ar de el en es hi ro ru th zh", [*ENGLISH, "source_task=squad", "source_task.data.splits.train=validation"]),
    ("pppl", SIB200, []),
]
EVERY = [(task, language, more) for task, languages, more in RUNS for language in languages.split()]
SIZES = {"train": 16, "validation": 8, "test": 12}


def few(overrides: list[str]) -> list[str]:
    """The same with the first examples of each split alone."""
    config = cli.compose(overrides)
    for role in ("task", "source_task"):
        splits = config[role].data.splits if config.get(role) is not None else {}
        for split, names in splits.items():
            if names is not None:
                listed = [names] if isinstance(names, str) else list(names)
                sliced = ", ".join(f'"{name}[:{SIZES[split]}]"' for name in listed)
                overrides = [*overrides, f"{role}.data.splits.{split}=[{sliced}]"]
    return overrides


@pytest.mark.slow
@pytest.mark.parametrize(("task", "language", "more"), EVERY, ids=[f"{task}-{language}" for task, language, _ in EVERY])
def test_a_run_of_every_data_set_in_every_language(
    task: str, language: str, more: list[str], shared: Path, world: Path, tmp_path: Path
) -> None:
    record = xlt.run(*few([
        "model=hf", f"model.path={world}/models/bert", f"lang={language}", "method=none", f"task={task}", "train=quick",
        "train.task.epochs=1", "train.task.batch_size=8", f"paths.mirror={shared}/mirror", f"paths.outputs={tmp_path}", *more,
    ]))  # fmt: skip
    assert isinstance(record, Record)
    assert record["test_size"] == SIZES["test"]
    assert record["training"].keys() == (set() if task == "pppl" else {"task_module"})
    for name, value in record["metrics"].items():
        low, high = record["intervals"][name]
        assert low <= value <= high
        assert value >= 0 if name == "pseudo_perplexity" else 0 <= value <= 1
    rows = record.predictions()
    kind = build(OmegaConf.create(record["config"]["task"]), "task", Task)
    assert kind.score([row["gold"] for row in rows], [row["predicted"] for row in rows]) == record["metrics"]
    if task != "pppl":
        assert all(json.dumps(row["predicted"]) for row in rows)


@pytest.mark.parametrize("task", ["masakhaner", "conll2003", "ud_pos", "ud_dep"])
def test_the_labels_of_words_are_just_the_declared_ones(task: str, shared: Path, tmp_path: Path) -> None:
    """Over all languages together: some treebanks lack rare parts of speech and relations."""
    kind, hub = build(cli.compose([f"task={task}", "lang=en"]).task, "task", Task), Hub(shared / "mirror", tmp_path)
    seen: set[str] = set()
    for other, languages, _ in RUNS:
        for language in languages.split() if other == task else ():
            splits = kind.examples(LANGUAGES.find(language), LANGUAGES, hub)
            if task.startswith("ud_") and language in TREEBANKS:
                assert len(splits["train"]) + len(splits["validation"]) >= TREEBANKS[language]
            seen |= {label for examples in splits.values() for example in examples for label in kind.labels_of(example)}
    assert seen == set(kind.labels)
