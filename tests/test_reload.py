"""What a run has trained, loaded in another process: it answers what it answered when it was evaluated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import xlt
from xlt.cli import compose
from xlt.experiment import Experiment, open_store
from xlt.steps.examples import read_examples

ROOT = Path(__file__).resolve().parents[1]
WHOLE = ["method=full", "task_method=full"]  # every tensor of the encoder is stored and read back, twice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model", "more"),
    [
        ("mini_topic", "miniature", WHOLE),
        ("mini_entailment", "miniature", []),
        ("mini_entities", "miniature_llama", []),
        ("mini_parsing", "miniature", WHOLE),
        ("mini_parsing", "miniature_llama", []),
        ("mini_questions", "miniature", []),
    ],
)
def test_another_process_answers_alike(task: str, model: str, more: list[str], tmp_path: Path) -> None:
    overrides = [
        f"model={model}", "data=miniature", f"task={task}", "lang=qad", "source=qaa", "transfer=zero_shot", "train=miniature",
        "train.language.loop.steps=5", "train.task.epochs=1", "task.data.sizes.train=40", "task.data.sizes.test=30", "device=cpu",
        f"paths.outputs={tmp_path}", *more,
    ]  # fmt: skip
    record = xlt.run(*overrides)
    rows = record.predictions()
    store = open_store(Experiment.from_config(compose(overrides)).settings)
    (examples,) = [found for found in store.list("examples") if found.manifest["label"] == f"{task}-qad"]
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text("".join(json.dumps(example) + "\n" for example in read_examples(examples, "test")))
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "predict.py", record.path, inputs],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(rows) == 30
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        for name in {"probabilities", "score"} & row.keys():
            assert answer[name] == pytest.approx(row[name], rel=1e-4)
