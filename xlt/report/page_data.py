"""What the page of results shows, as plain data: settings, steps and machines are listed once and referred to by their numbers.

Rows are lists, whose fields are named once (`fields`), so that ten thousand runs fit into a few megabytes.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from xlt.languages import LanguageTable
from xlt.record import RECORD, Record
from xlt.report.paper import published_scores
from xlt.report.records import Refused
from xlt.report.systems import System, baselines_of, systems_of
from xlt.store import Artifact, Store, fingerprint

AXES = ("task", "lang", "method", "model", "task_method", "data", "transfer", "source", "shots")
"""What systems can be filtered by: fields of a record."""

SYSTEM_FIELDS = (
    "axes", "variant", "metrics", "less_is_better", "interval", "gain", "bytes", "settings", "runs", "overrides", "published",
)  # fmt: skip
RUN_FIELDS = ("seed", "fingerprint", "created", "scores", "ends", "test_size", "steps", "trainings", "machine", "folders")
TRAINING_FIELDS = (
    "trainable_parameters", "steps", "best_step", "tokens", "seconds", "peak_memory_bytes", "energy_joules", "device",
)  # fmt: skip
STEP_FIELDS = ("kind", "label", "fingerprint", "revision", "summary", "curves")

RESAMPLED = 1000
"""Records up to which means and gains get intervals and are tested: each takes some hundredths of a second."""

_MACHINE_SIDE = ("paths", "tracker", "reuse", "plan", "debug", "device", "threads", "seed", "lang")
_MACHINE = ("packages", "python", "git", "device", "threads")
_POINTS = 200_000  # of all curves together
_CURVE_POINTS = (10, 100)  # of one, at least and at most
_SAMPLES = 5  # of a text
_DIGITS = 16  # of a fingerprint: those in the names of the store's folders
_SHOWN_DIFFERENCES = 3


class Numbered:
    """Values, each kept once and known by its number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number(self, value: Any) -> int:
        """The number of a value of plain data."""
        key = json.dumps(value, sort_keys=True)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


def copies_of(outputs: Path, records: Iterable[Record], refused: Iterable[Refused]) -> tuple[dict[str, list[str]], list[Refused]]:
    """The run folders of records, by fingerprint and relative to `outputs`; and the copies there that are not what was stored.

    Args:
        refused: evaluations of the store, whose copies are not named again.
    """
    named = {entry.path.parent.name[-_DIGITS:] for entry in refused}
    stored = {record["fingerprint"]: record.path for record in records}
    folders: dict[str, list[str]] = defaultdict(list)
    unlike = []
    for file in sorted(path for name in ("runs", "sweeps") for path in (outputs / name).rglob(RECORD)):
        try:
            content = file.read_bytes()
            digest = json.loads(content)["fingerprint"]
            original = stored.get(digest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            unlike.append(Refused(file, f"it cannot be read ({type(error).__name__}: {error})"))
            continue
        if original is not None and original.read_bytes() == content:
            folders[digest].append(file.parent.relative_to(outputs).as_posix())
        elif original is not None:
            unlike.append(Refused(file, f"it is not what was stored ({original}), which is shown"))
        elif str(digest)[:_DIGITS] not in named:
            unlike.append(Refused(file, "the store has no evaluation of this fingerprint: run it again"))
    return folders, unlike


@dataclass
class PageData:
    """Collects what the page shows of some records.

    Attributes:
        stores: where their artifacts are.
        folders: the run folders of each, by its fingerprint.
    """

    records: Sequence[Record]
    stores: Sequence[Store]
    folders: Mapping[str, Sequence[str]]
    languages: LanguageTable
    _axes: dict[str, Numbered] = field(default_factory=lambda: {axis: Numbered() for axis in AXES})
    _settings: Numbered = field(default_factory=Numbered)
    _metrics: Numbered = field(default_factory=Numbered)
    _machines: Numbered = field(default_factory=Numbered)
    _trainings: Numbered = field(default_factory=Numbered)
    _steps: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)
    _trained: list[tuple[list[Any], Path, str]] = field(default_factory=list)  # steps, their folders, the metric of a run

    @cached_property
    def systems(self) -> list[System]:
        """Runs that differ in their seed alone together, those of a task and language beside one another."""
        return sorted(systems_of(self.records), key=lambda system: tuple(str(system.records[0][axis] or "") for axis in AXES))

    def collect(self) -> dict[str, Any]:
        """All of it."""
        baselines = baselines_of(self.systems)
        variants = self._variants()
        rows = [self._system(place, baselines.get(place), variants[place]) for place in range(len(self.systems))]
        self._add_curves()
        return {
            "fields": {"system": SYSTEM_FIELDS, "run": RUN_FIELDS, "step": STEP_FIELDS, "training": TRAINING_FIELDS},
            "axes": {axis: numbered.values for axis, numbered in self._axes.items()},
            "resampled": len(self.records) <= RESAMPLED,
            "languages": {system.records[0]["lang"]: self._language_of(system.records[0]) for system in self.systems},
            "metrics": self._metrics.values,
            "settings": self._settings.values,
            "machines": self._machines.values,
            "trainings": self._trainings.values,
            "steps": [row for _, row in self._steps.values()],
            "systems": rows,
        }

    def _language_of(self, record: Record) -> str:
        """A language's name: the table's, or that of the invented world."""
        known = self.languages.languages.get(record["lang"])
        invented = (record["config"].get("world") or {}).get("languages", {}).get(record["lang"], {})
        return known.name if known else str(invented.get("name", ""))

    def _system(self, place: int, baseline: int | None, variant: str) -> list[Any]:
        system = self.systems[place]
        record = system.records[0]
        names = [system.metric, *(name for name in record["metrics"] if name != system.metric)]
        resampled = len(self.records) <= RESAMPLED
        several = len(system.records) > 1
        interval = system.interval if several and resampled else None if several else record["intervals"][system.metric]
        settings = [self._settings.number([name, record["config"][name]]) for name in _settings_of(record)]
        return [
            [self._axes[axis].number(_shown(record[axis])) for axis in AXES],
            variant,
            self._metrics.number(names),
            not system.task.more_is_better,
            interval and [rounded(end) for end in interval],
            self._gain(system, baseline, resampled),
            self._bytes(record),
            settings,
            [self._run(record, names) for record in system.records],
            [text for text in record.get("overrides") or () if not text.startswith("seed=")] or None,
            [str(score) for score in published_scores(record)] if resampled else [],
        ]

    def _gain(self, system: System, baseline: int | None, resampled: bool) -> list[Any] | None:
        """The baseline's number, the mean and the ends of its interval."""
        if baseline is None:
            return None
        other = self.systems[baseline]
        if resampled:
            gain = system.gain_over(other, test=False)
            return gain and [baseline, rounded(gain.mean), *map(rounded, gain.interval)]
        mean = system.mean_gain_over(other)
        return None if mean is None else [baseline, rounded(mean)]

    def _run(self, record: Record, metrics: Sequence[str]) -> list[Any]:
        steps = [
            self._step(name, digest, record) for name, digest in record["fingerprints"].items() if digest != record["fingerprint"]
        ]
        return [
            record["seed"],
            record["fingerprint"][:_DIGITS],
            record["created"][:16],
            [rounded(record["metrics"].get(name)) for name in metrics],
            [rounded(end) for name in metrics for end in record["intervals"].get(name, (None, None))],
            record["test_size"],
            steps,
            {
                role: self._trainings.number(_plain([figures.get(name) for name in TRAINING_FIELDS]))
                for role, figures in record["training"].items()
            },
            self._machines.number({name: record[name] for name in _MACHINE}),
            list(self.folders.get(record["fingerprint"], ()))[:3],
        ]

    def _step(self, name: str, digest: str, record: Record) -> int:
        if digest not in self._steps:
            kind, _, label = name.partition("/")
            artifact = self._artifact(kind, label, digest)
            trained = artifact is not None and (artifact.folder / "training.json").is_file()
            summary = None if artifact is None or trained else _without_most_samples(artifact.summary)
            row = [kind, label, digest[:_DIGITS], record["revisions"].get(name), _plain(summary), None]
            self._steps[digest] = (len(self._steps), row)
            if trained:
                self._trained.append((row, artifact.folder, record["metric"]))
        return self._steps[digest][0]

    def _artifact(self, kind: str, label: str, digest: str) -> Artifact | None:
        found = (store.peek(kind, label, digest) for store in self.stores)
        return next((artifact for artifact in found if artifact is not None), None)

    def _add_curves(self) -> None:
        least, most = _CURVE_POINTS
        points = min(most, max(least, _POINTS // max(1, 2 * len(self._trained))))
        for row, folder, metric in self._trained:
            result = json.loads((folder / "training.json").read_text(encoding="utf-8"))
            row[STEP_FIELDS.index("curves")] = [_curves(phase, metric, points) for phase in result.get("phases", [result])]

    def _bytes(self, record: Record) -> int | None:
        """How much text the target's language module was trained on; None where the store does not know."""
        module = record["payload"]["inputs"].get("language_module")
        tokens = _of_kind(module, "tokens") if module else ()
        texts = {fingerprint(text) for own in tokens for text in _of_kind(own, "text")}
        found = [self._artifact("text", "", digest) for digest in texts]
        return sum(text.summary["train"]["bytes"] for text in found) if found and all(found) else None

    def _variants(self) -> list[str]:
        """What tells each system from those with the same axes: settings in which they differ, or where from their data is."""
        alike: dict[tuple, list[int]] = defaultdict(list)
        for place, system in enumerate(self.systems):
            alike[tuple(str(system.records[0][axis]) for axis in AXES)].append(place)
        result = [""] * len(self.systems)
        for places in alike.values():
            if len(places) > 1:
                records = [self.systems[place].records[0] for place in places]
                settings = [dict(_leaves({name: record["config"][name] for name in _settings_of(record)})) for record in records]
                revisions = [dict(_leaves({"revisions": record["revisions"]})) for record in records]
                told = _differences(settings) or _differences(revisions)
                for place, words in zip(places, told, strict=bool(told)):
                    result[place] = words
        return result


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """At most so many of some points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(number * (len(points) - 1) / (most - 1))] for number in range(most)]


def rounded(value: float | None, digits: int = 5) -> float | None:
    """To some significant digits; None for what is no number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def _curves(result: Mapping[str, Any], metric: str, points: int) -> dict[str, Any]:
    """The training loss, and the validation scores by `metric`, or by the first that there is."""
    metric = metric if metric in result["best"] else next(iter(result["best"]), "")
    curve = thinned(result["curve"], points)
    scores = thinned([row for row in result["evaluations"] if metric in row], points)
    return {
        "loss": [[step for step, _ in curve], [rounded(loss, 4) for _, loss in curve]],
        "metric": metric,
        "scores": [[row["step"] for row in scores], [rounded(row[metric], 4) for row in scores]],
    }


def _of_kind(step: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The inputs of a kind."""
    return [inner for inner in step["inputs"].values() if inner["kind"] == kind]


def _settings_of(record: Record) -> list[str]:
    return [name for name, value in record["config"].items() if name not in _MACHINE_SIDE and value is not None]


def _differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each, what it has in the keys that all have and in which not all agree; nothing if they agree in all."""
    common = [key for key in settings[0] if all(key in other for other in settings)]
    telling = [key for key in common if any(other[key] != settings[0][key] for other in settings)]
    more = f" and {len(telling) - _SHOWN_DIFFERENCES} more" if len(telling) > _SHOWN_DIFFERENCES else ""
    shown = telling[:_SHOWN_DIFFERENCES]
    return [", ".join(f"{key}={own[key]}" for key in shown) + more for own in settings] if telling else []


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _shown(value: Any) -> str:
    return "none" if value is None else "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _without_most_samples(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[:_SAMPLES] if name == "samples" else value for name, value in summary.items()}


def _plain(value: Any) -> Any:
    """With rounded numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return rounded(value) if isinstance(value, float) else value
