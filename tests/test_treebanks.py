"""Universal Dependencies: the two forms of the hub's data set, and the treebanks of the mirror."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from xlt import cli
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.hub import Hub
from xlt.languages import LanguageTable, load_languages
from xlt.tasks.treebanks import Treebank

# Of the hub's older form; "_" is that of multiword tokens.
OLDER_ORDER = [
    "NOUN", "PUNCT", "ADP", "NUM", "SYM", "SCONJ", "ADJ", "PART", "DET", "CCONJ", "PROPN", "PRON", "X", "_", "ADV", "INTJ",
    "VERB", "AUX",
]  # fmt: skip

# "Majafu" is two words; between them and the rest stands an empty node, which enhanced dependencies alone know.
OLDER = {
    "idx": "s1", "text": "Majafu xejn u.", "tokens": ["Majafu", "Ma", "jafu", "sejrin", "xejn", "u", "."],
    "upos": [13, 7, 16, 16, 11, 9, 1], "head": ["None", "2", "0", "None", "2", "3", "2"],
    "deprel": ["_", "advmod", "root", "_", "obj", "cc", "punct"],
}  # fmt: skip
NEWER = {
    "sent_id": "s1", "text": "Majafu xejn u.", "tokens": ["Ma", "jafu", "xejn", "u", "."],
    "upos": ["PART", "VERB", "PRON", "CCONJ", "PUNCT"], "head": [2, 0, 2, 3, 2],
    "deprel": ["advmod", "root", "obj", "cc", "punct"], "mwt": ["1-2 Majafu"], "empty_nodes": ["2.1 sejrin"],
}  # fmt: skip
ONE_FORM = {
    "id": "s1", "text": "Majafu xejn u.", "tokens": ["Ma", "jafu", "xejn", "u", "."],
    "upos": ["PART", "VERB", "PRON", "CCONJ", "PUNCT"], "head": [2, 0, 2, 3, 2],
    "deprel": ["advmod", "root", "obj", "cc", "punct"],
}  # fmt: skip


def write_treebanks(
    mirror: Path, splits: Mapping[str, Sequence[str]], row: dict[str, Any], order: list[str] = OLDER_ORDER
) -> None:
    """A data set `tiny/treebanks` with one sentence in each split of its configurations."""
    texts, numbers = datasets.List(datasets.Value("string")), datasets.List(datasets.Value("int16"))
    features = {column: texts if isinstance(value, list) else datasets.Value("string") for column, value in row.items()}
    if isinstance(row["head"][1], int):
        features["head"] = numbers
    if isinstance(row["upos"][0], int):
        features["upos"] = datasets.List(datasets.ClassLabel(names=order))
    folder = mirror / "tiny" / "treebanks"
    configs, declared = [], datasets.Features(features)
    for config, names in splits.items():
        for name in names:
            (folder / config).mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list([row], declared).to_parquet(folder / config / f"{name}.parquet")
        files = [{"split": name, "path": f"{config}/{name}.parquet"} for name in names]
        configs.append({"config_name": config, "data_files": files})
    info = [{"config_name": config, "features": declared._to_yaml_list()} for config in splits]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs, 'dataset_info': info})}---\n")


@pytest.fixture(scope="session")
def languages() -> LanguageTable:
    return load_languages()


def treebank(**changes: Any) -> Treebank:
    columns = {"id": "id", "tokens": "tokens", "heads": "head", "relations": "deprel"}
    splits = {"train": "train", "validation": ["validation", "dev"], "test": "test"}
    return Treebank(**{"id": "tiny/treebanks", "language_column": "ud_treebank", "columns": columns, "splits": splits} | changes)


def rows_of(mirror: Path, data: Treebank, languages: LanguageTable, split: str, lang: str = "mt") -> list[dict[str, Any]]:
    return list(data.rows(languages.find(lang), languages, Hub(mirror, mirror / "memory"), split))


# ---- two forms


@pytest.mark.parametrize("row", [OLDER, NEWER], ids=["older", "newer"])
def test_both_forms_are_read_alike(row: dict[str, Any], languages: LanguageTable, tmp_path: Path) -> None:
    """Multiword tokens and empty nodes go; heads, which count words, still point at the words that they pointed at."""
    write_treebanks(tmp_path, {"mt_mudt": ["test"]}, row)
    (found,) = rows_of(tmp_path, treebank(), languages, "test")
    assert found == ONE_FORM
    heads = {word: found["tokens"][head - 1] if head else None for word, head in zip(found["tokens"], found["head"], strict=True)}
    assert heads == {"Ma": "jafu", "jafu": None, "xejn": "jafu", "u": "xejn", ".": "jafu"}


def test_numbers_that_stand_for_other_parts_of_speech_are_refused(languages: LanguageTable, tmp_path: Path) -> None:
    write_treebanks(tmp_path, {"mt_mudt": ["test"]}, OLDER, sorted(OLDER_ORDER))
    with pytest.raises(UserError, match=r"Labels would get mixed up"):
        rows_of(tmp_path, treebank(), languages, "test")


def test_another_data_set_is_no_treebank(languages: LanguageTable, tmp_path: Path) -> None:
    row = {column: value for column, value in NEWER.items() if column not in ("deprel", "text")}
    write_treebanks(tmp_path, {"mt_mudt": ["test"]}, row)
    with pytest.raises(UserError, match=r"tiny/treebanks, mt_mudt, test is no treebank.*no column text, deprel, only sent_id"):
        rows_of(tmp_path, treebank(), languages, "test")


# ---- splits and configurations


def test_dev_is_validation_and_splits_may_be_missing(languages: LanguageTable, tmp_path: Path) -> None:
    splits = {"mt_mudt": ["train", "dev", "test"], "wo_wtb": ["train", "validation", "test"], "yo_ytb": ["test"]}
    write_treebanks(tmp_path, splits, NEWER)
    hub = Hub(tmp_path, tmp_path / "memory")
    present = {lang: treebank().present(languages.find(lang), languages, hub) for lang in ("mt", "wo", "yo")}
    assert present == {
        "mt": {"train": "train", "validation": "dev", "test": "test"},
        "wo": {"train": "train", "validation": "validation", "test": "test"},
        "yo": {"test": "test"},
    }


def test_several_treebanks_make_one_data_set(languages: LanguageTable, tmp_path: Path) -> None:
    write_treebanks(tmp_path, {"fo_farpahc": ["train", "test"], "fo_oft": ["test"]}, NEWER)
    both = treebank(configs={"fo": "fo_farpahc+fo_oft"})
    assert [len(rows_of(tmp_path, both, languages, split, "fo")) for split in ("train", "test")] == [1, 2]
    assert len(rows_of(tmp_path, treebank(), languages, "test", "fo")) == 1


def test_a_language_without_treebank(languages: LanguageTable, tmp_path: Path) -> None:
    write_treebanks(tmp_path, {"mt_mudt": ["test"]}, NEWER)
    with pytest.raises(UserError, match=r"tiny/treebanks does not have Swahili"):
        rows_of(tmp_path, treebank(), languages, "test", "sw")


# ---- real treebanks

SIZES = {  # train, validation, test; zero for a split that there is not
    "mt": (1123, 433, 518), "wo": (1188, 449, 470), "bm": (0, 0, 1026), "fo": (1020, 300, 301), "hsb": (0, 0, 644),
    "bxr": (17, 2, 908), "myv": (1095, 122, 921), "gv": (1055, 117, 1164), "se": (2031, 226, 865), "yo": (0, 0, 317),
    "am": (0, 0, 1074), "ta": (400, 80, 120), "ug": (1656, 900, 900), "sa": (0, 0, 230), "ar": (0, 0, 1000), "de": (0, 799, 977),
    "zh": (0, 500, 500), "en": (12544, 2001, 2077),
}  # fmt: skip


def experiment(shared: Path, *overrides: str) -> Experiment:
    settings = ["task=ud_dep", "model=miniature", "method=none", f"paths.mirror={shared}/mirror", "paths.outputs=/nonexistent"]
    return Experiment.from_config(cli.compose([*settings, *overrides]))


def leads_to_the_root(word: int, heads: Sequence[int]) -> bool:
    steps = 0
    while word and steps <= len(heads):
        word, steps = heads[word - 1], steps + 1
    return word == 0


QUICK = ("yo", "sa", "bxr")


@pytest.mark.parametrize("lang", [pytest.param(lang, marks=() if lang in QUICK else pytest.mark.slow) for lang in SIZES])
@pytest.mark.parametrize("task", ["ud_dep", "ud_pos"])
def test_every_treebank_of_the_mirror(task: str, lang: str, shared: Path, tmp_path: Path) -> None:
    """Splits are as large as they are; every sentence is a tree with one root, every part of speech one of the seventeen."""
    found = experiment(shared, f"task={task}", f"lang={lang}", "source=en", "transfer=zero_shot", f"paths.outputs={tmp_path}")
    examples = found.task.examples(found.targets[0], found.languages, found.hub)
    assert tuple(len(examples.get(split, ())) for split in ("train", "validation", "test")) == SIZES[lang]
    for example in [example for split in examples.values() for example in split]:
        if task == "ud_pos":
            assert set(example["tags"]) <= set(found.task.labels)
            continue
        heads = example["heads"]
        assert all(leads_to_the_root(word, heads) for word in range(1, len(heads) + 1))
        assert [relation for head, relation in zip(heads, example["relations"], strict=True) if head == 0] == ["root"]


def test_amharic_words(shared: Path, tmp_path: Path) -> None:
    """A sentence of whose written words two are several syntactic words each."""
    found = experiment(shared, "lang=am", "source=en", "transfer=zero_shot", f"paths.outputs={tmp_path}")
    first = found.task.examples(found.targets[0], found.languages, found.hub)["test"][0]
    raw = next(iter(found.hub.rows(found.hub.source(found.task.data.id, "dataset"), "am_att", "test")))
    written = [token for token, head in zip(raw["tokens"], raw["head"], strict=True) if head == "None"]
    assert len(raw["tokens"]) == len(first["tokens"]) + len(written)
    assert written


def test_a_language_with_test_data_alone(shared: Path, tmp_path: Path) -> None:
    """Yoruba is scored with labels of English, and has none of its own to learn from."""
    outputs = f"paths.outputs={tmp_path}"
    (step,) = experiment(shared, "lang=yo", "source=en", "transfer=zero_shot", outputs).evaluations
    assert {inner.label for inner in step.ancestors().values()} >= {"ud_dep-yo", "ud_dep-en"}
    alone = experiment(shared, "lang=yo", outputs)
    with pytest.raises(UserError, match="train"):
        list(alone.evaluations)
