"""Decoding: from texts to their translations, the same ones whatever stands beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from xlt.config import setting
from xlt.languages import Language
from xlt.training.batches import pad
from xlt.training.objectives import to_device
from xlt.translation.model import TranslationModel

log = logging.getLogger("xlt")


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


class SequenceToSequence:
    """A translation model that is open for use. Each text goes through the model once, together with others of its length.

    Args:
        model: on the device, in evaluation mode.
    """

    def __init__(self, model: TranslationModel, decoding: Decoding, device: torch.device) -> None:
        self.model = model
        self._decoding = decoding
        self._device = device
        model.model.to(device).eval()

    def translate(self, texts: Sequence[str], source: Language, target: Language) -> list[str]:
        """The translation of each text, in their order; the same text is translated alike whatever stands beside it.

        Padding is masked, so the batch changes what is computed only in its rounding.
        """
        different = [text for text in dict.fromkeys(texts) if text.strip()]
        most = self._decoding.max_length
        rows = self.model.ids(different, source, most)
        if long := sum(len(row) == most for row in rows):
            log.warning("%d of %d texts are longer than %d tokens: their ends are not translated", long, len(rows), most)
        result = {text: "" for text in texts}
        for numbers in batches_by_length([len(row) for row in rows], self._decoding.batch_tokens):
            written = self._generate([rows[number] for number in numbers], target)
            result |= {different[number]: self.model.text(ids) for number, ids in zip(numbers, written, strict=True)}
        return [result[text] for text in texts]

    @torch.inference_mode()
    def _generate(self, rows: Sequence[Sequence[int]], target: Language) -> list[list[int]]:
        ids = pad(rows, self.model.tokenizer.pad_token_id)
        mask = (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()
        config = GenerationConfig(
            num_beams=self._decoding.beams, do_sample=False, early_stopping=False, length_penalty=1.0,
            max_new_tokens=self._decoding.max_length, pad_token_id=self.model.tokenizer.pad_token_id,
            eos_token_id=self.model.end, decoder_start_token_id=self.model.start, forced_bos_token_id=self.model.language(target),
        )  # fmt: skip
        return self.model.model.generate(
            input_ids=to_device(ids, self._device), attention_mask=to_device(mask, self._device), generation_config=config
        ).tolist()


def batches_by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """The numbers of the rows that go through the model together: the longest first, `tokens` at most with their padding."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    start = 0
    while start < len(order):
        rows = max(1, tokens // lengths[order[start]])
        yield order[start : start + rows]
        start += rows
