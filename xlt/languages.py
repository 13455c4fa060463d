"""The one table of languages: codes, script, each data set's spelling, what the backbones saw.

A language is a row of `languages.csv`, or of the user's own file with the same columns (`paths.languages`; only `iso3`
and `name` are required there). Its key, used on the command line and in every record, is its ISO 639-1 code where
that is unique in the table, else its ISO 639-3 code. Every other spelling in the row is an alias. An alias that several
languages share (`ku`) is refused with its candidates.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from xlt.config import check_name
from xlt.errors import UserError, nearest, suggest

_DESCRIPTION = ("iso1", "iso3", "name", "script", "family", "genus", "mbert_seen", "xlmr_seen", "mbert_gb", "xlmr_gb")


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        key: the name that xlt uses for it.
        script: ISO 15924 code.
        codes: the spelling of each data set or family of codes, by column (`flores`, `glotcc`, …); empty ones are left
            out.
        seen: whether a backbone's pretraining text held the language, by backbone (`mbert`, `xlmr`); unknown ones are
            left out.
        pretraining_gigabytes: how much of it the backbone read, where published.
    """

    key: str
    iso3: str
    name: str
    script: str = ""
    family: str = ""
    genus: str = ""
    iso1: str = ""
    codes: dict[str, str] = field(default_factory=dict, hash=False)
    seen: dict[str, bool] = field(default_factory=dict, hash=False)
    pretraining_gigabytes: dict[str, float] = field(default_factory=dict, hash=False)


class LanguageTable:
    """All languages that xlt knows, found by any of their codes."""

    def __init__(self, rows: Iterable[dict[str, str]]) -> None:
        self._rows = rows = [{name: (value or "").strip() for name, value in row.items() if name} for row in rows]
        times_used = Counter(row.get("iso1", "") for row in rows)
        self.languages: dict[str, Language] = {}
        self._aliases: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            iso1 = row.get("iso1", "")
            key = iso1 if iso1 and times_used[iso1] == 1 else row["iso3"]
            if key in self.languages:
                raise UserError(
                    f"The table of languages holds {key} twice: {self.languages[key].name} and {row['name']}. "
                    "Give one of them another iso3 code."
                )
            language = _from_row(key, row)
            self.languages[key] = language
            for alias in {iso1, language.iso3, *language.codes.values()} - {""}:
                self._aliases[alias.lower()].add(key)

    def with_rows(self, rows: Iterable[dict[str, str]]) -> LanguageTable:
        """This table and further rows."""
        return LanguageTable([*self._rows, *rows])

    def find(self, code: str) -> Language:
        """The language that `code` names: a key first, any data set's spelling next.

        Raises:
            UserError: no language or several are called so.
        """
        if code in self.languages:
            return self.languages[code]
        candidates = self._aliases.get(code.lower(), set())
        if len(candidates) == 1:
            return self.languages[next(iter(candidates))]
        if candidates:
            described = " or ".join(f"{key} ({self.languages[key].name})" for key in sorted(candidates))
            raise UserError(f"lang={code} is ambiguous: it may be {described}. Use one of these codes.")
        by_name = {language.name: key for key, language in self.languages.items()}
        similar = [f"{by_name[name]} ({name})" for name in nearest(code, by_name)] if len(code) > 3 else []
        hint = f"Did you mean {' or '.join(similar)}? " if similar else ""
        raise UserError(
            f"lang={code} is not in the table of languages. {hint}{suggest(code, self.languages, 'languages')} A further "
            "language is one row (iso3, name and the data sets' spellings) of a CSV file of yours: paths.languages=my.csv."
        )

    def code(self, language: Language, column: str, dataset: str) -> str:
        """How `dataset`, whose spellings are in `column`, spells `language`.

        Raises:
            UserError: the data set does not have the language.
        """
        if column == "key":
            return language.key
        if language.codes.get(column):
            return language.codes[column]
        available = {key: other for key, other in self.languages.items() if other.codes.get(column)}
        relatives = [f"{key} ({other.name})" for key, other in available.items() if other.genus == language.genus != ""]
        related = f"Its relatives there are {', '.join(relatives[:5])}. " if relatives else ""
        raise UserError(
            f"{dataset} does not have {language.name} (lang={language.key}). {related}"
            f"{suggest(language.key, available, 'languages that it has')}"
        )


@lru_cache
def load_languages(own_file: str | None = None) -> LanguageTable:
    """The package's table, extended by the rows of `own_file` (CSV); a row with a known iso3 code replaces that row.

    Raises:
        UserError: the file is missing or not such a table.
    """
    package_file = Path(__file__).with_name("languages.csv")
    rows = {row["iso3"]: row for row in _read(package_file)}
    if own_file is not None:
        if not Path(own_file).is_file():
            raise UserError(f"paths.languages={own_file}: there is no such file. It has to be a CSV table of languages.")
        for row in _read(Path(own_file)):
            for column in ("iso3", "name"):
                if not (row.get(column) or "").strip():
                    raise UserError(
                        f"paths.languages={own_file}: the row {row} has no {column}. The first line of the file names its "
                        f"columns, and iso3 and name are required. The package's columns are: {', '.join(rows['eng'])}."
                    )
            rows[row["iso3"].strip()] = row
    return LanguageTable(rows.values())


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _from_row(key: str, row: dict[str, str]) -> Language:
    codes = {column: value for column, value in row.items() if column not in _DESCRIPTION and value}
    for column, value in {"key": key, **codes}.items():
        check_name(value, f"the table of languages, {row['name']}, {column}")
    return Language(
        key=key,
        iso3=row["iso3"],
        iso1=row.get("iso1", ""),
        name=row["name"],
        script=row.get("script", ""),
        family=row.get("family", ""),
        genus=row.get("genus", ""),
        codes=codes,
        seen={name: row[f"{name}_seen"] == "1" for name in ("mbert", "xlmr") if row.get(f"{name}_seen")},
        pretraining_gigabytes={name: float(row[f"{name}_gb"]) for name in ("mbert", "xlmr") if row.get(f"{name}_gb")},
    )
