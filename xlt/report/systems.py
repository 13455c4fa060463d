"""A system: runs that differ in their seed alone. What it scores, and whether another one scores more."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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

    Raises:
        UserError: the runs are not on the same test examples.
    """

    records: Sequence[Record]

    def __post_init__(self) -> None:
        if any(not np.array_equal(ids, self._ids[0]) for ids in self._ids[1:]):
            raise UserError("These runs were not evaluated on the same test examples, so they cannot be averaged.")

    @property
    def metric(self) -> str:
        """The task's main metric."""
        return self.records[0]["metric"]

    @property
    def scores(self) -> list[float]:
        """The main metric of each run."""
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
        return build(OmegaConf.create(self.records[0]["config"]["task"]), "task", Task)

    @cached_property
    def counts(self) -> list[np.ndarray]:
        """What was counted in the test examples of each run, [examples, counts] each."""
        result = []
        for record in self.records:
            rows = record.predictions()
            result.append(self.task.counts([row["gold"] for row in rows], [row["predicted"] for row in rows]))
        return result

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
        if not np.array_equal(self._ids[0], baseline._ids[0]):
            raise UserError("The two systems were not evaluated on the same test examples, so they cannot be compared in pairs.")
        sides = [theirs[seed] for seed in seeds], [ours[seed] for seed in seeds]
        mean, interval = paired_gain(self.task.metrics, *sides, self.metric)
        probability = paired_test(self.task.metrics, *sides, self.metric) if test else 1.0
        return Gain(mean, interval, probability, seeds)

    @cached_property
    def _ids(self) -> list[list[str]]:
        return [[row["id"] for row in record.predictions()] for record in self.records]
