"""The path on real text, real labels and a real pretrained model, where these lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

import xlt
from xlt.experiment import Experiment


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


@pytest.mark.parametrize("lang", ["mt", "yo", "am", "ckb", "zh", "qu"])
def test_every_script_of_the_mirror_is_read(lang: str, shared: Path, tmp_path: Path) -> None:
    """SIB-200 has the same sentences, labels and split sizes in each language."""
    from xlt import cli

    config = cli.compose([*settings(shared, tmp_path), f"lang={lang}", "method=none"])
    experiment = Experiment.from_config(config)
    splits = experiment.task.examples(experiment.language, experiment.languages, experiment.hub)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 701, "validation": 99, "test": 204}
