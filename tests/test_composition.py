"""Compositions: modules stacked, averaged, side by side and fused do what each does alone, put together by hand."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, IDS, MASK, hidden_states, logits, shaken, tiny_backbone

from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Average, Composable, Parallel, Stack
from xlt.backbones.sites import Site
from xlt.errors import UserError
from xlt.methods.base import Method, Module
from xlt.methods.bottleneck import Bottleneck, BottleneckModule
from xlt.methods.full import FullFineTuning
from xlt.methods.fusion import Fusion, FusionLayer, FusionModule
from xlt.methods.none import NoAdaptation
from xlt.random import generator

SEQ_BN = Bottleneck(name="seq_bn", reduction_factor=2)
SEQ_BN_INV = Bottleneck(name="seq_bn_inv", reduction_factor=2, invertible=True)
DOUBLE_SEQ_BN = Bottleneck(name="double_seq_bn", reduction_factor=2, places=["attention", "output"], reads_norm=False)
PAR_BN = Bottleneck(name="par_bn", reduction_factor=2, parallel=True, scaling=4.0, reads_norm=False)
FUSION = Fusion(name="fusion", members=["one", "two"], trained_on="text")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


Trained = tuple[Method, int]  # a module, by its method and its seed

_folders: dict[tuple[str, str], tempfile.TemporaryDirectory] = {}
_scores: dict[tuple[str, str], torch.Tensor] = {}


def trained(architecture: str, module: Trained) -> Path:
    """The file of a module that was trained alone, so that it has an invertible adapter if its method says so."""
    key = (architecture, repr(module))
    if key not in _folders:
        _folders[key] = tempfile.TemporaryDirectory()
        method, seed = module
        shaken(method.create(tiny_backbone(architecture), generator(seed)), seed).save(Path(_folders[key].name))
    return Path(_folders[key].name)


def opened(architecture: str, *modules: Trained) -> tuple[Backbone, list[Module]]:
    """A backbone with modules that were each trained alone."""
    backbone = tiny_backbone(architecture)
    return backbone, [module[0].load(backbone, trained(architecture, module)) for module in modules]


@torch.no_grad()
def alone(architecture: str, *modules: Trained) -> torch.Tensor:
    """The scores of a backbone that has these modules, stacked, and no others."""
    key = (architecture, repr(modules))
    if key not in _scores:
        _scores[key] = logits(opened(architecture, *modules)[0])
    return _scores[key]


@torch.no_grad()
def scores(backbone: Backbone, composition: Composable | None = None) -> torch.Tensor:
    backbone.activate(composition)
    return logits(backbone)


class Plus(Composable):
    """A leaf that adds a number to h at every site."""

    def __init__(self, number: float, final_norm: bool | None = True) -> None:
        self.number = number
        self.final_norm = final_norm

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: torch.nn.Module | None) -> torch.Tensor:
        return hidden + self.number

    def closes(self, site: Site) -> bool | None:
        return self.final_norm

    def branches(self) -> list:
        return [[(self, 1.0)]]


class Times(Plus):
    """A leaf that multiplies h."""

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: torch.nn.Module | None) -> torch.Tensor:
        return hidden * self.number


def made_of(composition: Composable, *hidden: float) -> list[float]:
    """What becomes of h with one row and one number a row."""
    states = torch.tensor(hidden).reshape(-1, 1, 1)
    return composition.at_site(None, states, torch.zeros_like(states), None).flatten().tolist()


# ---- worked out by hand


def test_the_rules_by_hand() -> None:
    assert made_of(Stack(Plus(1), Times(3)), 2) == [9]
    assert made_of(Stack(Times(3), Plus(1)), 2) == [7]
    assert made_of(Stack(), 2) == [2]
    assert made_of(Average(Plus(1), Times(3)), 2) == [4.5]
    assert made_of(Average(Plus(1), Times(3), weights=[3, 1]), 2) == [3.75]
    assert made_of(Average(Plus(1), Times(3), weights=[3, 1], divides_twice=True), 2) == [1.875]
    assert made_of(Parallel(Plus(1), Times(3)), 2, 5, 2, 5) == [3, 6, 6, 15]
    assert made_of(Parallel(Stack(Plus(1), Average(Times(1), Times(3))), Stack()), 2, 5) == [6, 5]
    assert made_of(Stack(Plus(1), Parallel(Plus(1), Times(3)), Plus(1)), 2, 5) == [5, 19]


def test_an_average_without_an_adapter_at_a_site_leaves_h_alone() -> None:
    """Whatever its weights: divided twice, it would shrink every other block."""
    nothing = Times(1, final_norm=None)
    assert made_of(Average(nothing, nothing, nothing, divides_twice=True), 0.1) == made_of(Stack(), 0.1)
    assert made_of(Average(nothing, Plus(1)), 2) == [2.5]


def test_the_branches_of_a_composition() -> None:
    """Every module with its share, in the order in which they act."""
    a, b, c, d = (Plus(number) for number in range(4))
    assert Stack().branches() == [[]]
    assert Stack(a, Stack(b, c)).branches() == [[(a, 1.0), (b, 1.0), (c, 1.0)]]
    assert Average(a, Stack(b, c), weights=[1, 3]).branches() == [[(a, 0.25), (b, 0.75), (c, 0.75)]]
    assert Average(a, Average(b, c)).branches() == [[(a, 0.5), (b, 0.25), (c, 0.25)]]
    assert Average(a, b, divides_twice=True).branches() == [[(a, 0.25), (b, 0.25)]]
    assert Parallel(a, Stack(b, c), Stack()).branches() == [[(a, 1.0)], [(b, 1.0), (c, 1.0)], []]
    assert Stack(a, Parallel(b, c), d).branches() == [[(a, 1.0), (b, 1.0), (d, 1.0)], [(a, 1.0), (c, 1.0), (d, 1.0)]]


@pytest.mark.parametrize(
    ("composition", "message"),
    [
        (lambda a, b: Stack(Parallel(a, b), Parallel(a, b)), "there are two Parallel in this stack"),
        (lambda a, b: Parallel(a, Stack(Parallel(a, b), b)), "there is a Parallel inside a Parallel"),
        (lambda a, b: Average(a, Parallel(a, b)), "put the Average inside the Parallel"),
        (lambda a, b: Average(), "at least one module"),
        (lambda a, b: Parallel(), "at least one composition"),
        (lambda a, b: Average(a, b, weights=[1]), "as many weights"),
        (lambda a, b: Average(a, b, weights=[1, -1]), "with a sum above 0"),
    ],
)
def test_what_cannot_be_put_together(composition, message: str) -> None:
    """Refused, and what was in force before stays."""
    backbone, (a, b) = opened("bert", (SEQ_BN, 1), (SEQ_BN, 2))
    before, in_force = scores(backbone, b), backbone.composition
    with pytest.raises(UserError, match=message):
        backbone.activate(composition(a, b))
    assert backbone.composition is in_force
    assert torch.equal(logits(backbone), before)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: Parallel(x, Stack()), lambda x: Stack(Average(x))])
def test_a_module_that_is_not_attached_is_a_stranger(wrap) -> None:
    backbone, (_, b) = opened("bert", (SEQ_BN, 1), (SEQ_BN, 2))
    _, (stranger,) = opened("bert", (SEQ_BN, 1))
    b.detach()
    for module in (stranger, b):
        with pytest.raises(ValueError, match="attached to its backbone"):
            backbone.activate(wrap(module))
    assert torch.equal(logits(backbone), alone("bert", (SEQ_BN, 1)))


@pytest.mark.parametrize("side_by_side", [Average, Parallel])
def test_modules_side_by_side_close_the_block_alike(side_by_side) -> None:
    open_end = dataclasses.replace(SEQ_BN, residual="sum", final_norm=False)
    backbone, (a, b, c) = opened("bert", (SEQ_BN, 1), (open_end, 2), (open_end, 3))
    for other in (a, Stack()):  # without a module the block closes, too
        with pytest.raises(UserError, match="have to agree on whether the pretrained norm closes the block"):
            scores(backbone, side_by_side(b, other))
    torch.testing.assert_close(scores(backbone, side_by_side(b, b))[: len(IDS)], alone("bert", (open_end, 2)), **CLOSE)
    assert (scores(backbone, Average(b, c)) - alone("bert", (open_end, 2))).abs().max() > 0.01


# ---- one module in force, others at rest


@every_architecture
def test_the_module_in_force_changes_from_batch_to_batch(architecture: str) -> None:
    """Each time the numbers are those of a backbone with this module alone; what is trained stays what it was.

    The modules have adapters in different layers and places, so that at some sites only those at rest have one.
    """
    kinds = [
        (dataclasses.replace(SEQ_BN_INV, leave_out=[-1]), 1),
        (DOUBLE_SEQ_BN, 2),
        (dataclasses.replace(SEQ_BN_INV, leave_out=[0], activation="gelu"), 3),
    ]
    backbone, modules = opened(architecture, *kinds)
    for parameter in modules[1].parameters().values():
        parameter.requires_grad_(True)
    trained = [parameter.requires_grad for parameter in backbone.model.parameters()]
    expected = [alone(architecture, kind) for kind in kinds]
    for number in (0, 1, 2, 1, 0):
        assert torch.equal(scores(backbone, modules[number]), expected[number])
    assert torch.equal(scores(backbone, Stack()), alone(architecture))
    assert torch.equal(scores(backbone, Stack(modules[2], modules[1])), alone(architecture, kinds[2], kinds[1]))
    assert torch.equal(scores(backbone), alone(architecture, *kinds))
    assert [parameter.requires_grad for parameter in backbone.model.parameters()] == trained


@every_architecture
def test_only_the_module_in_force_is_trained(architecture: str) -> None:
    backbone, modules = opened(architecture, (SEQ_BN_INV, 1), (SEQ_BN_INV, 2))
    for module in modules:
        for parameter in module.parameters().values():
            parameter.requires_grad_(True)
    for number in (1, 0):
        backbone.activate(modules[number])
        backbone.model.zero_grad()
        logits(backbone).square().mean().backward()
        reached = [[parameter.grad is not None for parameter in module.parameters().values()] for module in modules]
        assert all(reached[number])
        assert not any(reached[1 - number])


def test_attaching_and_detaching_puts_the_stack_of_all_into_force() -> None:
    backbone, (a, b) = opened("bert", (SEQ_BN, 1), (SEQ_BN, 2))
    backbone.activate(Parallel(a, b))
    NoAdaptation().create(backbone, generator(0)).detach()
    assert torch.equal(logits(backbone), alone("bert", (SEQ_BN, 1), (SEQ_BN, 2)))
    b.detach()
    assert torch.equal(logits(backbone), alone("bert", (SEQ_BN, 1)))


# ---- stacks and averages


@every_architecture
def test_a_stack_is_in_its_own_order(architecture: str) -> None:
    backbone, (a, b) = opened(architecture, (SEQ_BN_INV, 1), (DOUBLE_SEQ_BN, 2))
    assert torch.equal(scores(backbone, Stack(b, a)), alone(architecture, (DOUBLE_SEQ_BN, 2), (SEQ_BN_INV, 1)))
    assert torch.equal(scores(backbone, Stack(a, Stack(b))), scores(backbone))
    assert (scores(backbone, Stack(b, a)) - scores(backbone)).abs().max() > 0.01


@every_architecture
@pytest.mark.parametrize("method", [SEQ_BN_INV, DOUBLE_SEQ_BN, PAR_BN], ids=lambda method: method.name)
def test_an_average_of_equals_is_the_one(method: Bottleneck, architecture: str) -> None:
    backbone, (a, b, c) = opened(architecture, (method, 1), (method, 1), (method, 2))
    one = alone(architecture, (method, 1))
    assert torch.equal(scores(backbone, Average(a, b)), one)
    torch.testing.assert_close(scores(backbone, Average(a, b, weights=[2, 1])), one, **CLOSE)
    assert torch.equal(scores(backbone, Average(b, c, weights=[1, 0])), one)
    middle = scores(backbone, Average(a, c))
    assert min((middle - one).abs().max(), (middle - alone(architecture, (method, 2))).abs().max()) > 0.001


@torch.no_grad()
def test_an_average_is_the_mean_at_the_site() -> None:
    """In the only layer that has adapters, of a pre-norm model, whose layer adds x: outputs are averaged as they are."""
    method = dataclasses.replace(SEQ_BN, leave_out=[0])
    backbone, (a, b) = opened("llama", (method, 1), (method, 2))
    ends: list[torch.Tensor] = []
    backbone.layers[1].register_forward_hook(lambda part, inputs, output: ends.append(output))
    for composition in (a, b, Average(a, b, weights=[1, 3])):
        scores(backbone, composition)
    torch.testing.assert_close(ends[2], 0.25 * ends[0] + 0.75 * ends[1], **CLOSE)


def test_an_average_goes_through_the_invertible_adapter_of_its_first_module() -> None:
    """Whole, and back through it at the head: with adapters that add nothing, only F and G are left."""
    backbone, (a, b) = opened("bert", (SEQ_BN_INV, 1), (SEQ_BN_INV, 2))
    for module in (a, b):
        for name, parameter in module.parameters().items():
            if ".adapter_up." in name:
                parameter.data.zero_()
    torch.testing.assert_close(scores(backbone, Average(a, b, weights=[1, 9])), scores(backbone, a), **CLOSE)
    torch.testing.assert_close(scores(backbone, Average(b, a)), scores(backbone, b), **CLOSE)
    assert (scores(backbone, a) - scores(backbone, b)).abs().max() > 0.01


@every_architecture
def test_an_average_inside_a_stack(architecture: str) -> None:
    backbone, (a, b, task) = opened(architecture, (SEQ_BN_INV, 1), (SEQ_BN_INV, 1), (PAR_BN, 3))
    expected = alone(architecture, (SEQ_BN_INV, 1), (PAR_BN, 3))
    assert torch.equal(scores(backbone, Stack(Average(a, b), task)), expected)


# ---- branches


def branches(backbone: Backbone, composition: Composable) -> tuple[torch.Tensor, ...]:
    """Each branch's scores by the model, after those of `language_head` were found to be the same."""
    together = scores(backbone, composition)
    count = len(composition.branches())
    assert torch.equal(backbone.language_head(hidden_states(backbone)), together)
    chosen = (MASK == 1).repeat(count, 1)
    torch.testing.assert_close(backbone.language_head(hidden_states(backbone)[chosen]), together[chosen], **CLOSE)
    assert len(together) == count * len(IDS)
    return together.chunk(count)


def same_at_real_positions(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found[MASK == 1], expected[MASK == 1], **CLOSE)


@every_architecture
@torch.no_grad()
def test_branches_give_what_each_gives_alone(architecture: str) -> None:
    """Of all kinds: with an invertible adapter, another one, none; at other places; two in a stack; no module at all."""
    kinds = [(SEQ_BN_INV, 1), (dataclasses.replace(SEQ_BN_INV, leave_out=[-1]), 2), (DOUBLE_SEQ_BN, 3), (PAR_BN, 4)]
    backbone, (a, b, c, d) = opened(architecture, *kinds)
    found = branches(backbone, Parallel(a, Stack(b, d), c, Stack(), Average(a, a)))
    same_at_real_positions(found[0], alone(architecture, kinds[0]))
    same_at_real_positions(found[1], alone(architecture, kinds[1], kinds[3]))
    same_at_real_positions(found[2], alone(architecture, kinds[2]))
    same_at_real_positions(found[3], alone(architecture))
    same_at_real_positions(found[4], alone(architecture, kinds[0]))
    assert scores(backbone, a).shape[0] == len(IDS)  # one branch again


@every_architecture
@torch.no_grad()
def test_branches_inside_a_stack(architecture: str) -> None:
    """One language module, two tasks on top of it; and the other way round."""
    kinds = [(SEQ_BN_INV, 1), (SEQ_BN, 2), (DOUBLE_SEQ_BN, 3)]
    backbone, (language, one, two) = opened(architecture, *kinds)
    found = branches(backbone, Stack(language, Parallel(one, two)))
    same_at_real_positions(found[0], alone(architecture, kinds[0], kinds[1]))
    same_at_real_positions(found[1], alone(architecture, kinds[0], kinds[2]))
    found = branches(backbone, Stack(Parallel(language, one), two))
    same_at_real_positions(found[0], alone(architecture, kinds[0], kinds[2]))
    same_at_real_positions(found[1], alone(architecture, kinds[1], kinds[2]))


@torch.no_grad()
def test_branches_of_gated_modules_count_their_own_padding() -> None:
    gated = dataclasses.replace(SEQ_BN, gated=True)
    backbone, (a, b) = opened("bert", (gated, 1), (gated, 2))
    for found, seed in zip(branches(backbone, Parallel(a, b)), (1, 2), strict=True):
        same_at_real_positions(found, alone("bert", (gated, seed)))


# ---- fusion


def fused(architecture: str, *members: Trained, **changes: object) -> tuple[Backbone, list[Module], FusionModule]:
    backbone, modules = opened(architecture, *members)
    method = dataclasses.replace(FUSION, members=["member"] * len(members), **changes)
    return backbone, modules, method.create(backbone, generator(0))


def with_identity(module: FusionModule) -> FusionModule:
    """A trained fusion whose value matrices change nothing."""
    shaken(module)
    for layer in module.layers.values():
        layer.value.weight.data.copy_(torch.eye(16))
    module.trained = True
    return module


@every_architecture
@pytest.mark.parametrize("method", [SEQ_BN_INV, DOUBLE_SEQ_BN, PAR_BN], ids=lambda method: method.name)
def test_a_fusion_of_equals_is_the_one(method: Bottleneck, architecture: str) -> None:
    backbone, _, fusion = fused(architecture, (method, 1), (method, 1))
    with_identity(fusion)
    torch.testing.assert_close(scores(backbone), alone(architecture, (method, 1)), **CLOSE)


@torch.no_grad()
def test_a_fusion_layer_by_hand() -> None:
    """W_q q + b_q = (1, 1), keys W_k u + b_k = (2, 0) and (0, 2 + ln 3): shares 1/4 and 3/4 of W_v u, without 1/√d."""
    layer = FusionLayer(2, value=True, dropout=0.0)
    layer.query.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    layer.query.bias.copy_(torch.tensor([0.0, 1.0]))
    layer.key.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2 + math.log(3)]]))
    layer.key.bias.copy_(torch.tensor([1.0, 0.0]))
    layer.value.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 10.0]]))
    query, changes = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[[1.0, 0.0], [-1.0, 1.0]]]])
    torch.testing.assert_close(layer.weights(query, changes), torch.tensor([[[0.25, 0.75]]]))
    torch.testing.assert_close(layer(query, changes), torch.tensor([[[0.25 - 0.75, 7.5]]]))


@every_architecture
@torch.no_grad()
def test_shares_sum_to_one_and_a_strong_key_takes_all(architecture: str) -> None:
    backbone, _, fusion = fused(architecture, (SEQ_BN, 1), (SEQ_BN, 2))
    with_identity(fusion)
    seen: list[torch.Tensor] = []
    for layer in fusion.layers.values():
        weights = layer.weights
        layer.weights = lambda query, changes, weights=weights: seen.append(weights(query, changes)) or seen[-1]
    hidden_states(backbone)
    assert len(seen) == len(fusion.layers) == len(backbone.layers)
    for shares in seen:
        assert shares.shape == (*IDS.shape, 2)
        torch.testing.assert_close(shares.sum(dim=-1), torch.ones(IDS.shape))
        assert shares.std(dim=(0, 1)).max() > 0.001  # not the same everywhere
    for layer in fusion.layers.values():
        layer.weights = lambda query, changes: torch.tensor([0.0, 1.0]).expand(*query.shape[:2], 2)
    torch.testing.assert_close(scores(backbone), alone(architecture, (SEQ_BN, 2)), **CLOSE)


@every_architecture
@torch.no_grad()
def test_a_member_that_leaves_out_a_layer(architecture: str, tmp_path: Path) -> None:
    """There the others share: with one left, and the identity as its value, that one acts alone."""
    less = dataclasses.replace(SEQ_BN, leave_out=[0])
    backbone, (whole,) = opened(architecture, (SEQ_BN, 1))
    whole.save(tmp_path)
    less.load(backbone, tmp_path)
    fusion = with_identity(FUSION.create(backbone, generator(0)))
    assert len(fusion.layers) == len(backbone.layers)
    torch.testing.assert_close(scores(backbone), alone(architecture, (SEQ_BN, 1)), **CLOSE)
    backbone, _, fusion = fused(architecture, (less, 1), (less, 2))
    assert {layer for layer, _ in fusion.layers} == set(range(1, len(backbone.layers)))


def test_the_penalty_by_hand() -> None:
    """regularisation · Σ_layers ‖I − W_v‖²: a matrix that is 1 away from the identity in one entry, 2 in another."""
    _, _, fusion = fused("bert", (SEQ_BN, 1), (SEQ_BN, 2), regularisation=0.1)
    for layer in fusion.layers.values():
        layer.value.weight.data.copy_(torch.eye(16))
    assert fusion.penalty().item() == 0
    first, second = fusion.layers.values()
    first.value.weight.data[3, 3] += 1
    second.value.weight.data[0, 5] -= 2
    penalty = fusion.penalty()
    assert penalty.item() == pytest.approx(0.1 * (1 + 4))
    penalty.backward()
    assert first.value.weight.grad[3, 3].item() == pytest.approx(0.2)
    assert first.value.weight.grad.count_nonzero() == 1
    fusion.freeze()
    assert fusion.penalty() is None
    for changes in ({"regularisation": 0.0}, {"value": False}):
        assert fused("bert", (SEQ_BN, 1), (SEQ_BN, 2), **changes)[2].penalty() is None


@every_architecture
def test_a_fusion_is_trained_and_its_members_are_not(architecture: str) -> None:
    backbone, members, fusion = fused(architecture, (SEQ_BN_INV, 1), (SEQ_BN, 2))
    backbone.model.train()
    logits(backbone).square().mean().backward()
    unreached = {name for name, parameter in fusion.parameters().items() if parameter.grad is None or not parameter.grad.any()}
    assert all(name.endswith("key.bias") for name in unreached)  # it adds the same to every score
    own = {id(parameter) for parameter in fusion.parameters().values()}
    assert all(parameter.grad is None for parameter in backbone.model.parameters() if id(parameter) not in own)
    assert not any(parameter.requires_grad for member in members for parameter in member.parameters().values())


@torch.no_grad()
def test_a_fusion_that_was_not_trained_does_not_run() -> None:
    """Unless it is meant to be so; nor in training mode while nothing is learnt. A step of training is enough."""
    backbone, members, _ = fused("bert", (SEQ_BN, 1), (SEQ_BN, 2))
    for training in (False, True):
        backbone.model.train(training)
        with pytest.raises(UserError, match=r"never trained.*method\.trained_on=nothing"):
            logits(backbone)
    with torch.enable_grad():
        logits(backbone)
    backbone.model.eval()
    logits(backbone)

    backbone, members, _ = fused("bert", (SEQ_BN, 1), (SEQ_BN, 2), trained_on="nothing")
    found, mean, one = scores(backbone), scores(backbone, Average(*members)), scores(backbone, members[0])
    assert 0 < (found - mean).norm() < 0.05 * (one - mean).norm()


@every_architecture
@pytest.mark.parametrize("changes", [{}, {"value": False}, {"query_before_norm": True}], ids=["", "static", "query_before_norm"])
def test_a_stored_fusion_comes_back_with_its_members(changes: dict, architecture: str, tmp_path: Path) -> None:
    backbone, _, fusion = fused(architecture, (SEQ_BN_INV, 1), (DOUBLE_SEQ_BN, 2), trained_on="nothing", **changes)
    shaken(fusion)
    fusion.save(tmp_path)
    fresh = tiny_backbone(architecture)
    loaded = fusion.method.load(fresh, tmp_path)
    assert torch.equal(scores(fresh), scores(backbone))
    assert [type(module) for module in fresh.modules] == [BottleneckModule, BottleneckModule, FusionModule]
    assert not any(parameter.requires_grad for parameter in fresh.model.parameters())
    assert loaded.trained
    for module in reversed(list(fresh.modules)):
        module.detach()
    assert torch.equal(scores(fresh), alone(architecture))


@every_architecture
def test_a_fusion_in_a_stack(architecture: str) -> None:
    """Below a task module by default; its members act through it alone; the first of them lends its invertible adapter."""
    backbone, _, fusion = fused(architecture, (SEQ_BN_INV, 1), (SEQ_BN_INV, 1))
    with_identity(fusion)
    task = shaken(PAR_BN.create(backbone, generator(3)), 3)
    torch.testing.assert_close(scores(backbone), alone(architecture, (SEQ_BN_INV, 1), (PAR_BN, 3)), **CLOSE)
    torch.testing.assert_close(scores(backbone, task), alone(architecture, (PAR_BN, 3)), **CLOSE)
    assert [module for module, _ in Stack(fusion, task).branches()[0]] == [*fusion.members, fusion, task]


@every_architecture
@torch.no_grad()
def test_a_fusion_in_a_branch(architecture: str) -> None:
    backbone, members, fusion = fused(architecture, (SEQ_BN_INV, 1), (SEQ_BN_INV, 1))
    with_identity(fusion)
    found = branches(backbone, Parallel(members[0], fusion, Stack()))
    same_at_real_positions(found[0], alone(architecture, (SEQ_BN_INV, 1)))
    same_at_real_positions(found[1], alone(architecture, (SEQ_BN_INV, 1)))
    same_at_real_positions(found[2], alone(architecture))


@pytest.mark.parametrize("other", [NoAdaptation(), FullFineTuning()], ids=["none", "full"])
def test_only_bottleneck_adapters_are_fused(other: Method) -> None:
    backbone = tiny_backbone("bert")
    SEQ_BN.create(backbone, generator(0))
    with pytest.raises(UserError, match="found 1 modules"):
        FUSION.create(backbone, generator(0))
    other.create(backbone, generator(0))
    with pytest.raises(UserError, match=r"found 2 modules, among them \w+Module"):
        FUSION.create(backbone, generator(0))
    assert len(backbone.modules) == 2


@every_architecture
def test_a_fusion_in_mixed_precision(architecture: str) -> None:
    backbone, _, fusion = fused(architecture, (SEQ_BN_INV, 1), (DOUBLE_SEQ_BN, 2))
    with_identity(fusion)
    exact = scores(backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = logits(backbone)
        rough.float().square().mean().backward()
    assert 0 < (rough.float() - exact).norm() < 0.05 * exact.norm()
    assert all(parameter.grad.dtype == torch.float32 for parameter in fusion.parameters().values())
