"""Sparse fine-tuning: what is chosen, what is trained, and what stays as it was."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import IDS, hidden_states, logits, tiny_backbone
from omegaconf import OmegaConf
from sparse_helpers import (
    EVERYTHING,
    FISHER,
    LT_SFT,
    RANDOM,
    SETTINGS,
    Squares,
    batches_of,
    every_architecture,
    is_same,
    train_phase,
    trained,
    values_of,
)
from test_transfer import CPU

from xlt.backbones.backbone import Backbone
from xlt.cli import compose
from xlt.config import build
from xlt.errors import UserError
from xlt.methods.differences import own_weights
from xlt.methods.full import FullFineTuning
from xlt.methods.selection import largest
from xlt.methods.sparse import SparseFineTuning
from xlt.random import generator
from xlt.steps.audit import count_trainable
from xlt.training.optimizers import SquaredGradients
from xlt.training.settings import Training

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
    with pytest.raises(UserError, match=r"encoder\.key: its changes or gradients are not finite"):
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
        ({"count": 3, "selection": "fisher", "dense_learning_rate": 0.1}, "dense_learning_rate is of no use"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SparseFineTuning(**settings).verify("method")


def test_the_phases_of_the_literature() -> None:
    """A language's phases are bounded alike; a task's dense phase has a length of its own, which bounds do not touch."""
    train = compose(["lang=mt", "train=ansell2024"])["train"]
    training = build(train, "train", Training)
    language = SparseFineTuning(reduction_factor=2).phases(training.language.loop)
    assert [[phase.total_steps(blocks) for phase in language] for blocks in (80, 4_000, 10**6)] == [
        [30_000] * 2, [50_000] * 2, [100_000] * 2,
    ]  # fmt: skip
    task = SparseFineTuning(reduction_factor=1, dense_epochs=3).phases(training.task)
    assert [phase.total_steps(800) for phase in task] == [300, 1000]
    bounded = dataclasses.replace(training.task, min_steps=5000)
    assert [phase.total_steps(800) for phase in SparseFineTuning(dense_steps=7).phases(bounded)] == [7, 5000]


def test_a_backbone_without_biases_has_nothing_for_bitfit() -> None:
    with pytest.raises(UserError, match="method=bitfit is to train 0 biases of this llama backbone"):
        SparseFineTuning(name="bitfit", selection="biases").create(tiny_backbone("llama"), torch.Generator())


def test_more_weights_than_there_are() -> None:
    with pytest.raises(UserError, match="1,000,000 weights of this bert backbone"):
        SparseFineTuning(name="lt_sft", count=1_000_000).create(tiny_backbone("bert"), torch.Generator())


# ---- training


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 1}, {"precision": "bf16"}], ids=str)
@pytest.mark.parametrize("architecture", ["bert", "xlm_roberta", "llama"])
def test_all_weights_are_full_fine_tuning_bit_for_bit(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    """With decay, a clipped gradient, and batches in pieces; as one phase, and as the dense one of the lottery."""
    full = tiny_backbone(architecture, language_head=False)
    before = values_of(full)
    whole = FullFineTuning().create(full, generator(0))
    whole.begin(0, {})
    train_phase(full, whole, tmp_path / "full", **options)
    hidden_states(full)
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
@pytest.mark.parametrize(
    "method", [LT_SFT, FISHER, RANDOM, SparseFineTuning(selection="biases")], ids=lambda method: method.selection
)
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


def test_squared_gradients_by_hand() -> None:
    """Gradients (1, -3) and (2, 0): squares (5, 9), and the parameters as they were; a state that was saved goes on."""
    weight = torch.nn.Parameter(torch.tensor([0.5, -2.0]))
    optimizer = SquaredGradients([{"params": [weight], "weight_decay": 0.1}], 0.1)
    weight.grad = torch.tensor([1.0, -3.0])
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    optimizer = SquaredGradients([{"params": [weight], "weight_decay": 0.1}], 0.1)
    optimizer.load_state_dict(state)
    weight.grad = torch.tensor([2.0, 0.0])
    optimizer.step()
    assert optimizer.state[weight]["squares"].tolist() == [5.0, 9.0]
    assert weight.tolist() == [0.5, -2.0]


def test_the_fisher_information_by_hand(tmp_path: Path) -> None:
    """The mean over batches of the squared gradient at θ0, whatever clipping and decay; nothing moves before the choice."""
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    alone = tiny_backbone("bert", language_head=False, **without_dropout)
    before, weights, objective = values_of(alone), own_weights(alone), Squares(alone)
    squares = {name: torch.zeros(weight.numel()) for name, weight in weights.items() if "LayerNorm" not in name}
    inputs = [weights[name].requires_grad_(True) for name in squares]
    for step in range(SETTINGS.steps):
        loss = objective.loss(batches_of(objective)[step], CPU) / 2
        gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
        for name, gradient in zip(squares, gradients, strict=True):
            squares[name] += gradient.flatten() ** 2
    backbone = tiny_backbone("bert", language_head=False, **without_dropout)
    module = FISHER.create(backbone, generator(0))
    module.begin(0, {})
    (dense, sparse) = FISHER.phases(SETTINGS)
    assert (dense.clip_norm, sparse) == (None, SETTINGS)
    train_phase(backbone, module, tmp_path, clip_norm=dense.clip_norm)
    hidden_states(backbone)
    assert is_same(values_of(backbone), before)
    kept = module.end(0)
    largest_by_sorting = torch.cat(list(squares.values())).topk(60).values.sort().values
    found = torch.cat([squares[name][positions] for name, positions in kept.items()]).sort().values
    torch.testing.assert_close(found, largest_by_sorting)
    changed = trained(LT_SFT, tiny_backbone("bert", language_head=False), tmp_path / "lottery")
    assert {name: positions.tolist() for name, positions in kept.items()} != {
        name: difference.positions.tolist() for name, difference in changed.differences.items()
    }, "what changes most is something else"


def test_a_dense_phase_that_changes_nothing_is_refused() -> None:
    module = LT_SFT.create(tiny_backbone("bert"), generator(0))
    module.begin(0, {})
    with pytest.raises(UserError, match="changed no weight"):
        module.end(0)
    module = FISHER.create(tiny_backbone("bert"), generator(0))
    module.begin(0, {})
    _ = module.optimizer(0)([{"params": list(module.parameters().values())}], 0.1)
    with pytest.raises(UserError, match="met no gradient"):
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
