"""Mixed text: how much of each part, what is left out, and that parts are shared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_text import build as build_text
from test_text import text_step

from xlt.cli import compose
from xlt.errors import UserError
from xlt.experiment import Experiment, open_store
from xlt.languages import load_languages
from xlt.runner import Session, runtime_of
from xlt.steps.base import Workbench
from xlt.steps.mixed_text import MixedTextStep, repetitions
from xlt.steps.text import read_documents
from xlt.store import Artifact


def test_repetitions() -> None:
    assert repetitions({"a": 300, "b": 100}, None, 1.0, None) == {"a": 1.0, "b": 1.0}
    assert repetitions({"a": 300, "b": 100}, None, 1.0, 200) == {"a": 0.5, "b": 0.5}
    assert repetitions({"a": 300, "b": 100}, None, 1.0, 10_000) == {"a": 1.0, "b": 1.0}
    assert repetitions({"a": 300, "b": 100}, {"a": 1, "b": 3}, 1.0, None) == {"a": 1 / 3, "b": 3.0}
    # sizes 900 and 100 at temperature 2: shares 30/40 and 10/40 of 1000 bytes
    assert repetitions({"a": 900, "b": 100}, None, 2.0, None) == pytest.approx({"a": 750 / 900, "b": 2.5})


def test_a_high_temperature_gives_every_part_the_same() -> None:
    sizes = {"a": 900, "b": 100, "c": 500}
    drawn = {name: times * sizes[name] for name, times in repetitions(sizes, None, 1e6, None).items()}
    assert drawn == pytest.approx({"a": 500, "b": 500, "c": 500}, rel=1e-4)


def mixed(folder: Path, parts: dict[str, list[str]], seed: int = 0, **settings: Any) -> tuple[list[str], list[str], dict]:
    """Train and validation documents of a mix of texts, and its card."""
    inputs = {}
    folder.mkdir()
    for name, texts in parts.items():
        split = build_text(folder / name, texts)
        inputs[f"part_{name}"] = Artifact(folder / name, {"summary": split.card})
    (folder / "mix").mkdir()
    bench = Workbench(inputs, folder / "mix", folder, SimpleNamespace(), {})  # type: ignore[arg-type]
    settings = {"shares": None, "temperature": 1.0, "max_bytes": None, **settings}
    texts = {name: text_step(texts) for name, texts in parts.items()}
    MixedTextStep("mix", texts, load_languages().find("mt"), seed=seed, **settings).build(bench)
    return *(list(read_documents(folder / "mix", split)) for split in ("train", "validation")), bench.summary


LARGE = [f"large document {number:04}" for number in range(900)]
SMALL = [f"small document {number:04}" for number in range(100)]


def test_at_temperature_one_everything_is_there_once(tmp_path: Path) -> None:
    train, validation, card = mixed(tmp_path / "a", {"large": LARGE, "small": SMALL})
    assert sorted(train + validation) == LARGE + SMALL
    assert {name: part["times"] for name, part in card["parts"].items()} == {"large": 1.0, "small": 1.0}
    assert card["train"] == {"documents": len(train), "bytes": sum(len(text) for text in train)}


def test_small_parts_are_repeated_and_large_ones_thinned_out(tmp_path: Path) -> None:
    train, validation, card = mixed(tmp_path / "a", {"large": LARGE, "small": SMALL}, temperature=2.0)
    times = Counter(train)
    small = [times[text] for text in SMALL if text not in validation]
    wanted = card["parts"]["small"]["times"]
    assert wanted > 2
    assert set(small) == {int(wanted), int(wanted) + 1}
    assert sum(small) == pytest.approx(wanted * len(small), rel=0.1)
    large = [times[text] for text in LARGE if text not in validation]
    assert set(large) == {0, 1}
    assert sum(large) == pytest.approx(card["parts"]["large"]["times"] * len(large), rel=0.1)
    assert sum(map(len, train)) == pytest.approx(sum(part["of_bytes"] for part in card["parts"].values()), rel=0.1)
    assert len(validation) == len(set(validation))
    assert not set(validation) & set(train)


def test_shares_and_a_cap(tmp_path: Path) -> None:
    train, _, card = mixed(tmp_path / "a", {"large": LARGE, "small": SMALL}, shares={"large": 1, "small": 3}, max_bytes=4000)
    sizes = {name: sum(len(text) for text in train if text.startswith(name)) for name in ("large", "small")}
    assert sizes["large"] == pytest.approx(1000, rel=0.4)
    assert sizes["small"] == pytest.approx(3000, rel=0.2)
    assert {name: part["bytes"] for name, part in card["parts"].items()} == sizes


def test_validation_text_of_one_part_is_no_training_text_of_another(tmp_path: Path) -> None:
    """Here the parts hold the same documents, and one of them keeps more of these for validation."""
    folder = tmp_path / "a"
    folder.mkdir()
    inputs = {}
    for name, fraction in (("one", 0.1), ("other", 0.5)):
        split = build_text(folder / name, LARGE, validation_fraction=fraction)
        inputs[f"part_{name}"] = Artifact(folder / name, {"summary": split.card})
    bench = Workbench(inputs, folder, folder, SimpleNamespace(), {})  # type: ignore[arg-type]
    texts = {name: text_step(LARGE) for name in ("one", "other")}
    MixedTextStep("mix", texts, load_languages().find("mt"), None, 1.0, None, 0).build(bench)
    train, validation = (set(read_documents(folder, split)) for split in ("train", "validation"))
    assert not train & validation
    assert bench.summary["left_out"]["in validation text"] > 300


def test_the_seed_draws(tmp_path: Path) -> None:
    parts = {"large": LARGE, "small": SMALL}
    first = mixed(tmp_path / "a", parts, temperature=2.0)
    assert mixed(tmp_path / "b", parts, temperature=2.0) == first
    assert mixed(tmp_path / "c", parts, seed=1, temperature=2.0)[0] != first[0]


# ---- in a run


def mix(*others: str) -> Experiment:
    return Experiment.from_config(compose(["model=miniature", "data=mini_mix", "task=mini_topic", "lang=qad", *others]))


def test_parts_are_the_texts_that_they_are_alone(tmp_path: Path) -> None:
    experiment = mix("method=seq_bn", f"paths.outputs={tmp_path}", "data.parts.miniature.max_bytes=20000", "data.temperature=2")
    language = experiment.targets[0]
    text = experiment.text(language)
    alone = mix("data=miniature", "data.max_bytes=20000").text(language)
    assert text.texts["miniature"].fingerprint == alone.fingerprint
    session = Session(open_store(experiment.settings), "auto", runtime_of(experiment, torch.device("cpu"), []))
    artifact = session.realise(experiment.tokens(language))
    assert artifact.summary["train"]["tokens"] > 1000
    assert len(list(session.store.list("text"))) == 3


def test_what_changes_the_mix_changes_the_fingerprint() -> None:
    def fingerprint(*others: str) -> str:
        experiment = mix(*others)
        return experiment.text(experiment.targets[0]).fingerprint

    others = [
        "data.temperature=2", "data.max_bytes=5000", "data.shares={miniature: 1, conceptnet: 1}", "language.seed=1",
        "data.parts.conceptnet.relations=[IsA]", "data.guard=[task]",
    ]  # fmt: skip
    assert len({fingerprint(), *map(fingerprint, others)}) == 7
    assert fingerprint("data.name=other") == fingerprint()


def test_the_guard_of_a_mix_guards_every_part() -> None:
    experiment = mix("data.guard=[task]")
    parts = experiment.text(experiment.targets[0]).texts.values()
    assert [[step.task.name for step in part.guards] for part in parts] == [["mini_topic"], ["mini_topic"]]


def test_mixes_for_real() -> None:
    """The choice `mix` names GlotCC and ConceptNet, and takes other parts."""
    composed = compose(["lang=mt", "data=mix", "+data@data.parts.wikipedia=wikipedia", "~data.parts.conceptnet"])
    assert set(composed.data.parts) == {"glotcc", "wikipedia"}
    assert set(compose(["lang=mt", "data=mix"]).data.parts) == {"glotcc", "conceptnet"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("data.shares={miniature: 1}", "has to give a share to each of miniature, conceptnet"),
        ("data.shares={miniature: 1, conceptnet: 0}", "above 0"),
        ("~data.parts.conceptnet", "at least two parts"),
        ("data.temperature=0.5", "at least 1"),
    ],
)
def test_mistakes(wrong: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mix(wrong)


def test_shares_and_temperature_exclude_each_other() -> None:
    with pytest.raises(UserError, match="set one of them"):
        mix("data.shares={miniature: 1, conceptnet: 1}", "data.temperature=2")
