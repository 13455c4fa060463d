"""Tokens: a text under one tokenizer, as lines or packed; made once and shared by every method and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from xlt.backbones.backbone import load_tokenizer
from xlt.errors import UserError
from xlt.steps.base import Step, Workbench
from xlt.steps.text import read_documents
from xlt.training import packing

_SAMPLE = 1000  # documents


@dataclass(frozen=True)
class TokensStep(Step):
    """Tokenises both splits of a text.

    Files: `<split>.ids.npy` and `<split>.starts.npy` (see `xlt.training.packing`), `tokens.json` (counts, and how well the
    tokenizer fits the text).

    Attributes:
        tokenizer: the step whose artifact holds the tokenizer.
        length: tokens of an example at most, special ones included.
    """

    kind: ClassVar[str] = "tokens"

    tokenizer: Step
    text: Step
    layout: str
    length: int

    @property
    def label(self) -> str:
        return f"{self.tokenizer.label}-{self.text.label}-{self.layout}{self.length}"

    def fields(self) -> dict[str, Any]:
        return {"layout": self.layout, "length": self.length}

    def inputs(self) -> dict[str, Step]:
        return {"tokenizer": self.tokenizer, "text": self.text}

    def build(self, bench: Workbench) -> None:
        tokenizer = load_tokenizer(bench.inputs["tokenizer"].folder)
        split_into_examples = packing.lines if self.layout == "lines" else packing.packed
        for split in ("train", "validation"):
            documents = read_documents(bench.inputs["text"].folder, split)
            examples = split_into_examples(documents, tokenizer, self.length)
            count, ids = packing.write_tokens(bench.folder, split, examples, len(tokenizer))
            if count == 0:
                raise UserError(f"No tokens came out of the {split} text of {self.text.label}: it holds nothing but white space.")
            bench.summary[split] = {"examples": count, "tokens": ids}
        sample = islice(read_documents(bench.inputs["text"].folder, "validation"), _SAMPLE)
        bench.summary["fit"] = tokenizer_fit(tokenizer, sample)
        (bench.folder / "tokens.json").write_text(json.dumps(bench.summary, indent=1))


def tokenizer_fit(tokenizer: Any, documents: Iterable[str]) -> dict[str, float]:
    """How well a tokenizer fits some documents, special tokens aside: `fertility`, tokens a word between spaces (Rust et al.
    2021); `bytes_per_token`; `unknown_share`, unknown tokens among all, 0 for a tokenizer that knows every byte."""
    words = size = tokens = unknown = 0
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        words += len(document.split())
        size += len(document.encode())
        tokens += len(ids)
        unknown += ids.count(tokenizer.unk_token_id)
    return {
        "words": words,
        "tokens": tokens,
        "fertility": tokens / max(1, words),
        "bytes_per_token": size / max(1, tokens),
        "unknown_share": unknown / max(1, tokens),
    }
