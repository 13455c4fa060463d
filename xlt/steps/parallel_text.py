"""Parallel text: pairs of sentences of two languages, cleaned and split, of no particular translator."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pyarrow
import pyarrow.parquet

from xlt.config import identity
from xlt.errors import UserError
from xlt.languages import Language
from xlt.random import Draw
from xlt.steps.base import Step, Workbench
from xlt.steps.cleaning import clean
from xlt.steps.text import write_card
from xlt.store import Artifact
from xlt.tasks.data import SPLITS
from xlt.tasks.resemblance import key
from xlt.translation.parallel_text import ParallelText

Pair = tuple[str, str]

_SAMPLES = 10
_LARGEST_SHARE = 0.1  # of the training pairs that are drawn for another split
_SHORT = 10  # characters; added to both sides before their lengths are compared


@dataclass(frozen=True)
class ParallelTextStep(Step):
    """Reads the pairs of two languages once, cleans both sides, and leaves out pairs with an empty side, with sides of very
    unequal or too great length, and repeated ones. No sentence of either language stands both in the training pairs and in
    those held out, case and punctuation aside. The order of the two languages does not matter: both directions share it.

    Files: `<split>.parquet` (a column a language, by its key), `card.json` (what was read, left out and kept, and samples).

    Attributes:
        languages: the two, in the order of their keys.
    """

    kind: ClassVar[str] = "parallel_text"

    source: ParallelText
    languages: tuple[Language, Language]
    revision: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.source.name}-{'-'.join(language.key for language in self.languages)}"

    def fields(self) -> dict[str, Any]:
        keys = [language.key for language in self.languages]
        return {"parallel": identity(self.source), "languages": keys, "revision_of_data": self.revision}

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Those that there will be."""
        return tuple(split for split in SPLITS if self.source.splits.get(split) or self.source.splits.get("train"))

    def build(self, bench: Workbench) -> None:
        card: dict[str, Any] = {"read": {}, "left_out": Counter()}
        pairs = {split: self._read(bench, split, card) for split in SPLITS if self.source.splits.get(split)}
        if "train" in pairs:
            known = [{key(pair[side]) for split in pairs if split != "train" for pair in pairs[split]} for side in (0, 1)]
            read = len(pairs["train"])
            pairs["train"] = [pair for pair in pairs["train"] if not any(key(pair[side]) in known[side] for side in (0, 1))]
            card["left_out"]["in held-out pairs"] = read - len(pairs["train"])
            for split in ("validation", "test"):
                if split not in pairs:
                    size = min(getattr(self.source, split), int(_LARGEST_SHARE * len(pairs["train"])))
                    pairs[split] = _draw(pairs["train"], size, Draw(self.source.seed, "parallel text", split))
        empty = [split for split in self.splits if not pairs[split]]
        if empty:
            raise UserError(
                f"The parallel text of {' and '.join(language.name for language in self.languages)} from parallel="
                f"{self.source.name} has no pairs for {' and '.join(empty)} (read: {card['read']}, left out: "
                f"{dict(card['left_out'])}). At least twenty different pairs are needed."
            )
        for split, chosen_pairs in pairs.items():
            columns = {language.key: [pair[side] for pair in chosen_pairs] for side, language in enumerate(self.languages)}
            pyarrow.parquet.write_table(pyarrow.table(columns), bench.folder / f"{split}.parquet", compression="zstd")
        card["left_out"] = dict(card["left_out"])
        card |= {split: {"pairs": len(pairs[split])} for split in self.splits}
        shown = pairs.get("train") or pairs[self.splits[0]]
        card["samples"] = [list(pair) for pair in Draw("samples").shuffled(shown[: 100 * _SAMPLES])[:_SAMPLES]]
        write_card(bench, card)

    def _read(self, bench: Workbench, split: str, card: dict[str, Any]) -> list[Pair]:
        """The pairs of one split of the source that are worth keeping, each once."""
        most = self.source.most_pairs if split == "train" else None
        kept: dict[Pair, None] = {}
        read = 0
        name = self.source.splits[split]
        for raw in self.source.pairs(*self.languages, bench.runtime.languages, bench.runtime.hub, name):
            if most is not None and len(kept) == most:
                break
            read += 1
            pair = (clean(raw[0]).replace("\n", " "), clean(raw[1]).replace("\n", " "))
            reason = _fault(pair, self.source) or ("repeated" if pair in kept else None)
            if reason is None:
                kept[pair] = None
            else:
                card["left_out"][reason] += 1
        card["read"][split] = read
        return list(kept)


def read_pairs(artifact: Artifact, split: str, source: Language, target: Language) -> list[Pair]:
    """The pairs of a split: each a sentence of the source language and its translation.

    Raises:
        UserError: the parallel text has no such split.
    """
    if split not in artifact.summary:
        present = ", ".join(name for name in SPLITS if name in artifact.summary)
        raise UserError(
            f"The parallel text {artifact.manifest['label']} has no {split} pairs; it has: {present}. Choose another source with "
            "parallel=, or say what it calls them (parallel.splits)."
        )
    table = pyarrow.parquet.read_table(artifact.folder / f"{split}.parquet")
    return list(zip(table[source.key].to_pylist(), table[target.key].to_pylist(), strict=True))


def _fault(pair: Pair, source: ParallelText) -> str | None:
    """Why a pair is left out; None for one that is kept."""
    shorter, longer = sorted(map(len, pair))
    if not shorter:
        return "empty"
    if source.most_characters is not None and longer > source.most_characters:
        return "too long"
    return "unequal lengths" if longer + _SHORT > source.length_ratio * (shorter + _SHORT) else None


def _draw(pairs: list[Pair], size: int, draw: Draw) -> list[Pair]:
    """Some pairs, neither of whose sentences stands in another pair; they are taken out of `pairs`."""
    counts = [Counter(key(pair[side]) for pair in pairs) for side in (0, 1)]
    single = [number for number, pair in enumerate(pairs) if all(counts[side][key(pair[side])] == 1 for side in (0, 1))]
    chosen = sorted(draw.shuffled(single)[:size])
    result = [pairs[number] for number in chosen]
    for number in reversed(chosen):
        del pairs[number]
    return result
