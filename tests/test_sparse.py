"""Sparse fine-tuning: what is chosen, what is trained, what stays as it was, and what is stored."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, IDS, MASK, hidden_states, logits, tiny_backbone
from omegaconf import OmegaConf
from test_bad_input import complaint
from test_kill import CHECKPOINTS, Killed
from test_transfer import CPU

import xlt
from xlt.analysis.sparsity import Part, parts
from xlt.analysis.sparsity import overlap as overlap_of
from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Average, Parallel, Stack
from xlt.errors import UserError
from xlt.methods.base import Module
from xlt.methods.differences import Weights
from xlt.methods.formats import method_of_folder
from xlt.methods.full import FullFineTuning
from xlt.methods.selection import largest
from xlt.methods.sparse import NewSparseModule, SparseFineTuning, SparseModule, own_weights
from xlt.methods.sparse_files import COMPOSABLE_SFT, DESCRIPTION, Stored, read_composable_sft, write_composable_sft
from xlt.random import Draw, generator
from xlt.steps.audit import count_trainable
from xlt.store import Store
from xlt.training.batches import Batch, Batches
from xlt.training.loop import Trainer
from xlt.training.settings import LoopSettings

LT_SFT = SparseFineTuning(name="lt_sft", count=60)
RANDOM = SparseFineTuning(name="rand_sft", selection="random", count=300)
EVERYTHING = SparseFineTuning(name="everything", selection="random", density=1.0, norms=True)
SETTINGS = LoopSettings(steps=5, batch_size=2, learning_rate=0.01, weight_decay=0.1, clip_norm=0.5, evaluate_every=2)

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


# ---- choosing


def test_the_toy_of_the_lottery() -> None:
    """Δ = (0.5, -0.9, 0.1, 0.3), two weights: the mask is (1, 1, 0, 0)."""
    chosen = largest({"toy": torch.tensor([0.5, -0.9, 0.1, 0.3]).abs()}, 2)
    assert chosen["toy"].tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [3, 50, 10**6], ids="{}_levels".format)
@pytest.mark.parametrize("count", [1, 100, 777, 1999, 2000])
def test_the_largest_are_those_that_sorting_finds(count: int, levels: int, seed: int) -> None:
    """Exactly as many as asked for; of equals those that come first. Numbers of all sizes, zero and tiny ones included."""
    draw = generator(seed, "scores")
    flat = torch.randint(levels, (2000,), generator=draw).float().pow(3) * 1e-20
    scores = {"a": flat[:1200].view(40, 30), "b": flat[1200:1201], "c": flat[1201:]}
    best = torch.sort(flat, descending=True, stable=True).indices[:count].sort().values
    starts = {"a": 0, "b": 1200, "c": 1201}
    found = torch.cat([positions + starts[name] for name, positions in largest(scores, count).items()])
    assert torch.equal(found, best)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_score_that_is_not_finite_stops_with_the_name_of_its_tensor(value: float) -> None:
    with pytest.raises(UserError, match=r"encoder\.key: its changes are not finite"):
        largest({"encoder.query": torch.ones(3), "encoder.key": torch.tensor([1.0, value])}, 2)


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_cannot_be(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} weights are to be chosen out of 3"):
        largest({"a": torch.ones(3)}, count)


def shape_of(model: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf" / "model" / f"{model}.yaml").shape)


@pytest.mark.parametrize(("model", "share", "biases"), [("mbert", 4.3, 0.047), ("xlmr", 2.8, 0.030)])
def test_counts_of_the_literature(model: str, share: float, biases: float) -> None:
    """13 · 2 · 768 · 384 weights of a language, 24 · 768² / reduction factor of a task; shares of the model in per cent."""
    language = Backbone.from_shape(shape_of(model), language_head=True)
    size = sum(parameter.numel() for parameter in language.encoder.parameters())
    module = SparseFineTuning(name="lt_sft", reduction_factor=2).create(language, torch.Generator(), language_head=True)
    head = sum(weight.numel() for name, weight in own_weights(language).items() if "LayerNorm" not in name
               and "layer_norm" not in name and name.startswith(("cls.", "lm_head.")))  # fmt: skip
    assert module.count() - head == 7_667_712
    assert round(100 * 7_667_712 / size, 1) == share
    task = Backbone.from_shape(shape_of(model))
    for power in range(6):
        assert count_trainable(SparseFineTuning(reduction_factor=32 / 2**power), task, False) == 442_368 * 2**power
    bitfit = count_trainable(SparseFineTuning(selection="biases"), task, False)
    assert bitfit == 12 * (5 * 768 + 3072)
    assert round(100 * bitfit / size, 3) == biases
    assert task.modules == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "one of count, density and reduction_factor. Found none"),
        ({"count": 3, "density": 0.5}, "Found count=3, density=0.5"),
        ({"selection": "biases", "count": 3}, "nothing: all biases are. Found count=3"),
        ({"count": 3, "dense_steps": 3, "dense_epochs": 1.0}, "either dense_steps or dense_epochs"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SparseFineTuning(**settings).verify("method")


def test_a_backbone_without_biases_has_nothing_for_bitfit() -> None:
    with pytest.raises(UserError, match="method=bitfit is to train 0 biases of this llama backbone"):
        SparseFineTuning(name="bitfit", selection="biases").create(tiny_backbone("llama"), torch.Generator())


def test_more_weights_than_there_are() -> None:
    with pytest.raises(UserError, match="1,000,000 weights of this bert backbone"):
        SparseFineTuning(name="lt_sft", count=1_000_000).create(tiny_backbone("bert"), torch.Generator())


# ---- training


class Squares:
    """What is learnt: hidden states as near to 1 as can be. Each batch is one of the rows of IDS, twice."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def make(self, indices: Sequence[int], draw: torch.Generator) -> Batch:
        rows = [index % len(IDS) for index in indices]
        return {"input_ids": IDS[rows], "attention_mask": MASK[rows]}

    def count(self, batch: Batch) -> int:
        return len(batch["input_ids"])

    def loss(self, batch: Batch, device: torch.device) -> torch.Tensor:
        return (self.backbone.hidden_states(batch["input_ids"], batch["attention_mask"]) - 1).square().mean(dim=(1, 2)).sum()

    def evaluate(self) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(self.loss(self.make(range(3), generator(0)), CPU))}


def train_phase(backbone: Backbone, module: Module, folder: Path, **settings: Any) -> None:
    """A phase that has begun: dropout aside, as the steps train it."""
    objective = Squares(backbone)
    Trainer(
        model=backbone.model, parameters=module.parameters(), objective=objective, batches=Batches(6, 2, 0, objective.make),
        evaluate=objective.evaluate, metric=("loss", False), settings=dataclasses.replace(SETTINGS, **settings), seed=0,
        device=CPU, checkpoint=folder, title="", penalties=[module.penalty],
    ).train()  # fmt: skip
    backbone.model.eval()


def trained(method: SparseFineTuning, backbone: Backbone, folder: Path, seed: int = 0, **settings: Any) -> NewSparseModule:
    """A module after all its phases."""
    module, kept = method.create(backbone, generator(seed)), {}
    for phase, _ in enumerate(method.phases(SETTINGS)):
        module.begin(phase, kept)
        train_phase(backbone, module, folder / str(phase), **settings)
        kept = module.end(phase)
    hidden_states(backbone)  # the best values are in the weights with the next pass
    return module


def values_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in own_weights(backbone).items()}


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit, the sign of zeros included."""
    integers = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    return one.keys() == other.keys() and all(
        torch.equal(one[name].view(integers[one[name].dtype]), other[name].view(integers[one[name].dtype])) for name in one
    )


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 1}, {"precision": "bf16"}], ids=str)
@pytest.mark.parametrize("architecture", ["bert", "xlm_roberta", "llama"])
def test_all_weights_are_full_fine_tuning_bit_for_bit(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    """With decay, a clipped gradient, and batches in pieces; as one phase, and as the dense one of the lottery."""
    full = tiny_backbone(architecture, language_head=False)
    before = values_of(full)
    train_phase(full, FullFineTuning().create(full, generator(0)), tmp_path / "full", **options)
    assert not is_same(values_of(full), before)
    backbone = tiny_backbone(architecture, language_head=False)
    trained(EVERYTHING, backbone, tmp_path / "sparse", **options)
    assert is_same(values_of(backbone), values_of(full))
    dense = tiny_backbone(architecture, language_head=False)
    module = SparseFineTuning(count=5, norms=True).create(dense, generator(0))
    module.begin(0, {})
    train_phase(dense, module, tmp_path / "dense", **options)
    hidden_states(dense)
    assert is_same(values_of(dense), values_of(full))
    lottery = tiny_backbone(architecture, language_head=False)
    trained(dataclasses.replace(EVERYTHING, selection="magnitude"), lottery, tmp_path / "lottery", **options)
    assert is_same(values_of(lottery), values_of(full)), "a lottery that all weights win"


@every_architecture
@pytest.mark.parametrize("method", [LT_SFT, RANDOM, SparseFineTuning(selection="biases")], ids=lambda method: method.selection)
def test_nothing_but_what_was_chosen_changes(method: SparseFineTuning, architecture: str, tmp_path: Path) -> None:
    if method.selection == "biases" and architecture in ("llama", "modernbert"):
        pytest.skip("it has no biases")
    backbone = tiny_backbone(architecture, language_head=False)
    before = values_of(backbone)
    module = trained(method, backbone, tmp_path)
    after = values_of(backbone)
    changed = 0
    for name, weight in after.items():
        may_change = torch.zeros(weight.numel(), dtype=torch.bool)
        if name in module.differences:
            may_change[module.differences[name].all_positions()] = True
        assert torch.equal(weight.flatten()[~may_change], before[name].flatten()[~may_change])
        changed += int((weight != before[name]).sum())
    positions = [difference.all_positions() for difference in module.differences.values()]
    assert sum(map(len, positions)) == module.count() == (method.count or module.count())
    assert changed > 0.3 * module.count()  # embeddings of words that never occur are among those drawn
    norms = {name for name in before if "norm" in name.lower() or "ln_" in name}
    assert norms and not norms & module.differences.keys()
    module.detach()
    assert is_same(values_of(backbone), before)


def test_the_lottery_by_hand(tmp_path: Path) -> None:
    """The best parameters of the dense phase, not the last ones, say what is chosen; then everything begins anew."""
    backbone = tiny_backbone("bert", language_head=False)
    before = values_of(backbone)
    module = LT_SFT.create(backbone, generator(0))
    module.begin(0, {})
    train_phase(backbone, module, tmp_path, steps=12, learning_rate=0.3, clip_norm=None, schedule="constant")
    hidden_states(backbone)
    best = values_of(backbone)
    kept = module.end(0)
    assert is_same(values_of(backbone), before) and module.parameters() == {}
    encoder = {name: (best[name] - before[name]).abs().flatten() for name in before if "LayerNorm" not in name}
    expected = torch.cat(list(encoder.values())).topk(60).values.sort().values
    found = torch.cat([encoder[name][positions] for name, positions in kept.items()]).sort().values
    assert torch.equal(found, expected)
    module.begin(1, kept)
    assert is_same(values_of(backbone), before)
    assert {name: positions.tolist() for name, positions in kept.items()} == {
        name: difference.positions.tolist() for name, difference in module.differences.items()
    }


def test_a_dense_phase_that_changes_nothing_is_refused() -> None:
    module = LT_SFT.create(tiny_backbone("bert"), generator(0))
    module.begin(0, {})
    with pytest.raises(UserError, match="changed no weight"):
        module.end(0)


def test_a_dense_phase_that_fails_stops_with_the_name_of_a_tensor() -> None:
    module = LT_SFT.create(tiny_backbone("bert"), generator(0))
    module.begin(0, {})
    name = "bert.encoder.layer.1.output.dense.weight"
    with torch.no_grad():
        module.parameters()[name][3] = torch.nan
    with pytest.raises(UserError, match=name):
        module.end(0)


def test_the_random_choice_depends_on_its_generator_alone() -> None:
    def chosen(seed: int) -> dict[str, list[int]]:
        module = RANDOM.create(tiny_backbone("bert"), generator(seed))
        module.begin(0, {})
        return {name: difference.positions.tolist() for name, difference in module.differences.items()}

    assert chosen(0) == chosen(0) != chosen(1)
    assert len(chosen(0)) > 8, "it is spread over the tensors"


@pytest.mark.parametrize("architecture", ["bert", "xlm_roberta", "gpt2", "llama"])
def test_a_language_module_leaves_the_output_embedding(architecture: str) -> None:
    """Tied or not: it stays the backbone's, gets no gradient, and is tied again in the end. The rest of the head is trained."""
    backbone = tiny_backbone(architecture)
    output, embedding = backbone.model.get_output_embeddings(), backbone.model.get_input_embeddings().weight
    own, before, tied = output.weight, output.weight.detach().clone(), output.weight is embedding
    module = dataclasses.replace(RANDOM, density=1.0, count=None).create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    expected = logits(backbone)
    logits(backbone).logsumexp(dim=-1).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(0.1)
    assert not torch.equal(logits(backbone), expected)
    assert torch.equal(output.weight, before) and not output.weight.requires_grad
    assert not torch.equal(embedding, before) or not tied
    head = {name for name in module.parameters() if not name.startswith(f"{backbone.model.base_model_prefix}.")}
    assert head == {
        "bert": {"cls.predictions.bias", "cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias"},
        "xlm_roberta": {"lm_head.bias", "lm_head.dense.weight", "lm_head.dense.bias"}, "gpt2": set(), "llama": set(),
    }[architecture]  # fmt: skip
    module.detach()
    assert output.weight is own and torch.equal(own, before)
    assert torch.equal(logits(backbone), expected)


def test_the_gradient_of_a_fixed_output_embedding_is_that_of_the_input_side() -> None:
    """Words that are not in the batch get none, though the head scores them."""
    gradients = {}
    for fixed in (True, False):
        backbone = tiny_backbone("bert")
        method = dataclasses.replace(EVERYTHING, fixed_output_embedding=fixed)
        module = method.create(backbone, generator(0), language_head=True)
        module.begin(0, {})
        logits(backbone).logsumexp(dim=-1).sum().backward()
        gradients[fixed] = module.parameters()["bert.embeddings.word_embeddings.weight"].grad.view(-1, 16)
        assert all(weight.grad is None for weight in backbone.model.parameters()), "dense gradients are not kept"
    absent = [word for word in range(65) if word not in IDS.flatten().tolist()]
    assert absent and not gradients[True][absent].any()
    assert gradients[False][absent].any()


def test_the_penalty_by_hand() -> None:
    """λ / N · Σ|θ - θ0|, N all parameters of the model, the head included; a task module has none."""
    backbone = tiny_backbone("bert")
    method = dataclasses.replace(RANDOM, regularisation=0.1)
    module = method.create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    assert module.penalty() == 0
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(0.25)
    size = sum(parameter.numel() for parameter in tiny_backbone("bert").model.parameters())
    head = 65 + 16 * 16 + 16
    assert module.penalty().item() == pytest.approx(0.1 * 0.25 * (300 + head) / size, rel=1e-5)
    module.detach()
    task = method.create(backbone, generator(0))
    task.begin(0, {})
    assert task.penalty() is None


def test_the_penalty_alone_pulls_the_weights_back() -> None:
    backbone = tiny_backbone("bert")
    module = dataclasses.replace(RANDOM, regularisation=1e5).create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    pristine = {name: parameter.detach().clone() for name, parameter in module.parameters().items()}
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(1)))
    distances = []
    optimizer = torch.optim.SGD(module.parameters().values(), lr=1e-3 / (1e5 / 8_000))
    for _ in range(200):
        distances.append(max(float((p.detach() - pristine[name]).abs().max()) for name, p in module.parameters().items()))
        optimizer.zero_grad()
        module.penalty().backward()
        optimizer.step()
    assert distances[-1] < 0.05 * distances[0]


# ---- what is in force


def shaken(backbone: Backbone, seed: int, count: int = 400) -> SparseModule:
    """A frozen module with large changes in randomly chosen weights."""
    weights = {
        name: weight for name, weight in own_weights(backbone).items() if name.startswith(backbone.model.base_model_prefix)
    }
    draw = generator(seed, "changes")
    scores = {name: torch.rand(weight.numel(), generator=draw) for name, weight in weights.items()}
    chosen = largest(scores, count)
    stored = {
        name: Stored(tuple(weights[name].shape), torch.randn(len(positions), generator=draw), positions)
        for name, positions in chosen.items()
    }
    return SparseModule(backbone, stored, fixed_output_embedding=False)


def overlap(one: SparseModule, other: SparseModule) -> int:
    shared = one.differences.keys() & other.differences.keys()
    return sum(int(torch.isin(one.differences[name].positions, other.differences[name].positions).sum()) for name in shared)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_architecture
def test_any_order_leaves_the_backbone_as_it_was(architecture: str, dtype: torch.dtype) -> None:
    """Three modules that overlap, some of them in all orders, one after the other at random: bit for bit."""
    backbone = tiny_backbone(architecture)
    backbone.model.to(dtype)
    before, output = values_of(backbone), logits(backbone)
    modules = [shaken(backbone, seed, count=2000) for seed in range(3)]
    assert all(overlap(one, other) > 50 for one, other in itertools.combinations(modules, 2))
    of_each: dict[frozenset[int], dict[str, torch.Tensor]] = {}
    orders = [order for size in range(4) for order in itertools.permutations(range(3), size)]
    for chosen in Draw(architecture).shuffled(3 * orders):
        backbone.activate(Stack(*(modules[number] for number in chosen)))
        found = of_each.setdefault(frozenset(chosen), values_of(backbone))
        assert is_same(values_of(backbone), found)
    assert len(of_each) == 8 and is_same(of_each[frozenset()], before)
    for module in reversed(modules):
        module.detach()
    assert is_same(values_of(backbone), before)
    assert torch.equal(logits(backbone), output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_order_of_attachment_does_not_matter(dtype: torch.dtype) -> None:
    found = []
    for seeds in ((0, 1), (1, 0)):
        backbone = tiny_backbone("bert")
        backbone.model.to(dtype)
        one, other = (shaken(backbone, seed, count=3000) for seed in seeds)
        assert overlap(one, other) > 500
        found.append(values_of(backbone))
    assert is_same(*found)


def test_sums_and_shares() -> None:
    """θ0 + φ_a + φ_b in a stack; with an average, their weighted mean."""
    backbone = tiny_backbone("bert")
    before = {name: weight.double() for name, weight in values_of(backbone).items()}
    one, other = shaken(backbone, 0, count=3000), shaken(backbone, 1, count=3000)
    for composition, weights in (
        (Stack(one, other), (1, 1)), (Stack(other), (0, 1)), (Average(one, other, weights=[3, 1]), (0.75, 0.25)),
    ):  # fmt: skip
        backbone.activate(composition)
        expected = {name: weight.clone() for name, weight in before.items()}
        for module, weight in zip((one, other), weights, strict=True):
            for name, difference in module.differences.items():
                expected[name].view(-1)[difference.positions] += weight * difference.change.double()
        for name, weight in values_of(backbone).items():
            torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-6)


def test_branches_cannot_differ() -> None:
    backbone = tiny_backbone("bert")
    one, other = shaken(backbone, 0), shaken(backbone, 1)
    before = values_of(backbone)
    with pytest.raises(UserError, match="cannot differ between the branches"):
        backbone.activate(Parallel(one, other))
    assert is_same(values_of(backbone), before), "what was in force is again"
    backbone.activate(Parallel(Stack(one, other), Stack(other, one)))


def test_a_full_copy_on_top_is_refused_and_a_full_difference_is_not(tmp_path: Path) -> None:
    """A copy would hold the language's changes, too."""
    backbone = tiny_backbone("bert", language_head=False)
    below = shaken(backbone, 0)
    with pytest.raises(UserError, match=r"task_method=rand_sft task_method\.density=1"):
        FullFineTuning().create(backbone, generator(0))
    assert backbone.modules == [below]
    with_language = values_of(backbone)
    trained(EVERYTHING, backbone, tmp_path)
    assert not is_same(values_of(backbone), with_language)
    on_full = tiny_backbone("bert", language_head=False)
    FullFineTuning().create(on_full, generator(0)).freeze()
    assert trained(RANDOM, on_full, tmp_path / "on_full").count() == 300


@pytest.mark.parametrize("method", [RANDOM, LT_SFT], ids=lambda method: method.name)
def test_a_task_holds_nothing_of_the_language(method: SparseFineTuning, tmp_path: Path) -> None:
    """Trained on θ0 + φ_source, taken off and put on θ0 + φ_target: the sum of its own change and the target's."""
    backbone = tiny_backbone("bert", language_head=False)
    before = values_of(backbone)
    source, target = shaken(backbone, 0, count=4000), shaken(backbone, 1, count=4000)
    source.freeze()
    backbone.activate(source)
    on_source = values_of(backbone)
    module = method.create(backbone, generator(0))
    kept: dict[str, torch.Tensor] = {}
    for phase, _ in enumerate(method.phases(SETTINGS)):
        module.begin(phase, kept)
        backbone.activate(Stack(source, module))
        hidden_states(backbone)
        torch.testing.assert_close(values_of(backbone), on_source, atol=1e-6, rtol=0)
        train_phase(backbone, module, tmp_path / str(phase))
        kept = module.end(phase)
    backbone.activate(module)
    hidden_states(backbone)
    for name, weight in values_of(backbone).items():
        change = (weight - before[name]).abs().max()
        assert change < 0.2, "steps of 0.01 at most, five of them; the source's changes are of the size 1"
    backbone.activate(Stack(target, module))
    hidden_states(backbone)
    both = values_of(backbone)
    for name in both:
        expected = before[name].clone().view(-1)
        for part in (target, module):
            if name in part.differences:
                expected[part.differences[name].all_positions()] += part.differences[name].change
        torch.testing.assert_close(both[name].view(-1), expected, atol=1e-6, rtol=0)


def test_languages_take_turns_under_a_task(tmp_path: Path) -> None:
    """Each batch's gradient is that of a backbone which has just that language and the task's changes."""
    backbone = tiny_backbone("bert", language_head=False)
    languages = [shaken(backbone, seed, count=2000) for seed in range(2)]
    module = RANDOM.create(backbone, generator(0))
    module.begin(0, {})
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator(3)), alpha=0.2)
    for turn in (0, 1, 0):
        backbone.activate(Stack(languages[turn], module))
        backbone.hidden_states(IDS, MASK).square().sum().backward()
        alone = tiny_backbone("bert", language_head=False)
        weights = own_weights(alone)
        with torch.no_grad():
            for part in (languages[turn], module):
                for name, difference in part.differences.items():
                    weights[name].view(-1)[difference.positions] += difference.change
        alone.model.requires_grad_(True)
        alone.hidden_states(IDS, MASK).square().sum().backward()
        for name, parameter in module.parameters().items():
            expected = weights[name].grad.view(-1)[module.differences[name].positions]
            torch.testing.assert_close(parameter.grad.flatten(), expected, atol=1e-3, rtol=1e-3)
            parameter.grad = None
    assert not any(language.parameters() for language in languages)


# ---- storing


@every_architecture
@pytest.mark.parametrize("language_head", [True, False], ids=["with_head", "without_head"])
def test_a_stored_module_comes_back(language_head: bool, architecture: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(architecture)
    module = RANDOM.create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator(1)), alpha=0.3)
    expected, states = logits(backbone), hidden_states(backbone)
    module.save(tmp_path)
    loaded = tiny_backbone(architecture, language_head)
    module = method_of_folder(tmp_path).load(loaded, tmp_path)
    assert isinstance(module, SparseModule) and module.parameters() == {}
    torch.testing.assert_close(hidden_states(loaded), states, atol=1e-6, rtol=1e-5)
    if language_head:
        torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)


def test_a_module_with_another_vocabulary_is_refused(tmp_path: Path, world: Path) -> None:
    """As many pieces, in another order: the sizes of all tensors fit."""
    backbone = Backbone.open(world / "models" / "bert")
    shaken(backbone, 0).save(tmp_path)
    described = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps({**described, "vocabulary": "0" * 16}))
    with pytest.raises(UserError, match="another vocabulary than this backbone has: the rows of the embeddings"):
        method_of_folder(tmp_path).load(backbone, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("bert", {"vocab_size": 70}, r"word_embeddings\.weight \[65, 16\] \(here \[70, 16\]\)"),
        ("bert", {"num_hidden_layers": 1}, r"layer\.1\..*Use the backbone that it was trained on"),
        ("bert", {"hidden_size": 32}, "made for a model of model type bert, hidden size 16"),
        ("xlm_roberta", {}, "this one is of model type xlm-roberta"),
    ],
)
@pytest.mark.parametrize("composable", [False, True], ids=["own", "composable_sft"])
def test_a_module_of_another_anatomy_is_refused(
    architecture: str, changes: dict[str, int], said: str, composable: bool, tmp_path: Path
) -> None:
    module = shaken(tiny_backbone("bert"), 0, count=3000)
    (module.save_for_composable_sft if composable else module.save)(tmp_path)
    if composable and "model type" in said:  # which that format does not say: the names and the sizes do
        said = r"does not fit this backbone.*embeddings"
    with pytest.raises(UserError, match=said):
        method_of_folder(tmp_path).load(tiny_backbone(architecture, **changes), tmp_path)


def test_positions_of_composable_sft(tmp_path: Path) -> None:
    """The first dimension runs fastest: in a tensor of 2 rows and 3 columns, (0, 2) is number 4 there and 2 here."""
    whole = torch.arange(4.0).view(2, 2)
    stored = Stored((2, 3), torch.tensor([0.5, 1.5, 1e-9, 2.5]), torch.tensor([1, 2, 3, 5]))
    write_composable_sft({"weight": stored}, {"head": whole}, tmp_path / COMPOSABLE_SFT)
    content = torch.load(tmp_path / COMPOSABLE_SFT, weights_only=True)
    assert content["diffs"]["weight"]["size"] == torch.Size([2, 3])
    assert content["diffs"]["weight"]["index_steps"] == [2, 2, 1]
    assert content["diffs"]["weight"]["values"].tolist() == [0.5, 1.5, 2.5]
    found = read_composable_sft(tmp_path / COMPOSABLE_SFT)
    assert found["weight"].positions.tolist() == [1, 2, 5] and found["weight"].values.tolist() == [0.5, 1.5, 2.5]
    assert found["head"].replaces and torch.equal(found["head"].values, whole)


@pytest.mark.parametrize(
    "content", [b"no pickle", {"diffs": {}}, {"diffs": {"a": 3}, "abs": {}}, {"diffs": {}, "abs": {"a": print}}]
)
def test_a_file_that_is_none_of_composable_sft_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / COMPOSABLE_SFT
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match="cannot be read as sparse differences of composable-sft"):
        method_of_folder(tmp_path).load(tiny_backbone("bert"), tmp_path)


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    folders = [tmp_path / "own", tmp_path / "composable"]
    module = shaken(tiny_backbone("bert"), 0, count=3000)
    loaded = []
    for folder, save in zip(folders, (module.save, module.save_for_composable_sft), strict=True):
        folder.mkdir()
        save(folder)
        backbone = tiny_backbone("bert")
        method_of_folder(folder).load(backbone, folder)
        loaded.append(values_of(backbone))
    assert is_same(loaded[0], loaded[1])
    assert is_same(loaded[0], values_of(module.backbone))


def test_biases_in_the_format_of_composable_sft_are_differences(tmp_path: Path) -> None:
    """Whole tensors of the encoder, too: they are added up with others. A head goes along as it is."""
    backbone = tiny_backbone("bert")
    module = SparseFineTuning(selection="biases").create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(0.5)
    hidden_states(backbone)
    module.save_for_composable_sft(tmp_path, {"classifier.weight": torch.ones(2, 16)})
    stored = read_composable_sft(tmp_path / COMPOSABLE_SFT)
    assert {name for name, one in stored.items() if one.replaces} == {
        "cls.predictions.bias", "cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias",
        "classifier.weight",
    }  # fmt: skip
    loaded = tiny_backbone("bert")
    method_of_folder(tmp_path).load(loaded, tmp_path)
    for name, weight in values_of(loaded).items():
        torch.testing.assert_close(weight, values_of(backbone)[name], atol=1e-6, rtol=0)


def test_a_pooler_is_left_aside(tmp_path: Path) -> None:
    """Task models of composable-sft have one, which nothing here uses."""
    pooler = Stored((16, 16), torch.ones(3), torch.tensor([0, 7, 200]))
    key = Stored((16,), torch.ones(1), torch.tensor([3]))
    name = "bert.encoder.layer.0.attention.self.key.bias"
    write_composable_sft({"bert.pooler.dense.weight": pooler, name: key}, {}, tmp_path / COMPOSABLE_SFT)
    module = method_of_folder(tmp_path).load(tiny_backbone("bert"), tmp_path)
    assert module.differences.keys() == {name}


def test_quantised_weights_cannot_be_changed() -> None:
    backbone = tiny_backbone("bert")
    backbone.model.is_quantized = True
    with pytest.raises(UserError, match="quantised ones cannot be"):
        RANDOM.create(backbone, generator(0))


# ---- analysis


def test_the_overlap_by_hand() -> None:
    one = {
        "bert.encoder.layer.0.key.weight": Stored((2, 5), torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0, 4, 9])),
        "bert.encoder.layer.1.key.bias": Stored((4,), torch.tensor([0.5]), torch.tensor([2])),
        "cls.predictions.bias": Stored((3,), torch.ones(3)),
    }
    other = {
        "bert.encoder.layer.0.key.weight": Stored((2, 5), torch.tensor([1.0, 1.0]), torch.tensor([4, 9])),
        "bert.encoder.layer.0.key.bias": Stored((4,), torch.tensor([0.5]), torch.tensor([2])),
        "cls.predictions.bias": Stored((3,), torch.ones(3)),
    }
    both = overlap_of(one, other)
    assert (both.shared, both.by_chance, both.agreeing) == (2, pytest.approx(3 * 2 / 10), 0.5)
    assert overlap_of(one, one).agreeing == 1
    assert parts(one) == {
        "bert.encoder.layer.0": Part(10, 3, 6.0),
        "bert.encoder.layer.1": Part(4, 1, 0.5),
        "cls.predictions.bias": Part(3, 3, 3.0),
    }


def test_the_report_of_two_modules(tmp_path: Path) -> None:
    modules, folders = [], [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        modules.append(shaken(tiny_backbone("bert"), seed, count=2000))
        modules[-1].save(folder)
    said = load_script("sparse_modules").report(folders)
    assert re.search(rf"^a +b +{overlap(*modules):,} ", said, re.MULTILINE)
    assert said.count("bert.encoder.layer.1 ") == 2
    with pytest.raises(UserError, match="holds no sparse module"):
        load_script("sparse_modules").report([tmp_path])


def load_script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# ---- whole runs

SPARSE = ["method=lt_sft", "task_method=lt_sft", "method.reduction_factor=8", "task_method.reduction_factor=8"]


@pytest.fixture
def beginnings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What each loop begins with: the initial value of everything that is trained in it."""
    found: list[dict[str, torch.Tensor]] = []
    train = Trainer.train

    def kept(self: Trainer) -> Any:
        found.append({name: parameter.detach().clone() for name, parameter in self.parameters.items()})
        return train(self)

    monkeypatch.setattr(Trainer, "train", kept)
    return found


def test_a_run(overrides: list[str], beginnings: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """Two phases each; the heads begin the second one as the first, and the phases have lengths of their own."""
    record = xlt.run(*overrides, *SPARSE, "task_method.dense_epochs=1", "method.dense_steps=4")
    dense_language, sparse_language, dense_task, sparse_task = beginnings
    for dense, sparse in ((dense_language, sparse_language), (dense_task, sparse_task)):
        heads = [name for name in sparse if name.startswith(("head.", "cls."))]
        assert len(heads) >= 2 and all(torch.equal(dense[name], sparse[name]) for name in heads)
    count = {name: sum(parameter.numel() for parameter in trained.values()) for name, trained in
             (("language", sparse_language), ("task", sparse_task))}  # fmt: skip
    assert count["language"] == 2 * 3 * 16 * 16 // 8 + 65 + 16 * 16 + 16
    heads = sum(parameter.numel() for name, parameter in sparse_task.items() if name.startswith("head."))
    assert count["task"] == 2 * 2 * 16 * 16 // 8 + heads
    figures = record["training"]
    assert figures["language_module"]["trainable_parameters"] == count["language"]
    assert (figures["language_module"]["steps"], figures["task_module"]["steps"]) == (4 + 6, 6 + 12)
    folders = {artifact.manifest["kind"]: artifact.folder for artifact in Store(tmp_path / "outputs" / "store").list()}
    phases = json.loads((folders["language_module"] / "training.json").read_text())["phases"]
    assert [phase["steps"] for phase in phases] == [4, 6]
    answers = xlt.load(record).predict(["ki ba du", "ba ki"])
    assert [set(answer["probabilities"]) for answer in answers] == [{"kiki", "bouba"}] * 2
    assert not (Store(tmp_path / "outputs" / "store").root / ".work").exists() or not any(
        (tmp_path / "outputs" / "store" / ".work").iterdir()
    )


def test_a_full_copy_on_top_is_refused_before_anything_is_made(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint([*overrides, SPARSE[0], SPARSE[2], "task_method=full"], capsys, tmp_path / "outputs")
    assert "task_method=full keeps a copy of all weights" in said


@pytest.mark.parametrize("method", ["rand_sft", "bitfit"])
def test_the_baselines_run(method: str, overrides: list[str]) -> None:
    size = [] if method == "bitfit" else [f"{name}.reduction_factor=8" for name in ("method", "task_method")]
    record = xlt.run(*overrides, f"method={method}", f"task_method={method}", *size)
    assert record["training"]["language_module"]["steps"] == 6
    assert record["training"]["task_module"]["steps"] == 12


@pytest.mark.parametrize(
    "choices",
    [["method=seq_bn_inv", *SPARSE[1::2]], ["method=lt_sft", "task_method=seq_bn"], ["method=lt_sft", "task_method=lora"]],
    ids=["lt_sft_on_adapters", "adapters_on_lt_sft", "lora_on_lt_sft"],
)
def test_it_goes_with_other_methods(choices: list[str], overrides: list[str]) -> None:
    record = xlt.run(*overrides, *choices, *([SPARSE[2]] if "method=lt_sft" in choices else []))
    assert 0 <= record["metrics"]["macro_f1"] <= 1


def test_a_module_of_the_store_is_ready_made_for_others(overrides: list[str], tmp_path: Path) -> None:
    record = xlt.run(*overrides, *SPARSE)
    folders = {artifact.manifest["kind"]: artifact.folder for artifact in Store(tmp_path / "outputs" / "store").list()}
    again = xlt.run(*overrides, *SPARSE[1::2], f"language.path={folders['language_module']}", f"paths.store={tmp_path}/other")
    assert again["metrics"] == record["metrics"]


@pytest.mark.parametrize("kill_at", [5, 7, 20, 30])
def test_a_run_that_was_killed_in_either_phase_equals_an_undisturbed_one(
    kill_at: int, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of a run are 6 and 6 of the language, 12 and 12 of the task."""
    command = [*(text for text in overrides if not text.startswith("paths.outputs=")), *SPARSE, *CHECKPOINTS]
    step, steps, begun = Trainer._step, [0], []
    expected = xlt.run(*command, f"paths.outputs={tmp_path}/calm")

    def fragile(self: Trainer, *given: Any) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == kill_at:
            raise Killed
        return step(self, *given)

    begin = NewSparseModule.begin
    monkeypatch.setattr(Trainer, "_step", fragile)
    monkeypatch.setattr(NewSparseModule, "begin", lambda self, *given: (begun.append(given[0]), begin(self, *given)))
    with pytest.raises(Killed):
        xlt.run(*command, f"paths.outputs={tmp_path}/killed")
    found = xlt.run(*command, f"paths.outputs={tmp_path}/killed")
    assert steps[0] == 36 + 1, "no step but the one that was killed is done twice"
    assert begun.count(0) + begun.count(1) == 5, "only the phase that was killed begins twice"
    assert found["metrics"] == expected["metrics"]
    for kind in ("language_module", "task_module"):
        calm, killed = (
            next(artifact.folder for artifact in Store(tmp_path / name / "store").list(kind)) for name in ("calm", "killed")
        )
        assert (calm / "sparse.safetensors").read_bytes() == (killed / "sparse.safetensors").read_bytes()


@pytest.mark.parametrize("transfer", ["multi_source", "ensemble"])
def test_several_languages_in_a_run(transfer: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of several languages, each with its own language's differences in force; or a task module of each language."""
    in_force: set[frozenset[int]] = set()
    put = Weights.put_in_force

    def noted(self: Weights, shares: dict[SparseModule, float]) -> None:
        in_force.add(frozenset(module.backbone.modules.index(module) for module in shares if module in module.backbone.modules))
        put(self, shares)

    monkeypatch.setattr(Weights, "put_in_force", noted)
    record = xlt.run(*overrides, *SPARSE, f"transfer={transfer}", "source=[mt,yo]")
    assert 0 <= record["metrics"]["macro_f1"] <= 1
    if transfer == "multi_source":
        assert {frozenset({0, 2}), frozenset({1, 2})} <= in_force, "either language with the task"
    else:
        assert {frozenset({0, 1}), frozenset({0, 2})} <= in_force, "the target's language with either task module"
