"""Decoding: from texts to their translations, the same ones whatever stands beside them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig

from xlt.config import setting
from xlt.languages import Language
from xlt.training.batches import pad
from xlt.training.objectives import to_device
from xlt.translation.model import TranslationModel, TranslationTokenizer

log = logging.getLogger("xlt")

COMPUTE_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What ctranslate2 calls precisions."""


@dataclass(frozen=True)
class Decoding:
    """How translations are searched for.

    Attributes:
        beams: hypotheses that are kept at each step; 1 is greedy.
        max_length: tokens of a text and of its translation at most, the language and the end included.
        precision: of the weights and of what is computed with them.
        engine: `transformers`; or `ctranslate2`, which is faster (Klein et al. 2020) and takes over only where it translates some
            sentences as transformers does.
        batch_tokens: that are read together, padding included; a matter of memory.
    """

    beams: int = setting(1, at_least=1)
    max_length: int = setting(256, at_least=4)
    precision: str = setting("fp32", one_of=("fp32", "bf16", "fp16"))
    engine: str = setting("transformers", one_of=("transformers", "ctranslate2"))
    batch_tokens: int = setting(4096, at_least=1, identity=False)


class SequenceToSequence(ABC):
    """A translation model that is open for use. Each text goes through it once, together with others of its length.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: TranslationTokenizer, decoding: Decoding) -> None:
        self.tokenizer = tokenizer
        self.decoding = decoding

    def translate(self, texts: Sequence[str], source: Language, target: Language) -> list[str]:
        """The translation of each text, in their order; the same text is translated alike whatever stands beside it.

        Padding is masked, so what else is in a batch changes what is computed only in its rounding.
        """
        different = [text for text in dict.fromkeys(texts) if text.strip()]
        most = self.decoding.max_length
        rows = self.tokenizer.ids(different, source, most)
        if long := sum(len(row) == most for row in rows):
            log.warning("%d of %d texts reach %d tokens: what comes after them is not translated", long, len(rows), most)
        result = {text: "" for text in texts}
        for numbers in batches_by_length([len(row) for row in rows], self.decoding.batch_tokens):
            written = self.generate([rows[number] for number in numbers], target)
            result |= {different[number]: self.tokenizer.text(ids) for number, ids in zip(numbers, written, strict=True)}
        return [result[text] for text in texts]

    @abstractmethod
    def generate(self, rows: Sequence[Sequence[int]], target: Language) -> list[list[int]]:
        """What the decoder writes for rows of ids that the encoder reads."""


class TransformersDecoder(SequenceToSequence):
    """Decoding by transformers.

    Args:
        model: is moved to the device and put into evaluation mode.
    """

    def __init__(self, model: TranslationModel, decoding: Decoding, device: torch.device) -> None:
        super().__init__(model.tokenizer, decoding)
        self._model = model
        self._device = device
        model.model.to(device).eval()

    @torch.inference_mode()
    def generate(self, rows: Sequence[Sequence[int]], target: Language) -> list[list[int]]:
        ids = pad(rows, self.tokenizer.padding)
        mask = (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()
        config = GenerationConfig(
            num_beams=self.decoding.beams, do_sample=False, early_stopping=False, length_penalty=1.0,
            max_new_tokens=self.decoding.max_length, pad_token_id=self.tokenizer.padding, eos_token_id=self.tokenizer.end,
            decoder_start_token_id=self._model.start, forced_bos_token_id=self.tokenizer.language(target),
        )  # fmt: skip
        return self._model.model.generate(
            input_ids=to_device(ids, self._device), attention_mask=to_device(mask, self._device), generation_config=config
        ).tolist()


class CTranslate2Decoder(SequenceToSequence):
    """Decoding by ctranslate2.

    Args:
        folder: of the model in its format.
    """

    def __init__(self, folder: Path, tokenizer: TranslationTokenizer, decoding: Decoding, device: torch.device) -> None:
        import ctranslate2

        super().__init__(tokenizer, decoding)
        self._translator = ctranslate2.Translator(
            str(folder), device=device.type, compute_type=COMPUTE_TYPES[decoding.precision], intra_threads=torch.get_num_threads()
        )

    def generate(self, rows: Sequence[Sequence[int]], target: Language) -> list[list[int]]:
        pieces = self.tokenizer.tokenizer.convert_ids_to_tokens
        language = self.tokenizer.language(target)
        found = self._translator.translate_batch(
            [pieces(list(row)) for row in rows], beam_size=self.decoding.beams, max_decoding_length=self.decoding.max_length,
            target_prefix=[[pieces(language)]] * len(rows) if language is not None else None,
        )  # fmt: skip
        return [self.tokenizer.tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in found]


def batches_by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """The numbers of the rows that go through the model together: the longest first, `tokens` at most with their padding."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    start = 0
    while start < len(order):
        rows = max(1, tokens // lengths[order[start]])
        yield order[start : start + rows]
        start += rows
