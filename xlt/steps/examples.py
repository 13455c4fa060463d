"""Examples: the labelled data of one language for one task, in xlt's own form, with every label checked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from xlt.config import identity
from xlt.languages import Language
from xlt.steps.base import Step, Workbench
from xlt.tasks.base import Example, Task


@dataclass(frozen=True)
class ExamplesStep(Step):
    """Reads a data set once. Files: `<split>.jsonl`, an example a line, for each split that the task has."""

    kind: ClassVar[str] = "examples"

    task: Task
    language: Language
    revision: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.task.name}-{self.language.key}"

    def fields(self) -> dict[str, Any]:
        return {"task": identity(self.task), "lang": self.language.key, "revision_of_data": self.revision}

    def build(self, bench: Workbench) -> None:
        splits = self.task.examples(self.language, bench.runtime.languages, bench.runtime.hub)
        for split, examples in splits.items():
            with (bench.folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
            labels = Counter(str(self.task.gold(example)) for example in examples)
            bench.summary[split] = {"examples": len(examples), "labels": dict(sorted(labels.items()))}


def read_examples(folder: Path, split: str) -> list[Example]:
    """The examples of one split of an artifact."""
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
