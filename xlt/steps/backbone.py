"""Backbone: a ready-made model, or one pretrained from text by the steps of this file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone, config_from_shape, load_tokenizer, longest_input
from xlt.backbones.models import PretrainedModel, ScratchModel
from xlt.config import identity
from xlt.errors import UserError
from xlt.hub import Hub, Source
from xlt.random import derive_seed
from xlt.steps.audit import estimate_training
from xlt.steps.base import Estimate, Step, Workbench
from xlt.steps.text import read_documents
from xlt.steps.training import train_language_model
from xlt.store import Artifact

_SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


@dataclass(frozen=True)
class BackboneStep(Step):
    """What other steps ask of a backbone, whatever it comes from."""

    kind: ClassVar[str] = "backbone"

    model: Any

    @property
    def label(self) -> str:
        return self.model.label

    @property
    def name(self) -> str:
        """What cards call it: hub id or folder where it came from one."""
        return self.label

    @property
    def override(self) -> str:
        """What to type to use the same backbone."""
        return f"model={self.label}"

    @cached_property
    @abstractmethod
    def shape(self) -> dict[str, Any] | None:
        """`model_type` and sizes, as in config.json; None where they cannot be known yet."""

    @property
    def tokenizer(self) -> Step:
        """The step whose artifact holds the tokenizer."""
        return self

    def open(self, artifact: Artifact, language_head: bool = False) -> Backbone:
        """Load the backbone from its artifact."""
        return Backbone.open(artifact.folder, self.model.anatomy, language_head)

    def clip(self, length: int) -> int:
        """`length`, or the longest input that the model takes if that is less."""
        return length if self.shape is None else min(length, longest_input(self.shape))


@dataclass(frozen=True)
class PretrainedBackboneStep(BackboneStep):
    """A model made elsewhere: located and, from the hub, downloaded; not kept in the store."""

    external: ClassVar[bool] = True

    model: PretrainedModel
    source: Source
    hub: Hub

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def override(self) -> str:
        return f"model=hf model.path={self.source.name}"

    def fields(self) -> dict[str, Any]:
        quantisation = {} if self.model.quantisation == "none" else {"quantisation": self.model.quantisation}
        return {"model": self.hub.model_identity(self.source), "anatomy": self.model.anatomy, **quantisation}

    def open(self, artifact: Artifact, language_head: bool = False) -> Backbone:
        return Backbone.open(artifact.folder, self.model.anatomy, language_head, self.model.quantisation)

    @property
    def origin(self) -> dict[str, Any]:
        return self.fields()["model"]

    @cached_property
    def shape(self) -> dict[str, Any] | None:
        found = self.hub.model_config(self.source) or (dict(self.model.shape) if self.model.shape else None)
        if found is None:
            return None
        if not isinstance(found.get("model_type"), str):
            raise UserError(
                f"The config.json of model.path={self.source.name} names no model_type: xlt reads transformers models."
            )
        anatomy_of(found["model_type"].replace("-", "_"), self.model.anatomy)
        return found

    def check_weights(self, language_head: bool) -> None:
        """Refuse a folder without weights, or without the pretraining head where that is needed.

        Raises:
            UserError: with what is missing.
        """
        names = self.hub.weight_names(self.source)
        if not names or not language_head or self.shape is None:
            return
        anatomy = anatomy_of(self.shape["model_type"].replace("-", "_"), self.model.anatomy)
        head = anatomy.language_head[0].split(".")[0]
        if anatomy.objective == "masked" and not any(name.startswith(f"{head}.") for name in names):
            raise UserError(
                f"model.path={self.source.name} has no masked-language-model head ({head}.*), which a language module is "
                "trained through. Use a checkpoint with that head, or, for a task with a head of its own, method=none."
            )

    def locate(self, inputs: Mapping[str, Artifact]) -> Artifact:
        return self.located(self.hub.model_folder(self.source))

    def build(self, bench: Workbench) -> None:
        """Never called: external steps are located."""
        raise AssertionError("an external step is not built")


def _word_pieces(vocabulary: dict[str, int] | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


@dataclass(frozen=True)
class TokenizerStep(Step):
    """Learns word pieces (Wu et al. 2016; cased, NFC) from the text of several languages, each weighing by its size."""

    kind: ClassVar[str] = "tokenizer"

    name: str
    texts: tuple[Step, ...]
    vocabulary_size: int
    longest: int
    alphabet: str

    @property
    def label(self) -> str:
        return self.name

    def fields(self) -> dict[str, Any]:
        alphabet = {"alphabet": self.alphabet} if self.alphabet else {}
        return {"vocabulary_size": self.vocabulary_size, "longest": self.longest, **alphabet}

    def inputs(self) -> dict[str, Step]:
        return {f"text_{step.language.key}": step for step in self.texts}

    def build(self, bench: Workbench) -> None:
        def documents() -> Iterator[str]:
            return (document for role in self.inputs() for document in read_documents(bench.inputs[role].folder, "train"))

        tokenizer = _word_pieces(None)
        # The trainer breaks ties by the pieces' numbers, and gives the continuing characters theirs in the order of a hash map,
        # another one in each process; as special tokens of the training they get the order of this list.
        split, normalise = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
        continuing = {character for text in documents() for word, _ in split(normalise(text)) for character in word[1:]}
        known = sorted({*self.alphabet})
        first = [*_SPECIAL_TOKENS.values(), *known, *(f"##{character}" for character in sorted(continuing.union(known)))]
        trainer = trainers.WordPieceTrainer(vocab_size=self.vocabulary_size, special_tokens=first, show_progress=False)
        tokenizer.train_from_iterator(documents(), trainer)
        tokenizer = _word_pieces(tokenizer.get_vocab())  # in which they are no special tokens any more
        begin, end = ("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[begin, end]
        )
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=self.longest, **_SPECIAL_TOKENS)
        wrapped.save_pretrained(bench.folder)
        bench.summary["vocabulary"] = len(wrapped)


@dataclass(frozen=True)
class ScratchBackboneStep(BackboneStep):
    """Pretrains a small backbone with its own tokenizer. Files: as `save_pretrained` writes them, `training.json`."""

    model: ScratchModel
    tokenizer_step: TokenizerStep
    tokens: tuple[Step, ...]

    @property
    def tokenizer(self) -> Step:
        return self.tokenizer_step

    @cached_property
    def shape(self) -> dict[str, Any]:
        return {**self.model.shape, "vocab_size": self.model.vocabulary_size}

    def fields(self) -> dict[str, Any]:
        return {"model": {key: value for key, value in identity(self.model).items() if key != "languages"}}

    def inputs(self) -> dict[str, Step]:
        return {"tokenizer": self.tokenizer_step, **{f"tokens_{step.text.language.key}": step for step in self.tokens}}

    def build(self, bench: Workbench) -> None:
        tokenizer = load_tokenizer(bench.inputs["tokenizer"].folder)
        config = config_from_shape({**self.shape, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id})
        parts = anatomy_of(config.model_type.replace("-", "_"), self.model.anatomy)
        seed = derive_seed(self.model.seed, "backbone")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Backbone.new(config, parts)
            self.model.initialise(model)
        backbone = Backbone(model, tokenizer, parts)
        model.requires_grad_(True)
        model.to(bench.runtime.device)
        folders = [bench.inputs[role].folder for role in self.inputs() if role != "tokenizer"]
        train_language_model(
            bench,
            self.label,
            backbone,
            None,
            backbone.own_parameters(backbone.model),
            folders,
            self.model.train,
            [self.model.train.loop],
            seed,
        )
        model.save_pretrained(bench.folder)
        tokenizer.save_pretrained(bench.folder)

    def estimate(self) -> Estimate:
        train = self.model.train
        return estimate_training(self, None, [train.loop], None, train.length, language_head=True)
