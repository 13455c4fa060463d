"""Translated examples: the labelled data of one language in the words of another, with every label as it was."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from tqdm import tqdm

from xlt.errors import UserError
from xlt.steps.audit import estimate_translation
from xlt.steps.base import Estimate, Step, Workbench
from xlt.steps.examples import DataSetExamplesStep, ExamplesStep, read_examples, require_split, write_examples
from xlt.store import Artifact, write_durably
from xlt.tasks.base import Example, LearntTask, Span
from xlt.translation.base import TranslatorStep
from xlt.translation.projection import PROJECTIONS

log = logging.getLogger("xlt")

_LOT = 1024  # texts that a translator gets together: enough to batch them by length; a kill loses one lot at most
_SAMPLES = 10

Translate = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class TranslatedExamplesStep(ExamplesStep):
    """Translates each text of some examples by itself; ids, labels and the order of the examples stay. Equal texts are translated
    once, empty ones not at all. What has been translated survives a kill.

    With a projection, examples of which a span is not found in the translation are left out and counted.

    Files: `<split>.jsonl` for each of the splits. The summary holds the card of the translation.

    Attributes:
        task, language: of the translation.
        original: what is translated.
        splits: those of it that are.
        projection: how labelled spans are found again; None where labels belong to whole texts.
    """

    kind: ClassVar[str] = "translated_examples"

    task: LearntTask
    original: DataSetExamplesStep
    translator: TranslatorStep
    splits: tuple[str, ...]
    projection: str | None = None

    @property
    def label(self) -> str:
        return f"{self.original.label}-to-{self.language.key}-{self.translator.label}"

    @property
    def wording(self) -> str:
        return f"{self.language.name} (translated from {self.original.language.name} by {self.translator.label})"

    def fields(self) -> dict[str, Any]:
        projection = {"projection": self.projection} if self.projection else {}
        return {"source": self.original.language.key, "lang": self.language.key, "splits": list(self.splits), **projection}

    def inputs(self) -> dict[str, Step]:
        return {"examples": self.original, "translator": self.translator}

    def check_input(self, role: str, artifact: Artifact) -> None:
        for split in self.splits if role == "examples" else ():
            require_split(artifact, split)

    def build(self, bench: Workbench) -> None:
        splits = {split: read_examples(bench.inputs["examples"], split) for split in self.splits}
        texts = self._different_texts([example for examples in splits.values() for example in examples])
        opened = partial(self._open, bench.inputs["translator"], bench.runtime.device)
        translations = dict(zip(texts, in_lots(texts, opened, bench.checkpoint, self.label), strict=True))
        translated = {split: self._translated(examples, translations) for split, examples in splits.items()}
        write_examples(bench, self.task, translated)
        for split, examples in splits.items():
            lost = len(examples) - len(translated[split])
            bench.summary[split]["left_out"] = lost
            if lost:
                log.warning("%s: %d of the %d examples of %s are left out: marks of theirs did not come back", self.label, lost,
                            len(examples), split)  # fmt: skip
            if not translated[split]:
                raise UserError(
                    f"No example of {split} is left of {self.label}: the translator does not keep the marks that "
                    f"transfer.projection={self.projection} puts around labelled spans. Choose another translator."
                )
        bench.summary["translation"] = card(translations)
        if empty := bench.summary["translation"]["empty"]:
            log.warning("%s: %d of %d different texts came back empty", self.label, empty, len(texts))

    def estimate(self) -> Estimate:
        return estimate_translation(len(self.task.inputs), self.task.max_length / 4, self.translator.flops_per_token)

    def preparation(
        self, realise: Callable[[Step], Artifact], device: torch.device
    ) -> Callable[[Sequence[Example]], list[Example]]:
        """New examples are translated, too."""
        translate = self._open(realise(self.translator), device)

        def translated(examples: Sequence[Example]) -> list[Example]:
            texts = self._different_texts(examples)
            return self._translated(examples, dict(zip(texts, translate(texts), strict=True)))

        return translated

    # ---- inside

    def _open(self, artifact: Artifact, device: torch.device) -> Translate:
        translator = self.translator.open(artifact, device)
        return lambda texts: translator.translate(texts, self.original.language, self.language)

    def _different_texts(self, examples: Sequence[Example]) -> list[str]:
        return list(dict.fromkeys(text for example in examples for text, _ in self._parts(example) if text.strip()))

    def _parts(self, example: Example) -> list[tuple[str, int]]:
        """What of an example is translated, each text with the number of its labelled spans."""
        texts = self.task.texts_of(example)
        if self.projection is None:
            return [(text, 0) for text in texts]
        marked, spans = PROJECTIONS[self.projection].marked, self.task.spans_of(example)
        return [(marked(text, places), len(places)) for text, places in zip(texts, spans, strict=True)]

    def _translated(self, examples: Sequence[Example], translations: Mapping[str, str]) -> list[Example]:
        """The examples in the target language; those of which a span is lost are not among them."""
        result = []
        for example in examples:
            parts = [self._found(translations.get(text, text), count) for text, count in self._parts(example)]
            if None not in parts:
                texts, spans = zip(*parts, strict=True)
                result.append(self.task.translated(example, texts, spans, self.language))
        return result

    def _found(self, text: str, count: int) -> tuple[str, list[Span]] | None:
        return (text, []) if self.projection is None else PROJECTIONS[self.projection].found(text, count)


def in_lots(texts: Sequence[str], opened: Callable[[], Translate], folder: Path, title: str) -> list[str]:
    """The translations of some texts, a lot at a time; each lot is kept in `folder` as soon as it is done, and is not translated
    again if it is there.

    Args:
        opened: loads the translator, when a lot is missing.
        title: of the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result: list[str] = []
    translate = None
    with tqdm(total=len(texts), desc=title, unit="text", dynamic_ncols=True) as bar:
        for start in range(0, len(texts), _LOT):
            lot = texts[start : start + _LOT]
            file = folder / f"{hashlib.sha256(json.dumps(lot).encode()).hexdigest()}.json"
            if not file.is_file():
                translate = translate or opened()
                translations = dict(zip(lot, translate(lot), strict=True))
                write_durably(file, json.dumps(list(translations.values()), ensure_ascii=False).encode())
            result += json.loads(file.read_bytes())
            bar.update(len(lot))
    return result


def card(translations: Mapping[str, str]) -> dict[str, Any]:
    """What a translation looks like.

    Returns:
        `texts` (different ones), `unchanged` (the share that the translator has left as it is), `length_ratio` (of a translation
        to its original in characters, on average), `empty` (how many came back empty), `samples` ([original, translation]).
    """
    pairs = list(translations.items())
    return {
        "texts": len(pairs),
        "unchanged": round(statistics.fmean(text == found for text, found in pairs), 6),
        "length_ratio": round(statistics.fmean(len(found) / len(text) for text, found in pairs), 6),
        "empty": sum(not found.strip() for _, found in pairs),
        "samples": [list(pair) for pair in pairs[:: -(-len(pairs) // _SAMPLES)]],
    }
