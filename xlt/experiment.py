"""An experiment: the checked configuration, and the graph of steps that its choices draw.

Model, method, data source, transfer setting and task each draw their part (`draw`); they ask the experiment for the steps
that theirs builds on. Everything that can be wrong with a configuration is found here, before any work starts.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from xlt.backbones.models import Model, PretrainedModel, ScratchModel
from xlt.config import build, build_fields, setting
from xlt.corpora.base import Corpus, TextSource
from xlt.corpora.near_duplicates import check_installed as check_near_duplicates
from xlt.errors import UserError, suggest
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable, load_languages
from xlt.methods.base import Method
from xlt.methods.none import NoAdaptation
from xlt.miniature.world import World
from xlt.steps.backbone import BackboneStep, PretrainedBackboneStep, ScratchBackboneStep, TokenizerStep
from xlt.steps.base import Step
from xlt.steps.evaluation import EvaluationStep, ScoringStep
from xlt.steps.examples import DataSetExamplesStep, ExamplesStep
from xlt.steps.language_module import LanguageModuleStep, ReadyMadeModuleStep
from xlt.steps.parallel_text import ParallelTextStep
from xlt.steps.task_module import Labels, TaskModuleStep
from xlt.steps.text import TextStep
from xlt.steps.tokens import TokensStep
from xlt.steps.translated_examples import TranslatedExamplesStep
from xlt.store import Store
from xlt.tasks.base import Task
from xlt.tasks.data import SPLITS
from xlt.training.settings import Training
from xlt.training.tracking import Tracker
from xlt.transfer import Transfer
from xlt.translation.base import Translator, TranslatorStep
from xlt.translation.parallel_text import ParallelText
from xlt.translation.projection import check_translatable

READY_MADE = Path(__file__).with_name("miniature") / "artifacts"
"""Artifacts that come with the package: the backbones of the miniature world."""

_COMPONENTS: dict[str, type] = {
    "world": World, "model": Model, "method": Method, "task_method": Method, "data": TextSource, "transfer": Transfer,
    "translator": Translator, "parallel": ParallelText, "task": Task, "source_task": Task, "train": Training, "tracker": Tracker,
}  # fmt: skip

_OPTIONAL = ("source_task", "translator", "parallel")


@dataclass(frozen=True)
class Paths:
    """Where things are. None of it enters fingerprints.

    Attributes:
        outputs: everything that runs write.
        store: the artifacts; `<outputs>/store` if None. Several users or machines may share one.
        mirror: folder of local clones of hub repositories; the variable XLT_MIRROR if None.
        languages: your own table of languages, a CSV file that extends the package's.
    """

    outputs: str = setting("outputs")
    store: str | None = setting(None)
    mirror: str | None = setting(None)
    languages: str | None = setting(None)


@dataclass(frozen=True)
class LanguageSettings:
    """The language module.

    Attributes:
        seed: of the text's split and the language module.
        path: hub id or folder of a ready-made module, in AdapterHub's or PEFT's format, that is used instead of training one;
            `@lang` in it stands for the language. `method` and `data` are then not used.
        revision: branch, tag or commit of the hub; None takes the newest and remembers it.
    """

    seed: int = setting(0, at_least=0)
    path: str | None = setting(None)
    revision: str | None = setting(None)


@dataclass(frozen=True)
class Settings:
    """The configuration's own scalars; its groups are built from the classes that they name.

    Attributes:
        lang: the target language by any of its codes, or a list of them.
        source: the language of the labels, or a list, where the transfer setting learns from other languages than the target.
        shots: how many examples of the target a few-shot setting learns from.
        seed: of the task module: initialisation, data order, choice of examples.
        compat: compute as a repository's code does where that differs from what it says: `adapterhub` keeps the inverse of
            invertible adapters from the language head, and lets gates average over padding.
        reuse: `auto` makes what is missing, `force` makes everything anew, `only_cached` makes nothing.
        plan: print the steps and stop.
        debug: show tracebacks of mistakes.
        device: `auto` takes a GPU if there is one.
        threads: of the CPU; None leaves it to torch.
    """

    lang: Any = setting("???")
    source: Any = setting(None)
    shots: int | None = setting(None, at_least=0)
    seed: int = setting(0, at_least=0)
    language: LanguageSettings = field(default_factory=LanguageSettings)
    compat: str = setting("none", one_of=("none", "adapterhub"))
    reuse: str = setting("auto", one_of=("auto", "force", "only_cached"))
    plan: bool = setting(False)
    debug: bool = setting(False)
    device: str = setting("auto", one_of=("auto", "cpu", "cuda"))
    threads: int | None = setting(None, at_least=1)
    paths: Paths = field(default_factory=Paths)


@dataclass(frozen=True)
class Experiment:
    """A checked configuration. `Experiment.from_config` makes one; `evaluation` is the end of its graph.

    Attributes:
        source_task: whose labels other languages give; that of the targets unless the configuration says otherwise.
        translator: None where nothing is translated.
        targets: the target languages.
        sources: the languages that labels come from; empty where that is the target itself.
    """

    config: DictConfig
    settings: Settings
    model: Model
    method: Method
    task_method: Method
    data: TextSource
    transfer: Transfer
    translator: Translator | None
    parallel: ParallelText | None
    task: Task
    source_task: Task
    train: Training
    tracker: Tracker
    world: World
    languages: LanguageTable
    targets: tuple[Language, ...]
    sources: tuple[Language, ...]
    hub: Hub

    @classmethod
    def from_config(cls, config: DictConfig, online: bool = True) -> Experiment:
        """Check a composed configuration.

        Args:
            online: whether the network may be asked for revisions and model shapes.

        Raises:
            UserError: anything in it that cannot work.
        """
        unknown = [key for key in config if key not in _COMPONENTS and key not in _SCALARS]
        if unknown:
            raise UserError(f"{unknown[0]} is not a setting. {suggest(str(unknown[0]), [*_COMPONENTS, *_SCALARS], 'settings')}")
        scalars = OmegaConf.masked_copy(config, [key for key in _SCALARS if key in config])
        if OmegaConf.is_missing(scalars, "lang") or not scalars.get("lang"):
            raise UserError("lang has no value: say which language the score is wanted for, for example lang=mt.")
        settings = build_fields(Settings, scalars, "")
        missing = [name for name in _COMPONENTS if name not in config and name not in _OPTIONAL]
        if missing:
            raise UserError(f"The configuration has no {missing[0]}.")
        components = {
            name: build(config[name], name, expected) for name, expected in _COMPONENTS.items() if config.get(name) is not None
        }
        components.setdefault("source_task", components["task"])
        components = {"translator": None, "parallel": None, **components}
        for name in ("method", "task_method"):
            components[name] = components[name].compatible_with(settings.compat)
        mirror = settings.paths.mirror or os.environ.get("XLT_MIRROR") or None
        store = store_folder(settings)
        languages = load_languages(settings.paths.languages)
        invented = (row for row in components["world"].table_rows() if row["iso3"] not in languages.languages)
        languages = languages.with_rows(invented)  # a code that the user's own table gives to another language keeps that one
        uses_sources = components["transfer"].uses_sources or components["task"].uses_sources
        return cls(
            config=config,
            settings=settings,
            languages=languages,
            targets=_found(languages, settings.lang, "lang"),
            sources=_found(languages, settings.source, "source") if uses_sources else (),
            hub=Hub(Path(mirror).expanduser() if mirror else None, store, online and not settings.plan),
            **components,
        )

    @cached_property
    def evaluations(self) -> tuple[ScoringStep, ...]:
        """The ends of the graph, one for each target language."""
        return tuple(self.task.draw_evaluation(self, language) for language in self.targets)

    def offline(self) -> Experiment:
        """The same experiment without asking the network for anything."""
        return dataclasses.replace(self, hub=Hub(self.hub.mirror, store_folder(self.settings), online=False))

    def without_language_module(self) -> Experiment:
        """The same experiment on the backbone alone: its baseline."""
        language = dataclasses.replace(self.settings.language, path=None)
        settings = dataclasses.replace(self.settings, language=language)
        return dataclasses.replace(self, settings=settings, method=NoAdaptation(name="none"))

    # ---- the parts of the graph, as the components draw them

    def backbone(self) -> BackboneStep:
        """The model's part."""
        return self._backbone

    @cached_property
    def _backbone(self) -> BackboneStep:
        return self.model.draw(self)

    def text(self, language: Language) -> Step:
        """The data source's part."""
        return self.data.draw(self, language, self.settings.language.seed)

    def tokens(self, language: Language) -> TokensStep:
        """The language's text under the backbone's tokenizer."""
        text, backbone, training = self.text(language), self.backbone(), self.train.language
        return TokensStep(backbone.tokenizer, text, training.layout, backbone.clip(training.length))

    def language_module(self, language: Language) -> LanguageModuleStep | ReadyMadeModuleStep | None:
        """The method's part, or the module that `language.path` names; None for a method without language modules."""
        if self.settings.language.path is not None:
            return self.ready_made_module_step(self.settings.language.path, language)
        return self.method.draw(self, language)

    def member(self, choices: str, language: Language) -> LanguageModuleStep | ReadyMadeModuleStep:
        """The language module of a run that differs from this one in some choices.

        Args:
            choices: as on the command line, with spaces between them: `lang=mt method=seq_bn_inv`, `data=conceptnet`,
                `language.path=org/name`. Unless they say otherwise, the method is seq_bn_inv and the language that of the run.

        Raises:
            UserError: choices that cannot be, or a method without language modules.
        """
        from xlt.cli import compose, explain

        words = choices.split()
        named = {word.partition("=")[0] for word in words}
        words += [] if "method" in named else ["method=seq_bn_inv"]
        words += [] if "lang" in named else [f"lang={language.key}"]
        # What is chosen comes whole from the choices, and a setting of what is not is one more setting of the run's own.
        chosen = {word.partition("=")[0] for word in words if "." not in word.partition("=")[0]}
        settings = [word for word in words if word.partition("=")[0].partition(".")[0] not in chosen]
        try:
            config = compose([word for word in words if word not in settings])
            merged = self.config.copy()
            for key in chosen & set(config):
                OmegaConf.update(merged, key, config[key], merge=False, force_add=True)
            for override in OverridesParser.create().parse_overrides(settings):
                OmegaConf.update(merged, override.key_or_group, override.value(), force_add=True)
            experiment = dataclasses.replace(Experiment.from_config(merged, self.hub.online), hub=self.hub)
            step = experiment.language_module(experiment.targets[0])
        except Exception as error:
            if (message := explain(error, words)) is None:
                raise
            raise UserError(f"The member {choices!r} cannot be: {message}") from error
        if step is None:
            raise UserError(f"The member {choices!r} has no language module: method={experiment.method.name} makes none.")
        if step.backbone.fingerprint != self.backbone().fingerprint:
            raise UserError(f"The member {choices!r} is for another backbone than the run's, {self.backbone().label}.")
        return step

    def examples(self, task: Task, language: Language, splits: Sequence[str], who: str) -> DataSetExamplesStep:
        """A task's part: its labelled examples of a language.

        Args:
            splits: those that are needed.
            who: needs them, for the message.

        Raises:
            UserError: the data set lacks one of them.
        """
        step = task.draw(self, language)
        missing = [split for split in splits if self.has_split(task, language, split) is False]
        if missing:
            present = [split for split in SPLITS if self.has_split(task, language, split)]
            names = task.data.available(language, self.languages, self.hub.without_network())
            own = f"; its data set's own splits are {', '.join(names)}" if names else ""
            raise UserError(
                f"{who} needs labels of {language.name} ({language.key}) in the split {' and '.join(missing)}, which "
                f"{task.name} does not have (it has: {', '.join(present) or 'none'}{own}). Choose a task or a language with "
                "these labels, learn from another language (transfer=zero_shot source=en), or say under which names the data set "
                "has them (task.data.splits)."
            )
        return step

    def translated_examples(
        self, examples: DataSetExamplesStep, language: Language, splits: Sequence[str], projection: str | None = None
    ) -> ExamplesStep:
        """Labelled examples in the words of another language, by the run's translator; of the same language, themselves.

        Raises:
            UserError: there is no translator, or it does not know one of the languages, or the labels cannot be kept.
        """
        check_translatable(examples.task, projection)
        if examples.language == language:
            return examples
        translator = self.translator_step(examples.language, language, f"transfer={self.transfer.name}")
        return TranslatedExamplesStep(examples.task, language, examples.as_data(), translator, tuple(splits), projection)

    def translator_step(self, source: Language, target: Language, who: str) -> TranslatorStep:
        """The translator's part.

        Args:
            who: needs it, for the message.

        Raises:
            UserError: there is none, or it does not know one of the languages.
        """
        if self.translator is None:
            raise UserError(
                f"{who} translates {source.name} into {target.name}: say what does, for example translator=nllb_600m. "
                "translator=copying leaves every text as it is."
            )
        return self.translator.draw(self, source, target)

    def has_split(self, task: Task, language: Language, split: str) -> bool | None:
        """Whether there are examples of a language in a split; None where only the network knows."""
        return task.has_split(split, language, self.languages, self.hub.without_network())

    def task_module(self, sources: Sequence[Labels], sampling: str = "proportional", temperature: float = 1.0) -> TaskModuleStep:
        """A task module learnt from labels of one or more languages, on top of their language modules."""
        return TaskModuleStep(
            self.task_method,
            self.task,
            self.backbone(),
            tuple(sources),
            self.train.task,
            self.settings.seed,
            sampling,
            temperature,
        )

    # ---- the steps themselves

    def pretrained_backbone_step(self, model: PretrainedModel) -> PretrainedBackboneStep:
        """A ready-made model, checked for an anatomy, weights and, if a language module is wanted, its head."""
        if model.quantisation != "none" and importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                f"model.quantisation={model.quantisation} needs the package bitsandbytes, which is not installed: "
                "pip install 'xlt[quantised]'."
            )
        if model.quantisation == "4bit" and choose_device(self.settings).type == "cpu":
            # On a CPU bitsandbytes repacks 4-bit weights in a pass without gradients, and has none for them afterwards.
            raise UserError("model.quantisation=4bit needs a GPU. On a CPU take model.quantisation=8bit, or none.")
        source = self.hub.source(model.path, "model", model.revision)
        step = PretrainedBackboneStep(model, source, self.hub)
        _ = step.shape
        step.check_weights(language_head=False)
        self.hub.check_tokenizer(source)
        return step

    def scratch_backbone_step(self, model: ScratchModel) -> ScratchBackboneStep:
        """A backbone pretrained on the text of the model's languages."""
        corpus = model.data or self.data
        texts = tuple(corpus.draw(self, self.languages.find(code), model.seed) for code in model.languages)
        longest = model.shape.get("max_position_embeddings", model.train.length)
        length = min(model.train.length, longest)
        tokenizer = TokenizerStep(model.label, texts, model.vocabulary_size, longest, model.alphabet)
        tokens = tuple(TokensStep(tokenizer, text, model.train.layout, length) for text in texts)
        return ScratchBackboneStep(model, tokenizer, tokens)

    def text_step(self, corpus: Corpus, language: Language, seed: int) -> TextStep:
        """The text of one language from one source; `seed` splits it."""
        revision = corpus.revision(language, self.languages, self.hub)
        if corpus.near_duplicates is not None:
            check_near_duplicates()
        guards = tuple(self._guard(choices, language) for choices in corpus.guard)
        return TextStep(corpus, language, revision, seed, corpus.inputs(self.hub), guards)

    def parallel_text(self, source: ParallelText | None, one: Language, other: Language) -> ParallelTextStep:
        """The sentence pairs of two languages, in either order.

        Args:
            source: None: that of the run.

        Raises:
            UserError: the source does not have the pair, or there is none.
        """
        source = source or self.parallel
        if source is None:
            raise UserError(f"Say where parallel text of {one.name} and {other.name} is, for example parallel=opus100.")
        one, other = sorted((one, other), key=lambda language: language.key)
        return ParallelTextStep(source, (one, other), source.revision(one, other, self.languages, self.hub))

    def _guard(self, choices: str, language: Language) -> DataSetExamplesStep:
        """The labelled examples of the run's task (`task`), or of another (`task=sib200`), to be kept out of what is learnt."""
        if choices == "task":
            return self.task.draw(self, language)
        from xlt.cli import compose, explain

        try:
            config = self.config.copy()
            OmegaConf.update(config, "task", compose(choices.split())["task"], merge=False, force_add=True)
            return build(config["task"], "data.guard", Task).draw(self, language)
        except Exception as error:
            if (message := explain(error, choices.split())) is None:
                raise
            raise UserError(f"data.guard={choices!r} cannot be: {message}") from error

    def examples_step(self, task: Task, language: Language) -> DataSetExamplesStep:
        """The labelled examples of one language."""
        foreign = task is self.source_task and task is not self.task
        guards = tuple(self._guard(choices, language) for choices in task.data.guard) if foreign else ()
        return DataSetExamplesStep(task, language, task.revision(language, self.languages, self.hub), guards)

    def evaluation_step(
        self,
        task: Task,
        language: Language,
        language_module: LanguageModuleStep | ReadyMadeModuleStep | None,
        task_modules: Sequence[TaskModuleStep],
        examples: ExamplesStep,
        weights: tuple[float, ...] | None = None,
    ) -> EvaluationStep:
        """The score of task modules, or of the language model alone, on a language's test examples."""
        backbone = self.backbone()
        if not task_modules and isinstance(backbone, PretrainedBackboneStep):
            backbone.check_weights(language_head=True)
        return EvaluationStep(task, language, backbone, language_module, tuple(task_modules), examples, weights)

    def language_module_step(
        self,
        method: Method,
        language: Language,
        tokens: Sequence[Step],
        members: Sequence[LanguageModuleStep | ReadyMadeModuleStep] = (),
    ) -> LanguageModuleStep:
        """A module trained on tokens by the backbone's pretraining objective, on top of its members."""
        backbone = self.backbone()
        if isinstance(backbone, PretrainedBackboneStep):
            backbone.check_weights(language_head=True)
        return LanguageModuleStep(
            method, language, backbone, tuple(tokens), self.train.language, self.settings.language.seed, tuple(members)
        )

    def ready_made_module_step(self, path: str, language: Language) -> ReadyMadeModuleStep:
        """A module that was learnt elsewhere."""
        source = self.hub.source(path.replace("@lang", language.key), "model", self.settings.language.revision)
        return ReadyMadeModuleStep(language, self.backbone(), source, self.hub, self.settings.compat)


def _found(languages: LanguageTable, codes: Any, where: str) -> tuple[Language, ...]:
    """The languages of a setting, which names one or lists several."""
    listed = [] if codes is None else [codes] if isinstance(codes, str) else codes
    if not isinstance(listed, Sequence) or not all(isinstance(code, str) for code in listed):
        raise UserError(f"{where}={codes} is neither a language nor a list of languages such as {where}=[mt,yo].")
    found = tuple(languages.find(code) for code in listed)
    twice = [language.key for number, language in enumerate(found) if language in found[:number]]
    if twice:
        raise UserError(f"{where} names {twice[0]} twice.")
    return found


def store_folder(settings: Settings) -> Path:
    """Where the artifacts of an experiment are."""
    paths = settings.paths
    return Path(paths.store or Path(paths.outputs) / "store").expanduser().absolute()


def open_store(settings: Settings, say: Callable[[str], None] = print) -> Store:
    """The store of an experiment; what the package brings along is found in it too."""
    return Store(store_folder(settings), say, READY_MADE)


def choose_device(settings: Settings) -> torch.device:
    """The device that the settings ask for.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise UserError(
            "device=cuda, but torch finds no GPU here. Use device=cpu (train=quick is made for it) or a machine with one."
        )
    return torch.device("cuda" if available and settings.device != "cpu" else "cpu")


_SCALARS = tuple(setting_field.name for setting_field in dataclasses.fields(Settings))
