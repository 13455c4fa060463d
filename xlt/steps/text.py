"""Text: the documents of a language from one source, cleaned, of no particular backbone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from xlt.config import identity
from xlt.corpora.base import Corpus, LeftOut
from xlt.corpora.near_duplicates import NearDuplicates
from xlt.errors import UserError
from xlt.languages import Language
from xlt.processes import in_lots, in_order
from xlt.random import derive_seed
from xlt.steps.base import Step, Workbench
from xlt.steps.cleaning import Cleaned, Cleaning
from xlt.steps.examples import ExamplesStep, evaluation_texts
from xlt.steps.guard import Guard
from xlt.steps.portrait import Portrait
from xlt.store import Artifact

_ROWS_IN_MEMORY = 2000
_LOT = 1_000_000  # characters that a process works on at a time
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
        left_out: Counter[str] = Counter()
        card: dict[str, Any] = {"documents_read": 0, "empty": 0, "repeated": 0, "over_the_cap": 0, "undecodable": 0}
        seen: set[bytes] = set()
        similar = NearDuplicates(self.corpus.near_duplicates) if self.corpus.near_duplicates is not None else None
        guard = Guard(text for role, step in self._guards.items() for text in evaluation_texts(step.task, bench.inputs[role]))
        guarded = {"guarded": len(guard), "sentences_left_out": 0, "documents_touched": 0}
        by_bytes = self.corpus.cap == "bytes"
        train = DocumentWriter(bench.folder / "train.parquet", self.corpus.max_bytes if by_bytes else None)
        validation = DocumentWriter(bench.folder / "validation.parquet", self.corpus.validation_max_bytes if by_bytes else None)
        sources = {role: bench.inputs[role] for role in self.sources}
        for document in self._cleaned(bench, guard, sources):
            card["documents_read"] += 1
            if isinstance(document, LeftOut):
                left_out[document.reason] += 1
                continue
            card["undecodable"] += document.undecodable
            guarded["sentences_left_out"] += document.guarded
            guarded["documents_touched"] += bool(document.guarded)
            if not document.text:
                if document.guarded:
                    left_out["guarded"] += 1
                else:
                    card["empty"] += 1
            elif self.corpus.deduplicate and document.digest in seen:
                card["repeated"] += 1
            elif similar is not None and similar.met(document.signature):
                left_out["near duplicate"] += 1
            else:
                seen.add(document.digest)
                chosen = validation if int.from_bytes(document.digest[:8], "big") < threshold else train
                if not chosen.add(document.text):
                    card["over_the_cap"] += 1
                    if train.full:
                        break
        train.close()
        validation.close()
        if not by_bytes:
            read = train.documents + validation.documents
            train = cut_to_csv_lines(bench.folder / "train.parquet", self.corpus.max_bytes)
            validation = cut_to_csv_lines(bench.folder / "validation.parquet", self.corpus.validation_max_bytes)
            card["over_the_cap"] = read - train.documents - validation.documents
        card["left_out"] = dict(left_out.most_common())
        if not train.documents or not validation.documents:
            raise UserError(
                f"The text of {self.language.name} from data={self.corpus.name} has {train.documents + validation.documents} "
                f"different documents after cleaning ({card}): too few to split into training and validation text. Give it "
                "more text, or a larger data.validation_fraction."
            )
        card |= {
            "sources": {role: dict(artifact.summary) for role, artifact in sources.items()},
            "guard": guarded,
            "train": train.card(),
            "validation": validation.card(),
            **portrait(bench.folder).card(),
        }
        write_card(bench, card)

    def _cleaned(self, bench: Workbench, guard: Guard, sources: Mapping[str, Artifact]) -> Iterator[Cleaned | LeftOut]:
        """What the corpus yields, cleaned by all the cores that the run may use, in the corpus's order."""
        salt = derive_seed(self.seed, "text split").to_bytes(8, "big")
        documents = self.corpus.documents(self.language, bench.runtime.languages, bench.runtime.hub, **sources)
        lots = in_lots(documents, _LOT, lambda document: len(document.reason if isinstance(document, LeftOut) else document))
        cleaning = Cleaning(guard, salt, self.corpus.near_duplicates is not None)
        with closing(in_order(cleaning, lots, torch.get_num_threads())) as cleaned:
            for lot in cleaned:
                yield from lot


def write_card(bench: Workbench, card: dict[str, Any]) -> None:
    """Keep what is known of a text beside it and in the artifact's summary."""
    (bench.folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    bench.summary.update(card)


def read_documents(folder: Path, split: str) -> Iterator[str]:
    """The documents of one split of a text artifact, streamed."""
    return _read(folder / f"{split}.parquet")


def cut_to_csv_lines(path: Path, max_bytes: int | None) -> DocumentWriter:
    """Cut a file of documents as the code of Gurgurov et al. 2025 does (see `Corpus.cap`).

    Args:
        max_bytes: of the documents as a CSV file with a line of its own for their header; None for no cap.
    """
    lines, size = 1, len("text\n")
    for text in _read(path):
        lines += text.count("\n") + 1
        quoted = any(character in text for character in ',"\n')
        size += len(text.encode()) + (text.count('"') + 2 if quoted else 0) + 1
    room = lines if max_bytes is None or size <= max_bytes else lines * max_bytes // size
    shorter = path.with_suffix(".cut")
    kept = DocumentWriter(shorter, None)
    room -= 1
    for text in _read(path):
        room -= text.count("\n") + 1
        if room < 0:
            break
        kept.add(text)
    kept.close()
    shorter.replace(path)
    return kept


def _read(path: Path) -> Iterator[str]:
    # A buffer read ahead would keep all that was read.
    for batch in pyarrow.parquet.ParquetFile(path, pre_buffer=False).iter_batches(batch_size=_ROWS_IN_MEMORY):
        yield from batch.column(0).to_pylist()


def portrait(folder: Path) -> Portrait:
    """What the training text of a text artifact looks like."""
    whole = Portrait()
    lots = in_lots(read_documents(folder, "train"), _LOT, len)
    for part in in_order(Portrait, lots, torch.get_num_threads()):
        whole += part
    return whole


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
