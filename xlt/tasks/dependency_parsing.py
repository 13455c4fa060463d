"""Dependency parsing: each word's head and relation, by a shallow biaffine parser on the backbone's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.functional import pad as extend

from xlt.backbones.backbone import Backbone
from xlt.config import setting
from xlt.tasks.base import Example, LearntTask, Prediction, Row, check_labels
from xlt.tasks.words import encode_words, special_tokens
from xlt.training.batches import Batch, pad
from xlt.training.masking import IGNORED

_PUNCTUATION = "punct"
_WORDS_STEP = 16  # batches are padded to a multiple of this many words, so that few shapes occur


@dataclass(frozen=True)
class DependencyParsing(LearntTask):
    """Words in; of each word its head, a number counted from 1 (0 for the root), and one of `labels` out.

    Of a sentence that is longer than the model takes, the words that fit are read. The others get no head, which counts as wrong.

    Attributes:
        labels: the relations, in the order that fixes their indices everywhere.
        decoding: `greedy` gives each word the head that scores best, whether or not this makes a tree, as in the papers; `tree`
            the tree with one root that scores best.
        subtypes: tell subtypes apart (`nsubj:pass` from `nsubj`); `labels` has to name them then.
        punctuation: count words whose relation is `punct` in the scores.
    """

    hub_type: ClassVar[str] = "token-classification"
    known_metrics: ClassVar[tuple[str, ...]] = ("las", "uas")
    fields_read: ClassVar[tuple[str, ...]] = ("tokens", "heads", "relations")
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)

    metric: str = setting("las")
    labels: list[str] = field(default_factory=list)
    decoding: str = setting("greedy", one_of=("greedy", "tree"))
    subtypes: bool = setting(False)
    punctuation: bool = setting(True)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        check_labels(self.labels, where)
        super().verify(where)

    # ---- examples

    def read(self, row: dict[str, Any]) -> Example:
        tokens, heads, relations = (row[name] for name in self.fields_read)
        if not all(isinstance(column, list) and column for column in (tokens, heads, relations)):
            raise ValueError(f"tokens, heads and relations have to be lists: {tokens!r}, {heads!r}, {relations!r}.")
        if not len(tokens) == len(heads) == len(relations):
            raise ValueError(
                f"each word needs a head and a relation; it has {len(tokens)} words, {len(heads)} heads and {len(relations)} "
                "relations."
            )
        strange = [head for head in heads if not isinstance(head, int) or not 0 <= head <= len(tokens)]
        if strange:
            raise ValueError(f"the head {strange[0]!r} is none of the numbers 0 to {len(tokens)}.")
        if heads.count(0) != 1 or _cycle([0, *heads]):
            raise ValueError(f"the heads {heads} are no tree with one root.")
        return {"tokens": tokens, "heads": heads, "relations": [self._relation(relation) for relation in relations]}

    def gold(self, example: Example) -> list[list[Any]]:
        """[head, relation] of each word."""
        return [list(arc) for arc in zip(example["heads"], example["relations"], strict=True)]

    def labels_of(self, example: Example) -> Sequence[str]:
        return example["relations"]

    def _relation(self, found: str) -> str:
        relation = self.data.spelled(found if self.subtypes else found.partition(":")[0])
        if relation not in self.labels:
            raise ValueError(f"the relation {relation!r} is none of the declared ones (task.labels: {', '.join(self.labels)}).")
        return relation

    # ---- the model

    def head(self, backbone: Backbone, generator: torch.Generator) -> BiaffineHead:
        """A head with the dropout of the backbone, whose root is the first token where that is special and sees the sentence."""
        config, tokenizer = backbone.config, backbone.tokenizer  # no tokenizer where parameters are only counted
        first_is_root = backbone.anatomy.objective == "masked" and (tokenizer is None or special_tokens(tokenizer)[0])
        root = None if first_is_root else generator
        return BiaffineHead(config.hidden_size, len(self.labels), getattr(config, "hidden_dropout_prob", 0.0), root)

    def encode(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
        first: dict[int, Row] = {}
        for row in encode_words([example["tokens"] for example in examples], tokenizer, max_length):
            first.setdefault(row["example"], row)
        numbers = {label: number for number, label in enumerate(self.labels)}
        for number, row in first.items():
            example = examples[number]
            if "heads" in example:
                count = len(row["words"])
                heads, relations = example["heads"][:count], [numbers[name] for name in example["relations"][:count]]
                row["heads"] = [head if head <= count else IGNORED for head in heads]
                row["relations"] = [
                    relation if head <= count else IGNORED for head, relation in zip(heads, relations, strict=True)
                ]
        return list(first.values())

    def tensors(self, rows: Sequence[Row], length: int) -> dict[str, torch.Tensor]:
        """`word_of` [rows, length], the place of each token's word, -1 for special tokens and padding; `is_word` [rows, words];
        where the examples have them, `heads` and `relations` [rows, words]."""
        batch = {
            "word_of": pad([row["word_of"] for row in rows], -1, length),
            "is_word": pad([[1] * len(row["words"]) for row in rows], 0, _WORDS_STEP).bool(),
        }
        if "heads" in rows[0]:
            batch |= {name: pad([row[name] for row in rows], IGNORED, _WORDS_STEP) for name in ("heads", "relations")}
        return batch

    def count(self, batch: Batch) -> int:
        """The words whose head the model reads."""
        return int((batch["heads"] != IGNORED).sum())

    def loss(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The cross-entropy of each word's head among the root and all words, plus that of its relation at the gold head."""
        dependents, heads = head.vectors(hidden, batch["word_of"], batch["is_word"].shape[1])
        is_head = extend(batch["is_word"], (1, 0), value=True)
        arcs = head.arcs(dependents, heads).float().masked_fill(~is_head[:, None], -torch.inf)
        gold = batch["heads"].clamp(min=0).unsqueeze(-1).expand(-1, -1, heads.shape[-1])
        relations = head.relations(dependents, heads.gather(1, gold)).float()
        return _sum_of_losses(arcs, batch["heads"]) + _sum_of_losses(relations, batch["relations"])

    def scores(self, head: nn.Module, hidden: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """`arcs`: [rows, words, 1 + words], the root first; `relations`: [rows, words, 1 + words, labels], for each head that a
        word may get, because only the sum over branches says which one it gets."""
        dependents, heads = head.vectors(hidden, batch["word_of"], batch["is_word"].shape[1])
        return {
            "arcs": head.arcs(dependents, heads).float(),
            "relations": head.relations_of_all_pairs(dependents, heads).float(),
        }

    def answers(self, scores: Mapping[str, torch.Tensor], rows: Sequence[Row]) -> list[list[list[Any]]]:
        """[head, relation] of each word that was read; the relation is the best one at the head that was chosen."""
        choose = best_tree if self.decoding == "tree" else best_heads
        best_relations = scores["relations"].argmax(dim=-1).cpu().numpy()
        result = []
        for row, arcs, relations in zip(rows, scores["arcs"].double().cpu().numpy(), best_relations, strict=True):
            count = len(row["words"])
            heads = choose(arcs[:count, : count + 1])
            chosen = relations[np.arange(count), heads]
            result.append([[int(head), self.labels[relation]] for head, relation in zip(heads, chosen, strict=True)])
        return result

    def join(self, example: Example, rows: Sequence[Row], answers: Sequence[list[list[Any]]]) -> Prediction:
        """`label`: [head, relation] of each word; None for words that the model did not read."""
        return {"label": [*answers[0], *[None] * (len(example["tokens"]) - len(answers[0]))]}

    # ---- scores

    def counts(self, gold: Sequence[Any], predicted: Sequence[Any]) -> np.ndarray:
        """Of each sentence the words with the right head, those with the right relation to it, and all words."""
        result = []
        for right, answer in zip(gold, predicted, strict=True):
            words = [
                (arc, found)
                for arc, found in zip(right, answer, strict=True)
                if self.punctuation or arc[1].partition(":")[0] != _PUNCTUATION
            ]
            attached = sum(found is not None and found[0] == arc[0] for arc, found in words)
            result.append([attached, sum(found == arc for arc, found in words), len(words)])
        return np.array(result)

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Shares of the words: with the right head and relation (labelled attachment score), with the right head (unlabelled)."""
        attached, labelled, words = sums.T
        return {"las": labelled / np.maximum(words, 1), "uas": attached / np.maximum(words, 1)}


class BiaffineHead(nn.Module):
    """The shallow biaffine parser of Glavaš & Vulić (2021): two biaffine products, without layers of its own below them.

    A word's vector x is the mean of its tokens' states, and h are the vectors that may be heads, the root's before the words':

        arc score of i and j            [x_i; 1] · A h_j
        score of relation r there       [x_i; 1] · R_r [h_j; 1]

    A and R begin at zero, as in the paper: every head and relation is as likely as any other then, while the products with the
    states, which are not zero, give A and R gradients from the first step.

    Args:
        hidden: dimensions of a state.
        labels: relations.
        dropout: of the states.
        root: what a vector for the root is drawn from, which is learnt; None: the root is the first token's state.
    """

    def __init__(self, hidden: int, labels: int, dropout: float, root: torch.Generator | None) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.arc_weight = nn.Parameter(torch.zeros(hidden + 1, hidden))
        self.relation_weight = nn.Parameter(torch.zeros(labels, hidden + 1, hidden + 1))
        self.root = None if root is None else nn.Parameter(torch.randn(hidden, generator=root))

    def vectors(self, hidden: torch.Tensor, word_of: torch.Tensor, words: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The vectors of dependents and of heads.

        Args:
            hidden: [rows, length, hidden].
            word_of: the place of each token's word, [rows, length]; -1 for none.
            words: how many words the longest row has room for.

        Returns:
            [rows, words, hidden] and [rows, 1 + words, hidden], zero for words that a row does not have.
        """
        hidden = self.dropout(hidden)
        tokens = word_of[:, None] == torch.arange(words, device=word_of.device)[:, None]  # [rows, words, length]
        shares = tokens / tokens.sum(dim=-1, keepdim=True).clamp(min=1)
        means = shares.to(hidden.dtype) @ hidden
        root = hidden[:, 0] if self.root is None else self.root.expand(len(hidden), -1)
        return means, torch.cat([root[:, None], means], dim=1)

    def arcs(self, dependents: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """[rows, words, hidden], [rows, 1 + words, hidden] → scores of all pairs [rows, words, 1 + words]."""
        return _with_one(dependents) @ self.arc_weight @ heads.transpose(1, 2)

    def relations(self, dependents: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """Vectors of words and of the head of each, [rows, words, hidden] both → scores [rows, words, labels]."""
        left, right = _with_one(dependents), _with_one(heads)
        return torch.stack([(left @ weight * right).sum(dim=-1) for weight in self.relation_weight], dim=-1)

    def relations_of_all_pairs(self, dependents: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """[rows, words, hidden], [rows, 1 + words, hidden] → scores [rows, words, 1 + words, labels]."""
        left, right = _with_one(dependents), _with_one(heads).transpose(1, 2)
        return torch.stack([left @ weight @ right for weight in self.relation_weight], dim=-1)


def best_heads(arcs: np.ndarray) -> np.ndarray:
    """Each word's best head other than itself, [words], from arc scores [words, 1 + words]."""
    return _without_loops(arcs).argmax(axis=1)


def best_tree(arcs: np.ndarray) -> np.ndarray:
    """The heads [words] of the tree with one root that has the greatest sum of arc scores [words, 1 + words].

    The algorithm of Chu & Liu (1965) and Edmonds (1967).
    """
    arcs = _without_loops(arcs)
    # A second root costs more than all other arcs could bring.
    arcs[:, 0] -= 1 + len(arcs) * np.ptp(arcs[np.isfinite(arcs)])
    nothing_above_the_root = np.full((1, len(arcs) + 1), -np.inf)
    return _best_arborescence(np.concatenate([nothing_above_the_root, arcs]))[1:]


def _best_arborescence(scores: np.ndarray) -> np.ndarray:
    """The best head of each node, node 0 being the root, from scores [dependents, heads]: the best head each, and where these go
    round in a cycle, the best for a graph in which that cycle is one node."""
    heads = scores.argmax(axis=1)
    cycle = _cycle(heads)
    if not cycle:
        return heads
    others = np.setdiff1d(np.arange(len(scores)), cycle)
    entering = scores[np.ix_(cycle, others)] - scores[cycle, heads[cycle]][:, None]  # the arc in the cycle goes
    leaving = scores[np.ix_(others, cycle)]
    contracted = np.full((len(others) + 1, len(others) + 1), -np.inf)
    contracted[:-1, :-1] = scores[np.ix_(others, others)]
    contracted[-1, :-1] = entering.max(axis=0)
    contracted[:-1, -1] = leaving.max(axis=1)
    *found, above = _best_arborescence(contracted)
    nearest = np.array(cycle)[leaving.argmax(axis=1)]  # of the cycle's nodes, the best head of each other node
    heads[others] = [others[head] if head < len(others) else own for head, own in zip(found, nearest, strict=True)]
    heads[cycle[entering[:, above].argmax()]] = others[above]
    return heads


def _cycle(heads: Sequence[int] | np.ndarray) -> list[int]:
    """Nodes that are one another's heads in a circle; none where all lead to node 0."""
    finished = {0}
    for start in range(1, len(heads)):
        path: dict[int, None] = {}
        node = start
        while node not in finished and node not in path:
            path[node] = None
            node = int(heads[node])
        if node in path:
            nodes = list(path)
            return nodes[nodes.index(node) :]
        finished.update(path)
    return []


def _without_loops(arcs: np.ndarray) -> np.ndarray:
    """Arc scores [words, 1 + words] as a copy in which no word can be its own head."""
    words = np.arange(len(arcs))
    arcs = arcs.copy()
    arcs[words, words + 1] = -np.inf
    return arcs


def _with_one(vectors: torch.Tensor) -> torch.Tensor:
    """[..., hidden] → [..., hidden + 1]."""
    return extend(vectors, (0, 1), value=1.0)


def _sum_of_losses(scores: torch.Tensor, gold: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of scores [rows, words, choices] against [rows, words]."""
    return cross_entropy(scores.flatten(0, 1), gold.flatten(), ignore_index=IGNORED, reduction="sum")
