"""A paper's table beside what the runs in a store scored: printed, ours, and the difference."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlt.analysis.published.averages import members
from xlt.analysis.published.tables import Printed, PublishedRow, PublishedTable
from xlt.paper import Job, PaperTable, Part
from xlt.record import Record
from xlt.report.records import Refused, Stores, alike, check, check_revisions, in_force
from xlt.store import differences

Place = tuple[str, str, str]
"""Block, column and language."""


@dataclass(frozen=True)
class Ours:
    """What the runs of one cell scored.

    Attributes:
        records: by the seed of the task module.
        scale: of the printed scores.
        metric: that is printed; None is the main one.
    """

    records: Mapping[int, Record]
    scale: float
    metric: str | None = None

    @property
    def scores(self) -> dict[int, float]:
        """The score of each run, as the table prints it."""
        return {seed: self.scale * record["metrics"][self.metric or record["metric"]] for seed, record in self.records.items()}

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.scores.values())

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds; None for one."""
        return statistics.stdev(self.scores.values()) if len(self.records) > 1 else None


@dataclass(frozen=True)
class Average:
    """Over languages, of one column.

    Attributes:
        languages: over which the average is.
        wanted: over which it should be.
        printed: over `languages`; None if some are not printed.
        as_printed: what the paper gives, over `wanted`.
        scores: the mean over the languages for each seed that all have.
    """

    languages: tuple[str, ...]
    wanted: tuple[str, ...]
    printed: Printed | None
    as_printed: Printed | None
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """What is known of each cell of a table; `collect` makes one.

    Attributes:
        published: the printed table, if there is one.
        cells: of the runs found, by block, column and language.
        refused: records that were kept out, and why.
        others: settings of runs on the same data that are not those of the table, with how many runs have them.
    """

    table: PaperTable
    published: PublishedTable | None
    cells: Mapping[Place, Ours] = field(default_factory=dict)
    refused: Sequence[Refused] = ()
    others: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> list[str]:
        """Those of the table that have runs."""
        return list(dict.fromkeys(job.block for job in self.table.jobs))

    def parts(self, block: str) -> dict[str, Part]:
        """The columns of a block, in order."""
        return {part.column: part for part in self.table.parts if part.block == block}

    def columns(self, block: str) -> list[str]:
        """In order."""
        return list(self.parts(block))

    def languages(self, block: str) -> list[str]:
        """In order."""
        return list(dict.fromkeys(language for part in self.parts(block).values() for language in part.languages))

    def seeds(self, block: str) -> int:
        """How many runs a cell should have."""
        return len({str(job.choices["seed"]) for job in self.table.jobs if job.block == block})

    def printed_row(self, block: str, column: str) -> PublishedRow | None:
        """The column's printed numbers."""
        labels = self.parts(block)[column].published
        return self.published.row(**labels) if self.published and labels else None

    def printed(self, block: str, column: str, language: str) -> Printed | None:
        """The printed number of a cell."""
        row = self.printed_row(block, column)
        return row.languages.get(language) if row else None

    def average_names(self, block: str) -> list[str]:
        """The printed averages over languages, or `mean`; none for a single language."""
        rows = [row for column in self.columns(block) if (row := self.printed_row(block, column))]
        names = list(dict.fromkeys(name for row in rows for name in row.averages))
        known = {language for row in rows for language in row.languages}
        if len(self.languages(block)) < 2:
            return []
        if names and (not known or known & set(self.languages(block))):
            return [name for name in names if self._members(block, name)]
        return ["mean"]

    def average(self, block: str, column: str, name: str) -> Average:
        """An average of a column. Where runs are missing, it is over the languages that all columns with runs have."""
        wanted = self._members(block, name)
        begun = [other for other in self.columns(block) if any((block, other, language) in self.cells for language in wanted)]
        common = tuple(language for language in wanted if all((block, other, language) in self.cells for other in begun))
        languages = common if begun and common else wanted
        cells = [self.cells.get((block, column, language)) for language in languages]
        found = [cell.scores for cell in cells if cell]
        complete = bool(found) and len(found) == len(languages)
        seeds = [seed for seed in found[0] if all(seed in scores for scores in found)] if complete else []
        scores = tuple(statistics.fmean(scores[seed] for scores in found) for seed in seeds)
        row = self.printed_row(block, column)
        printed = [row.languages[language] for language in languages if language in row.languages] if row else []
        over = None
        if printed and len(printed) == len(languages):
            over = Printed(statistics.fmean(cell.value for cell in printed), max(cell.digits for cell in printed))
        whole = bool(row) and (not row.languages or set(wanted) == set(members(self.published, row, name)))
        as_printed = row.averages.get(name) if row and whole else None
        return Average(languages, wanted, over, as_printed, scores)

    def _members(self, block: str, name: str) -> tuple[str, ...]:
        """The languages shown that an average is over."""
        row = next((row for column in self.columns(block) if (row := self.printed_row(block, column))), None)
        if name == "mean" or row is None or not row.languages:
            return tuple(self.languages(block))
        return tuple(key for key in self.languages(block) if members(self.published, row, name, [key]))


def collect(table: PaperTable, published: PublishedTable | None, stores: Stores, configs: Mapping[Job, DictConfig]) -> Comparison:
    """Find the records of a table's cells.

    Args:
        configs: the composed configuration of one job of each column and block.
    """
    sorter = _Sorter(table, configs)
    languages: dict[str, set[str]] = defaultdict(set)
    for job in table.jobs:
        languages[job.block].add(str(job.choices["lang"]))
    every = sorted(set().union(*languages.values()))
    found: dict[Place, dict[int, Record]] = defaultdict(dict)
    refused: list[Refused] = []
    others: dict[str, int] = defaultdict(int)
    for name in sorted(sorter.tasks):
        for record in stores.records(name, every):
            if not set(record) >= _NEEDED:
                refused.append(Refused(record.path, check(record) or "it is not a record"))
            elif record["task"] == name and record["lang"] in every:
                place = sorter.places(record)
                for block, column, seed in place:
                    if record["lang"] in languages[block]:
                        found[block, column, record["lang"]][seed] = record
                if not place and sorter.wants_seed(record):
                    others[sorter.nearest(record)] += 1
    return _believed(table, published, found, refused, others)


_NEEDED = {"config", "lang", "seed", "metric", "metrics", "task", "method", "data", "task_method", "source", "shots", "revisions"}


class _Sorter:
    """Says which cells a record belongs to. Many records have the same settings, which are looked at once."""

    def __init__(self, table: PaperTable, configs: Mapping[Job, DictConfig]) -> None:
        self.wanted: dict[tuple[str, str, int], dict[str, Any]] = {}
        for job, config in configs.items():
            for seed in dict.fromkeys(int(other.choices["seed"]) for other in table.jobs if other.block == job.block):
                OmegaConf.update(config, "seed", seed)  # settings may refer to it
                self.wanted[job.block, job.column, seed] = OmegaConf.to_container(config, resolve=True)
        self.tasks = {config["task"]["name"] for config in self.wanted.values()}
        self._seeds = {seed for _, _, seed in self.wanted}
        self._places: dict[str, list[tuple[str, str, int]]] = {}
        self._nearest: dict[str, str] = {}

    def wants_seed(self, record: Record) -> bool:
        """Whether the record's seed is one of the table's, if it has any part in the result."""
        return record["task_method"] is None or record["seed"] in self._seeds

    def places(self, record: Record) -> list[tuple[str, str, int]]:
        """Blocks, columns and seeds."""
        if not self.wants_seed(record):
            return []
        own, key = self._settings(record)
        if key not in self._places:
            self._places[key] = [
                place
                for place, config in self.wanted.items()
                if record["task_method"] is None or record["seed"] == place[2]
                if alike(in_force(config, record), own)
            ]
        return self._places[key]

    def nearest(self, record: Record) -> str:
        """In what a record that is in no cell differs from the cell that is most like it."""
        own, key = self._settings(record)
        if key not in self._nearest:
            lines = [differences(own, in_force(config, record)) for config in self.wanted.values()]
            self._nearest[key] = ", ".join(min(lines, key=len)[:3])
        return self._nearest[key]

    def _settings(self, record: Record) -> tuple[dict[str, Any], str]:
        own = in_force(record["config"], record)
        seed = record["seed"] if record["task_method"] is not None else None
        return own, json.dumps([own, seed])


def _believed(
    table: PaperTable,
    published: PublishedTable | None,
    found: Mapping[Place, dict[int, Record]],
    refused: list[Refused],
    others: Mapping[str, int],
) -> Comparison:
    """The comparison without the records that are not what they say."""
    records = {record.path: record for cell in found.values() for record in cell.values()}
    wrong = {path: why for path, record in records.items() if (why := check(record))}
    wrong |= check_revisions([record for path, record in records.items() if path not in wrong])
    cells, metrics = {}, {(part.block, part.column): part.metric for part in table.parts}
    for place, cell in found.items():
        kept = {seed: record for seed, record in sorted(cell.items()) if record.path not in wrong}
        if kept:
            cells[place] = Ours(kept, table.scale, metrics[place[:2]])
    return Comparison(table, published, cells, [*refused, *(Refused(path, why) for path, why in wrong.items())], others)
