"""The user's own text: plain text (a document a line), JSON lines and Parquet, in files or folders, compressed or not."""

from __future__ import annotations

import gzip
import io
import json
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from xlt.config import setting
from xlt.corpora.base import DAMAGED, Corpus, LeftOut
from xlt.errors import UserError, suggest
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable

log = logging.getLogger("xlt")

_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".txt.zst", ".jsonl.zst", ".parquet")
_TINY = 1000  # bytes: less cannot be split into training and validation text


@dataclass(frozen=True)
class TextFiles(Corpus):
    """Files of one language.

    Attributes:
        path: a file (.txt, .jsonl, either of them as .gz or .zst, .parquet), a folder (all of these below it) or a list of both.
            `@lang` in it stands for the language's key, so that one setting serves a sweep over languages.
        column: the field of JSON lines and Parquet rows that holds the text.
    """

    path: Any = field(default="???", metadata={"identity": False})
    column: str = setting("text")

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if not self._paths() or not all(isinstance(path, str) and path for path in self._paths()):
            raise UserError(f"{where}.path={self.path!r} has to be a file, a folder or a list of these.")

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        files = self._files(language)
        size = sum(file.stat().st_size for file in files)
        if size < _TINY:
            raise UserError(
                f"data.path={self._shown(language)} holds {size} bytes of text in {len(files)} files: too little to learn "
                f"from (at least {_TINY} bytes, better some megabytes)."
            )
        return {"content": [hub.content([file], file.parent) for file in files]}

    def documents(self, language: Language, languages: LanguageTable, hub: Hub) -> Iterator[str | LeftOut]:
        for file in self._files(language):
            try:
                yield from _read(file, self.column)
            except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
                log.warning("%s is damaged or was cut off (%s): what was read of it is kept", file, error)
                yield LeftOut(DAMAGED)

    def _paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path or [])

    def _shown(self, language: Language) -> str:
        return ", ".join(path.replace("@lang", language.key) for path in self._paths())

    def _files(self, language: Language) -> list[Path]:
        files: list[Path] = []
        for name in self._paths():
            path = Path(name.replace("@lang", language.key)).expanduser()
            if not path.exists():
                beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
                hint = suggest(path.name, beside, "names beside it")
                raise UserError(f"data.path={path}: there is no such file or folder. {hint}")
            found = sorted(p for p in path.rglob("*") if p.name.endswith(_SUFFIXES) and p.is_file()) if path.is_dir() else [path]
            if not found:
                raise UserError(f"data.path={path} holds no {', '.join(_SUFFIXES)} files.")
            if path.is_file() and not path.name.endswith(_SUFFIXES):
                kind = "".join(path.suffixes[-2:]) or "files without an ending"
                raise UserError(f"data.path={path}: text is read from {', '.join(_SUFFIXES)} files, not from {kind}.")
            files += found
        return files


def _read(file: Path, column: str) -> Iterator[str | LeftOut]:
    if file.suffix == ".parquet":
        table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)  # it would keep all that was read
        _require(column, table.schema_arrow.names, file)
        for batch in table.iter_batches(columns=[column]):
            yield from (str(value or "") for value in batch.column(0).to_pylist())
        return
    with _open(file) as lines:
        for line in lines:
            if ".jsonl" not in file.suffixes:
                yield line
            elif line.strip():
                yield _field(line, column, file)


def _field(line: str, column: str, file: Path) -> str | LeftOut:
    try:
        row = json.loads(line)
    except ValueError:
        return LeftOut("malformed JSON")
    _require(column, row if isinstance(row, dict) else [], file)
    return str(row[column] or "")


def _open(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8", errors="replace")
    if file.suffix == ".zst":
        content = io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))
        return io.TextIOWrapper(content, encoding="utf-8", errors="replace")
    return file.open(encoding="utf-8", errors="replace")


def _require(column: str, found: Any, file: Path) -> None:
    if column not in found:
        raise UserError(f"{file} has no field {column} (data.column). {suggest(column, map(str, found), 'fields')}")
