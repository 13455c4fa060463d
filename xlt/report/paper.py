"""Papers' tables by their names: what is printed, what the runs in a store scored, and which of them can be run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import xlt.conf
from xlt.analysis.published import tables as printed
from xlt.cli import compose, explain, normalised
from xlt.errors import UserError
from xlt.paper import RECIPES, PaperTable, Part, typed
from xlt.record import Record
from xlt.report.cells import Text
from xlt.report.comparison import Comparison, collect
from xlt.report.correlations import correlations, only_needed
from xlt.report.gains import gains
from xlt.report.records import Stores, in_force
from xlt.report.table import Column, Row, Table
from xlt.report.views import grid, listing, number
from xlt.store import differences

_FOLDER = Path(next(iter(xlt.conf.__path__))) / "paper"
_BY_ITSELF = "gurgurov2025/table12"


def compared(
    name: str, settings: Sequence[str] = (), stores: Sequence[Path] | None = None, as_list: bool = False, test: bool = True
) -> list[Table]:
    """A table beside the scores of the runs in some stores, a part of it after the other.

    Args:
        name: `gurgurov2025/table15`.
        settings: as on the command line of its sweep.
        stores: folders; that of the settings if None.
        as_list: a row for each cell instead of the paper's shape.
        test: whether gains over the baseline are tested.

    Raises:
        UserError: an unknown table or setting, or a folder that is no store.
    """
    table = read(name, settings)
    if table.correlations_of:
        return [correlations(table, lambda other: compare(only_needed(read(other, settings)), settings, stores))]
    if table.waits_for:
        return [printed_alone(name, f"Not to be run yet: it waits for {table.waits_for}.")]
    comparison = compare(table, settings, stores)
    tested = gains(comparison) if test else {}
    return [listing(comparison, tested)] if as_list else [grid(comparison, block, tested) for block in comparison.blocks]


def with_runs(store: Path, records: Sequence[Record], asked: Sequence[str] | None = None, test: bool = True) -> list[Table]:
    """The tables that some run in a store belongs to, and one that says something by itself: what the correlations of
    Gurgurov et al. 2025, table 12, are of.

    Args:
        records: the store's.
        asked: these tables instead of all, each with settings behind its name, `gurgurov2025/table15 lang=mt`; shown in any case.
        test: whether gains over the baseline are tested.

    Raises:
        UserError: an unknown table or setting.
    """
    if not records:
        return []
    pairs = {(record["task"], record["model"]) for record in records}
    likely = [name for name in names() if name == _BY_ITSELF or _names_some(name, pairs)]
    found = []
    for text in likely if asked is None else asked:
        name, *settings = text.split()
        table = read(name, settings)
        if table.correlations_of:
            found.append(correlations(table, partial(_compared_if_likely, settings=settings, store=store, pairs=pairs)))
        elif not table.waits_for:
            comparison = compare(table, settings, [store])
            if comparison.cells or asked is not None:
                tested = gains(comparison) if test else {}
                found += [grid(comparison, block, tested) for block in comparison.blocks]
    return found


def _compared_if_likely(name: str, settings: Sequence[str], store: Path, pairs: Set[tuple[str, str]]) -> Comparison:
    """What our runs scored in the columns that correlations are of; composing their configurations takes seconds."""
    table = only_needed(read(name, settings))
    return compare(table, settings, [store]) if _names_some(name, pairs) else Comparison(table, None)


def _names_some(name: str, pairs: Set[tuple[str, str]]) -> bool:
    """Whether the file of a table names a task together with a model, or with one by its path."""
    text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return any(f"task: {task}" in text and (f"model: {model}" in text or "model: hf" in text) for task, model in pairs)


def read(name: str, settings: Sequence[str] = ()) -> PaperTable:
    """The sweep behind a table with what was given on the command line.

    Raises:
        UserError: an unknown table or setting.
    """
    own = [text for text in settings if re.split(r"[.=]", text.lstrip("+~"))[0] in RECIPES]
    try:
        config = compose([f"+paper={name}", *own])
        given = typed(OverridesParser.create().parse_overrides([text for text in settings if text not in own]))
    except Exception as error:
        if (message := explain(error, settings)) is None:
            raise
        raise UserError(message) from error
    several = [key for key, values in given.items() if len(values) > 1 and key in ("model", "task", "train")]
    if several:
        raise UserError(f"A table shows one {several[0]} at a time: choose one of {', '.join(given[several[0]])}.")
    return PaperTable.from_config(config.paper).given(given)


def compare(table: PaperTable, settings: Sequence[str] = (), stores: Sequence[Path] | None = None) -> Comparison:
    """What the runs in some stores scored in the cells of a table."""
    representatives = {(job.block, job.column): job for job in reversed(table.jobs)}.values()
    try:
        configs = {job: compose(normalised(job.overrides())) for job in representatives}
    except Exception as error:
        if (message := explain(error, settings)) is None:
            raise
        raise UserError(message) from error
    if stores is None:
        paths = next(iter(configs.values())).paths
        own = Path(paths.store or Path(paths.outputs) / "store").expanduser()
        stores = [own] if (own / "evaluation").is_dir() else []
    published = printed.table(table.name) if table.name in printed.names() else None
    return collect(table, published, Stores(stores), configs)


@dataclass(frozen=True)
class PublishedScore:
    """What a paper prints for the setting of a run.

    Attributes:
        score: on the scale of records, shares rather than percents.
        differences: settings of the run that are not the paper's, `train.task.epochs 3 → 20`.
    """

    table: str
    metric: str
    score: float
    differences: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.differences) - 2} more" if len(self.differences) > 2 else ""
        other = f", other settings there: {', '.join(self.differences[:2])}{more}" if self.differences else ""
        return f"{self.metric} {self.score:.3f} ({self.table}{other})"


def published_scores(record: Mapping[str, Any]) -> list[PublishedScore]:
    """The printed scores for a run's model, method, source of text, language, task and transfer, in the tables of conf/paper; of
    several columns that differ in less, the nearest."""
    found = []
    for name in names():
        if _names_some(name, {(record["task"], record["model"])}):
            table = _read_once(name)
            scores = [score for part in table.parts if (score := _published_score(table, part, record)) is not None]
            for metric in dict.fromkeys(score.metric for score in scores):
                same = [score for score in scores if score.metric == metric]
                found.append(min(same, key=lambda score: len(score.differences)))
    return found


def _published_score(table: PaperTable, part: Part, record: Mapping[str, Any]) -> PublishedScore | None:
    row = printed.table(table.name).row(**part.published)
    cell = row.languages.get(record["lang"])
    job = next((job for job in table.jobs if (job.block, job.column) == (part.block, part.column)), None)
    if cell is None or job is None or (record["method"] is None) != (job.choices.get("method") == "none"):
        return None
    chosen = {
        axis: job.choices.get(axis) for axis in ("model", "task", "method", "data", "task_method") if record[axis] is not None
    }
    if any(choice not in (None, "hf", record[axis]) for axis, choice in chosen.items()):
        return None
    wanted = OmegaConf.to_container(_composed_once(tuple(job.overrides())), resolve=True)
    ours, theirs = in_force(record["config"], record), in_force(wanted, record)
    axes = [axis for axis in ("model", "method", "task_method", "data", "task", "transfer") if axis in ours]
    if any(ours[axis]["name"] != theirs[axis]["name"] for axis in axes) or ours.get("source") != theirs.get("source"):
        return None
    other = tuple(line for line in differences(ours, theirs) if not line.endswith((" added", " removed")))
    metric = part.metric or record["metric"]
    return PublishedScore(table.name, metric, cell.value / table.scale, other)


@lru_cache
def _read_once(name: str) -> PaperTable:
    return read(name)


@lru_cache
def _composed_once(overrides: tuple[str, ...]) -> DictConfig:
    return compose(normalised(list(overrides)))


def printed_alone(name: str, remark: str = "") -> Table:
    """A table's printed numbers, languages down and settings across."""
    published = printed.table(name)
    names = [label for label in printed.LABELS if len({getattr(row, label) for row in published.rows}) > 1]
    heads = [
        Column("lang"),
        *(Column(" ".join(filter(None, (getattr(row, label) for label in names)))) for row in published.rows),
    ]
    averages = list(dict.fromkeys(key for row in published.rows for key in row.averages))
    single = [printed.VALUE] if any(row.value for row in published.rows) else []
    rows = [
        Row((Text(key), *(number(row.languages.get(key) or row.averages.get(key) or (row.value if key in single else None))
                          for row in published.rows)), ruled=key == (averages or [None])[0])
        for key in (*published.languages, *averages, *single)
    ]  # fmt: skip
    return Table(name, tuple(heads), tuple(rows), tuple(filter(None, (f"Published: {published.source}.", remark))))


def names() -> list[str]:
    """The tables of conf/paper."""
    return sorted(file.relative_to(_FOLDER).with_suffix("").as_posix() for file in _FOLDER.glob("*/table*.yaml"))


def overview() -> str:
    """All tables: those that can be run with what they are, the others with what they wait for."""
    lines = []
    for name in names():
        text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        title = next(line for line in text.splitlines() if line.startswith("#") and "@package" not in line).lstrip("# ")
        waits = yaml.safe_load(text).get("waits_for")
        lines.append(f"{name:24}{title}{f' (waits for {waits})' if waits else ''}")
    return "\n".join(lines)
