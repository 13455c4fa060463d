"""Where labelled examples come from: a data set of the hub, files, or whatever else yields rows."""

from __future__ import annotations

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.hub import Hub, Source
from xlt.languages import Language, LanguageTable

SPLITS = ("train", "validation", "test")
_SLICE = re.compile(r"(?P<split>[^\[\]]+)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?")
_ELSEWHERE = "For another data set as the source of labels choose source_task=."
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class LabelledData(ABC):
    """Fields that every source has.

    Attributes:
        splits: the source's names for train, validation and test: a name, a slice of its rows (`validation[100:]`), or a list of
            names of which the first that exists is taken; null for a split that it does not have.
        columns: the source's names for the fields of an example: a name, or a list of names of which the first that exists is
            taken; null for none. Without `id`, rows are numbered.
        classes: of columns that hold numbers, the names that these stand for, in order. They are held against what the source
            declares; values that are names already stay.
        spelling: labels that the source spells otherwise than the task: its spelling → the task's.
        guard: other tasks whose test texts, edited ones too, may not be learnt from where this data is the source of labels for
            another task (`source_task=`): `task=nusax`.
        validation_share: where there are training examples and no validation split, the share of them that becomes it.
    """

    splits: dict[str, Any] = field(default_factory=lambda: {split: split for split in SPLITS})
    columns: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, list[str]] = setting({}, neutral=True)
    spelling: dict[str, str] = setting({}, neutral=True)
    guard: list[str] = setting([], identity=False)  # the examples themselves are inputs of the step
    validation_share: float = setting(0.1, above=0, at_most=0.5, neutral=True)

    @abstractmethod
    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        """What identifies the data behind `rows`.

        Raises:
            UserError: the source does not have the language, or cannot be reached.
        """

    @abstractmethod
    def available(self, language: Language, languages: LanguageTable, hub: Hub) -> Sequence[str] | None:
        """The source's own names of the splits that it has for a language; None where only the network knows."""

    @abstractmethod
    def read(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterable[dict[str, Any]]:
        """The rows of a split as they are, by the source's name for it, in a fixed order."""

    @abstractmethod
    def describe(self, language: Language, languages: LanguageTable, split: str) -> str:
        """The split, for messages."""

    def named_splits(self, *splits: str) -> list[str]:
        """The source's own names that stand in `splits`; of some of ours alone if any are given."""
        wanted = [self.splits.get(split) for split in splits or SPLITS]
        listed = [[names] if isinstance(names, str) else names or [] for names in wanted]
        return list(dict.fromkeys(_parsed(name)[0] for names in listed for name in names))

    def present(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, str] | None:
        """The splits that there are, by our names, with the source's; None where only the network knows."""
        names = self.available(language, languages, hub)
        if names is None:
            return None
        result = {}
        for split in SPLITS:
            wanted = self.splits.get(split)
            for name in [wanted] if isinstance(wanted, str) else wanted or ():
                if _parsed(name)[0] in names:
                    result[split] = name
                    break
        return result

    def rows(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[dict[str, Any]]:
        """The rows of a split or a slice of one, with class names for numbers and the task's spelling of labels."""
        name, start, stop = _parsed(split)
        for row in islice(self.read(language, languages, hub, name), start, stop):
            named = {column: _named(row[column], names) for column, names in self.classes.items() if column in row}
            yield {**row, **named}

    def spelled(self, label: Any) -> str:
        """The task's spelling of a label."""
        return self.spelling.get(str(label), str(label))


@dataclass(frozen=True)
class HubData(LabelledData):
    """A data set of the hub.

    Attributes:
        id: the data set's hub id, or a local folder that `datasets.load_dataset` reads. `@lang` in it stands for its spelling
            of the language, where each language is a data set of its own.
        hub_revision: branch, tag or commit; None takes the newest and remembers it.
        parquet_export: read the hub's own export of a data set whose main branch is a loading script.
        language_column: column of the language table with the data set's spelling of languages; `key` is xlt's own. None where
            `configs` says it all.
        configs: the data set's configuration for languages (by our keys) that `language_column` does not give or gives
            otherwise. Names joined by `+` are read one after the other.
    """

    id: str = setting("???", identity=False)
    hub_revision: str | None = setting(None, identity=False)
    parquet_export: bool = setting(False, identity=False)
    language_column: str | None = setting(None, is_name=True)
    configs: dict[str, str] = setting({}, neutral=True)

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        identities = []
        for source, config in self._sources(language, languages, hub):
            hub.check_dataset_config(source, config)
            identities.append(hub.dataset_identity(source, config))
        return identities[0] if len(identities) == 1 else {f"part{number}": part for number, part in enumerate(identities)}

    def available(self, language: Language, languages: LanguageTable, hub: Hub) -> Sequence[str] | None:
        found = [hub.splits(source, config) for source, config in self._sources(language, languages, hub)]
        if any(splits is None for splits in found):
            return None
        return list(dict.fromkeys(split for splits in found for split in splits))

    def read(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[dict[str, Any]]:
        for source, config in self._sources(language, languages, hub):
            if split not in (hub.splits(source, config) or (split,)):  # of several joined ones
                continue
            for column, names in self.classes.items():
                declared = hub.class_names(source, config, column, split)
                if declared is not None and declared != list(names):
                    raise UserError(
                        f"{source.name} declares the classes {', '.join(declared)} in the column {column}, and task.data.classes "
                        f"says {', '.join(names)}. Labels would get mixed up: correct task.data.classes.{column}."
                    )
            yield from hub.rows(source, config, split)

    def describe(self, language: Language, languages: LanguageTable, split: str) -> str:
        name, config = self._names(language, languages)
        return ", ".join(part for part in (name, config, split) if part)

    def _sources(self, language: Language, languages: LanguageTable, hub: Hub) -> list[tuple[Source, str | None]]:
        name, config = self._names(language, languages)
        source = hub.source(name, "dataset", self.hub_revision, self.parquet_export)
        return [(source, part) for part in (config.split("+") if config else [None])]

    def _names(self, language: Language, languages: LanguageTable) -> tuple[str, str | None]:
        """The data set's id and its configuration for a language."""
        if language.key in self.configs:
            code = self.configs[language.key]
        elif self.language_column is not None:
            try:
                code = languages.code(language, self.language_column, self.id)
            except UserError as error:
                raise UserError(f"{error} {_ELSEWHERE}") from error
        elif self.configs:
            known = ", ".join(self.configs)
            raise UserError(f"{self.id} has no {language.name} ({language.key}); it has: {known}. {_ELSEWHERE}")
        else:
            code = None
        return (self.id.replace("@lang", code), None) if code and "@lang" in self.id else (self.id, code)


@dataclass(frozen=True)
class FileData(LabelledData):
    """Files of your own: CSV or TSV with a header, or JSON lines.

    Attributes:
        path: where they lie; `@lang` stands for the language's key, `@split` for the split.
    """

    path: str = setting("???", identity=False)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if "@split" not in self.path and len(self.named_splits()) > 1:
            raise UserError(
                f"{where}.path={self.path} names one file for the splits {', '.join(self.named_splits())}, which would hold "
                f"the same rows: put @split into it, or make them slices of one ({where}.splits.train=all[100:], …)."
            )

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        files = {split: self._file(language, split) for split in self.named_splits()}
        found = {split: file for split, file in files.items() if file.is_file()}
        if not found:
            raise UserError(f"task.data.path={self.path}: there is none of the files {', '.join(map(str, files.values()))}.")
        return {split: hub.content([file], file.parent) for split, file in found.items()}

    def available(self, language: Language, languages: LanguageTable, hub: Hub) -> Sequence[str]:
        return [split for split in self.named_splits() if self._file(language, split).is_file()]

    def read(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[dict[str, Any]]:
        yield from read_table(self._file(language, split), "task.data.path")

    def describe(self, language: Language, languages: LanguageTable, split: str) -> str:
        return str(self._file(language, split))

    def _file(self, language: Language, split: str) -> Path:
        return Path(self.path.replace("@lang", language.key).replace("@split", _parsed(split)[0])).expanduser()


def read_table(path: Path, where: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV or TSV file with a header, or of JSON lines.

    Args:
        where: the setting that names the file, for messages.

    Raises:
        UserError: another format, or a file that is not what its name says.
    """
    if path.suffix not in (*_DELIMITERS, ".jsonl"):
        hint = suggest(path.suffix, [*_DELIMITERS, ".jsonl"], "formats")
        raise UserError(f"{where}: {path}: xlt does not read {path.suffix or 'files without an extension'}. {hint}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix in _DELIMITERS:
                yield from csv.DictReader(file, delimiter=_DELIMITERS[path.suffix], strict=True)
            else:
                yield from _json_objects(file, path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); save it as that.") from error
    except csv.Error as error:
        raise UserError(
            f"{path} is not a table with one row a line ({error}). A field that begins with a quotation mark has to end with "
            "one, and those inside it are doubled; JSON lines (.jsonl) leave no such doubt."
        ) from error


def _json_objects(lines: Iterable[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object.")
        yield row


def _parsed(name: str) -> tuple[str, int, int | None]:
    """`validation[100:200]` → the split's name, the first row and the one behind the last."""
    match = _SLICE.fullmatch(name)
    if match is None:
        raise UserError(f"task.data.splits: {name!r} is neither a split nor a slice of one such as validation[100:200].")
    return match["split"], int(match["start"] or 0), int(match["stop"]) if match["stop"] else None


def _named(value: Any, names: Sequence[str]) -> Any:
    """Class names for numbers, in lists too."""
    if isinstance(value, list):
        return [_named(element, names) for element in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
