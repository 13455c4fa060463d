"""Pseudo-perplexity: how well a language model expects each token of a text, given the others (Salazar et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.config import setting
from xlt.errors import UserError
from xlt.languages import Language
from xlt.tasks.base import Example, LanguageModelTask, Prediction
from xlt.training.batches import pad
from xlt.training.objectives import to_device

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.evaluation import EvaluationStep

_ENCODED = ("input_ids", "special_tokens_mask", "offset_mapping")
_TOKENS_IN_A_PASS = 8192  # of all rows together, padding included
_SCORED_TOGETHER = 512  # positions; each has a score for the whole vocabulary


@dataclass(frozen=True)
class PseudoPerplexity(LanguageModelTask):
    """Sentences in, their pseudo-perplexity out; lower is better. The defaults are those of Gurgurov et al. (2025).

    A masked model reads a sentence x as often as it has tokens, each time with another one masked (Salazar et al. 2020,
    section 2):

        PLL(x) = Σ ln p(x_i | all others)        PPPL(x) = exp(−PLL(x) / n)

    A causal model predicts each token from those before it, and the same formulas give its perplexity; the first token is
    predicted only where the tokenizer puts a special one before it. Scores of different tokenizers cannot be compared token by
    token. Unknown tokens are easy to expect, so a low score beside a high `unknown_share` says nothing.

    Attributes:
        special_tokens: whether the tokens that the tokenizer adds ([CLS] and [SEP], say) are among those that are predicted and
            counted. They are read in any case.
        over: `sentences`, the mean of their PPPL(x); or `corpus`, exp(−Σ PLL(x) / Σ n).
        per: what n counts: each predicted `token`, or each `character` (Unicode code point) of the text that was read.
    """

    known_metrics: ClassVar[tuple[str, ...]] = ("pseudo_perplexity", "unknown_share")
    fields_read: ClassVar[tuple[str, ...]] = ("text",)
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    more_is_better: ClassVar[bool] = False

    metric: str = setting("pseudo_perplexity")
    max_length: int = setting(512, at_least=4)
    special_tokens: bool = setting(True)
    over: str = setting("sentences", one_of=("sentences", "corpus"))
    per: str = setting("token", one_of=("token", "character"))

    def draw_evaluation(self, experiment: Experiment, language: Language) -> EvaluationStep:
        _check(objective_of(experiment), experiment.model.label)
        return super().draw_evaluation(experiment, language)

    def read(self, row: dict[str, Any]) -> Example:
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise ValueError(f"there is no text in it: {row['text']!r}.")
        return {"text": row["text"]}

    def gold(self, example: Example) -> None:
        """Nothing: a text is not compared with anything."""

    def labels_of(self, example: Example) -> Sequence[str]:
        return []

    def predict(
        self, backbone: Backbone, examples: Sequence[Example], max_length: int, read: Callable[[str], list[Example]]
    ) -> list[Prediction]:
        """What is counted in each sentence, as its `label`: `log_likelihood` (PLL, in nats), `predicted` (how many tokens it is
        the sum of), `tokens` and `characters` of the text that was read, and how many of these tokens are `unknown`.

        Raises:
            UserError: the backbone is an encoder-decoder, or has no mask token.
        """
        tokenizer, objective = backbone.tokenizer, backbone.anatomy.objective
        _check(objective, backbone.config.model_type)
        if objective == "masked" and tokenizer.mask_token_id is None:
            raise UserError("The backbone's tokenizer has no mask token, and without one no pseudo-perplexity can be measured.")
        encoded = tokenizer(
            [example["text"] for example in examples], truncation=True, max_length=max_length, return_special_tokens_mask=True,
            return_offsets_mapping=True,
        )  # fmt: skip
        labels: list[dict[str, Any]] = []
        queries: list[Query] = []
        sentence_of: list[int] = []
        for ids, special, offsets in zip(*(encoded[name] for name in _ENCODED), strict=True):
            asked = [
                position
                for position in range(1 if objective == "causal" else 0, len(ids))
                if self.special_tokens or not special[position]
            ]
            parts = [asked] if objective == "causal" else [[position] for position in asked]
            queries += [Query(ids, part) for part in parts]
            sentence_of += [len(labels)] * len(parts)
            own = [token for token, added in zip(ids, special, strict=True) if not added]
            labels.append({
                "log_likelihood": 0.0, "predicted": len(asked), "tokens": len(own),
                "characters": max((end for _, end in offsets), default=0), "unknown": own.count(tokenizer.unk_token_id),
            })  # fmt: skip
        for number, log_likelihood in zip(sentence_of, log_likelihoods(backbone, queries), strict=True):
            labels[number]["log_likelihood"] += log_likelihood
        return [{"label": label} for label in labels]

    def counts(self, gold: Sequence[None], predicted: Sequence[dict[str, Any]]) -> np.ndarray:
        """PPPL(x), PLL(x), n, 1, tokens and unknown tokens; zeros where nothing was predicted."""
        rows = []
        for label in predicted:
            log_likelihood, n = label["log_likelihood"], label["characters" if self.per == "character" else "predicted"]
            if label["predicted"]:
                rows.append([np.exp(-log_likelihood / n), log_likelihood, n, 1, label["tokens"], label["unknown"]])
            else:
                rows.append([0] * 6)
        return np.array(rows, dtype=float)

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """The pseudo-perplexity, and the share of the texts' tokens that are unknown."""
        perplexities, log_likelihood, n, sentences, tokens, unknown = sums.T
        over_corpus = self.over == "corpus"
        return {
            "pseudo_perplexity": np.exp(-log_likelihood / n) if over_corpus else perplexities / sentences,
            "unknown_share": unknown / np.maximum(tokens, 1),
        }


class Query(NamedTuple):
    """Tokens, and the positions of those whose probability is asked for."""

    ids: Sequence[int]
    asked: Sequence[int]


@torch.no_grad()
def log_likelihoods(backbone: Backbone, queries: Sequence[Query]) -> list[float]:
    """For each query the sum of ln p(token) over the positions asked for, in nats.

    A masked model reads all tokens of a query but those asked for, which are masked together; a causal model predicts each from
    those before it, so that it cannot be asked for the first.
    """
    causal, device = backbone.anatomy.objective == "causal", backbone.model.device
    result = [0.0] * len(queries)
    for numbers in _passes(queries):
        chosen = [queries[number] for number in numbers]
        ids = pad([query.ids for query in chosen], backbone.tokenizer.pad_token_id)
        attention = (torch.arange(ids.shape[1]) < torch.tensor([len(query.ids) for query in chosen])[:, None]).long()
        row = torch.tensor([row for row, query in enumerate(chosen) for _ in query.asked])
        position = torch.tensor([position for query in chosen for position in query.asked])
        targets = ids[row, position]
        if causal:
            position -= 1
        else:
            ids[row, position] = backbone.tokenizer.mask_token_id
        hidden = backbone.hidden_states(to_device(ids, device), to_device(attention, device))
        # The language head, the costliest part, reads the positions asked for and no others.
        asked = hidden.flatten(0, 1).index_select(0, to_device(row * ids.shape[1] + position, device))
        parts = zip(asked.split(_SCORED_TOGETHER), to_device(targets, device).split(_SCORED_TOGETHER), strict=True)
        losses = [cross_entropy(backbone.language_head(states).float(), wanted, reduction="none") for states, wanted in parts]
        sums = torch.zeros(len(chosen), dtype=torch.float64).index_add(0, row, -torch.cat(losses).double().cpu())
        for number, log_likelihood in zip(numbers, sums.tolist(), strict=True):
            result[number] = log_likelihood
    return result


def objective_of(experiment: Experiment) -> str | None:
    """What a run's backbone was pretrained for (see `Anatomy.objective`); None where that cannot be known yet."""
    shape = experiment.backbone().shape
    return None if shape is None else anatomy_of(shape["model_type"].replace("-", "_"), experiment.model.anatomy).objective


def _check(objective: str | None, model: str) -> None:
    if objective == "denoising":
        raise UserError(
            f"{model} is an encoder-decoder. No pseudo-perplexity is defined for it: its decoder predicts a token from those "
            "before it, and its encoder may have read it. Take an encoder (model=mbert, model=xlmr) or a decoder (a Llama)."
        )


def _passes(queries: Sequence[Query]) -> Iterator[list[int]]:
    """The numbers of the queries that go through the model together: of similar length, the longest ones first."""
    order = sorted((number for number, query in enumerate(queries) if query.asked), key=lambda number: -len(queries[number].ids))
    start = 0
    while start < len(order):
        rows = max(1, _TOKENS_IN_A_PASS // len(queries[order[start]].ids))
        yield order[start : start + rows]
        start += rows
