"""Tokens: a text under one tokenizer, as lines or packed; made once and shared by every method and seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from xlt.backbones.backbone import load_tokenizer
from xlt.errors import UserError
from xlt.steps.base import Step, Workbench
from xlt.steps.text import read_documents
from xlt.training import packing


@dataclass(frozen=True)
class TokensStep(Step):
    """Tokenises both splits of a text.

    Files: `<split>.ids.npy` and `<split>.starts.npy` (see `xlt.training.packing`), `tokens.json` (counts).

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
        (bench.folder / "tokens.json").write_text(json.dumps(bench.summary, indent=1))
