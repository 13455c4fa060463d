"""Examples: the labelled data of one language for one task, in xlt's own form, with every label checked."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from xlt.config import identity
from xlt.errors import UserError
from xlt.languages import Language
from xlt.steps.base import Step, Workbench
from xlt.store import Artifact
from xlt.tasks.base import Example, Task
from xlt.tasks.data import SPLITS
from xlt.tasks.resemblance import Resemblance


@dataclass(frozen=True)
class ExamplesStep(Step):
    """What other steps ask of labelled examples, wherever they come from: an artifact that `require_split` and `read_examples`
    read, as `write_examples` wrote it."""

    task: Task
    language: Language

    @property
    def wording(self) -> str:
        """The language of the texts, for people."""
        return self.language.name

    @abstractmethod
    def preparation(
        self, realise: Callable[[Step], Artifact], device: torch.device
    ) -> Callable[[Sequence[Example]], list[Example]]:
        """What has to be done to new examples before a model reads them as it reads these.

        Args:
            realise: finds the artifacts that it takes.
        """


@dataclass(frozen=True)
class DataSetExamplesStep(ExamplesStep):
    """Reads a data set once. Files: `<split>.jsonl`, an example a line, for each split that the task has.

    Attributes:
        guards: examples whose test texts, edited ones too, are kept out of the training and validation examples.
    """

    kind: ClassVar[str] = "examples"

    revision: dict[str, Any]
    guards: tuple[DataSetExamplesStep, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.task.name}-{self.language.key}"

    def as_data(self) -> DataSetExamplesStep:
        """The same examples without what the task says of learning and scoring them, which what is made of them does not need."""
        return replace(self, task=self.task.as_data(), guards=tuple(guard.as_data() for guard in self.guards))

    def preparation(
        self, realise: Callable[[Step], Artifact], device: torch.device
    ) -> Callable[[Sequence[Example]], list[Example]]:
        return list

    def fields(self) -> dict[str, Any]:
        return {"task": identity(self.task), "lang": self.language.key, "revision_of_data": self.revision}

    def inputs(self) -> dict[str, Step]:
        return {f"guard_{number}": step for number, step in enumerate(self.guards)}

    def build(self, bench: Workbench) -> None:
        splits = self.task.examples(self.language, bench.runtime.languages, bench.runtime.hub)
        if self.guards:
            inputs = zip(self.guards, bench.inputs.values(), strict=True)
            guarded = Resemblance(
                [text for step, artifact in inputs for text in evaluation_texts(step.task, artifact, ("test",))]
            )
            for split in [name for name in ("train", "validation") if name in splits]:
                kept = [example for example in splits[split] if not any(text in guarded for text in self.task.texts_of(example))]
                bench.summary[f"guarded_{split}"] = len(splits[split]) - len(kept)
                splits[split] = kept
        write_examples(bench, self.task, splits)


def write_examples(bench: Workbench, task: Task, splits: Mapping[str, Sequence[Example]]) -> None:
    """Write `<split>.jsonl`, an example a line, for each split; the summary says how many examples and labels each has."""
    for split, examples in splits.items():
        with (bench.folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
        labels = Counter(label for example in examples for label in task.labels_of(example))
        bench.summary[split] = {"examples": len(examples), "labels": dict(sorted(labels.items()))}


def require_split(artifact: Artifact, split: str) -> None:
    """Refuse examples without a split.

    Raises:
        UserError: the data set does not have the split for the language.
    """
    if split not in artifact.summary:
        present = ", ".join(name for name in SPLITS if name in artifact.summary)
        raise UserError(
            f"There are no examples in the split {split} of {artifact.manifest['label']}; it has {present}. Where the source of "
            "labels lacks training examples, choose other labels (source=, source_task=, transfer=); where the target has no "
            "test split, say which split to score (task.data.splits.test=validation)."
        )


def evaluation_texts(task: Task, artifact: Artifact, splits: Sequence[str] = ("validation", "test")) -> Iterator[str]:
    """The texts of validation and test examples that the model reads."""
    for split in splits:
        for example in read_examples(artifact, split) if split in artifact.summary else ():
            yield from task.texts_of(example)


def read_examples(artifact: Artifact, split: str) -> list[Example]:
    """The examples of one split."""
    require_split(artifact, split)
    with (artifact.folder / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
