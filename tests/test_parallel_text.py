"""Parallel text: what its sources yield, what is left out, and that nothing held out is learnt from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from xlt.cli import compose
from xlt.config import build
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.hub import Hub
from xlt.languages import Language, load_languages
from xlt.steps.base import Workbench
from xlt.steps.parallel_text import Pair, ParallelTextStep, read_pairs
from xlt.store import Artifact
from xlt.tasks.resemblance import key
from xlt.translation.parallel_text import FilePairs, HubPairs, ParallelText

LANGUAGES = load_languages()
ES, QU, JV, ID, BBC = map(LANGUAGES.find, ("es", "qu", "jv", "id", "bbc"))
PAIRS = [(f"la casa número {number}", f"{number} yupaysapa wasi") for number in range(60)]


def step_of(source: ParallelText, one: Language, other: Language, hub: Hub) -> ParallelTextStep:
    return ParallelTextStep(source, (one, other), source.revision(one, other, LANGUAGES, hub))


def made(folder: Path, source: ParallelText, one: Language = ES, other: Language = QU, mirror: Path | None = None) -> Artifact:
    hub = Hub(mirror, folder / "memory", online=False)
    step = step_of(source, one, other, hub)
    (folder / "artifact").mkdir(parents=True)
    runtime = SimpleNamespace(languages=LANGUAGES, hub=hub)
    bench = Workbench({}, folder / "artifact", folder, runtime, {})  # type: ignore[arg-type]
    step.build(bench)
    return Artifact(folder / "artifact", {"label": step.label, "summary": bench.summary})


def everything(artifact: Artifact, one: Language = ES, other: Language = QU) -> dict[str, list[Pair]]:
    return {split: read_pairs(artifact, split, one, other) for split in ("train", "validation", "test")}


def table(path: Path, pairs: list[Pair], columns: tuple[str, str] = ("es", "qu")) -> Path:
    path.write_text("".join(json.dumps(dict(zip(columns, pair, strict=True))) + "\n" for pair in pairs), encoding="utf-8")
    return path


def hub_clone(mirror: Path, name: str, config: str, pairs: list[dict[str, str]]) -> Path:
    """A data set with a column `translation`, as a clone."""
    folder = mirror / name
    (folder / config).mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"translation": pairs}), folder / config / "train.parquet")
    files = [{"split": "train", "path": f"{config}/train.parquet"}]
    header = json.dumps({"configs": [{"config_name": config, "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{header}\n---\n")
    return mirror


# ---- what sources yield


def aligned(folder: Path) -> FilePairs:
    for number, code in enumerate(("es", "qu")):
        (folder / f"corpus.{code}").write_text("".join(f"{pair[number]}\n" for pair in PAIRS), encoding="utf-8")
    return FilePairs(path=f"{folder}/corpus.@lang")


def comma_separated(folder: Path) -> FilePairs:
    """As NusaX-MT: a column a language by its name, the numbers of the rows in one without a name."""
    rows = [f"{number},{source},{target}" for number, (source, target) in enumerate(PAIRS)]
    (folder / "train.csv").write_text("\n".join([",indonesian,toba_batak", *rows]), encoding="utf-8")
    return FilePairs(path=f"{folder}/train.csv")


def named_columns(folder: Path) -> FilePairs:
    path = table(folder / "train.jsonl", PAIRS, ("Spanish", "Ayacucho"))
    return FilePairs(path=str(path), columns={"es": "Spanish", "qu": "Ayacucho"})


@pytest.mark.parametrize(("make", "languages"), [(aligned, (ES, QU)), (comma_separated, (ID, BBC)), (named_columns, (ES, QU))])
def test_files_yield_their_pairs(tmp_path: Path, make: Any, languages: tuple[Language, Language]) -> None:
    found = everything(made(tmp_path / "made", make(tmp_path), *languages), *languages)
    assert sorted(pair for pairs in found.values() for pair in pairs) == sorted(PAIRS)
    assert [len(found[split]) for split in ("train", "validation", "test")] == [60 - 6 - 5, 6, 5], "a tenth of what is left each"


@pytest.mark.parametrize("config", ["quy_Latn-spa_Latn", "spa_Latn-quy_Latn"])
def test_the_hub_is_asked_for_either_order(tmp_path: Path, config: str) -> None:
    rows = [{"spa_Latn": source, "quy_Latn": target} for source, target in PAIRS]
    mirror = hub_clone(tmp_path / "mirror", "some/pairs", config, rows)
    source = HubPairs(id="some/pairs", language_column="nllb")
    found = everything(made(tmp_path / "made", source, mirror=mirror))
    assert sorted(pair for pairs in found.values() for pair in pairs) == sorted(PAIRS)


def test_the_order_of_the_languages_does_not_matter(tmp_path: Path) -> None:
    mirror = hub_clone(tmp_path / "mirror", "some/pairs", "quy_Latn-spa_Latn", [{"spa_Latn": "sol", "quy_Latn": "inti"}])
    overrides = ["lang=mt", "parallel=hub", "parallel.id=some/pairs", "parallel.language_column=nllb", f"paths.mirror={mirror}"]
    experiment = Experiment.from_config(compose([*overrides, f"paths.outputs={tmp_path}"]))
    assert experiment.parallel_text(None, ES, QU).fingerprint == experiment.parallel_text(None, QU, ES).fingerprint


def test_a_pair_that_the_hub_lacks_is_refused(tmp_path: Path) -> None:
    mirror = hub_clone(tmp_path / "mirror", "some/pairs", "quy_Latn-spa_Latn", [{"spa_Latn": "sol", "quy_Latn": "inti"}])
    source = HubPairs(id="some/pairs", language_column="nllb")
    with pytest.raises(UserError, match=r"neither ind_Latn-jav_Latn nor jav_Latn-ind_Latn.*quy_Latn-spa_Latn"):
        step_of(source, ID, JV, Hub(mirror, tmp_path, online=False))


def test_the_miniature_world_says_the_same_in_two_languages(tmp_path: Path) -> None:
    config = compose(["lang=qaa", "parallel=miniature", "parallel.data.sizes={parallel: 80}"])
    source = build(config.parallel, "parallel", ParallelText)
    experiment = Experiment.from_config(compose(["lang=qaa", "data=miniature", "task=mini_topic", f"paths.outputs={tmp_path}"]))
    qaa, qad = map(experiment.languages.find, ("qaa", "qad"))
    pairs = list(source.pairs(qaa, qad, experiment.languages, experiment.hub, "parallel"))
    assert len(pairs) == 80
    one, other = (source.data.read(language, experiment.languages, experiment.hub, "parallel") for language in (qaa, qad))
    assert pairs == [(a["sentence"], b["sentence"]) for a, b in zip(one, other, strict=True)]
    assert [a["topic"] for a in one] == [b["topic"] for b in other]
    assert sum(a == b for a, b in pairs) < 8, "the languages differ"


def test_real_parallel_text(tmp_path: Path, shared: Path) -> None:
    source = HubPairs(id="xlt/parallel", language_column="nllb", most_characters=120)
    artifact = made(tmp_path, source, mirror=shared / "mirror")
    assert artifact.summary["read"] == {"train": 5000}
    found = everything(artifact)
    kept = 5000 - sum(artifact.summary["left_out"].values())
    assert [len(found[split]) for split in ("train", "validation", "test")] == [
        kept - 200 - (kept - 200) // 10,
        200,
        (kept - 200) // 10,
    ]
    assert len(found["train"]) > 4000
    check_apart(found)


# ---- cleaning and splitting


def check_apart(found: Mapping[str, list[Pair]]) -> None:
    """No sentence of either language is both learnt from and held out."""
    for side in (0, 1):
        train = {key(pair[side]) for pair in found["train"]}
        assert not train & {key(pair[side]) for split in ("validation", "test") for pair in found[split]}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    odd = [
        ("sol", ""), (" \t", "inti"), ("sol", "inti " * 30), ("x" * 200, "y" * 190), PAIRS[0],
        ("la  casa\nnúmero 1", PAIRS[1][1]),
    ]  # fmt: skip
    source = FilePairs(path=str(table(tmp_path / "all.jsonl", [*PAIRS, *odd])), most_characters=150)
    card = made(tmp_path / "made", source).summary
    expected = {"empty": 2, "unequal lengths": 1, "too long": 1, "repeated": 2, "in held-out pairs": 0}
    assert card["left_out"] == expected
    assert card["read"] == {"train": 66}
    assert sum(card[split]["pairs"] for split in ("train", "validation", "test")) == 60
    assert len(card["samples"]) == 10
    assert json.loads((tmp_path / "made" / "artifact" / "card.json").read_text()) == card


def test_short_words_are_not_taken_for_bad_translations(tmp_path: Path) -> None:
    short = [(f"no {number}", f"manan kanchu {number} ñuqapaq") for number in range(30)]
    source = FilePairs(path=str(table(tmp_path / "all.jsonl", short)))
    assert "unequal lengths" not in made(tmp_path / "made", source).summary["left_out"]


def test_sentences_in_several_pairs_are_never_held_out(tmp_path: Path) -> None:
    """One word with many translations, and case and punctuation that tell nothing apart."""
    shared_sides = [("hola", f"rimaykullayki {number}") for number in range(30)] + [("Hola!", "napaykuykim")]
    shared_sides += [(f"buen día {number}", "allin punchaw") for number in range(30)]
    source = FilePairs(path=str(table(tmp_path / "all.jsonl", [*PAIRS, *shared_sides])))
    found = everything(made(tmp_path / "made", source))
    check_apart(found)
    held_out = {*found["validation"], *found["test"]}
    assert held_out < set(PAIRS)
    assert not held_out & set(shared_sides)


def test_the_seed_draws_what_is_held_out(tmp_path: Path) -> None:
    path = str(table(tmp_path / "all.jsonl", PAIRS))
    tests = [everything(made(tmp_path / str(n), FilePairs(path=path, seed=seed)))["test"] for n, seed in enumerate((0, 0, 1))]
    assert tests[0] == tests[1] != tests[2]


def test_splits_of_its_own_are_kept_and_not_learnt_from(tmp_path: Path) -> None:
    table(tmp_path / "train.jsonl", PAIRS)
    table(tmp_path / "test.jsonl", [PAIRS[3], ("LA CASA NÚMERO 4.", "huk simi"), ("agua", "yaku")])
    source = FilePairs(path=f"{tmp_path}/@split.jsonl", splits={"train": "train", "validation": None, "test": "test"})
    artifact = made(tmp_path / "made", source)
    found = everything(artifact)
    assert found["test"] == [PAIRS[3], ("LA CASA NÚMERO 4.", "huk simi"), ("agua", "yaku")]
    check_apart(found)
    assert artifact.summary["left_out"]["in held-out pairs"] >= 1
    assert len(found["train"]) + len(found["validation"]) + artifact.summary["left_out"]["in held-out pairs"] == len(PAIRS)


def test_reading_the_other_way_round(tmp_path: Path) -> None:
    artifact = made(tmp_path / "made", FilePairs(path=str(table(tmp_path / "all.jsonl", PAIRS))))
    forwards, backwards = read_pairs(artifact, "train", ES, QU), read_pairs(artifact, "train", QU, ES)
    assert backwards == [(target, source) for source, target in forwards]


# ---- mistakes


@pytest.mark.parametrize(
    ("files", "path", "complaint"),
    [
        ({}, "corpus.@lang", r"there is no file .*corpus\.es"),
        ({"corpus.es": "sol\nluna\n", "corpus.qu": "inti\n"}, "corpus.@lang", "ends before line 2"),
        ({"corpus.txt": "sol\n"}, "corpus.txt", "neither a table .* nor a file for each language"),
        ({"all.tsv": "es\tquechua\nsol\tinti\n"}, "all.tsv", r"no column qu for Quechua.*\+parallel\.columns\.qu"),
        ({"all.tsv": "es\tqu\nsol\tinti\n"}, "all.tsv", "no pairs for validation and test"),
        ({"all.xls": "es"}, "all.xls", "neither a table"),
        ({"corpus.es": b"\xe1\n", "corpus.qu": "inti\n"}, "corpus.@lang", "not UTF-8"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, files: dict[str, Any], path: str, complaint: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=complaint):
        made(tmp_path / "made", FilePairs(path=f"{tmp_path}/{path}"))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["parallel.splits={train: null}"], r"parallel\.splits.* one of them at least"),
        (["+parallel.splits.dev=dev"], r"parallel\.splits"),
        (["parallel.splits.test=test"], r"names one file for the splits train, test"),
        (["parallel.length_ratio=0.5"], r"parallel\.length_ratio=0\.5 is out of range"),
    ],
)
def test_settings_that_cannot_be(overrides: list[str], complaint: str) -> None:
    config = compose(["lang=mt", "parallel=files", "parallel.path=all.tsv", *overrides])
    with pytest.raises(UserError, match=complaint):
        build(config.parallel, "parallel", ParallelText)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    table(tmp_path / "test.jsonl", PAIRS)
    source = FilePairs(path=f"{tmp_path}/test.jsonl", splits={"train": None, "validation": None, "test": "test"})
    artifact = made(tmp_path / "made", source)
    assert len(read_pairs(artifact, "test", ES, QU)) == len(PAIRS)
    with pytest.raises(UserError, match=r"has no train pairs; it has: test"):
        read_pairs(artifact, "train", ES, QU)
