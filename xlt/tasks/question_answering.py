"""Extractive question answering: the span of a context that answers a question (SQuAD 1.1, XQuAD, MLQA, TyDiQA-GoldP).

Every question has its answer in the context; there is no null answer. Contexts that are too long for the model are read in
windows that overlap, and the best span of all windows is the prediction.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from xlt.backbones.backbone import Backbone
from xlt.backbones.heads import QuestionAnsweringHead, initialise
from xlt.config import setting
from xlt.errors import UserError
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.tasks.base import Example, LearntTask, Prediction, Row, Span
from xlt.tasks.data import HubData
from xlt.training.batches import Batch

ScoredSpan = tuple[float, int, int]  # score; first character in the context, and the one behind the last

_TOKENISED_AT_ONCE = 256  # examples: what a tokenizer returns takes far more memory than rows do
_ARTICLES = {  # of MLQA's evaluation; that of SQuAD removes the English ones everywhere
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": "ال",  # wherever it stands in a word
}
_HAN = re.compile("([\u4e00-\u9fa5])")


@dataclass(frozen=True)
class QuestionAnswering(LearntTask):
    """A question and a context in, a span of the context out.

    An example has `context`, `question`, `answers` (the texts of all gold answers), `start` (where in the context the first of
    them begins, in characters) and `language`.

    Attributes:
        max_length: tokens of a window, the question and special ones included.
        stride: tokens of the context that neighbouring windows share (what tokenizers call stride, not BERT's doc_stride, which
            is how far apart they begin). At most half of what a question of full length leaves for the context.
        max_question_length: tokens of a question; a longer one loses its end. At most half of a window.
        n_best: spans of an example whose scores make up the `probability` of the best one.
        max_answer_length: tokens of a predicted answer.
        normalisation: what is disregarded when answers are compared; see `normalised`.
    """

    hub_type: ClassVar[str] = "question-answering"
    known_metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    fields_read: ClassVar[tuple[str, ...]] = ("context", "question", "answers")
    inputs: ClassVar[tuple[str, ...]] = ("context", "question")
    not_of_examples: ClassVar[tuple[str, ...]] = (
        *LearntTask.not_of_examples, "stride", "max_question_length", "n_best", "max_answer_length", "normalisation"
    )  # fmt: skip
    labels_on: ClassVar[str] = "spans"

    metric: str = setting("f1")
    max_length: int = setting(384, at_least=16)
    stride: int = setting(128, at_least=0)
    max_question_length: int = setting(64, at_least=1)
    n_best: int = setting(20, at_least=1)
    max_answer_length: int = setting(30, at_least=1)
    normalisation: str = setting("squad", one_of=("squad", "mlqa"))

    # ---- examples

    def examples(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, list[Example]]:
        splits = super().examples(language, languages, hub)
        return {split: [{**example, "language": language.key} for example in examples] for split, examples in splits.items()}

    def read(self, row: dict[str, Any]) -> Example:
        """An answer that does not stand where the row says is looked for: the nearest place where it does stand counts."""
        for name in ("context", "question"):
            if not isinstance(row[name], str) or not row[name].strip():
                raise ValueError(f"there is no {name} in it: {row[name]!r}.")
        answers = row["answers"]
        if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= answers.keys():
            raise ValueError(f"the answers have to be lists {{text: [...], answer_start: [...]}}, and are {answers!r}.")
        if not answers["text"] or not all(text.strip() for text in answers["text"]):
            raise ValueError("there is no answer in it; questions without one (SQuAD 2.0) have to be left out of the data.")
        if len(answers["text"]) != len(answers["answer_start"]):
            raise ValueError(f"it has {len(answers['text'])} answers and {len(answers['answer_start'])} places of answers.")
        start = _nearest(answers["text"][0], row["context"], answers["answer_start"][0])
        return {"context": row["context"], "question": row["question"], "answers": list(answers["text"]), "start": start}

    # ---- translation

    def spans_of(self, example: Example) -> list[list[Span]]:
        """The first answer: only of that is known where it is."""
        return [[(example["start"], example["start"] + len(example["answers"][0]))], []]

    def translated(self, example: Example, texts: Sequence[str], spans: Sequence[Sequence[Span]], language: Language) -> Example:
        """With one answer, that of the span."""
        (context, question), ((start, end),) = texts, spans[0]
        return {**example, "context": context, "question": question, "answers": [context[start:end]], "start": start,
                "language": language.key}  # fmt: skip

    # ---- the model

    def head(self, backbone: Backbone, generator: torch.Generator) -> QuestionAnsweringHead:
        config = backbone.config
        head = QuestionAnsweringHead(config.hidden_size, 2, getattr(config, "hidden_dropout_prob", 0.0))
        return initialise(head, backbone, generator)

    def encode(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
        """The windows of the examples: the question, then a part of the context.

        Returns:
            Rows with `input_ids`, `example`, `context` (the position of the first token of the context), `offsets` [tokens of
            the context, 2] (where in the context each begins and ends, in characters) and, of examples with answers, `start`
            and `end`: the positions of the first and the last token of the first answer, both 0 (of BERT's tokens: [CLS])
            where the window does not hold the whole of it.

        Raises:
            UserError: the tokenizer cannot tell where tokens stand, or makes nothing of a context.
        """
        if not tokenizer.is_fast:
            raise UserError(
                "Question answering needs a tokenizer that tells where in the text its tokens stand (a tokenizer.json, as "
                "`save_pretrained` of a fast tokenizer writes it), and that of this model does not."
            )
        return [
            row
            for first in range(0, len(examples), _TOKENISED_AT_ONCE)
            for row in self._windows(examples[first : first + _TOKENISED_AT_ONCE], first, tokenizer, max_length)
        ]

    def _windows(self, examples: Sequence[Example], first: int, tokenizer: Any, max_length: int) -> Iterator[Row]:
        room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
        question_length = min(self.max_question_length, room // 2)
        encoded = tokenizer(
            _beginnings([example["question"] for example in examples], tokenizer, question_length),
            [example["context"] for example in examples],
            truncation="only_second",
            max_length=max_length,
            stride=min(self.stride, (room - question_length) // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for number, place in enumerate(encoded["overflow_to_sample_mapping"]):
            example = examples[place]
            of_context = np.array([part == 1 for part in encoded.sequence_ids(number)])
            if not of_context.any():
                raise UserError(f"The tokenizer makes nothing of a context: {example['context']!r}.")
            row = {
                "input_ids": encoded["input_ids"][number], "example": first + place, "context": int(of_context.argmax()),
                "offsets": np.array(encoded["offset_mapping"][number], dtype=np.int32)[of_context],
            }  # fmt: skip
            if "token_type_ids" in encoded:
                row["token_type_ids"] = encoded["token_type_ids"][number]
            if "start" in example:
                row["start"], row["end"] = _tokens_of_answer(example, row)
            yield row

    def tensors(self, rows: Sequence[Row], length: int) -> dict[str, torch.Tensor]:
        """`starts` and `ends`, [rows] each, in tokens."""
        if "start" not in rows[0]:
            return {}
        return {f"{name}s": torch.tensor([row[name] for row in rows]) for name in ("start", "end")}

    def loss(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Of each row the mean of the cross-entropies of start and end over its tokens (Devlin et al. 2019, section 4.2)."""
        scores = head(hidden, batch["attention_mask"]).float()
        scores = scores.masked_fill(batch["attention_mask"][..., None] == 0, float("-inf"))
        targets = torch.stack([batch["starts"], batch["ends"]], dim=1)
        return cross_entropy(scores, targets, reduction="sum") / 2

    def scores(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """`start` and `end`: [rows, length], of each token."""
        start, end = head(hidden, batch["attention_mask"]).float().unbind(dim=-1)
        return {"start": start, "end": end}

    def answers(self, scores: Mapping[str, torch.Tensor], rows: Sequence[Row]) -> list[list[ScoredSpan]]:
        """The `n_best` best spans of each window, best first."""
        starts, ends = scores["start"].cpu(), scores["end"].cpu()
        return [self._spans(start, end, row) for start, end, row in zip(starts, ends, rows, strict=True)]

    def _spans(self, start: torch.Tensor, end: torch.Tensor, row: Row) -> list[ScoredSpan]:
        """A span scores what its first token scores as a start and its last as an end (Devlin et al. 2019, section 4.2)."""
        size, longest = len(row["offsets"]), self.max_answer_length
        context = slice(row["context"], row["context"] + size)
        # totals[i, k]: the span of k + 1 tokens from token i on; -inf where it would end behind the context.
        beyond = torch.full((longest - 1,), float("-inf"))
        totals = start[context, None] + torch.cat([end[context], beyond]).unfold(0, longest, 1)
        best = totals.flatten().topk(min(self.n_best, totals.numel()))
        places = [(place // longest, place // longest + place % longest) for place in best.indices.tolist()]
        return [
            (score, int(row["offsets"][first, 0]), int(row["offsets"][last, 1]))
            for score, (first, last) in zip(best.values.tolist(), places, strict=True)
            if last < size
        ]

    def join(self, example: Example, rows: Sequence[Row], answers: Sequence[list[ScoredSpan]]) -> Prediction:
        """The best span of all windows; `start` is its first character in the context, `score` the sum of its two scores, and
        `probability` its share in the softmax over the example's `n_best` best spans."""
        of_place: dict[tuple[int, int], float] = {}  # windows overlap: a span may be in two
        for score, start, end in (span for spans in answers for span in spans):
            of_place[start, end] = max(score, of_place.get((start, end), score))
        best = sorted(of_place.items(), key=lambda item: -item[1])[: self.n_best]
        (start, end), score = best[0]
        text = example["context"][start:end]
        return {
            "label": text.strip(),
            "start": start + len(text) - len(text.lstrip()),
            "score": score,
            "probability": float(torch.tensor([other for _, other in best]).softmax(dim=0)[0]),
        }

    # ---- scores

    def gold(self, example: Example) -> dict[str, Any]:
        """All answers, and the language, which decides what is disregarded."""
        return {"answers": example["answers"], "language": example["language"]}

    def labels_of(self, example: Example) -> Sequence[str]:
        """None: answers are no labels."""
        return ()

    def counts(self, gold: Sequence[Mapping[str, Any]], predicted: Sequence[str]) -> np.ndarray:
        """Of each example its F1, its exact match and 1: [examples, 3]. The gold answer that gives the most counts, for each of
        the two on its own, as in SQuAD's evaluation (Rajpurkar et al. 2016, section 6.1)."""
        result = np.ones((len(gold), 3))
        for row, entry, answer in zip(result, gold, predicted, strict=True):
            tokens = normalised(answer, self.normalisation, entry["language"])
            targets = [normalised(text, self.normalisation, entry["language"]) for text in entry["answers"]]
            row[:2] = max(_f1(tokens, target) for target in targets), max(tokens == target for target in targets)
        return result

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """F1 of the words and share of exact matches, averaged over the examples."""
        return {"f1": sums[:, 0] / sums[:, 2], "exact_match": sums[:, 1] / sums[:, 2]}


@dataclass(frozen=True)
class TydiqaData(HubData):
    """TyDiQA-GoldP (Clark et al. 2020): all languages lie in one configuration, and ids begin with the language's English name
    (`swahili-…`). `configs` says which languages there are."""

    def read(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterator[dict[str, Any]]:
        for row in super().read(language, languages, hub, split):
            if row["id"].split("-")[0] == language.name.lower():
                yield row


def normalised(text: str, normalisation: str, language: str) -> list[str]:
    """The words of an answer as the official evaluations compare them: in lower case, without punctuation and articles.

    Args:
        normalisation: `squad`: ASCII punctuation, English articles (Rajpurkar et al. 2016, section 6.1), whatever the language;
            XQuAD and TyDiQA are scored so. `mlqa`: all punctuation of Unicode, the language's own articles, and in Chinese each
            character a word (Lewis et al. 2020, section 5); a language that MLQA lacks has no articles.
        language: by our key.
    """
    text = text.lower()
    if normalisation == "squad":
        text = "".join(character for character in text if character not in string.punctuation)
        return re.sub(_ARTICLES["en"], " ", text).split()
    text = "".join(character for character in text if not _is_punctuation(character))
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    return (_HAN.sub(r" \1 ", text) if language == "zh" else text).split()


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the words, each as often as it occurs."""
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold)) if common else 0.0


def _nearest(answer: str, context: str, start: int) -> int:
    """Where the answer begins: at `start`, or else at the nearest place where it stands in the context."""
    if context.startswith(answer, start):
        return start
    places = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    if not places:
        raise ValueError(f"the answer {answer!r} is not in the context.")
    return min(places, key=lambda place: abs(place - start))


def _beginnings(texts: Sequence[str], tokenizer: Any, length: int) -> list[str]:
    """The texts, each without what goes beyond its first `length` tokens."""
    encoded = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=length, return_offsets_mapping=True)
    return [text[: offsets[-1][1]] if offsets else "" for text, offsets in zip(texts, encoded["offset_mapping"], strict=True)]


def _tokens_of_answer(example: Example, row: Row) -> tuple[int, int]:
    """The positions of the first and the last token of the first answer; twice 0 where the window cuts it."""
    start, end = example["start"], example["start"] + len(example["answers"][0])
    offsets = row["offsets"]
    if start < offsets[0, 0] or offsets[-1, 1] < end:
        return 0, 0
    first = np.flatnonzero(offsets[:, 1] > start)[0]
    last = np.flatnonzero(offsets[:, 0] < end)[-1]
    return row["context"] + int(first), row["context"] + int(last)
