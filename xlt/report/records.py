"""The records of a store, read without loading a model: found by what they are of, and kept out where they are not what they say.

A record belongs to a cell of a table if its run was the cell's run: the same settings in all that was in force. What was not, as
the source of text of a run without a language module, may differ.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.errors import UserError
from xlt.record import PREDICTIONS, RECORD, Record
from xlt.store import MANIFEST, fingerprint

MACHINE_SETTINGS = {"micro_batch_size", "checkpoint_seconds", "workers"}
"""Fields of components that no result depends on."""

_LANGUAGE_SIDE = ("method", "data", "train.language", "language.seed")
_TASK_SIDE = ("task_method", "transfer", "translator", "train.task")
_CUT = 160  # characters of a label in a folder's name


@dataclass(frozen=True)
class Refused:
    """A record that is kept out of tables.

    Attributes:
        why: what is wrong with it.
    """

    path: Path
    why: str


@dataclass(frozen=True)
class Stores:
    """The evaluations of some stores.

    Raises:
        UserError: a folder is no store.
    """

    folders: Sequence[Path]

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not (folder / "evaluation").is_dir():
                raise UserError(
                    f"{folder} holds no evaluations. Name the store of your runs, which is <paths.outputs>/store unless "
                    "paths.store says otherwise."
                )

    def records(self, task: str | None = None, languages: Sequence[str] = ()) -> Iterator[Record]:
        """All records, or those of a task on some languages, which is seen by the folders' names; one that cannot be read as JSON
        is left to `check`."""
        wanted = [f"-{task}-{language}-" for language in languages]
        for folder in self.folders:
            for path in sorted((folder / "evaluation").iterdir()):
                if task is not None and len(path.name) < _CUT and not any(part in path.name for part in wanted):
                    continue
                try:
                    content = json.loads((path / RECORD).read_bytes())
                except (OSError, ValueError):
                    content = {}
                yield Record(content, path / RECORD, path / PREDICTIONS)


def check(record: Record) -> str | None:
    """Why a record cannot be believed: its files are not those that were stored, or its fingerprint is not that of what it says;
    None if all is well."""
    folder = record.path.parent
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        for name, entry in manifest["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != entry["sha256"]:
                return f"{name} was changed after it was stored"
        if fingerprint(record["payload"]) != record["fingerprint"] or manifest["fingerprint"] != record["fingerprint"]:
            return "its fingerprint is not that of what it says it is"
        if manifest["summary"]["metrics"] != record["metrics"]:
            return "its scores are not those that were stored"
        if not folder.name.endswith(record["fingerprint"][:16]):
            return "it lies in a folder of another fingerprint"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    return None


def check_revisions(records: Sequence[Record]) -> dict[Path, str]:
    """The records that were made from another revision of some data than most of the others, each with what is wrong."""
    revisions: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    origins = {record.path: list(_origins(record)) for record in records}
    for found in origins.values():
        for source, revision in found:
            revisions[source][revision] += 1
    usual = {source: counts.most_common(1)[0][0] for source, counts in revisions.items()}
    wrong: dict[Path, str] = {}
    for path, found in origins.items():
        for source, revision in found:
            if revision != usual[source]:
                wrong[path] = f"{' '.join(source)} was read in revision {revision[:12]}, by the others in {usual[source][:12]}"
    return wrong


def _origins(record: Record) -> Iterator[tuple[tuple[str, ...], str]]:
    """What was read from outside, and in which revision: a commit is one of a whole repository, a hash of a configuration."""
    for origin in dict(record["revisions"]).values():
        if not isinstance(origin, Mapping) or "id" not in origin:
            continue
        if origin.get("revision"):
            yield (str(origin["id"]),), str(origin["revision"])
        elif origin.get("content"):
            yield (str(origin["id"]), str(origin.get("config") or "")), str(origin["content"])


def in_force(config: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that a run like the record's depends on.

    Args:
        config: composed and resolved.
        record: of a run; an axis that it does not use is None there.
    """
    sections = ["model", "task", "compat"]
    sections += _LANGUAGE_SIDE if record["method"] is not None and record["data"] is not None else ("method.name",)
    sections += ["language.path", "language.revision"]
    sections += _TASK_SIDE if record["task_method"] is not None else ()
    sections += ["source_task"] if record["source"] is not None else []
    sections += ["shots"] if record["shots"] is not None else []
    sections = [section for section in sections if section.partition(".")[0] in config]  # some were added to xlt later
    found = {section: _plain(_select(config, section)) for section in sections}
    if record["source"] is not None:  # one language is a list of one
        found["source"] = [config["source"]] if isinstance(config["source"], str) else config["source"]
    return found


def alike(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether settings are those wanted; one that was added to xlt later is not asked for (see `xlt.config.setting`, neutral)."""
    for key, value in found.items():
        if key not in wanted:
            return False
        if isinstance(value, Mapping) and isinstance(wanted[key], Mapping):
            if not alike(wanted[key], value):
                return False
        elif value != wanted[key]:
            return False
    return True


def _select(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _plain(value: Any) -> Any:
    """Without the settings of machines."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if key not in MACHINE_SETTINGS}
    return value
