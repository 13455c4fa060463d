"""What translated labels buy in the miniature world: a language that the backbone has not met, and a translator that has learnt
from 600 pairs of sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

import xlt
from xlt.report.systems import System
from xlt.steps.examples import read_examples
from xlt.store import Store

RUN = [
    "model=miniature_llama", "data=miniature", "method=none", "task=mini_topic", "train=miniature", "lang=qae", "source=qaa",
    "task.data.sizes.test=1000", "translator=mini_translator", "translator.training.parallel.most_pairs=600",
    "translator.training.loop.epochs=40", "shots=20",
]  # fmt: skip


@pytest.mark.slow
def test_translations_and_shots_help_and_help_most_together(tmp_path: Path) -> None:
    """Each gain's 95 % interval is above zero, on the same test sentences and with the same seed."""
    systems = {}
    for transfer in ("zero_shot", "few_shot", "translate_train", "few_shot_translate", "translate_test"):
        record = xlt.run(*RUN, f"transfer={transfer}", f"paths.outputs={tmp_path}")
        systems[transfer] = System([record])
    for more, less in [
        ("few_shot", "zero_shot"), ("translate_train", "zero_shot"), ("translate_test", "zero_shot"),
        ("few_shot_translate", "few_shot"), ("few_shot_translate", "translate_train"),
    ]:  # fmt: skip
        gain = systems[more].gain_over(systems[less])
        assert gain.interval[0] > 0, f"{more} over {less}: {gain.mean:+.3f} [{gain.interval[0]:+.3f}, {gain.interval[1]:+.3f}]"
    (test,) = [
        found
        for found in Store(tmp_path / "store").list("examples")
        if "test" in found.summary and "qae" in found.manifest["label"]
    ]
    texts = [example["text"] for example in read_examples(test, "test")[:50]]
    answers = xlt.load(systems["translate_test"].records[0]).predict(texts)
    scored = systems["translate_test"].records[0].predictions()[:50]
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in scored], "new texts are translated, too"
