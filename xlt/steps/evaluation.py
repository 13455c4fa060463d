"""Evaluation: the score of a composition on test data. Its artifact is the record of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from xlt.analysis.bootstrap import intervals
from xlt.languages import Language
from xlt.provenance import surroundings
from xlt.random import derive_seed
from xlt.steps.base import Step, Workbench
from xlt.steps.examples import ExamplesStep, read_examples
from xlt.steps.task_module import TaskModuleStep, open_composition

_BOOTSTRAP_SAMPLES = 1000
_TRAINING_FIGURES = ("trainable_parameters", "steps", "seconds_per_step", "best", "best_step", "tokens")
_COSTS = ("seconds", "peak_memory_bytes", "energy_joules", "device")
RECORD = "result.json"
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class EvaluationStep(Step):
    """Scores a task module on the test split of a target language.

    Files: `predictions.jsonl` (id, gold, prediction of every test example) and `result.json`, the record.
    """

    kind: ClassVar[str] = "evaluation"

    language: Language
    task_module: TaskModuleStep
    examples: ExamplesStep
    bootstrap_samples: int = _BOOTSTRAP_SAMPLES

    @property
    def label(self) -> str:
        return self.task_module.label

    def fields(self) -> dict[str, Any]:
        return {"lang": self.language.key, "bootstrap_samples": self.bootstrap_samples}

    def inputs(self) -> dict[str, Step]:
        return {"test_examples": self.examples, **self.task_module.inputs(), "task_module": self.task_module}

    def build(self, bench: Workbench) -> None:
        task = self.task_module.task
        composition = open_composition(self.task_module, bench.inputs, bench.runtime.device)
        examples = read_examples(bench.inputs["test_examples"].folder, "test")
        predictions = composition.predict(examples)
        gold = [task.gold(example) for example in examples]
        predicted = [prediction["label"] for prediction in predictions]
        metrics = task.score(gold, predicted)
        seed = derive_seed("bootstrap")
        interval = intervals(task.resampled_scores, gold, predicted, self.bootstrap_samples, seed)
        with (bench.folder / PREDICTIONS).open("w", encoding="utf-8") as file:
            for example, label, prediction in zip(examples, gold, predictions, strict=True):
                row = {"id": example["id"], "gold": label, "predicted": prediction["label"], **prediction}
                del row["label"]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        bench.summary.update(
            task_type=task.hub_type,
            metric=task.metric,
            metrics=metrics,
            intervals={name: list(ends) for name, ends in interval.items()},
            test_size=len(examples),
        )
        record = {**bench.runtime.record, **bench.summary, **self._story(bench)}
        (bench.folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")

    def _story(self, bench: Workbench) -> dict[str, Any]:
        """How the score came about: every artifact's fingerprint, what training cost, revisions, versions, machine."""
        # Modules that were trained here: not ready-made ones, nor those that begin to be trained with the task.
        modules = {
            role: artifact
            for role, artifact in bench.inputs.items()
            if role in ("language_module", "task_module") and "steps" in artifact.summary
        }
        return {
            "fingerprint": self.fingerprint,
            "fingerprints": {f"{step.kind}/{step.label}": fingerprint for fingerprint, step in self.ancestors().items()},
            "revisions": {
                f"{step.kind}/{step.label}": step.origin for step in self.ancestors().values() if step.origin is not None
            },
            "training": {
                role: {
                    **{name: artifact.summary[name] for name in _TRAINING_FIGURES},
                    **{name: artifact.manifest["provenance"][name] for name in _COSTS},
                }
                for role, artifact in modules.items()
            },
            "payload": self.payload,
            **surroundings(bench.runtime.device),
        }
