"""Translators that are trained here, from scratch and to adapt others, and the score of any translator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import xlt
from xlt import cli
from xlt.errors import UserError
from xlt.experiment import Experiment, open_store
from xlt.plan import Plan
from xlt.runner import Session, runtime_of
from xlt.steps.translation_model import AdaptedTranslationModelStep
from xlt.store import Artifact
from xlt.translation import scores
from xlt.translation.training import Translating

CPU = torch.device("cpu")
SMALL = "{parallel: 200}"


def tiny(outputs: Path, *more: str) -> list[str]:
    """A translator from qaa into qad that is trained for a second, and learns nothing."""
    return [
        "task=translation", "source=qaa", "lang=qad", "parallel=miniature", f"parallel.data.sizes={SMALL}",
        "translator=mini_translator", f"translator.training.parallel.data.sizes={SMALL}", "translator.vocabulary_size=120",
        "translator.shape.d_model=16", "translator.shape.encoder_ffn_dim=32", "translator.shape.decoder_ffn_dim=32",
        "translator.training.loop.epochs=null", "translator.training.loop.steps=6", "translator.training.loop.batch_size=4",
        "translator.training.loop.evaluate_every=2", "translator.decoding.max_length=16", "translator.training.length=24",
        f"paths.outputs={outputs}", "device=cpu", *more,
    ]  # fmt: skip


def adapting(outputs: Path, *more: str) -> list[str]:
    """The same, of a translator that has learnt to translate into qac alone."""
    return tiny(
        outputs, "translator.pairs=[qaa-qac]", "translator/adaptation=fine_tuning", "translator.adaptation.loop.epochs=null",
        "translator.adaptation.loop.steps=6", "translator.adaptation.loop.learning_rate=1e-3",
        "translator.adaptation.length=24", *more,
    )  # fmt: skip


def made(overrides: list[str]) -> tuple[Any, Artifact, Experiment]:
    """The translator's step and artifact."""
    experiment = Experiment.from_config(cli.compose(overrides))
    step = experiment.evaluations[0].translator
    session = Session(open_store(experiment.settings), "auto", runtime_of(experiment, CPU, []))
    return step, session.realise(step), experiment


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the tests of this file share."""
    return tmp_path_factory.mktemp("outputs")


# ---- the score


def test_a_record_of_a_translator(outputs: Path) -> None:
    record = xlt.run(*tiny(outputs))
    predictions = record.predictions()
    translations, references = ([row[name] for row in predictions] for name in ("predicted", "gold"))
    assert record["metrics"] == pytest.approx(scores.score(translations, references))
    assert list(record["metrics"]) == ["chrf", "bleu"]
    assert record["metric"] == "chrf"
    low, high = record["intervals"]["chrf"]
    assert low <= record["metrics"]["chrf"] <= high
    assert record["test_size"] == len(predictions) == 18, "a tenth of the pairs that are not for validation"
    axes = {name: record[name] for name in ("translator", "source", "lang", "model", "method", "data", "transfer")}
    expected = {"translator": "mini_translator", "source": ["qaa"], "lang": "qad", "model": None, "method": None, "data": None}
    assert axes == {**expected, "transfer": None}
    assert record["training"]["translator"]["steps"] == 6


def test_copying_is_scored_on_the_same_sentences(outputs: Path) -> None:
    trained = xlt.run(*tiny(outputs))
    chosen = [text for text in tiny(outputs) if not text.startswith("translator")]
    copied = xlt.run(*chosen, "translator=copying")
    rows = copied.predictions()
    assert [row["gold"] for row in rows] == [row["gold"] for row in trained.predictions()]
    assert [row["predicted"] for row in rows] == [row["text"] for row in rows]
    assert copied["translator"] == "copying"


def test_a_record_translates(outputs: Path) -> None:
    """`scripts/predict.py` and `xlt.load` translate with what was scored."""
    record = xlt.run(*tiny(outputs))
    rows = record.predictions()[:3]
    found = xlt.load(record).predict([row["text"] for row in rows])
    assert [prediction["label"] for prediction in found] == [row["predicted"] for row in rows]


def test_the_closing_line_names_the_translator(outputs: Path) -> None:
    assert "translation qad mini_translator: chrf " in repr(xlt.run(*tiny(outputs)))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["source=null"], r"translates from one language.*source=es"),
        (["source=[qaa,qab]"], r"translates from one language"),
        (["parallel.splits={train: null, validation: null, test: null}"], r"parallel\.splits"),
        (["task.metric=accuracy"], r"task\.metric=accuracy is no choice"),
        (["source=qad"], "nothing to translate"),
        (["translator.pairs=[qaa-qac]"], r"does not know Arido \(lang=qad\).*languages that it knows are: qaa, qac"),
        (["translator.pairs=[qaa]"], r"'qaa' is no pair of languages"),
        (["translator.shape.d_model=18"], r"d_model=18 has to be a multiple"),
    ],
)
def test_mistakes(outputs: Path, overrides: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        _ = Experiment.from_config(cli.compose(tiny(outputs, *overrides))).evaluations


def test_the_plan_names_all_that_a_translator_needs(tmp_path: Path) -> None:
    experiment = Experiment.from_config(cli.compose(adapting(tmp_path)))
    plan = Plan([experiment], open_store(experiment.settings))
    kinds = sorted(planned.step.kind for planned in plan.steps)
    texts = ["parallel_text"] * 2  # of qaa and qac, and of qaa and qad
    assert kinds == ["evaluation", *texts, "tokenizer", "translation_model", "translation_model", "translator"]
    assert "2 translation models" in plan.totals(1e9)


# ---- training


def test_a_killed_training_goes_on_where_it_was(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected, _ = made(tiny(outputs))
    overrides = tiny(tmp_path, "translator.training.loop.checkpoint_seconds=0")
    loss, seen = Translating.loss, []

    def killed(self: Translating, batch: Any, device: torch.device) -> torch.Tensor:
        seen.append(batch["input_ids"].sum())
        if len(seen) == 5:
            raise RuntimeError("killed")
        return loss(self, batch, device)

    monkeypatch.setattr(Translating, "loss", killed)
    with pytest.raises(RuntimeError, match="killed"):
        made(overrides)
    _, resumed, _ = made(overrides)
    assert len(seen) == 5 + 2, "four steps were done before, two after"
    one, other = (load_file(artifact.folder / "model.safetensors") for artifact in (expected, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.fingerprint == expected.fingerprint


def test_a_model_from_scratch_is_a_folder_like_any_other(outputs: Path, tmp_path: Path) -> None:
    step, artifact, experiment = made(tiny(outputs))
    folder = shutil.copytree(artifact.folder, tmp_path / "model")
    overrides = ["translator=seq2seq", f"translator.path={folder}", "translator.language_column=key"]
    base = [text for text in tiny(outputs) if not text.startswith("translator")]
    again, other, _ = made([*base, *overrides, "translator.language_token='__@lang__'", "translator.decoding.max_length=16"])
    qaa, qad = step.languages
    texts = ["cizedzy xe pyfep", "igor pyzhaxi iwiv gipifzy."]
    assert step.open(artifact, CPU).translate(texts, qaa, qad) == again.open(other, CPU).translate(texts, qaa, qad)
    assert len(experiment.evaluations) == 1


def test_one_training_for_both_directions(tmp_path: Path) -> None:
    both = ["translator.training.both_directions=true"]
    models = {}
    for source, target in (("qaa", "qad"), ("qad", "qaa")):
        for name, more in (("both", both), ("one", [])):
            overrides = tiny(tmp_path, *more, f"source={source}", f"lang={target}")
            models[name, source] = Experiment.from_config(cli.compose(overrides)).evaluations[0].translator.model.fingerprint
    assert models["both", "qaa"] == models["both", "qad"]
    assert models["one", "qaa"] != models["one", "qad"]


def test_how_it_translates_does_not_train_it_again(tmp_path: Path) -> None:
    """Beams and the name are no part of the model; what it learns from is."""

    def model(*more: str) -> str:
        return Experiment.from_config(cli.compose(tiny(tmp_path, *more))).evaluations[0].translator.model.fingerprint

    assert (
        model()
        == model("translator.decoding.beams=4", "translator.name=other")
        == model("parallel=opus100", "parallel=miniature")
    )
    assert model() != model("translator.training.parallel.seed=1")
    assert model() != model("translator.training.label_smoothing=0.1")


# ---- adaptation


def test_an_adapted_translator_has_a_language_more(outputs: Path) -> None:
    step, artifact, experiment = made(adapting(outputs))
    assert isinstance(step.model, AdaptedTranslationModelStep)
    session = Session(open_store(experiment.settings), "only_cached", runtime_of(experiment, CPU, []))
    base = session.realise(step.model.model)
    before, after = (load_file(found.folder / "model.safetensors")["model.shared.weight"] for found in (base, artifact))
    assert len(after) == len(before) + 1
    vocabulary = json.loads((artifact.folder / "tokenizer.json").read_text())
    tokens = {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    assert tokens["__qad__"] == len(before)
    report = artifact.summary["held_out"]
    assert report["direction"] == ["qaa", "qad"]
    assert set(report) == {"direction", "pairs", "copying", "before", "after"}
    shown = json.loads((artifact.folder / "translations.json").read_text())
    assert report["pairs"] == 18
    assert len(shown) == 10
    assert report["before"] != report["after"]


def test_an_adaptation_depends_on_what_it_adapts(outputs: Path) -> None:
    def model(*more: str) -> str:
        return Experiment.from_config(cli.compose(adapting(outputs, *more))).evaluations[0].translator.model.fingerprint

    first = model()
    others = [
        model("translator.training.seed=1"), model("translator.adaptation.seed=1"), model("translator.adaptation.copy_from=qac"),
        model("translator.adaptation.both_directions=true"), model("parallel.seed=1"),
    ]  # fmt: skip
    assert len({first, *others}) == 6


@pytest.mark.long
def test_the_miniature_translator_translates(tmp_path: Path) -> None:
    """From scratch: nearly all of the sentences are right, where copying gets less than half of the characters."""
    record = xlt.run("task=translation", "source=qaa", "lang=qad", "parallel=miniature", "translator=mini_translator",
                     "threads=1", f"paths.outputs={tmp_path}")  # fmt: skip
    rows = record.predictions()
    copying = scores.score([row["text"] for row in rows], [row["gold"] for row in rows])
    assert copying["chrf"] < 60
    assert record["metrics"]["chrf"] > 90


@pytest.mark.long
def test_adaptation_teaches_a_new_language(tmp_path: Path) -> None:
    """A translator into qaa's relative qac learns to translate into qad, which it could not name before."""
    sizes = "{parallel: 2000}"
    overrides = [
        "task=translation", "source=qaa", "lang=qad", "parallel=miniature", f"parallel.data.sizes={sizes}",
        "translator=mini_translator", f"translator.training.parallel.data.sizes={sizes}", "translator.pairs=[qaa-qac]",
        "translator/adaptation=fine_tuning", "translator.adaptation.length=64", "translator.adaptation.loop.epochs=8",
        "translator.adaptation.loop.batch_size=32", "translator.adaptation.loop.learning_rate=2e-3", "threads=1",
        f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    _, artifact, _ = made(overrides)
    report = artifact.summary["held_out"]
    assert report["after"]["chrf"] > report["copying"]["chrf"] + 10
    assert report["after"]["chrf"] > report["before"]["chrf"] + 30


# ---- ctranslate2


def test_ctranslate2_translates_alike(outputs: Path) -> None:
    pytest.importorskip("ctranslate2")
    fast = xlt.run(*tiny(outputs, "translator.decoding.engine=ctranslate2"))
    slow = xlt.run(*tiny(outputs))
    assert [row["predicted"] for row in fast.predictions()] == [row["predicted"] for row in slow.predictions()]
    assert any(name.startswith("converted_model/") for name in fast["fingerprints"])
    assert fast["fingerprint"] != slow["fingerprint"]
    _, artifact, _ = made(tiny(outputs, "translator.decoding.engine=ctranslate2"))
    assert (artifact.folder / "ctranslate2" / "model.bin").is_file()


def test_where_ctranslate2_differs_transformers_translates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("ctranslate2")
    from xlt.translation.decoding import CTranslate2Decoder, TransformersDecoder

    monkeypatch.setattr(CTranslate2Decoder, "generate", lambda self, rows, target: [[5, 6] for _ in rows])
    step, artifact, _ = made(tiny(tmp_path, "translator.decoding.engine=ctranslate2"))
    assert "translates with transformers: ctranslate2 translates" in caplog.text
    assert not (artifact.folder / "ctranslate2").exists()
    assert isinstance(step.open(artifact, CPU), TransformersDecoder)


def test_ctranslate2_has_to_be_installed(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ctranslate2" else found(name, *more))
    with pytest.raises(UserError, match=r"pip install 'xlt\[ctranslate2\]'"):
        _ = Experiment.from_config(cli.compose(tiny(outputs, "translator.decoding.engine=ctranslate2"))).evaluations
