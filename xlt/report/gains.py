"""What cells of a table gain over its baseline, tested in pairs on the test examples.

A test takes a tenth of a second and a table has hundreds, so what came out is kept beside the artifacts (`.gains.json`), by
the fingerprints of the runs on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlt.analysis.multiple import holm
from xlt.report.comparison import Comparison, Ours, Place
from xlt.store import write_durably

if TYPE_CHECKING:
    from xlt.report.systems import System

SIGNIFICANT = 0.05
_KEPT = ".gains.json"
_VERSION = 1  # of the test: raised, what was kept is computed anew


@dataclass(frozen=True)
class Tested:
    """What a cell gains over the baseline in the same language.

    Attributes:
        mean: over the seeds that both have, as a share.
        interval: 95 %, by resampling examples.
        probability: of such a gain by chance, corrected for all tests of the table (Holm).
    """

    mean: float
    interval: tuple[float, float]
    probability: float


def gains(comparison: Comparison) -> dict[Place, Tested]:
    """The gain of every cell over the table's baseline; cells without a seed in common with it have none."""
    baseline = comparison.table.baseline
    pairs = {
        place: (cell, comparison.cells[place[0], baseline, place[2]])
        for place, cell in comparison.cells.items()
        if baseline is not None and place[1] != baseline and (place[0], baseline, place[2]) in comparison.cells
    }
    kept = _Kept({record.path.parents[2] for cell in comparison.cells.values() for record in cell.records.values()})
    systems: dict[int, System] = {}
    found: dict[Place, dict[str, Any]] = {}
    for place, (cell, base) in pairs.items():
        if not cell.records.keys() & base.records.keys():
            continue
        key = _key(cell, base)
        if key not in kept.results:
            kept.results[key] = _test(_system(cell, systems), _system(base, systems))
        found[place] = kept.results[key]
    kept.save()
    corrected = holm([one["probability"] for one in found.values()])
    return {
        place: Tested(one["mean"], (one["interval"][0], one["interval"][1]), p)
        for (place, one), p in zip(found.items(), corrected, strict=True)
    }


class _Kept:
    """Results of tests in the store that the runs are in; of runs from several stores, nothing is kept."""

    def __init__(self, stores: Iterable[Path]) -> None:
        folders = list(stores)
        self._file = folders[0] / _KEPT if len(folders) == 1 else None
        self.results: dict[str, dict[str, Any]] = {}
        if self._file is not None:
            with suppress(OSError, ValueError):
                self.results = dict(json.loads(self._file.read_bytes()))
        self._before = len(self.results)

    def save(self) -> None:
        """Keep what was computed, unless the store is not ours to write to."""
        if self._file is not None and len(self.results) > self._before:
            with suppress(OSError):
                write_durably(self._file, json.dumps(self.results).encode())


def _key(cell: Ours, base: Ours) -> str:
    sides = [{seed: record["fingerprint"] for seed, record in side.records.items()} for side in (base, cell)]
    return hashlib.sha256(json.dumps([_VERSION, cell.metric, sides], sort_keys=True).encode()).hexdigest()


def _system(cell: Ours, known: dict[int, System]) -> System:
    from xlt.report.systems import System  # it needs the tasks, and so torch

    if id(cell) not in known:
        known[id(cell)] = System(list(cell.records.values()), cell.metric)
    return known[id(cell)]


def _test(system: System, baseline: System) -> dict[str, Any]:
    gain = system.gain_over(baseline)
    assert gain is not None  # they have seeds in common
    return {"mean": gain.mean, "interval": list(gain.interval), "probability": gain.probability}
