"""Differences in a backbone's weights: which of them are in force, and what the weights are with them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from conftest import IDS, MASK, hidden_states, logits, tiny_backbone
from sparse_helpers import (
    LT_SFT,
    RANDOM,
    SETTINGS,
    every_architecture,
    is_same,
    overlap,
    shaken,
    train_phase,
    values_of,
)

from xlt.backbones.composition import Average, Parallel, Stack
from xlt.errors import UserError
from xlt.methods.differences import own_weights
from xlt.methods.sparse import SparseFineTuning
from xlt.random import Draw, generator


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
