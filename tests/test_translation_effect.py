"""What translated labels buy in the miniature world: a language that the backbone has not met, and a translator that has learnt
from 300 pairs of sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

import xlt
from xlt.report.systems import System
from xlt.steps.examples import read_examples
from xlt.store import Store

RUN = [
    "model=miniature_llama", "data=miniature", "method=none", "task=mini_topic", "train=miniature", "lang=qae", "source=qaa",
    "translator=mini_translator", "translator.training.parallel.most_pairs=300",
]  # fmt: skip


@pytest.mark.long
def test_translations_and_shots_help_and_help_most_together(tmp_path: Path) -> None:
    """Each gain's 95 % interval is above zero, on the same test sentences and with the same seed."""
    run = [*RUN, "translator.training.loop.epochs=40", "train.task.epochs=15", "task.data.sizes.test=2000", "shots=50"]
    systems = {
        transfer: System([xlt.run(*run, f"transfer={transfer}", f"paths.outputs={tmp_path}")])
        for transfer in ("zero_shot", "few_shot", "translate_train", "few_shot_translate")
    }
    for more, less in [
        ("few_shot", "zero_shot"), ("translate_train", "zero_shot"), ("few_shot_translate", "few_shot"),
        ("few_shot_translate", "translate_train"),
    ]:  # fmt: skip
        gain = systems[more].gain_over(systems[less])
        assert gain.interval[0] > 0, f"{more} over {less}: {gain.mean:+.3f} [{gain.interval[0]:+.3f}, {gain.interval[1]:+.3f}]"


def test_what_was_scored_on_translations_translates_by_the_model_that_the_store_has(tmp_path: Path) -> None:
    """A translator that has hardly learnt anything: the same nonsense for new texts as for those of the test set."""
    hasty = ["translator.training.loop.epochs=1", "train.task.epochs=3", "task.data.sizes.test=40", "transfer=translate_test"]
    record = xlt.run(*RUN, *hasty, f"paths.outputs={tmp_path}")
    assert record["translator"] == "mini_translator"
    examples = {found.manifest["label"]: found for found in Store(tmp_path / "store").list("examples")}
    texts = [example["text"] for example in read_examples(examples["mini_topic-qae"], "test")]
    answers, scored = xlt.load(record).predict(texts), record.predictions()
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in scored]
    assert [answer["probabilities"] for answer in answers] == [pytest.approx(row["probabilities"], abs=1e-5) for row in scored]
