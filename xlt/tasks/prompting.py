"""Prompting: a decoder classifies a text by which label it thinks likeliest behind it, after some demonstrations or none
(Brown et al. 2020, section 2.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from xlt.backbones.backbone import Backbone
from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.languages import Language
from xlt.random import Draw
from xlt.tasks.base import Example, LanguageModelTask, Prediction
from xlt.tasks.data import HubData, LabelledData
from xlt.tasks.pseudo_perplexity import Query, log_likelihoods, objective_of
from xlt.tasks.sequence_classification import SequenceClassification
from xlt.tasks.words import special_tokens

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.evaluation import EvaluationStep
    from xlt.steps.examples import DataSetExamplesStep


@dataclass(frozen=True)
class Prompting(LanguageModelTask):
    """Another task's examples, answered by a causal language model without training: the answer is the label whose words have
    the greatest likelihood behind the prompt. Every answer is therefore one of the labels.

    A prompt that is too long loses its first demonstrations, and if it still is the end of the text (of a pair, of the longer
    one), never the label.

    Attributes:
        of: the task. Its data, labels and scores are this one's.
        shots: how many demonstrations there are, from the training examples of the target language, each label as often as any
            other as far as they go.
        choice: demonstrations are `drawn`, or the `first` that there are.
        seed: what they are drawn with.
        template: an example, with the fields of the task's texts in braces and `{label}` at its end.
        verbalisers: label → the words that stand for it; a label that is not there stands for itself.
        separator: what stands behind each demonstration.
        normalise: a label's score is the `sum` of the log-likelihoods of its tokens, or their `mean`, which does not prefer
            short labels.
    """

    data: LabelledData = setting(HubData, identity=False)  # `of` identifies it
    of: SequenceClassification = field(default_factory=SequenceClassification)
    max_length: int = setting(2048, at_least=4)
    shots: int = setting(0, at_least=0)
    choice: str = setting("drawn", one_of=("drawn", "first"))
    seed: int = setting(0, at_least=0)
    template: str = setting("Text: {text}\nLabel: {label}")
    verbalisers: dict[str, str] = setting({})
    separator: str = setting("\n\n")
    normalise: str = setting("sum", one_of=("sum", "mean"))

    @property
    def hub_type(self) -> str:
        return self.of.hub_type

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.of.inputs

    @property
    def known_metrics(self) -> tuple[str, ...]:
        return self.of.known_metrics

    @property
    def needs(self) -> tuple[str, ...]:
        return ("train", "test") if self.shots else ("test",)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        super().verify(where)
        if self.data != self.of.data:
            raise UserError(f"{where}.data has to be that of the task which is answered: change {where}.of.data.")
        texts = " ".join(f"{{{name}}}" for name in self.of.inputs)
        try:
            found = sorted(name for _, name, _, _ in Formatter().parse(self.template) if name is not None)
        except ValueError:  # braces that do not match
            found = []
        if found != sorted((*self.of.inputs, "label")) or not self.template.endswith("{label}"):
            raise UserError(
                f"{where}.template={self.template!r} does not fit task.of={self.of.name}: it has to hold {texts} and {{label}}, "
                f"each once, and to end in {{label}}. For example: '{where}.template=\"{texts} {{label}}\"'."
            )
        for label, words in self.verbalisers.items():
            if label not in self.of.labels:
                raise UserError(f"{where}.verbalisers: there is no label {label}. {suggest(label, self.of.labels, 'labels')}")
            if not words.strip():
                raise UserError(f"{where}.verbalisers.{label} is empty: say which words stand for {label}.")

    # ---- of the task that it answers

    def draw(self, experiment: Experiment, language: Language) -> DataSetExamplesStep:
        """The task's own examples."""
        return self.of.draw(experiment, language)

    def draw_evaluation(self, experiment: Experiment, language: Language) -> EvaluationStep:
        _check(objective_of(experiment), experiment.model.label)
        return super().draw_evaluation(experiment, language)

    def read(self, row: dict[str, Any]) -> Example:
        return self.of.read(row)

    def gold(self, example: Example) -> Any:
        return self.of.gold(example)

    def counts(self, gold: Sequence[Any], predicted: Sequence[Any]) -> np.ndarray:
        return self.of.counts(gold, predicted)

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return self.of.metrics(sums)

    # ---- prompts

    def predict(
        self, backbone: Backbone, examples: Sequence[Example], max_length: int, read: Callable[[str], list[Example]]
    ) -> list[Prediction]:
        """The likeliest label of each example, the `log_likelihoods` of all, and how many `demonstrations` its prompt held.

        Raises:
            UserError: the backbone is no decoder, its tokenizer cannot tell two labels apart, there are fewer training examples
                than `shots`, or a prompt does not fit even without its text.
        """
        _check(backbone.anatomy.objective, backbone.config.model_type)
        self._check_verbalisers(backbone.tokenizer)
        demonstrations = self.demonstrations(read("train")) if self.shots else []
        prompts = [self.prompt(example, demonstrations, backbone.tokenizer, max_length) for example in examples]
        totals = iter(log_likelihoods(backbone, [query for queries, _ in prompts for query in queries]))
        predictions = []
        for queries, held in prompts:
            scores = {
                label: next(totals) / (len(query.asked) if self.normalise == "mean" else 1)
                for label, query in zip(self.of.labels, queries, strict=True)
            }
            best = max(sorted(scores), key=scores.__getitem__)  # whatever the order of the labels
            predictions.append({"label": best, "log_likelihoods": scores, "demonstrations": held})
        return predictions

    def demonstrations(self, train: Sequence[Example]) -> list[str]:
        """The demonstrations of a prompt: first one of each label, then a second, and so on."""
        if len(train) < self.shots:
            raise UserError(
                f"task.shots={self.shots}, and there are {len(train)} training examples: take task.shots={len(train)} or less."
            )
        ordered = train if self.choice == "first" else Draw(self.seed, "demonstrations").shuffled(train)
        earlier: Counter[str] = Counter()
        ranks = []
        for example in ordered:
            ranks.append(earlier[example["label"]])
            earlier[example["label"]] += 1
        chosen = sorted(range(len(ordered)), key=ranks.__getitem__)[: self.shots]
        return [self._filled(ordered[number], ordered[number]["label"]) for number in chosen]

    def prompt(self, example: Example, demonstrations: Sequence[str], tokenizer: Any, max_length: int) -> tuple[list[Query], int]:
        """For each label the prompt with the label behind it, whose tokens are asked for; and the number of demonstrations."""
        before, _ = special_tokens(tokenizer)
        texts = {name: example[name] for name in self.of.inputs}
        while True:
            queries = self._queries(texts, demonstrations, tokenizer, before)
            excess = max(len(query.ids) for query in queries) - max_length
            if excess <= 0:
                return queries, len(demonstrations)
            if demonstrations:
                demonstrations = demonstrations[1:]
                continue
            longer = max(texts, key=lambda name: len(texts[name]))
            texts[longer] = _without_end(texts[longer], excess, tokenizer)
            if not texts[longer]:
                raise UserError(
                    f"In {max_length} tokens (task.max_length, or what the model takes if that is less) the template and a label "
                    "leave no room for the text. Use shorter ones (task.template, task.verbalisers)."
                )

    def _queries(
        self, texts: dict[str, str], demonstrations: Sequence[str], tokenizer: Any, before: Sequence[int]
    ) -> list[Query]:
        """What `prompt` returns, of any length."""
        filled = [self.separator.join([*demonstrations, self._filled(texts, label)]) for label in self.of.labels]
        encoded = tokenizer(filled, add_special_tokens=False, return_offsets_mapping=True)
        queries = []
        for label, whole, ids, offsets in zip(
            self.of.labels, filled, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            # Cut into tokens together with what stands before it, as the model has seen words in its text.
            start = len(whole) - len(self._words(label))
            asked = [len(before) + place for place, (_, end) in enumerate(offsets) if end > start]
            queries.append(Query([*before, *ids], asked))
        return queries

    def _filled(self, texts: Example, label: str) -> str:
        fields = {name: texts[name] for name in self.of.inputs}
        return self.template.format(**fields, label=self._words(label))

    def _words(self, label: str) -> str:
        return self.verbalisers.get(label, label)

    def _check_verbalisers(self, tokenizer: Any) -> None:
        seen: dict[tuple[int, ...], str] = {}
        for label in self.of.labels:
            ids = tuple(tokenizer(self._words(label), add_special_tokens=False)["input_ids"])
            if not ids or ids in seen:
                pieces = " ".join(tokenizer.convert_ids_to_tokens(ids)) or "nothing"
                alike = f", as of {seen[ids]}" if ids in seen else ""
                raise UserError(
                    f"The model's tokenizer makes {pieces} of {self._words(label)!r}{alike}. "
                    f"Say which words stand for the label instead: '+task.verbalisers.{label}=<words>'."
                )
            seen[ids] = label


def _check(objective: str | None, model: str) -> None:
    if objective not in (None, "causal"):
        raise UserError(
            f"task=prompting asks a model what comes next, and {model} is no decoder. Take one: model=miniature_llama, or "
            "model=hf with a Llama or GPT-2 model such as model.path=ai-forever/mGPT."
        )


def _without_end(text: str, tokens: int, tokenizer: Any) -> str:
    """The text without its last tokens; shorter by a character at least."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text[: offsets[max(0, len(offsets) - tokens)][0]].rstrip() if offsets else ""
