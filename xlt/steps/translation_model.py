"""Translation models: ready-made ones, and those that are trained here, from scratch or to adapt another one to a language."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import torch
from transformers import AutoModelForSeq2SeqLM

from xlt.backbones.backbone import config_from_shape, load_tokenizer
from xlt.config import identity
from xlt.hub import Hub, Source
from xlt.languages import Language
from xlt.random import derive_seed, generator
from xlt.steps.base import Estimate, Step, Workbench
from xlt.steps.parallel_text import Pair, ParallelTextStep, read_pairs
from xlt.steps.training import run_loop
from xlt.steps.translator_tokenizer import TranslatorTokenizerStep
from xlt.store import Artifact
from xlt.training.batches import Batches
from xlt.translation import scores
from xlt.translation.decoding import Decoding, TransformersDecoder
from xlt.translation.model import Tokens, TranslationModel, TranslationTokenizer, has_token
from xlt.translation.settings import Adaptation, TranslationTraining
from xlt.translation.training import Example, Translating, add_language, examples_of

log = logging.getLogger("xlt")

Direction = tuple[Language, Language]
"""Source and target."""

_EVALUATED_TOGETHER = 4096  # tokens
_UNKNOWN_PAIRS = 10_000  # assumed while the parallel text has not been read
_SHOWN = 10  # translations, in the summary


@dataclass(frozen=True)
class TranslationModelStep(Step):
    """What a translator asks of its model, whatever it comes from."""

    kind: ClassVar[str] = "translation_model"

    name: str

    @property
    def label(self) -> str:
        return self.name

    @property
    @abstractmethod
    def shape(self) -> Mapping[str, Any] | None:
        """`model_type` and sizes, as in config.json; None where they cannot be known yet."""

    @property
    def parameters(self) -> int | None:
        """How many the model has; None where that cannot be known yet."""
        return None if self.shape is None else _count(json.dumps(dict(self.shape), sort_keys=True))


@dataclass(frozen=True)
class PretrainedTranslationModelStep(TranslationModelStep):
    """A model made elsewhere: located and, from the hub, downloaded; not kept in the store."""

    external: ClassVar[bool] = True

    source: Source
    hub: Hub

    @property
    def shape(self) -> Mapping[str, Any] | None:
        return self.hub.model_config(self.source)

    def fields(self) -> dict[str, Any]:
        return {"model": self.hub.model_identity(self.source)}

    @property
    def origin(self) -> dict[str, Any]:
        return self.fields()["model"]

    def locate(self, inputs: Mapping[str, Artifact]) -> Artifact:
        return self.located(self.hub.model_folder(self.source))

    def build(self, bench: Workbench) -> None:
        """Never called: external steps are located."""
        raise AssertionError("an external step is not built")


@dataclass(frozen=True)
class TrainedTranslationModelStep(TranslationModelStep):
    """A model that is trained here, all of it; the epoch with the least loss on the validation pairs is kept.

    Files: as `save_pretrained` writes them; `training.json`; `translations.json`, the first held-out sentences with their
    translations. The summary has BLEU and chrF on the held-out pairs of the first direction, beside those of copying the source.

    Attributes:
        training: how.
        directions: that it learns, each with the parallel text of its pair.
        tokens: of all languages, by their keys.
    """

    training: TranslationTraining
    directions: tuple[tuple[Direction, ParallelTextStep], ...]
    tokens: Tokens

    def fields(self) -> dict[str, Any]:
        directions = [[source.key, target.key] for (source, target), _ in self.directions]
        return {"training": identity(self.training), "directions": directions, "tokens": dict(self.tokens)}

    def inputs(self) -> dict[str, Step]:
        return {f"parallel_text{number or ''}": step for number, step in enumerate(self.texts)}

    @property
    def texts(self) -> list[ParallelTextStep]:
        """The parallel texts, each once."""
        return list({step.fingerprint: step for _, step in self.directions}.values())

    def estimate(self) -> Estimate:
        if self.parameters is None:
            return Estimate()
        loop = self.training.loop
        tokens = loop.total_steps(_UNKNOWN_PAIRS) * loop.batch_size * self.training.length / 4  # most sentences are far shorter
        return Estimate(tokens, tokens * _flops_per_token(self.parameters), self.parameters)

    @abstractmethod
    def begin(self, inputs: Mapping[str, Artifact], seed: int) -> TranslationModel:
        """The model before training."""

    @property
    def _compares(self) -> bool:
        """Whether the model before training is worth a score."""
        return True

    def build(self, bench: Workbench) -> None:
        training, device = self.training, bench.runtime.device
        seed = derive_seed(training.seed, "translation model")
        model = self.begin(bench.inputs, seed)
        model.model.requires_grad_(True).to(device)
        direction, text = self.directions[0]
        held_out = self._pairs(bench.inputs, text, "test", direction)[: training.scored_pairs]
        before = {"before": self._score(bench, model, held_out)[0]} if self._compares else {}
        self._train(bench, model, seed)
        after, translations = self._score(bench, model, held_out)
        copying = scores.score(*zip(*held_out, strict=True))
        report = {"copying": copying, **before, "after": after}
        bench.summary["held_out"] = {"direction": [language.key for language in direction], "pairs": len(held_out), **report}
        log.info(
            "%s: on %d held-out sentences from %s to %s, %s", self.label, len(held_out), *(one.name for one in direction),
            "; ".join(f"{name} {', '.join(f'{metric} {value:.1f}' for metric, value in found.items())}"
                      for name, found in report.items()),
        )  # fmt: skip
        shown = [dict(zip(("source", "reference", "translation"), row, strict=True)) for row in translations[:_SHOWN]]
        (bench.folder / "translations.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False), encoding="utf-8")
        model.model.save_pretrained(bench.folder)
        model.tokenizer.tokenizer.save_pretrained(bench.folder)

    def _train(self, bench: Workbench, model: TranslationModel, seed: int) -> None:
        settings, device = self.training.loop, bench.runtime.device
        objective = Translating(model, self.training.label_smoothing)
        train, validation = (self._examples(bench.inputs, model, split) for split in ("train", "validation"))
        parameters = dict(model.model.named_parameters())
        run_loop(
            bench,
            self.label,
            model=model.model,
            modules=(),
            module=None,
            parameters=parameters,
            objective=objective,
            batches=Batches(len(train), settings.batch_size, seed, partial(objective.make, train)),
            evaluate=lambda: objective.evaluate(validation, _EVALUATED_TOGETHER, device),
            metric=("loss", False),
            phases=[settings],
            seed=seed,
            tokens_per_example=sum(len(source) for source, _ in train) / len(train),
            flops_per_token=_flops_per_token,
        )

    def _examples(self, inputs: Mapping[str, Artifact], model: TranslationModel, split: str) -> list[Example]:
        return [
            example
            for direction, text in self.directions
            for example in examples_of(
                model.tokenizer, self._pairs(inputs, text, split, direction), *direction, self.training.length
            )
        ]

    def _pairs(self, inputs: Mapping[str, Artifact], text: ParallelTextStep, split: str, direction: Direction) -> list[Pair]:
        role = next(role for role, step in self.inputs().items() if step.fingerprint == text.fingerprint)
        return read_pairs(inputs[role], split, *direction)

    def _score(
        self, bench: Workbench, model: TranslationModel, pairs: Sequence[Pair]
    ) -> tuple[dict[str, float], list[tuple[str, str, str]]]:
        """BLEU and chrF of greedy translations; and each source, reference and translation."""
        sources, references = map(list, zip(*pairs, strict=True))
        translator = TransformersDecoder(model, Decoding(max_length=self.training.length), bench.runtime.device)
        translations = translator.translate(sources, *self.directions[0][0])
        return scores.score(translations, references), list(zip(sources, references, translations, strict=True))


@dataclass(frozen=True)
class ScratchTranslationModelStep(TrainedTranslationModelStep):
    """A small model with its own tokenizer.

    Attributes:
        sizes: `model_type` and sizes, as transformers names them.
    """

    tokenizer: TranslatorTokenizerStep
    sizes: Mapping[str, Any]

    @property
    def shape(self) -> Mapping[str, Any]:
        return {**self.sizes, "vocab_size": self.tokenizer.vocabulary_size}

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "shape": dict(self.sizes)}

    def inputs(self) -> dict[str, Step]:
        return {"tokenizer": self.tokenizer, **super().inputs()}

    @property
    def _compares(self) -> bool:
        return False

    def begin(self, inputs: Mapping[str, Artifact], seed: int) -> TranslationModel:
        tokenizer = load_tokenizer(inputs["tokenizer"].folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = AutoModelForSeq2SeqLM.from_config(config_from_shape({**self.sizes, **_ids(tokenizer)}))
        return TranslationModel(net, TranslationTokenizer(tokenizer, self.tokens))


@dataclass(frozen=True)
class AdaptedTranslationModelStep(TrainedTranslationModelStep):
    """Another model, fine-tuned on parallel text of two languages, with a token for the one that it lacks.

    Attributes:
        model: the other one.
        copy_from: the token whose embedding a new one begins with; None draws it.
    """

    training: Adaptation
    model: TranslationModelStep
    copy_from: str | None

    @property
    def shape(self) -> Mapping[str, Any] | None:
        return self.model.shape

    @property
    def label(self) -> str:
        (source, target), _ = self.directions[0]
        return f"{self.name}-{source.key}-{target.key}"

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "copy_from": self.copy_from}

    def inputs(self) -> dict[str, Step]:
        return {"model": self.model, **super().inputs()}

    def begin(self, inputs: Mapping[str, Artifact], seed: int) -> TranslationModel:
        opened = TranslationModel.open(inputs["model"].folder, {})
        tokenizer = opened.tokenizer.tokenizer
        for token in self.tokens.values():
            if not has_token(tokenizer, token):
                number = add_language(opened.model, tokenizer, token, self.copy_from, generator(seed, token))
                log.info("%s: %s is a new language token, number %d", self.label, token, number)
        return TranslationModel(opened.model, TranslationTokenizer(tokenizer, self.tokens))


def _ids(tokenizer: Any) -> dict[str, int]:
    """What a configuration has to know of a tokenizer; the decoder begins with the end, as in NLLB-200 and M2M100."""
    return {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None,
    }  # fmt: skip


@lru_cache(maxsize=16)
def _count(shape: str) -> int:
    with torch.device("meta"):
        net = AutoModelForSeq2SeqLM.from_config(config_from_shape(json.loads(shape)))
    return sum(parameter.numel() for parameter in net.parameters())


def _flops_per_token(trainable: int) -> float:
    """Of a token of the source together with one of the target: 2 FLOPs a weight forward, and 4 backward."""
    return 6 * trainable
