"""Text: the documents of a language from one source, cleaned, of no particular backbone."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from xlt.config import identity
from xlt.corpora.base import Corpus, LeftOut
from xlt.corpora.near_duplicates import NearDuplicates
from xlt.errors import UserError
from xlt.languages import Language
from xlt.random import derive_seed
from xlt.steps.base import Step, Workbench
from xlt.steps.examples import ExamplesStep
from xlt.steps.guard import Guard

_ROWS_IN_MEMORY = 2000
_SAMPLES = 10
_SAMPLE_LENGTH = 200  # characters
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # Unicode's category Cc but for the line break
_SCHEMA = pyarrow.schema([("text", pyarrow.string())])


@dataclass(frozen=True)
class TextStep(Step):
    """Reads a corpus once, cleans each document (Unicode NFC, no control characters, no outer white space), drops empty and
    repeated ones, and splits by document: which side a document falls on depends on its content and the seed alone.

    Files: `train.parquet`, `validation.parquet` (column `text`), `card.json` (what was read, kept and dropped, and what the
    training text looks like).

    Attributes:
        sources: the steps that the corpus reads, by the names under which it gets their artifacts.
        guards: labelled data whose validation and test sentences are kept out of the text.
    """

    kind = "text"

    corpus: Corpus
    language: Language
    revision: dict[str, Any]
    seed: int
    sources: Mapping[str, Step] = field(default_factory=dict)
    guards: tuple[ExamplesStep, ...] = ()

    @property
    def name(self) -> str:
        """Of the source."""
        return self.corpus.name

    @property
    def label(self) -> str:
        return f"{self.corpus.name}-{self.language.key}"

    def fields(self) -> dict[str, Any]:
        return {
            "data": identity(self.corpus), "lang": self.language.key, "revision_of_data": self.revision,
            "language": {"seed": self.seed},
        }  # fmt: skip

    def inputs(self) -> dict[str, Step]:
        return {**self.sources, **self._guards}

    @property
    def _guards(self) -> dict[str, ExamplesStep]:
        return {f"guard_{number}": step for number, step in enumerate(self.guards)}

    def build(self, bench: Workbench) -> None:
        threshold = int(self.corpus.validation_fraction * 2**64)
        salt = derive_seed(self.seed, "text split").to_bytes(8, "big")
        left_out: Counter[str] = Counter()
        card: dict[str, Any] = {"documents_read": 0, "empty": 0, "repeated": 0, "over_the_cap": 0}
        seen: set[bytes] = set()
        similar = NearDuplicates(self.corpus.near_duplicates) if self.corpus.near_duplicates is not None else None
        guard = Guard.of((step.task, bench.inputs[role]) for role, step in self._guards.items())
        portrait = Portrait()
        train = DocumentWriter(bench.folder / "train.parquet", self.corpus.max_bytes)
        validation = DocumentWriter(bench.folder / "validation.parquet", self.corpus.validation_max_bytes)
        sources = {role: bench.inputs[role] for role in self.sources}
        for document in self.corpus.documents(self.language, bench.runtime.languages, bench.runtime.hub, **sources):
            card["documents_read"] += 1
            if isinstance(document, LeftOut):
                left_out[document.reason] += 1
                continue
            cleaned = clean(document)
            text = guard.without(cleaned)
            digest = hashlib.blake2b(text.encode(), digest_size=16, salt=salt).digest()
            if not cleaned:
                card["empty"] += 1
            elif not text:
                left_out["guarded"] += 1
            elif self.corpus.deduplicate and digest in seen:
                card["repeated"] += 1
            elif similar is not None and similar.met(text):
                left_out["near duplicate"] += 1
            else:
                seen.add(digest)
                chosen = validation if int.from_bytes(digest[:8], "big") < threshold else train
                if not chosen.add(text):
                    card["over_the_cap"] += 1
                    if train.full:
                        break
                elif chosen is train:
                    portrait.add(text, digest)
        train.close()
        validation.close()
        card["left_out"] = dict(left_out.most_common())
        if not train.documents or not validation.documents:
            raise UserError(
                f"The text of {self.language.name} from data={self.corpus.name} has {train.documents + validation.documents} "
                f"different documents after cleaning ({card}): too few to split into training and validation text. Give it "
                "more text, or a larger data.validation_fraction."
            )
        card |= {
            "sources": {role: dict(artifact.summary) for role, artifact in sources.items()},
            "guard": guard.card(),
            "train": train.card(),
            "validation": validation.card(),
            **portrait.card(),
        }
        write_card(bench, card)


def write_card(bench: Workbench, card: dict[str, Any]) -> None:
    """Keep what is known of a text beside it and in the artifact's summary."""
    (bench.folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    bench.summary.update(card)


def clean(document: str) -> str:
    """One document in its normal form; line breaks are kept, every other control character becomes a space."""
    text = document.encode(errors="ignore").decode().replace("\ufffd", "")  # lone surrogates cannot be written
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub(" ", text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def read_documents(folder: Path, split: str) -> Iterator[str]:
    """The documents of one split of a text artifact, streamed."""
    for batch in pyarrow.parquet.ParquetFile(folder / f"{split}.parquet").iter_batches(batch_size=_ROWS_IN_MEMORY):
        yield from batch.column(0).to_pylist()


class Portrait:
    """What a text looks like: the scripts of its letters, lines, and some samples."""

    def __init__(self) -> None:
        self._characters: Counter[str] = Counter()
        self._lines = 0
        self._samples: list[tuple[int, str]] = []

    def add(self, text: str, digest: bytes) -> None:
        """Take a document in; the samples are different ones with the greatest digests, which is as good as chance."""
        self._characters.update(text)
        self._lines += text.count("\n") + 1
        sample = (int.from_bytes(digest, "big"), text[:_SAMPLE_LENGTH])
        if sample in self._samples:
            return
        if len(self._samples) < _SAMPLES:
            heapq.heappush(self._samples, sample)
        elif sample > self._samples[0]:
            heapq.heapreplace(self._samples, sample)

    def card(self) -> dict[str, Any]:
        """`lines`, `characters`, `scripts` (shares of the letters, by the first word of their Unicode names), `samples`."""
        scripts: Counter[str] = Counter()
        for character, count in self._characters.items():
            if character.isalpha():
                scripts[unicodedata.name(character, "unknown").split()[0]] += count
        letters = max(1, scripts.total())
        return {
            "lines": self._lines,
            "characters": self._characters.total(),
            "scripts": {script: round(count / letters, 6) for script, count in scripts.most_common()},
            "samples": [text for _, text in sorted(self._samples)],
        }


class DocumentWriter:
    """A Parquet file of documents up to a number of bytes."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self._file = pyarrow.parquet.ParquetWriter(path, _SCHEMA, compression="zstd")
        self._max_bytes = max_bytes
        self._rows: list[str] = []
        self.documents = 0
        self.bytes = 0
        self.full = False

    def add(self, text: str) -> bool:
        """Keep a document, unless it does not fit any more."""
        size = len(text.encode())
        if self.full or (self._max_bytes is not None and self.bytes + size > self._max_bytes):
            self.full = True
            return False
        self._rows.append(text)
        self.documents += 1
        self.bytes += size
        if len(self._rows) == _ROWS_IN_MEMORY:
            self._flush()
        return True

    def card(self) -> dict[str, int]:
        """How much was kept."""
        return {"documents": self.documents, "bytes": self.bytes}

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        self._file.write_table(pyarrow.table({"text": self._rows}, schema=_SCHEMA))
        self._rows = []
