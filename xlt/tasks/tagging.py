"""A label for each word: named entities (WikiANN, MasakhaNER, CoNLL-2003), parts of speech (Universal Dependencies)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from xlt.analysis.classification import accuracy, confusion_counts, macro_f1
from xlt.backbones.backbone import Backbone
from xlt.backbones.heads import TaggingHead, initialise
from xlt.config import setting
from xlt.errors import UserError
from xlt.languages import Language
from xlt.tasks.base import Example, LearntTask, Prediction, Row, Span, Task, check_labels
from xlt.tasks.words import encode_words, split_words
from xlt.training.batches import Batch, pad
from xlt.training.masking import IGNORED

_METRICS = {"entities": ("f1", "precision", "recall"), "words": ("accuracy", "macro_f1")}

Tags = Sequence[str]  # of the words of a sentence
PieceTags = Sequence[Sequence[str]]  # of the sub-words of each word of a sentence


@dataclass(frozen=True)
class Tagging(LearntTask):
    """Words in, for each of them one of `labels` out.

    Attributes:
        labels: the label names, in the order that fixes their indices everywhere.
        scored_by: `words` (accuracy and macro-averaged F1), or the `entities` that B- and I- labels mark (F1, precision and
            recall of all entities together; as seqeval counts them, an I- that continues nothing begins an entity).
        scheme: which sub-words have a label in training: the `first` of each word (Ansell 2024); all, where B-X goes on as I-X
            (`continuation`; Pham et al. 2024); or all, each the word's own (`repeat`; Gurgurov et al. 2025).
        level: what is scored: each `word`, as its first sub-word is labelled, or each `subword`, held against what `scheme`
            makes of its word's label. Pham et al. (2024) and Gurgurov et al. (2025) score sub-words: with `repeat`, an entity's
            first word is as many entities as it has sub-words. Such scores compare with no others.
    """

    hub_type: ClassVar[str] = "token-classification"
    fields_read: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    not_of_examples: ClassVar[tuple[str, ...]] = (*LearntTask.not_of_examples, "scored_by", "scheme", "level")

    labels: list[str] = field(default_factory=list)
    scored_by: str = setting("words", one_of=tuple(_METRICS))
    scheme: str = setting("first", one_of=("first", "continuation", "repeat"))
    level: str = setting("word", one_of=("word", "subword"))

    @property
    def known_metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """The scores that are computed: those of words or those of entities."""
        return _METRICS[self.scored_by]

    @property
    def labels_on(self) -> str:  # type: ignore[override]
        """Entities are spans."""
        return "spans" if self.scored_by == "entities" else "words"

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        check_labels(self.labels, where)
        if self.scored_by == "entities" or self.scheme == "continuation":
            types = sorted({label[2:] for label in self.labels if label != "O"})
            missing = {"O", *(f"{mark}-{entity}" for entity in types for mark in "BI")}.difference(self.labels)
            if missing:
                raise UserError(
                    f"{where}.labels={list(self.labels)} lacks {', '.join(sorted(missing))}: for {where}.scored_by=entities and "
                    f"for {where}.scheme=continuation, labels are O and, for each type of entity, B-<type> and I-<type>."
                )
        if self.level == "subword" and self.scheme == "first":
            raise UserError(
                f"{where}.level=subword: with {where}.scheme=first only the first sub-word of each word has a label, so that its "
                f"score is the word's. Use {where}.level=word, or {where}.scheme=continuation or repeat."
            )
        super().verify(where)

    def check_source(self, source: Task) -> None:
        super().check_source(source)
        if self.level == "subword" and source.scheme != self.scheme:
            raise UserError(
                f"task={self.name} scores all sub-words by scheme={self.scheme}, and source_task={source.name} labels them by "
                f"scheme={source.scheme}. They have to be the same: source_task.scheme={self.scheme}."
            )

    # ---- examples

    def read(self, row: dict[str, Any]) -> Example:
        tokens, tags = row["tokens"], row["tags"]
        if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
            raise ValueError(f"its tokens are no list of words: {tokens!r}.")
        if not isinstance(tags, list) or len(tags) != len(tokens):
            found = f"{len(tags)} tags" if isinstance(tags, list) else f"no list of tags: {tags!r}"
            raise ValueError(f"each word needs a tag; it has {len(tokens)} words and {found}.")
        tags = [self.data.spelled(tag) for tag in tags]
        for tag in tags:
            if tag not in self.labels:
                raise ValueError(f"the label {tag!r} is none of the declared ones (task.labels: {', '.join(self.labels)}).")
        return {"tokens": tokens, "tags": tags}

    def labels_of(self, example: Example) -> list[str]:
        return example["tags"]

    # ---- translation

    def spans_of(self, example: Example) -> list[list[Span]]:
        """The entities."""
        starts = [0, *accumulate(len(token) + 1 for token in example["tokens"])]  # words are joined by spaces
        return [[(starts[first], starts[last + 1] - 1) for _, first, last in _entities(example["tags"])]]

    def translated(self, example: Example, texts: Sequence[str], spans: Sequence[Sequence[Span]], language: Language) -> Example:
        """Words are what spaces and the ends of entities separate; punctuation around a word is a word of its own, unless the
        example has the two as one."""
        (text,), known = texts, set(example["tokens"])
        tokens, tags, done = [], [], 0
        for (start, end), (kind, first, _) in sorted(zip(spans[0], _entities(example["tags"]), strict=True)):
            before, inside = split_words(text[done:start], known), split_words(text[start:end], known)
            tokens += [*before, *inside]
            tags += ["O"] * len(before) + [example["tags"][first]] + [f"I-{kind}"] * (len(inside) - 1)
            done = end
        behind = split_words(text[done:], known)
        return {**example, "tokens": [*tokens, *behind], "tags": [*tags, *["O"] * len(behind)]}

    # ---- learning and predicting

    def head(self, backbone: Backbone, generator: torch.Generator) -> TaggingHead:
        config = backbone.config
        head = TaggingHead(config.hidden_size, len(self.labels), getattr(config, "hidden_dropout_prob", 0.0))
        return initialise(head, backbone, generator)

    def encode(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
        """Rows of `encode_words`; a long sentence has several. `labels`: a number for each token, IGNORED for no label."""
        rows = encode_words([example["tokens"] for example in examples], tokenizer, max_length)
        number = {label: number for number, label in enumerate(self.labels)} | {None: IGNORED}
        for row in rows:
            tags = examples[row["example"]].get("tags")
            if tags is not None:
                row["labels"] = [
                    IGNORED if place < 0 else number[self._label(tags[row["words"][place]], first=place != before)]
                    for before, place in pairwise([-1, *row["word_of"]])
                ]
        return rows

    def tensors(self, rows: Sequence[Row], length: int) -> dict[str, torch.Tensor]:
        """`labels`: [rows, length], IGNORED where there is none."""
        return {"labels": pad([row["labels"] for row in rows], IGNORED, length)} if "labels" in rows[0] else {}

    def count(self, batch: Batch) -> int:
        """The labelled tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        scores = head(hidden, batch["attention_mask"]).float()
        return cross_entropy(scores.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")

    def scores(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """`labels`: [rows, length, labels]."""
        return {"labels": head(hidden, batch["attention_mask"]).float()}

    def answers(self, scores: Mapping[str, torch.Tensor], rows: Sequence[Row]) -> list[PieceTags]:
        result = []
        for row, numbers in zip(rows, scores["labels"].argmax(dim=-1).tolist(), strict=True):
            tags: list[list[str]] = [[] for _ in row["words"]]
            for place, number in zip(row["word_of"], numbers, strict=False):  # padding follows
                if place >= 0:
                    tags[place].append(self.labels[number])
            result.append(tags)
        return result

    def join(self, example: Example, rows: Sequence[Row], answers: Sequence[PieceTags]) -> Prediction:
        """`label`: the tag of each word; where sub-words are scored, a list of their tags for each word."""
        words = [tags for answer in answers for tags in answer]
        return {"label": words if self.level == "subword" else [tags[0] for tags in words]}

    # ---- scores

    def gold(self, example: Example) -> list[str]:
        """The tag of each word, whatever is scored."""
        return example["tags"]

    def counts(self, gold: Sequence[Tags], predicted: Sequence[Tags] | Sequence[PieceTags]) -> np.ndarray:
        """Of each sentence the cells of the confusion matrix [sentences, gold label · predicted label], or its entities
        [sentences, right · predicted · gold]."""
        pairs = list(zip(gold, predicted, strict=True))
        if self.level == "subword":
            pairs = [self._by_pieces(tags, words) for tags, words in pairs]
        if self.scored_by == "words":
            return np.stack([confusion_counts(tags, found, self.labels).sum(axis=0) for tags, found in pairs])
        entities = [(set(_entities(tags)), set(_entities(found))) for tags, found in pairs]
        return np.array([[len(there & found), len(found), len(there)] for there, found in entities])

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Accuracy, and F1 averaged over the labels that occur in gold or predictions; or F1, precision and recall of entities
        (Tjong Kim Sang & De Meulder 2003, section 2.3), zero where there are none."""
        if self.scored_by == "words":
            matrices = sums.reshape(len(sums), len(self.labels), len(self.labels))
            return {"accuracy": accuracy(matrices), "macro_f1": macro_f1(matrices)}
        right, predicted, gold = sums.T
        return {
            "f1": 2 * right / np.maximum(predicted + gold, 1),
            "precision": right / np.maximum(predicted, 1),
            "recall": right / np.maximum(gold, 1),
        }

    def _label(self, tag: str, first: bool) -> str | None:
        """What the scheme makes of a word's tag on its first sub-word or a further one; None for no label."""
        if first or self.scheme == "repeat":
            return tag
        if self.scheme == "first":
            return None
        return f"I-{tag[2:]}" if tag.startswith("B-") else tag

    def _by_pieces(self, tags: Tags, words: PieceTags) -> tuple[list[str | None], list[str]]:
        """Gold and predicted labels of a sentence's sub-words."""
        gold = [
            self._label(tag, first=number == 0) for tag, pieces in zip(tags, words, strict=True) for number in range(len(pieces))
        ]
        return gold, [label for pieces in words for label in pieces]


def _entities(tags: Tags) -> list[tuple[str, int, int]]:
    """The type of each entity, its first word and its last."""
    from seqeval.metrics.sequence_labeling import get_entities

    return get_entities(list(tags))
