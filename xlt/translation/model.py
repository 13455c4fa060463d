"""An encoder-decoder that translates: its weights, its tokenizer, and the ids that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from xlt.backbones.backbone import load_tokenizer
from xlt.errors import UserError
from xlt.languages import Language

Tokens = Mapping[str, str]
"""The token that names a language, by the language's key; empty for a model of one pair of languages that has none."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TranslationTokenizer:
    """A tokenizer and the languages' tokens in it.

    The encoder reads `language text end`, the decoder writes `language text end`, as NLLB-200, M2M100 and mBART-50 were trained;
    a model without language tokens reads and writes `text end`. The ids are put together here, so that nothing depends on which
    language a tokenizer was last used for.
    """

    tokenizer: Any
    tokens: Tokens

    @classmethod
    def open(cls, folder: Path, tokens: Tokens) -> TranslationTokenizer:
        """Load the tokenizer of a model folder.

        Raises:
            UserError: it lacks a language's token.
        """
        tokenizer = load_tokenizer(folder)
        missing = [token for token in tokens.values() if not has_token(tokenizer, token)]
        if missing:
            raise UserError(f"The tokenizer in {folder} has no language token {missing[0]}.")
        return cls(tokenizer, tokens)

    @property
    def padding(self) -> int:
        """The id that pads."""
        return self.tokenizer.pad_token_id

    @property
    def end(self) -> int:
        """The id that ends a text."""
        return self.tokenizer.eos_token_id

    def language(self, language: Language) -> int | None:
        """The id that names a language; None where the model has none."""
        return self.tokenizer.convert_tokens_to_ids(self.tokens[language.key]) if self.tokens else None

    def ids(self, texts: Sequence[str], language: Language, max_length: int) -> list[list[int]]:
        """`language text end` of each text; of a longer one than `max_length` ids the beginning of the text."""
        if not texts:
            return []
        named = self.language(language)
        before = [] if named is None else [named]
        most = max_length - len(before) - 1
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[*before, *ids[:most], self.end] for ids in encoded]

    def text(self, ids: Sequence[int]) -> str:
        """What ids that the decoder wrote say, special ones left out."""
        languages = {self.tokenizer.convert_tokens_to_ids(token) for token in self.tokens.values()}
        own = [number for number in ids if number not in languages]
        return self.tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


@dataclass(frozen=True)
class TranslationModel:
    """An encoder-decoder with its tokenizer."""

    model: nn.Module
    tokenizer: TranslationTokenizer

    @classmethod
    def open(cls, folder: Path, tokens: Tokens, precision: str = "fp32") -> TranslationModel:
        """Load a model folder, as `save_pretrained` writes it.

        Raises:
            UserError: it holds no encoder-decoder, or a language's token is not in its vocabulary.
        """
        try:
            model, report = AutoModelForSeq2SeqLM.from_pretrained(
                folder, dtype=PRECISIONS[precision], trust_remote_code=False, weights_only=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder} cannot be read as an encoder-decoder that transformers knows ({str(error).splitlines()[0]})."
            ) from error
        if report["missing_keys"]:
            raise UserError(f"{folder} lacks weights of its model: {', '.join(sorted(report['missing_keys'])[:3])}.")
        return cls(model.eval(), TranslationTokenizer.open(folder, tokens))

    @property
    def start(self) -> int:
        """The id that the decoder begins with."""
        start = self.model.config.decoder_start_token_id
        return self.tokenizer.end if start is None else start


def has_token(tokenizer: Any, token: str) -> bool:
    """Whether the vocabulary holds a token as a whole."""
    number = tokenizer.convert_tokens_to_ids(token)
    return number is not None and number != tokenizer.unk_token_id
