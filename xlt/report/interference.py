"""Interference: what a task scores for each pair of densities, of its language's module and of its own (Ansell 2024, figure 4.3).

Modules that change more weights say more, and disturb one another more where they are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlt.errors import UserError
from xlt.record import Record
from xlt.report.systems import System

_SIZES = {"density": 1, "count": 1, "reduction_factor": -1}  # what says how many weights are chosen, and whether more is more


@dataclass(frozen=True)
class Grid:
    """The scores in one language.

    Attributes:
        language_sizes, task_sizes: of the modules, from the smallest on: a density, a number of weights or a reduction factor, or
            `none` where there is no module.
        cells: the runs of each pair that there are runs of, by language size and task size.
    """

    lang: str
    language_sizes: Sequence[str]
    task_sizes: Sequence[str]
    cells: Mapping[tuple[str, str], System]

    @property
    def metric(self) -> str:
        """The task's main metric."""
        return next(iter(self.cells.values())).metric

    def markdown(self) -> str:
        """A table: a row for each size of the language module; means over seeds with their 95 % intervals."""
        heading = f"{self.lang}, {self.metric}: language ↓ task →"
        rows = [[heading, *self.task_sizes], ["---"] * (1 + len(self.task_sizes))]
        for language_size in self.language_sizes:
            systems = [self.cells.get((language_size, task_size)) for task_size in self.task_sizes]
            rows.append([language_size, *("" if system is None else _score(system) for system in systems)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def grids(records: Sequence[Record]) -> list[Grid]:
    """A grid for each target language of a sweep over sizes and seeds.

    Raises:
        UserError: the runs differ in something else, or there is but one pair of sizes.
    """
    for name in ("task", "model", "transfer", "source", "shots"):
        values = sorted({str(record[name]) for record in records})
        if len(values) > 1:
            raise UserError(f"These runs differ in {name} ({', '.join(values)}), and not in sizes, languages and seeds alone.")
    found: dict[str, dict[tuple[str, str], list[Record]]] = {}
    ranks: dict[str, float] = {}
    for record in records:
        sizes = [_size(record["config"][name]) for name in ("method", "task_method")]
        ranks |= dict(sizes)
        found.setdefault(record["lang"], {}).setdefault((sizes[0][0], sizes[1][0]), []).append(record)
    if len({pair for cells in found.values() for pair in cells}) < 2:
        raise UserError(
            "These runs have one pair of sizes, which is no grid. Sweep over sizes: python run.py -m method=lt_sft "
            "task_method=lt_sft method.reduction_factor=2,8 task_method.reduction_factor=2,8"
        )
    return [
        Grid(
            lang,
            *(sorted({pair[place] for pair in cells}, key=lambda size: ranks[size]) for place in (0, 1)),
            cells={pair: System(runs) for pair, runs in cells.items()},
        )
        for lang, cells in sorted(found.items())
    ]


def _size(method: Mapping[str, Any]) -> tuple[str, float]:
    """What a method's configuration says of its size, and where it stands among others."""
    given = [(name, method[name]) for name in _SIZES if method.get(name) is not None]
    if not given:
        return str(method["name"]), 0.0
    name, value = given[0]
    shown = f"{value:,}" if name == "count" else f"{value:g}"
    return f"{name} {shown}", float(value) ** _SIZES[name]


def _score(system: System) -> str:
    low, high = system.interval
    return f"{system.mean:.3f} [{low:.3f}, {high:.3f}]"
