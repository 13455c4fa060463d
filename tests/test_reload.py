"""What runs have trained, loaded in another process: it answers what it answered when it was evaluated."""

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

WHOLE = ["method=full", "task_method=full"]  # every tensor of the encoder is stored and read back, twice
RUNS = [
    ("mini_topic", "miniature", WHOLE),
    ("mini_entailment", "miniature", ["method=none"]),
    ("mini_entities", "miniature_llama", ["method=seq_bn_inv"]),
    ("mini_parsing", "miniature", WHOLE),
    ("mini_parsing", "miniature_llama", ["method=none"]),
    ("mini_questions", "miniature", ["method=none"]),
]
ANSWER = """
import json, sys, xlt
for folder in sys.argv[1:]:
    examples = [json.loads(line) for line in open(f"{folder}/inputs.jsonl")]
    with open(f"{folder}/answers.jsonl", "w") as file:
        file.writelines(json.dumps(answer) + "\\n" for answer in xlt.load(f"{folder}/result.json").predict(examples))
"""


@pytest.mark.slow
def test_another_process_answers_alike(tmp_path: Path) -> None:
    records = {}
    for number, (task, model, more) in enumerate(RUNS):
        overrides = [
            f"model={model}", "data=miniature", f"task={task}", "lang=qad", "source=qaa", "transfer=zero_shot", "train=miniature",
            "train.language.loop.steps=5", "train.task.epochs=1", "task.data.sizes.train=40", "task.data.sizes.test=30",
            "device=cpu", f"paths.outputs={tmp_path}", *more,
        ]  # fmt: skip
        record = xlt.run(*overrides)
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        (folder / "result.json").write_bytes(record.path.read_bytes())
        store = open_store(Experiment.from_config(compose(overrides)).settings)
        (examples,) = [found for found in store.list("examples") if found.manifest["label"] == f"{task}-qad"]
        inputs = read_examples(examples, "test")
        (folder / "inputs.jsonl").write_text("".join(json.dumps(example) + "\n" for example in inputs))
        records[folder] = record
    subprocess.run([sys.executable, "-c", ANSWER, *records], check=True, capture_output=True, cwd=tmp_path)
    for folder, record in records.items():
        answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        rows = record.predictions()
        assert len(answers) == len(rows) == 30
        assert [answer["label"] for answer in answers] == [row["predicted"] for row in rows], record["task"]
        for answer, row in zip(answers, rows, strict=True):
            for name in {"probabilities", "score"} & row.keys():
                assert answer[name] == pytest.approx(row[name], rel=1e-4)
