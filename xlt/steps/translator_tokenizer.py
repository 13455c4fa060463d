"""The tokenizer of a translation model that is trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from xlt.steps.base import Step, Workbench
from xlt.steps.parallel_text import ParallelTextStep, read_pairs
from xlt.translation.model import Tokens

_SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class TranslatorTokenizerStep(Step):
    """Learns sub-words from both sides of training pairs (byte-pair encoding, Sennrich et al. 2016, on text in NFC with spaces
    marked as SentencePiece does), and has a token for each language."""

    kind: ClassVar[str] = "tokenizer"

    name: str
    texts: tuple[ParallelTextStep, ...]
    tokens: Tokens
    vocabulary_size: int

    @property
    def label(self) -> str:
        return self.name

    def fields(self) -> dict[str, Any]:
        return {"tokens": sorted(self.tokens.values()), "vocabulary_size": self.vocabulary_size, "model": "translation"}

    def inputs(self) -> dict[str, Step]:
        return {f"parallel_text{number or ''}": step for number, step in enumerate(self.texts)}

    def build(self, bench: Workbench) -> None:
        sentences = [
            sentence
            for (role, artifact), text in zip(bench.inputs.items(), self.texts, strict=True)
            for pair in read_pairs(artifact, "train", *text.languages)
            for sentence in pair
        ]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        languages = sorted(self.tokens.values())
        special = [*_SPECIAL_TOKENS.values(), *languages]
        trainer = trainers.BpeTrainer(vocab_size=self.vocabulary_size, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(sentences, trainer)
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=languages, **_SPECIAL_TOKENS)
        wrapped.save_pretrained(bench.folder)
        bench.summary["vocabulary"] = len(wrapped)
