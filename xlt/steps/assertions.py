"""Assertions: one pass over a file of ConceptNet's format for all languages together, sorted by the language of the start."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import re
import urllib.request
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import pyarrow
import pyarrow.parquet

from xlt.errors import UserError, suggest
from xlt.hub import Hub
from xlt.steps.base import Step, Workbench
from xlt.store import write_durably

log = logging.getLogger("xlt")

_ROWS_IN_MEMORY = 200_000
_SCHEMA = pyarrow.schema([
    ("language", pyarrow.string()), ("relation", pyarrow.string()), ("start", pyarrow.string()), ("end", pyarrow.string()),
    ("weight", pyarrow.float32()),
])  # fmt: skip
_LINK = re.compile(r"https?://")
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, http.client.IncompleteRead)


class Assertion(NamedTuple):
    """A line of the file.

    Attributes:
        language: ConceptNet's code of the start's language.
        relation: without its prefix, `IsA`.
        start, end: nodes, `/c/<language>/<term>[/<part of speech>[/…]]`.
    """

    language: str
    relation: str
    start: str
    end: str
    weight: float


def parse(line: bytes) -> Assertion | str:
    """The assertion on a line of five fields with tabs between them (URI, relation, start, end, details in JSON), or why there is
    none to be used: `link`, an end outside ConceptNet; or `invalid_utf8`, `malformed_line`, `malformed_json`."""
    try:
        fields = line.decode().rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        return "invalid_utf8"
    if len(fields) != 5:
        return "malformed_line"
    _, relation, start, end, details = fields
    if _LINK.match(end):
        return "link"
    nodes = start.split("/", 4), end.split("/", 4)
    if not relation.startswith("/r/") or not all(len(n) > 3 and n[:2] == ["", "c"] and n[2] and n[3] for n in nodes):
        return "malformed_line"
    try:
        weight = float(json.loads(details)["weight"])
    except (ValueError, KeyError, TypeError):
        return "malformed_json"
    return Assertion(nodes[0][2], relation[3:], start, end, weight)


@dataclass(frozen=True)
class AssertionsStep(Step):
    """Reads the file once, in memory that does not grow with it. Lines that cannot be read are counted and passed over.

    Files: `assertions.parquet`, whose row groups hold one language each; `counts.json`, language → relation → assertions.

    Attributes:
        path: the file, or its address on the web.
        revision: what identifies its content.
    """

    kind: ClassVar[str] = "assertions"

    path: str
    revision: dict[str, Any]

    @classmethod
    def of(cls, path: str, hub: Hub) -> AssertionsStep:
        """The step for a file, which its content identifies, or for an address.

        Raises:
            UserError: there is no such file.
        """
        if _LINK.match(path):
            return cls(path, {"url": path})
        file = Path(path).expanduser()
        if not file.is_file():
            beside = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
            raise UserError(f"data.path={path}: there is no such file. {suggest(file.name, beside, 'names beside it')}")
        return cls(path, {"content": hub.content([file], file.parent)})

    @property
    def label(self) -> str:
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.path.rpartition("/")[2].partition(".csv")[0])[:64].strip("-") or "assertions"

    def fields(self) -> dict[str, Any]:
        return {"revision_of_data": self.revision}

    def build(self, bench: Workbench) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        card = {"lines": 0, "kept": 0, "link": 0, "malformed_line": 0, "malformed_json": 0, "invalid_utf8": 0, "cut_off": False}
        waiting: defaultdict[str, list[Assertion]] = defaultdict(list)
        in_memory = 0
        with pyarrow.parquet.ParquetWriter(bench.folder / "assertions.parquet", _SCHEMA, compression="zstd") as writer:
            for line in self._lines(card):
                card["lines"] += 1
                found = parse(line)
                if isinstance(found, str):
                    card[found] += 1
                    continue
                card["kept"] += 1
                counts[found.language][found.relation] += 1
                waiting[found.language].append(found)
                in_memory += 1
                if in_memory == _ROWS_IN_MEMORY:
                    most = max(waiting, key=lambda language: len(waiting[language]))
                    in_memory -= _write(writer, waiting.pop(most))
            for language in sorted(waiting):
                _write(writer, waiting[language])
        if not card["kept"]:
            raise UserError(
                f"data.path={self.path} holds no assertions in ConceptNet's format ({card}): five fields with tabs between them, "
                "URI, relation /r/…, start /c/…, end /c/…, details in JSON."
            )
        unreadable = card["malformed_line"] + card["malformed_json"] + card["invalid_utf8"]
        if unreadable or card["cut_off"]:
            cut = " and is cut off: what came before is used" if card["cut_off"] else ""
            log.warning("%s: %d of %d lines cannot be read%s", self.path, unreadable, card["lines"], cut)
        card["languages"] = len(counts)
        write_durably(bench.folder / "counts.json", json.dumps(counts, indent=1, sort_keys=True).encode())
        bench.summary.update(card)

    def _lines(self, card: dict[str, Any]) -> Iterator[bytes]:
        """The lines of the file. A file that ends before its compressed content does is used as far as it goes, and the card says
        so; an address can be asked again."""
        on_the_web = bool(_LINK.match(self.path))
        try:
            with self._open() as raw, gzip.open(raw) if self.path.endswith(".gz") else raw as file:
                yield from file
        except _DAMAGED as error:
            if on_the_web or not card["lines"]:
                raise UserError(f"{self.path} is damaged or was cut off ({error}): fetch it again.") from error
            card["cut_off"] = True
        except OSError as error:
            if not on_the_web:
                raise
            raise UserError(
                f"{self.path} cannot be reached ({error}). On a machine with network download it, copy it here, and set "
                "data.path=FILE."
            ) from error

    def _open(self) -> IO[bytes]:
        if _LINK.match(self.path):
            return urllib.request.urlopen(self.path, timeout=60)
        return Path(self.path).expanduser().open("rb")


def read_assertions(folder: Path, language: str) -> Iterator[Assertion]:
    """The assertions of one language (by ConceptNet's code) from an artifact, in the file's order."""
    file = pyarrow.parquet.ParquetFile(folder / "assertions.parquet")
    for number in range(file.num_row_groups):
        if file.metadata.row_group(number).column(0).statistics.min == language:
            columns = file.read_row_group(number).to_pydict().values()
            yield from map(Assertion, *columns)


def read_counts(folder: Path) -> dict[str, dict[str, int]]:
    """How many assertions of each relation each language has, by ConceptNet's codes."""
    return json.loads((folder / "counts.json").read_text(encoding="utf-8"))


def _write(writer: pyarrow.parquet.ParquetWriter, rows: list[Assertion]) -> int:
    """Write rows of one language as a row group; how many they are."""
    columns = zip(*rows, strict=True)
    table = pyarrow.table([pyarrow.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA)
    writer.write_table(table, row_group_size=len(rows))
    return len(rows)
