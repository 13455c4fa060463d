"""The demo: with the backbones of the package, a language module helps where the papers say that it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xlt.backbones.backbone import Backbone, load_tokenizer
from xlt.cli import compose, exit_status
from xlt.experiment import READY_MADE, Experiment, open_store
from xlt.plan import find

MODELS = ("miniature", "miniature_llama")
RUN = ["data=miniature", "task=mini_topic", "train=miniature", "device=cpu"]


def experiment(tmp_path: Path, *overrides: str) -> Experiment:
    return Experiment.from_config(compose([*RUN, f"paths.outputs={tmp_path}", *overrides]))


@pytest.mark.parametrize("model", MODELS)
def test_nobody_waits_for_the_backbones_of_the_package(model: str, tmp_path: Path) -> None:
    """Whoever changes what determines them has to make them again: `python scripts/miniature.py backbones --replace`."""
    wanted = experiment(tmp_path, f"model={model}", "lang=qad")
    store = open_store(wanted.settings)
    backbone, tokenizer = wanted.backbone(), wanted.backbone().tokenizer
    for step in (backbone, tokenizer):
        assert find(step, store) is not None, f"{step.label} in the package: {store.explain_miss(step.kind, step.payload)}"
        assert store.get(step.kind, step.label, step.fingerprint) is not None  # its checksums are right
    artifact = find(backbone, store)
    assert artifact.size < 2_000_000
    opened = backbone.open(artifact, language_head=True)
    assert isinstance(opened, Backbone)
    assert opened.tokenizer.get_vocab() == load_tokenizer(find(tokenizer, store).folder).get_vocab()


def test_the_package_brings_nothing_else() -> None:
    assert sorted(path.parent.name for path in READY_MADE.glob("*/*")) == ["backbone", "backbone", "tokenizer"]


def test_the_tokenizer_knows_the_letters_of_every_language(tmp_path: Path) -> None:
    """Those of `model.alphabet`, though its text may lack some: no word of any language is unknown to it."""
    wanted = experiment(tmp_path, "model=miniature", "lang=qad")
    tokenizer = load_tokenizer(find(wanted.backbone().tokenizer, open_store(wanted.settings)).folder)
    for code in wanted.world.languages:
        words = list(wanted.world.lexicon(code).words.values())
        assert [word for word in words if tokenizer.unk_token_id in tokenizer(word)["input_ids"]] == []


@pytest.mark.long
def test_a_module_helps_a_language_that_the_model_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part of `make demo`: the gain is at least .05 over 2,000 examples and three seeds, its interval above 0; and nothing
    is done twice."""
    sweep = ["-m", *RUN, "model=miniature_llama", "lang=qad", "method=none,seq_bn_inv", "seed=0,1,2", f"paths.outputs={tmp_path}"]
    assert exit_status(sweep) == 0
    told = capsys.readouterr()
    (row,) = re.findall(r"^seq_bn_inv +3 .*$", told.out, re.M)
    gain, low = map(float, re.search(r"([+-]\S+) \[([+-]\S+), ", row).groups())
    assert gain >= 0.05
    assert low > 0
    assert exit_status(sweep) == 0
    again = capsys.readouterr()
    assert "making" not in again.err
    assert row in again.out
