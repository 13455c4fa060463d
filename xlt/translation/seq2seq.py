"""The choices of `translator=` that are encoder-decoders: a ready-made model by hub id or folder, or one trained from scratch;
either can be adapted to further languages."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlt.backbones.backbone import load_tokenizer
from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.languages import Language
from xlt.steps.translation_model import (
    AdaptedTranslationModelStep,
    Direction,
    PretrainedTranslationModelStep,
    ScratchTranslationModelStep,
    TranslationModelStep,
)
from xlt.steps.translator import SequenceToSequenceStep
from xlt.steps.translator_tokenizer import TranslatorTokenizerStep
from xlt.translation.base import Translator, TranslatorStep
from xlt.translation.decoding import Decoding
from xlt.translation.model import Tokens, has_token
from xlt.translation.settings import Adaptation, TranslationTraining

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.parallel_text import ParallelTextStep

_NEW_CODE = "{iso3}_{script}"  # as FLORES-200 and NLLB-200 name languages


@dataclass(frozen=True)
class SequenceToSequenceTranslator(Translator):
    """Fields that every encoder-decoder has.

    Attributes:
        name: None: the last part of the path.
        language_column: column of the language table with the model's codes of languages; `key` is xlt's own.
        language_token: how a code stands in the vocabulary: `@lang` in NLLB-200, `__@lang__` in M2M100. None: the model has no
            language tokens and translates between two languages alone.
        spelling: codes by our keys, where the column does not give them or gives others.
        decoding: how translations are searched for.
        adaptation: fine-tuning on parallel text, which also brings a language that the model lacks; None takes it as it is.
    """

    name: str | None = setting(None, is_name=True, identity=False)
    language_column: str = setting("nllb", is_name=True)
    language_token: str | None = setting("@lang")
    spelling: dict[str, str] = setting({})
    decoding: Decoding = field(default_factory=Decoding)
    adaptation: Adaptation | None = setting(None)

    @property
    def label(self) -> str:
        """The translator's name in records and folder names."""
        return self.name or "translator"

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if self.language_token is not None and "@lang" not in self.language_token:
            raise UserError(
                f"{where}.language_token={self.language_token!r} has to hold @lang, which stands for the language's code."
            )

    def draw(self, experiment: Experiment, source: Language, target: Language) -> TranslatorStep:
        if self.decoding.engine == "ctranslate2" and importlib.util.find_spec("ctranslate2") is None:
            raise UserError(
                "translator.decoding.engine=ctranslate2 needs the package ctranslate2, which is not installed: "
                "pip install 'xlt[ctranslate2]'."
            )
        if source == target:
            raise UserError(f"translator={self.label}: from {source.name} into {source.name} there is nothing to translate.")
        model = self.draw_model(experiment, source, target)
        if self.adaptation is not None:
            model = self._adapted(experiment, model, (source, target))
        else:
            self._check_known(experiment, model, (source, target))
        return SequenceToSequenceStep(model, (source, target), self._tokens((source, target)), self.decoding)

    def draw_model(self, experiment: Experiment, source: Language, target: Language) -> TranslationModelStep:
        """The step of the model, before any adaptation."""
        raise NotImplementedError

    def vocabulary(self, experiment: Experiment, model: TranslationModelStep) -> Any:
        """What `has_token` asks for a token; None where only the network knows it."""
        raise NotImplementedError

    def code(self, language: Language) -> str | None:
        """The model's code of a language; None where neither the table nor `spelling` has one."""
        if self.language_column == "key":
            return self.spelling.get(language.key, language.key)
        return self.spelling.get(language.key, language.codes.get(self.language_column))

    def token(self, language: Language) -> str:
        """The token that names a language; of one without a code, that which it gets."""
        code = self.code(language) or _NEW_CODE.format(iso3=language.iso3, script=language.script or "Latn")
        return self.language_token.replace("@lang", code)

    def _tokens(self, languages: Sequence[Language]) -> Tokens:
        return {} if self.language_token is None else {language.key: self.token(language) for language in languages}

    def _adapted(self, experiment: Experiment, model: TranslationModelStep, direction: Direction) -> TranslationModelStep:
        adaptation = self.adaptation
        copied = experiment.languages.find(adaptation.copy_from) if adaptation.copy_from else None
        if copied is not None:
            self._check_known(experiment, model, (copied,))
        text = experiment.parallel_text(adaptation.parallel, *direction)
        directions = [(direction, text)] + ([(direction[::-1], text)] if adaptation.both_directions else [])
        return AdaptedTranslationModelStep(
            f"{self.label}-adapted", adaptation, tuple(directions), self._tokens(direction), model,
            self.token(copied) if copied else None,
        )  # fmt: skip

    def _check_known(self, experiment: Experiment, model: TranslationModelStep, languages: Sequence[Language]) -> None:
        """Refuse languages that the model has no token for."""
        vocabulary = self.vocabulary(experiment, model) if self.language_token is not None else None
        if vocabulary is None:
            return
        for language in languages:
            code = self.code(language)
            if code is not None and has_token(vocabulary, self.token(language)):
                continue
            known = {
                other.key: other for other in experiment.languages.languages.values()
                if self.code(other) and has_token(vocabulary, self.token(other))
            }  # fmt: skip
            relatives = [f"{key} ({other.name})" for key, other in known.items() if other.genus == language.genus != ""]
            related = f"Its relatives there are {', '.join(relatives[:5])}. " if relatives else ""
            raise UserError(
                f"translator={self.label} does not know {language.name} (lang={language.key}): its vocabulary has no token "
                f"{self.token(language)}. {related}{suggest(language.key, known, 'languages that it knows')} If it calls the "
                f"language otherwise, say how: +translator.spelling.{language.key}=<code>. Or adapt it on parallel text: "
                "translator/adaptation=fine_tuning."
            )


@dataclass(frozen=True)
class PretrainedTranslator(SequenceToSequenceTranslator):
    """`translator=nllb_600m` and others, and `seq2seq` for any.

    Attributes:
        path: hub id or folder.
        revision: branch, tag or commit of the hub; None takes the newest and remembers it.
    """

    path: str = setting("???", identity=False)
    revision: str | None = setting(None, identity=False)

    @property
    def label(self) -> str:
        last_part = Path(self.path).expanduser().resolve().name if Path(self.path).expanduser().is_dir() else self.path
        return self.name or re.sub(r"[^A-Za-z0-9._-]+", "-", last_part.rpartition("/")[2]).strip("._-")[:64] or "translator"

    def draw_model(self, experiment: Experiment, source: Language, target: Language) -> TranslationModelStep:
        found = experiment.hub.source(self.path, "model", self.revision)
        step = PretrainedTranslationModelStep(self.label, found, experiment.hub)
        _ = step.shape
        experiment.hub.check_tokenizer(found)
        experiment.hub.weight_names(found)
        return step

    def vocabulary(self, experiment: Experiment, model: PretrainedTranslationModelStep) -> Any:
        folder = experiment.hub.tokenizer_folder(model.source)
        return None if folder is None else _tokenizer(folder)


@dataclass(frozen=True)
class ScratchTranslator(SequenceToSequenceTranslator):
    """`translator=scratch`: a small model with its own tokenizer, learnt from parallel text.

    Attributes:
        pairs: that it learns, `es-gn` for one; none: the pair that it is asked for.
        vocabulary_size: of the tokenizer, language tokens included.
        shape: `model_type` and sizes, as transformers names them.
        training: how it is trained.
    """

    language_column: str = setting("key", is_name=True)
    language_token: str | None = setting("__@lang__")
    pairs: list[str] = field(default_factory=list)
    vocabulary_size: int = setting(4000, at_least=50)
    shape: dict[str, Any] = field(default_factory=dict)
    training: TranslationTraining = field(default_factory=TranslationTraining)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        super().verify(where)
        wrong = [pair for pair in self.pairs if pair.count("-") != 1]
        if wrong:
            raise UserError(f"{where}.pairs: {wrong[0]!r} is no pair of languages such as es-gn.")
        if self.shape.get("d_model", 0) % max(1, self.shape.get("encoder_attention_heads", 1)):
            raise UserError(f"{where}.shape.d_model={self.shape['d_model']} has to be a multiple of encoder_attention_heads.")

    def draw_model(self, experiment: Experiment, source: Language, target: Language) -> TranslationModelStep:
        directions = self._directions(experiment, source, target)
        languages = {language.key: language for direction, _ in directions for language in direction}
        tokens = self._tokens([languages[key] for key in sorted(languages)])
        texts = {text.fingerprint: text for _, text in directions}
        tokenizer = TranslatorTokenizerStep(self.label, tuple(texts.values()), tokens, self.vocabulary_size)
        return ScratchTranslationModelStep(self.label, self.training, tuple(directions), tokens, tokenizer, self.shape)

    def vocabulary(self, experiment: Experiment, model: ScratchTranslationModelStep) -> Any:
        return _Vocabulary(set(model.tokens.values()))

    def _directions(self, experiment: Experiment, source: Language, target: Language) -> list[tuple[Direction, ParallelTextStep]]:
        both = self.training.both_directions
        asked = (source, target)
        if both and not self.pairs:  # the same model, whichever way is asked for
            asked = tuple(sorted(asked, key=lambda language: language.key))
        pairs = [tuple(map(experiment.languages.find, pair.split("-"))) for pair in self.pairs] or [asked]
        result = []
        for direction in pairs:
            text = experiment.parallel_text(self.training.parallel, *direction)
            result += [(direction, text), *([(direction[::-1], text)] if both else [])]
        return result


class _Vocabulary:
    """Of a tokenizer that is not learnt yet: the language tokens that it will have."""

    unk_token_id = None

    def __init__(self, tokens: set[str]) -> None:
        self._tokens = tokens

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return 0 if token in self._tokens else None


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)
