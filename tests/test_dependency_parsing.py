"""Dependency parsing: reading, the biaffine head, losses, trees, predictions and scores."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from torch import nn

import xlt
from xlt import cli
from xlt.backbones.backbone import Backbone
from xlt.config import build
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.random import generator
from xlt.steps.composition import Branch, Composition
from xlt.tasks.base import Task
from xlt.tasks.dependency_parsing import BiaffineHead, DependencyParsing, best_heads, best_tree
from xlt.tasks.treebanks import Treebank

CPU = torch.device("cpu")
RELATIONS = ["nsubj", "obj", "punct", "root"]
TASK = DependencyParsing(labels=RELATIONS, data=Treebank(id="tiny/treebanks"))
HIDDEN = 8

THREE = {"tokens": ["ba", "be", "bi"], "heads": [2, 0, 2], "relations": ["nsubj", "root", "obj"]}
FIVE = {
    "tokens": ["da", "de", "di", "do", "du"], "heads": [2, 4, 2, 0, 4], "relations": ["nsubj", "obj", "obj", "root", "punct"],
}  # fmt: skip
ONE = {"tokens": ["ba"], "heads": [0], "relations": ["root"]}
EXAMPLES = [THREE, FIVE, ONE]


def changed(**fields: Any) -> DependencyParsing:
    return dataclasses.replace(TASK, **fields)


def random_head(seed: int = 0, root: torch.Generator | None = None) -> BiaffineHead:
    head = BiaffineHead(HIDDEN, len(RELATIONS), dropout=0.1, root=root).eval()
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter.normal_(generator=generator(seed, number))
    return head


def batch_of(examples: Sequence[dict[str, Any]], max_length: int = 32) -> dict[str, torch.Tensor]:
    return TASK.batch(TASK.encode(examples, tiny_tokenizer(), max_length), tiny_tokenizer(), max_length)


def states(batch: dict[str, torch.Tensor], seed: int = 0) -> torch.Tensor:
    """Hidden states that depend on a token and its place, and on nothing else."""
    table = torch.randn(100, HIDDEN, generator=generator(seed, "states"))
    places = torch.randn(batch["input_ids"].shape[1], HIDDEN, generator=generator(seed, "places"))
    return table[batch["input_ids"]] + places


# ---- reading


def read(task: DependencyParsing = TASK, **changes: Any) -> dict[str, Any]:
    return task.read({"tokens": ["ba", "be"], "heads": [2, 0], "relations": ["nsubj", "root"], **changes})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"relations": ["subj", "root"]}, r"the relation 'subj' is none of the declared ones .*nsubj, obj"),
        ({"heads": [3, 0]}, "the head 3 is none of the numbers 0 to 2"),
        ({"heads": [None, 0]}, "the head None is none"),
        ({"heads": [0, 0]}, "no tree with one root"),
        ({"heads": [2, 1]}, "no tree with one root"),
        ({"heads": [1, 0]}, "no tree with one root"),
        ({"heads": [0]}, "it has 2 words, 1 heads and 2 relations"),
        ({"tokens": [], "heads": [], "relations": []}, "have to be lists"),
        ({"tokens": "ba be"}, "have to be lists"),
    ],
)
def test_what_is_no_sentence(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(**changes)


def test_subtypes() -> None:
    """They are cut off unless they are asked for, and have to be declared then."""
    passive = ["nsubj:pass", "root"]
    assert read(relations=passive)["relations"] == ["nsubj", "root"]
    told_apart = changed(subtypes=True, labels=[*RELATIONS, "nsubj:pass"])
    assert read(told_apart, relations=passive)["relations"] == passive
    with pytest.raises(ValueError, match="'nsubj:pass' is none of the declared ones"):
        read(changed(subtypes=True), relations=passive)


@pytest.mark.parametrize("labels", [[], ["root", "root"]])
def test_relations_have_to_be_declared(labels: list[str]) -> None:
    with pytest.raises(UserError, match="has to name at least two labels, each once"):
        changed(labels=labels).verify("task")


# ---- batches


def test_a_batch() -> None:
    """`heads` and `relations` of what is no word are never scored, whatever the tokenizer pads with."""
    batch = batch_of(EXAMPLES)
    assert batch["is_word"].sum(dim=1).tolist() == [3, 5, 1]
    assert batch["word_of"][0, :6].tolist() == [-1, 0, 1, 2, -1, -1]
    assert batch["heads"][1, :7].tolist() == [2, 4, 2, 0, 4, -100, -100]
    assert batch["relations"][1, :7].tolist() == [0, 1, 1, 3, 2, -100, -100]
    assert TASK.count(batch) == 9
    assert {"heads", "relations"}.isdisjoint(batch_of([{"tokens": ["ba"]}]))


def test_a_word_that_the_tokenizer_makes_nothing_of_keeps_its_place() -> None:
    example = {"tokens": ["ba", "\u00a0", "be"], "heads": [3, 1, 0], "relations": ["nsubj", "punct", "root"]}
    (row,) = TASK.encode([example], tiny_tokenizer(), 32)
    assert row["word_of"] == [-1, 0, 1, 2, -1]
    assert (row["heads"], row["relations"]) == ([3, 1, 0], [0, 2, 3])


def test_a_sentence_that_is_longer_than_the_model() -> None:
    """Four words fit. Arcs that leave them are not trained on; the fifth word gets no head, which counts as wrong."""
    (row,) = TASK.encode([FIVE], tiny_tokenizer(), 6)
    assert row["words"] == [0, 1, 2, 3]
    cut = {**FIVE, "heads": [2, 5, 2, 0, 4]}
    (row,) = TASK.encode([cut], tiny_tokenizer(), 6)
    assert row["heads"] == [2, -100, 2, 0]
    assert row["relations"] == [0, -100, 1, 3]
    right = [list(arc) for arc in zip(FIVE["heads"], FIVE["relations"], strict=True)]
    prediction = TASK.join(FIVE, [row], [right[:4]])
    assert prediction["label"] == [*right[:4], None]
    assert TASK.score([TASK.gold(FIVE)], [prediction["label"]]) == {"las": 0.8, "uas": 0.8}


# ---- the head


def by_hand(head: BiaffineHead, hidden: torch.Tensor, word_of: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all arcs and relations of a sentence, product by product: [words, 1 + words], [words, 1 + words, labels]."""
    count = max(word_of) + 1
    words = [hidden[[place for place, word in enumerate(word_of) if word == number]].mean(dim=0) for number in range(count)]
    one = torch.ones(1)
    heads = [hidden[0] if head.root is None else head.root, *words]
    arcs = [[torch.cat([x, one]) @ head.arc_weight @ h for h in heads] for x in words]
    relations = [
        [[torch.cat([x, one]) @ weight @ torch.cat([h, one]) for weight in head.relation_weight] for h in heads] for x in words
    ]
    return np.array(arcs, dtype=float), np.array(relations, dtype=float)


@pytest.mark.parametrize("learnt_root", [False, True])
@torch.no_grad()
def test_scores_are_the_biaffine_products(learnt_root: bool) -> None:
    """The second word has three sub-words."""
    head = random_head(root=generator("root") if learnt_root else None)
    word_of = [-1, 0, 1, 1, 1, 2, -1, -1]
    hidden = torch.randn(1, len(word_of), HIDDEN, generator=generator("hidden"))
    batch = {"word_of": torch.tensor([word_of]), "is_word": torch.tensor([[True, True, True, False]])}
    scores = TASK.scores(head, hidden, batch)
    arcs, relations = by_hand(head, hidden[0], word_of)
    assert scores["arcs"].shape == (1, 4, 5)
    assert np.allclose(scores["arcs"][0, :3, :4], arcs, atol=1e-4)
    assert np.allclose(scores["relations"][0, :3, :4], relations, atol=1e-4)


@torch.no_grad()
def test_the_loss_is_that_of_each_words_head_and_relation() -> None:
    """Over sentences of different lengths: the root's arcs count, padding does not."""
    head = random_head()
    batch = batch_of(EXAMPLES)
    hidden = states(batch)
    expected = 0.0
    for example, states_of_row, word_of in zip(EXAMPLES, hidden, batch["word_of"].tolist(), strict=True):
        arcs, relations = by_hand(head, states_of_row, word_of)
        for word, (gold, relation) in enumerate(zip(example["heads"], example["relations"], strict=True)):
            chosen = relations[word, gold]
            expected += np.log(np.exp(arcs[word]).sum()) - arcs[word, gold]
            expected += np.log(np.exp(chosen).sum()) - chosen[RELATIONS.index(relation)]
    assert float(TASK.loss(head, hidden, batch)) == pytest.approx(expected, rel=1e-4)


def test_a_new_head_knows_nothing_and_learns() -> None:
    """Every head among the root and the words, and every relation, is as likely as any other; the first step changes that."""
    head = BiaffineHead(HIDDEN, len(RELATIONS), dropout=0.0, root=None)
    batch = batch_of(EXAMPLES)
    hidden = states(batch)
    losses = []
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(40):
        loss = TASK.loss(head, hidden, batch)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(3 * math.log(4) + 5 * math.log(6) + math.log(2) + 9 * math.log(4))
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        answers = TASK.answers(TASK.scores(head.eval(), hidden, batch), TASK.encode(EXAMPLES, tiny_tokenizer(), 32))
    assert answers == [TASK.gold(example) for example in EXAMPLES]


@pytest.mark.parametrize(("kind", "learnt"), [("bert", False), ("xlm_roberta", False), ("llama", True), ("m2m_100", True)])
def test_the_root(kind: str, learnt: bool, world: Path) -> None:
    """An encoder's first token sees the sentence; a decoder's sees nothing, so that a vector is learnt in its place."""
    backbone = Backbone.open(world / "models" / kind)
    heads = [TASK.head(backbone, generator(seed)) for seed in (0, 0, 1)]
    assert [head.root is not None for head in heads] == [learnt] * 3
    if learnt:
        assert torch.equal(heads[0].root, heads[1].root)
        assert not torch.equal(heads[0].root, heads[2].root)
    assert all(parameter.requires_grad for parameter in heads[0].parameters())


# ---- trees


def is_tree(heads: Sequence[int]) -> bool:
    """One root, from which every word is reached."""
    reached = {0}
    for _ in heads:
        reached |= {word for word, head in enumerate(heads, start=1) if head in reached}
    return len(reached) == len(heads) + 1 and list(heads).count(0) == 1


@pytest.mark.parametrize("words", [1, 2, 3, 4, 5])
def test_the_best_tree_of_all(words: int) -> None:
    """Against every tree there is, on scores that favour cycles (of 30 draws many need a cycle broken)."""
    trees = np.array([heads for heads in itertools.product(range(words + 1), repeat=words) if is_tree(heads)])
    assert len(trees) == words ** (words - 1)  # Cayley's formula, for rooted trees
    greedy_fails = 0
    for seed in range(30):
        scores = np.random.default_rng((words, seed)).normal(scale=10, size=(words, words + 1))
        found = best_tree(scores)
        sums = scores[np.arange(words), trees].sum(axis=1)
        assert found.tolist() == trees[sums.argmax()].tolist()
        greedy = best_heads(scores)
        greedy_fails += not is_tree(greedy.tolist())
        assert scores[np.arange(words), greedy].sum() >= sums.max() - 1e-9
    assert greedy_fails > 5 or words == 1


def test_a_long_sentence_becomes_a_tree() -> None:
    scores = np.random.default_rng(0).normal(size=(120, 121))
    assert not is_tree(best_heads(scores).tolist())
    assert is_tree(best_tree(scores).tolist())


def test_no_word_is_its_own_head() -> None:
    scores = np.array([[0.0, 9.0, 1.0], [0.0, -1.0, 9.0]])
    assert best_heads(scores).tolist() == [2, 0]


# ---- predictions


def test_the_relation_is_the_best_one_at_the_head_that_was_chosen() -> None:
    """Greedily both words hang on each other; the best tree takes the first one's second choice, and the relation there."""
    arcs = torch.tensor([[[4.0, 0.0, 5.0], [1.0, 5.0, 0.0]]])
    relations = torch.zeros(1, 2, 3, len(RELATIONS))
    relations[0, 0, 0, RELATIONS.index("root")] = 1.0
    relations[0, 0, 2, RELATIONS.index("obj")] = 9.0
    relations[0, 1, 1, RELATIONS.index("punct")] = 1.0
    scores = {"arcs": arcs, "relations": relations}
    rows = TASK.encode([{"tokens": ["ba", "be"]}], tiny_tokenizer(), 32)
    assert TASK.answers(scores, rows) == [[[2, "obj"], [1, "punct"]]]
    assert changed(decoding="tree").answers(scores, rows) == [[[0, "root"], [1, "punct"]]]


@pytest.fixture(params=["bert", "llama"])
def composition(request: pytest.FixtureRequest, world: Path) -> Composition:
    """With weights large enough to give different answers to different sentences."""
    backbone = Backbone.open(world / "models" / request.param)
    head = TASK.head(backbone, generator(0))
    with torch.no_grad():
        for number, parameter in enumerate([*backbone.model.parameters(), *head.parameters()]):
            parameter.add_(torch.randn(parameter.shape, generator=generator(number)), alpha=0.3)
    return Composition(backbone, TASK, [Branch(head)], 32, CPU)


def test_predictions_do_not_depend_on_the_batch(composition: Composition) -> None:
    alone = [composition.predict([example])[0] for example in EXAMPLES]
    assert [len(prediction["label"]) for prediction in alone] == [3, 5, 1]
    assert composition.predict(EXAMPLES) == alone
    assert len({str(arc) for prediction in alone for arc in prediction["label"]}) > 3


def test_branches_decide_together(composition: Composition) -> None:
    """Two that are alike answer as one; of two that differ the weights decide."""
    (branch,) = composition.branches
    other = Branch(shuffled(branch.head))

    def predict(*branches: Branch) -> list[Any]:
        return Composition(composition.backbone, TASK, branches, 32, CPU).predict(EXAMPLES)

    def weighted(branch: Branch, weight: float) -> Branch:
        return dataclasses.replace(branch, weight=weight)

    assert predict(weighted(branch, 0.5), weighted(branch, 0.5)) == predict(branch)
    assert predict(branch) != predict(other)
    assert predict(branch, weighted(other, 1e-6)) == predict(branch)
    assert predict(weighted(branch, 1e-6), other) == predict(other)


def shuffled(head: nn.Module) -> BiaffineHead:
    other = BiaffineHead(head.arc_weight.shape[1], len(RELATIONS), 0.0, None if head.root is None else generator(1)).eval()
    with torch.no_grad():
        for number, (mine, parameter) in enumerate(zip(other.parameters(), head.parameters(), strict=True)):
            mine.copy_(parameter.flatten()[torch.randperm(parameter.numel(), generator=generator(number))].view_as(mine))
    return other


# ---- scores


def shared_task_scores(gold: str, system: str, punctuation: bool = True) -> dict[str, float]:
    """UAS and LAS of two CoNLL-U texts with the same words, by the definition of the shared task (Zeman et al. 2018, section
    4): the share of words with the right head; with the right head and relation, whose subtype is ignored."""

    def words(text: str) -> list[tuple[str, str]]:
        columns = [line.split("\t") for line in text.splitlines() if line]
        return [(line[6], line[7].split(":")[0]) for line in columns]

    pairs = [
        (right, found) for right, found in zip(words(gold), words(system), strict=True) if punctuation or right[1] != "punct"
    ]
    return {
        "las": sum(right == found for right, found in pairs) / len(pairs),
        "uas": sum(right[0] == found[0] for right, found in pairs) / len(pairs),
    }


def conllu(sentences: Sequence[Sequence[Sequence[Any]]]) -> str:
    lines = [
        "".join(f"{number}\tw\t_\t_\t_\t_\t{head}\t{relation}\t_\t_\n" for number, (head, relation) in enumerate(arcs, start=1))
        for arcs in sentences
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("punctuation", [True, False])
def test_scores_are_those_of_the_shared_task(punctuation: bool) -> None:
    draw = np.random.default_rng(0)

    def arcs(count: int) -> list[list[Any]]:
        return [[int(draw.integers(0, 3)), RELATIONS[draw.integers(4)]] for _ in range(count)]

    lengths = draw.integers(1, 30, size=50)
    gold, predicted = [arcs(length) for length in lengths], [arcs(length) for length in lengths]
    expected = shared_task_scores(conllu(gold), conllu(predicted), punctuation)
    assert 0 < expected["las"] < expected["uas"] < 1
    assert changed(punctuation=punctuation).score(gold, predicted) == pytest.approx(expected)


def test_scores_worked_out_by_hand() -> None:
    """Of five words four have the right head and three the right relation too; without the full stop 3 and 2 of 4."""
    gold = [[[2, "nsubj"], [0, "root"]], [[2, "obj"], [0, "root"], [2, "punct"]]]
    predicted = [[[2, "obj"], [0, "root"]], [[0, "obj"], [0, "root"], [2, "punct"]]]
    assert TASK.score(gold, predicted) == {"las": 0.6, "uas": 0.8}
    assert changed(punctuation=False).score(gold, predicted) == {"las": 0.5, "uas": 0.75}
    assert TASK.counts(gold, predicted).tolist() == [[2, 1, 2], [2, 2, 3]]


# ---- runs


def test_there_are_37_universal_relations() -> None:
    task = build(cli.compose(["task=ud_dep", "lang=mt"]).task, "task", Task)
    assert len(task.labels) == 37
    assert task.labels == sorted(task.labels)
    assert {"root", "punct", "clf", "reparandum", "orphan"} <= set(task.labels)


@pytest.mark.parametrize("model", ["miniature", "miniature_llama"])
def test_parsing_is_learnt_from_a_hundred_sentences(model: str, tmp_path: Path) -> None:
    """Five epochs are enough for most arcs of an invented language; guessing gets about one of eight."""
    record = xlt.run(
        f"model={model}", "data=miniature", "task=mini_parsing", "lang=qaa", "method=none", "train=demo", "train.task.epochs=5",
        "task.data.sizes.test=200", f"paths.outputs={tmp_path}", "device=cpu",
    )  # fmt: skip
    assert record["metric"] == "las"
    assert record["intervals"]["las"][0] > 0.6
    (answer,) = xlt.load(record).predict([{"tokens": ["ba", "be", "bi"]}])
    assert len(answer["label"]) == 3


@pytest.mark.slow
def test_from_english_to_maltese(shared: Path, tmp_path: Path) -> None:
    record = xlt.run(
        "task=ud_dep", "lang=mt", "source=en", "transfer=zero_shot", "method=none", "model=hf", "train=quick", "device=cpu",
        f"model.path={shared}/models/mini-multilingual", f"paths.mirror={shared}/mirror", f"paths.outputs={tmp_path}",
        "train.task.epochs=1", "task.data.splits.train='train[:100]'", "task.data.splits.validation='validation[:20]'",
    )  # fmt: skip
    assert record["test_size"] == 518
    assert 0 <= record["metrics"]["las"] <= record["metrics"]["uas"] <= 1


def test_right_to_left(shared: Path, tmp_path: Path) -> None:
    """Words of Arabic, in the order in which they are read, get a head and a relation each."""
    config = cli.compose([
        "task=ud_dep", "lang=ar", "source=en", "transfer=zero_shot", "model=miniature", "method=none",
        f"paths.mirror={shared}/mirror", f"paths.outputs={tmp_path}",
    ])  # fmt: skip
    experiment = Experiment.from_config(config)
    examples = experiment.task.examples(experiment.targets[0], experiment.languages, experiment.hub)["test"][:20]
    backbone = Backbone.open(shared / "models" / "mini-multilingual")
    head = experiment.task.head(backbone, generator(0))
    rows = experiment.task.encode(examples, backbone.tokenizer, 256)
    assert [len(row["words"]) for row in rows] == [len(example["tokens"]) for example in examples]
    for row in rows:
        assert [place for place in row["word_of"] if place >= 0] == sorted(place for place in row["word_of"] if place >= 0)
    predictions = Composition(backbone, experiment.task, [Branch(head)], 256, CPU).predict(examples)
    assert [len(prediction["label"]) for prediction in predictions] == [len(example["tokens"]) for example in examples]
