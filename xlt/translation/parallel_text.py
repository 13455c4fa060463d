"""Sources of parallel text: sentences of two languages that mean the same, from the hub, from files, or joined by their ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.hub import Hub, Source
from xlt.languages import Language, LanguageTable
from xlt.tasks.data import SPLITS, HubData, LabelledData, read_table

TABLES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class ParallelText(ABC):
    """Fields that every source has.

    Attributes:
        name: label of the source in records and folder names.
        splits: the source's names for train, validation and test; null for a split that it does not have. Where it has training
            pairs and no validation or test split, pairs are drawn from them for it.
        validation, test: how many pairs are drawn then, at most a tenth of all for each.
        seed: what they are drawn with.
        most_characters: of a sentence; pairs with a longer one are left out. None keeps all.
        length_ratio: pairs are left out if one side has more than this many times the characters of the other, ten more for both
            (so that short ones are not lost): these are seldom translations.
        most_pairs: of the training pairs, the first ones; None keeps all.
    """

    name: str = setting("parallel", is_name=True, identity=False)
    splits: dict[str, str | None] = field(default_factory=lambda: {"train": "train", "validation": None, "test": None})
    validation: int = setting(200, at_least=1)
    test: int = setting(500, at_least=1)
    seed: int = setting(0, at_least=0)
    most_characters: int | None = setting(None, at_least=1)
    length_ratio: float = setting(4.0, at_least=1)
    most_pairs: int | None = setting(None, at_least=1)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        unknown = [split for split in self.splits if split not in SPLITS]
        if unknown or not any(self.splits.values()):
            raise UserError(
                f"{where}.splits={dict(self.splits)} has to say what the source calls {', '.join(SPLITS)}, one of them at least."
            )

    @abstractmethod
    def revision(self, one: Language, other: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        """What identifies the data behind `pairs`.

        Raises:
            UserError: the source does not have the pair, or cannot be reached.
        """

    @abstractmethod
    def pairs(self, one: Language, other: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[tuple[str, str]]:
        """The pairs of a split by the source's name for it, in a fixed order: each the sentence of `one` and that of `other`."""


@dataclass(frozen=True)
class HubPairs(ParallelText):
    """A hub data set with one configuration a pair of languages, and a column of translations: a sentence by language.

    Attributes:
        id: the data set's hub id, or a local folder.
        hub_revision: branch, tag or commit; None takes the newest and remembers it.
        language_column: column of the language table with the data set's spelling of languages; `key` is xlt's own.
        config: what the configurations are called, with the spellings of the two languages for `@one` and `@other`. Either order
            of the two is found.
        column: the column of translations.
    """

    id: str = setting("???", identity=False)
    hub_revision: str | None = setting(None, identity=False)
    language_column: str = setting("key", is_name=True)
    config: str = setting("@one-@other")
    column: str = setting("translation")

    def revision(self, one: Language, other: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return hub.dataset_identity(*self._found(one, other, languages, hub))

    def pairs(self, one: Language, other: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[tuple[str, str]]:
        source, config = self._found(one, other, languages, hub)
        spelled = [languages.code(language, self.language_column, self.id) for language in (one, other)]
        for row in hub.rows(source, config, split):
            if self.column not in row:
                raise UserError(
                    f"{self.id} has no column {self.column} (parallel.column). {suggest(self.column, row, 'columns')}"
                )
            missing = [code for code in spelled if code not in row[self.column]]
            if missing:
                raise UserError(f"{self.id} ({config}) translates {' and '.join(row[self.column])}, and not {missing[0]}.")
            yield tuple(row[self.column][code] or "" for code in spelled)

    def _found(self, one: Language, other: Language, languages: LanguageTable, hub: Hub) -> tuple[Source, str]:
        """The data set and its configuration for the pair, in the order of the two that it has."""
        source = hub.source(self.id, "dataset", self.hub_revision)
        codes = sorted(languages.code(language, self.language_column, self.id) for language in (one, other))
        configs = [self.config.replace("@one", first).replace("@other", second) for first, second in (codes, codes[::-1])]
        refused = None
        for config in configs:
            try:
                hub.splits(source, config)
            except UserError as error:
                refused = refused or error
                continue
            return source, config
        raise UserError(f"{self.id} has neither {configs[0]} nor {configs[1]}. {refused}") from refused


@dataclass(frozen=True)
class FilePairs(ParallelText):
    """Your own files: two with a sentence a line, in which the same lines belong together; or one table (.csv or .tsv with a
    header, .jsonl) with a column a language.

    Attributes:
        path: where they lie; `@split` stands for the split, and `@lang` for the language's key where there is a file for each.
        columns: of a table, by the language's key, where they are called otherwise than by the key, or the English name in lower
            case as in NusaX-MT.
    """

    path: str = setting("???", identity=False)
    columns: dict[str, str] = field(default_factory=dict)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        super().verify(where)
        named = [split for split in self.splits.values() if split]
        if "@split" not in self.path and len(named) > 1:
            raise UserError(
                f"{where}.path={self.path} names one file for the splits {', '.join(named)}, which would hold the same pairs: "
                f"put @split into it, or leave it to xlt to draw some ({where}.splits.test=null)."
            )

    def revision(self, one: Language, other: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        result = {}
        for split in filter(None, self.splits.values()):
            files = self._files(one, other, split)
            missing = [file for file in files if not file.is_file()]
            if missing:
                raise UserError(f"parallel.path={self.path}: there is no file {missing[0]}.")
            # Either order of the two languages is the same data.
            result[split] = "+".join(sorted(hub.content([file], file.parent) for file in files))
        return result

    def pairs(self, one: Language, other: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[tuple[str, str]]:
        files = self._files(one, other, split)
        if len(files) == 1:
            for row in read_table(files[0], "parallel.path"):
                yield tuple(str(row[self._column(language, row, files[0])] or "") for language in (one, other))
            return
        try:
            with files[0].open(encoding="utf-8-sig") as first, files[1].open(encoding="utf-8-sig") as second:
                for number, (left, right) in enumerate(zip_longest(first, second), start=1):
                    if left is None or right is None:
                        raise UserError(
                            f"{files[0]} and {files[1]} do not belong together: one of them ends before line {number}. Each line "
                            "of the one has to be the translation of the same line of the other."
                        )
                    yield left, right
        except UnicodeDecodeError as error:
            raise UserError(f"{files[0]} or {files[1]} is not UTF-8 ({error}); save it as that.") from error

    def _files(self, one: Language, other: Language, split: str) -> list[Path]:
        named = self.path.replace("@split", split)
        if Path(named).suffix in TABLES:
            return [Path(named).expanduser()]
        if "@lang" not in named:
            raise UserError(
                f"parallel.path={self.path} is neither a table ({', '.join(TABLES)}) nor a file for each language, which has "
                "@lang in its name."
            )
        return [Path(named.replace("@lang", language.key)).expanduser() for language in (one, other)]

    def _column(self, language: Language, row: dict[str, Any], file: Path) -> str:
        wanted = self.columns.get(language.key)
        names = [wanted] if wanted else [language.key, language.name.lower().replace(" ", "_")]
        found = next((name for name in names if name in row), None)
        if found is None:
            columns = [str(name) for name in row if name]
            raise UserError(
                f"{file} has no column {wanted or language.key} for {language.name}. "
                f"{suggest(wanted or language.name, columns, 'columns')} Say which one it is: "
                f"+parallel.columns.{language.key}=<column>."
            )
        return found


@dataclass(frozen=True)
class AlignedData(ParallelText):
    """A data set with the same sentences in many languages, FLORES-200 or a view of the miniature world: rows with the same id
    translate each other.

    Attributes:
        data: the data set; its columns are `id` and `text`.
    """

    data: LabelledData = field(default_factory=HubData)

    def revision(self, one: Language, other: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return {language.key: self.data.revision(language, languages, hub) for language in (one, other)}

    def pairs(self, one: Language, other: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[tuple[str, str]]:
        translations = dict(self._sentences(other, languages, hub, split))
        for number, text in self._sentences(one, languages, hub, split):
            if number in translations:
                yield text, translations[number]

    def _sentences(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[tuple[str, str]]:
        for row in self.data.rows(language, languages, hub, split):
            yield str(row[self._named(row, "id")]), str(row[self._named(row, "text")])

    def _named(self, row: dict[str, Any], field_name: str) -> str:
        declared = self.data.columns[field_name]
        names: Sequence[str] = [declared] if isinstance(declared, str) else declared
        found = next((name for name in names if name in row), None)
        if found is None:
            raise UserError(
                f"There is no column {' or '.join(names)} (parallel.data.columns). {suggest(names[0], row, 'columns')}"
            )
        return found
