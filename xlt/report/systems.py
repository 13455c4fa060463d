"""A system: runs that differ in their seed alone. What it scores, and whether another one scores more."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from xlt.analysis.bootstrap import mean_interval, paired_gain, paired_test
from xlt.config import build
from xlt.errors import UserError
from xlt.record import Record
from xlt.tasks.base import Task


@dataclass(frozen=True)
class Gain:
    """By how much one system scores more than another on the same examples and with the same seeds.

    Attributes:
        mean: over the seeds.
        interval: 95 %, by resampling examples.
        probability: of a difference as large as this if the systems are alike.
        seeds: those in common.
    """

    mean: float
    interval: tuple[float, float]
    probability: float
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class System:
    """Runs of one system on one test set.

    Attributes:
        by: the score that counts; None is the task's main one.

    Raises:
        UserError: the runs are not on the same test examples.
    """

    records: Sequence[Record]
    by: str | None = None

    def __post_init__(self) -> None:
        if not all(_on_same_examples(self.records[0], record) for record in self.records[1:]):
            raise UserError("These runs were not evaluated on the same test examples, so they cannot be averaged.")

    @property
    def metric(self) -> str:
        """The score's name."""
        return self.by or self.records[0]["metric"]

    @property
    def scores(self) -> list[float]:
        """The score of each run."""
        return [record["metrics"][self.metric] for record in self.records]

    @property
    def mean(self) -> float:
        """Over the runs."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the runs; None for one run."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, by resampling examples."""
        return mean_interval(self.task.metrics, self.counts, self.metric)

    @cached_property
    def task(self) -> Task:
        """The task, which knows what its scores are made of."""
        return _task(json.dumps(self.records[0]["config"]["task"]))

    @cached_property
    def counts(self) -> list[np.ndarray]:
        """What was counted in the test examples of each run, [examples, counts] each."""
        result = []
        for record in self.records:
            rows = record.predictions()
            result.append(self.task.counts([row["gold"] for row in rows], [row["predicted"] for row in rows]))
        return result

    def mean_gain_over(self, baseline: System) -> float | None:
        """The mean of `gain_over`, from the scores alone; None if they have no seed in common."""
        theirs = {record["seed"]: score for record, score in zip(baseline.records, baseline.scores, strict=True)}
        pairs = zip(self.records, self.scores, strict=True)
        gains = [score - theirs[record["seed"]] for record, score in pairs if record["seed"] in theirs]
        return statistics.fmean(gains) if gains else None

    def gain_over(self, baseline: System, test: bool = True) -> Gain | None:
        """What this system gains over another one; None if they have no seed in common.

        Args:
            test: whether the probability is wanted (it is 1 otherwise).

        Raises:
            UserError: they were evaluated on different examples.
        """
        ours = {record["seed"]: counts for record, counts in zip(self.records, self.counts, strict=True)}
        theirs = {record["seed"]: counts for record, counts in zip(baseline.records, baseline.counts, strict=True)}
        seeds = tuple(seed for seed in ours if seed in theirs)
        if not seeds:
            return None
        if not _on_same_examples(self.records[0], baseline.records[0]):
            raise UserError("The two systems were not evaluated on the same test examples, so they cannot be compared in pairs.")
        sides = [theirs[seed] for seed in seeds], [ours[seed] for seed in seeds]
        mean, interval = paired_gain(self.task.metrics, *sides, self.metric)
        probability = paired_test(self.task.metrics, *sides, self.metric) if test else 1.0
        return Gain(mean, interval, probability, seeds)


def systems_of(records: Iterable[Record]) -> list[System]:
    """Runs that differ in their seed alone put together, in the order of their seeds."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_identity(record, without_modules=False), []).append(record)
    return [System(sorted(runs, key=lambda record: record["seed"])) for runs in groups.values()]


def baselines_of(systems: Sequence[System]) -> dict[int, int]:
    """Which system is the same without language modules, of each that has one: places among the systems."""
    identities = [_identity(system.records[0], without_modules=True) for system in systems]
    plain = {key: place for place, key in enumerate(identities) if systems[place].records[0]["method"] is None}
    return {place: plain[key] for place, key in enumerate(identities) if plain.get(key, place) != place}


@lru_cache(maxsize=256)
def _task(settings: str) -> Task:
    """The task of settings in JSON; many systems have the same."""
    return build(OmegaConf.create(settings), "task", Task)


def _identity(record: Record, without_modules: bool) -> str:
    """What an evaluation is of, but for the seed of the run, and if wanted without its language modules."""

    def plain(step: Mapping[str, Any]) -> dict[str, Any]:
        inputs = step["inputs"].items()
        kept = {role: plain(inner) for role, inner in inputs if not (without_modules and inner["kind"] == "language_module")}
        fields = dict(step["fields"])
        if step["kind"] == "task_module":
            for name in {"seed", "sources"} & fields.keys():  # what a task module learns from may be drawn with its seed
                fields[name] = _seedless({name: fields[name]}, record["seed"])[name]
        return {**step, "fields": fields, "inputs": kept}

    return json.dumps(plain(record["payload"]), sort_keys=True)


def _seedless(value: Any, seed: int) -> Any:
    """With a word in the place of each seed that is the run's."""
    if isinstance(value, Mapping):
        return {name: "run's" if (name, inner) == ("seed", seed) else _seedless(inner, seed) for name, inner in value.items()}
    return [_seedless(inner, seed) for inner in value] if isinstance(value, list) else value


def _on_same_examples(first: Record, second: Record) -> bool:
    """Whether the same step made both test sets; if not, whether they have the same ids."""
    made = [record["payload"]["inputs"].get("test_examples") for record in (first, second)]
    if made[0] is not None and made[0] == made[1]:
        return True
    return [row["id"] for row in first.predictions()] == [row["id"] for row in second.predictions()]
