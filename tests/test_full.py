"""Full fine-tuning as a difference: a whole model in the file, a term of a sum on the backbone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from conftest import hidden_states, logits, tiny_backbone
from sparse_helpers import EVERYTHING, every_architecture, is_same, shaken, train_phase, values_of
from transformers import AutoModel

import xlt
from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Average, Stack
from xlt.config import identity
from xlt.methods.differences import DifferenceModule, Weights, own_weights
from xlt.methods.full import FullFineTuning, FullModule
from xlt.methods.sparse import SparseFineTuning
from xlt.random import Draw, generator
from xlt.store import Store

FULL = FullFineTuning()


def shaken_copy(backbone: Backbone, seed: int, language_head: bool = False) -> FullModule:
    """A frozen module with a change in every weight."""
    module = FULL.create(backbone, generator(0), language_head)
    module.begin(0, {})
    draw = generator(seed, "changes")
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
    module.freeze()
    return module


@every_architecture
def test_a_copy_comes_back_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    """What is stored is what was trained; beneath it the backbone is as it was."""
    backbone = tiny_backbone(architecture)
    before = values_of(backbone)
    module = FULL.create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    train_phase(backbone, module, tmp_path / "training")
    expected, learnt = logits(backbone), values_of(backbone)
    assert not is_same(learnt, before)
    module.save(tmp_path)
    module.freeze()
    backbone.activate(Stack())
    assert is_same(values_of(backbone), before)
    backbone.activate()
    assert is_same(values_of(backbone), learnt)
    module.detach()
    assert is_same(values_of(backbone), before)
    loaded = tiny_backbone(architecture)
    again = FULL.load(loaded, tmp_path)
    assert is_same(values_of(loaded), learnt) and torch.equal(logits(loaded), expected)
    again.detach()
    assert is_same(values_of(loaded), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_any_order_with_sparse_modules_leaves_the_backbone_as_it_was(architecture: str, dtype: torch.dtype) -> None:
    backbone = tiny_backbone(architecture)
    backbone.model.to(dtype)
    before = values_of(backbone)
    modules = [shaken_copy(backbone, 0), shaken(backbone, 1, count=2000), shaken_copy(backbone, 2, language_head=True)]
    of_each: dict[frozenset[int], dict[str, torch.Tensor]] = {}
    orders = [order for size in range(4) for order in itertools.permutations(range(3), size)]
    for chosen in Draw(architecture).shuffled(2 * orders):
        backbone.activate(Stack(*(modules[number] for number in chosen)))
        assert is_same(values_of(backbone), of_each.setdefault(frozenset(chosen), values_of(backbone)))
    assert len(of_each) == 8 and is_same(of_each[frozenset()], before)
    for one, other in itertools.combinations(of_each.values(), 2):
        assert not is_same(one, other)
    for module in reversed(modules):
        module.detach()
    assert is_same(values_of(backbone), before)


def test_sums_and_shares() -> None:
    """θ0 + φ_full + φ_sparse in a stack; their weighted mean in an average."""
    backbone = tiny_backbone("bert")
    before = {name: weight.double() for name, weight in values_of(backbone).items()}
    full, sparse = shaken_copy(backbone, 0), shaken(backbone, 1, count=3000)
    for composition, shares in ((Stack(full, sparse), (1, 1)), (Average(full, sparse, weights=[3, 1]), (0.75, 0.25)),
                                (Average(full, Stack(), weights=[1, 1]), (0.5, 0))):  # fmt: skip
        backbone.activate(composition)
        expected = {name: weight.clone() for name, weight in before.items()}
        for module, share in zip((full, sparse), shares, strict=True):
            for name, difference in module.differences.items():
                expected[name].view(-1)[difference.all_positions()] += share * difference.change.double()
        for name, weight in values_of(backbone).items():
            torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("below", ["full", "sparse"])
def test_a_task_holds_nothing_of_the_language(below: str, tmp_path: Path) -> None:
    """As a sparse one with all weights; on another language it is the sum of its own change and that one's."""
    make = {"full": shaken_copy, "sparse": lambda backbone, seed: shaken(backbone, seed, count=4000)}[below]
    learnt = []
    for number, method in enumerate((FULL, EVERYTHING)):
        backbone = tiny_backbone("bert", language_head=False)
        before = values_of(backbone)
        source, target = make(backbone, 0), make(backbone, 1)
        backbone.activate(source)
        on_source = values_of(backbone)
        module = method.create(backbone, generator(0))
        module.begin(0, {})
        backbone.activate(Stack(source, module))
        train_phase(backbone, module, tmp_path / str(number))
        hidden_states(backbone)
        assert not is_same(values_of(backbone), on_source)
        assert all((one.sums.view_as(before[name]) - before[name]).abs().max() < 0.2 for name, one in module.differences.items())
        learnt.append(values_of(backbone))
        backbone.activate(Stack(target, module))
        hidden_states(backbone)
        for name, weight in values_of(backbone).items():
            expected = before[name].flatten() + module.differences[name].change
            if name in target.differences:
                expected[target.differences[name].all_positions()] += target.differences[name].change
            torch.testing.assert_close(weight.flatten(), expected, atol=1e-6, rtol=0)
    assert is_same(*learnt)


def test_a_task_on_a_full_language_module_is_stored_alone(tmp_path: Path) -> None:
    backbone = tiny_backbone("bert", language_head=False)
    before = values_of(backbone)
    shaken_copy(backbone, 0)
    module = FULL.create(backbone, generator(0))
    module.begin(0, {})
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(1.0)
    module.save(tmp_path)
    stored = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert is_same(
        {f"bert.{name}": weight.detach() for name, weight in stored.named_parameters()},
        {name: weight + 1 for name, weight in before.items()},
    )


def test_copies_are_of_version_two() -> None:
    """Those of version one held what a language's copy under them had changed. Other methods' fingerprints are as they were."""
    assert identity(FULL) == {"_target_": "xlt.methods.full.FullFineTuning", "version": 2}
    assert "version" not in identity(SparseFineTuning(count=1))


# ---- whole runs


@pytest.mark.parametrize(
    "choices",
    [
        ["method=full", "task_method=full"],
        ["method=full", "task_method=lt_sft", "task_method.reduction_factor=8"],
        ["method=rand_sft", "method.reduction_factor=8", "task_method=full"],
        ["method=full", "task_method=seq_bn"],
    ],
    ids=["full_on_full", "sparse_on_full", "full_on_sparse", "adapters_on_full"],
)
def test_what_is_evaluated_is_the_sum(
    choices: list[str], overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learnt in one language and evaluated in another: θ0 + φ_target + φ_task of what the store has."""
    put, in_force = Weights.put_in_force, {}

    def noted(self: Weights, shares: dict[DifferenceModule, float]) -> None:
        put(self, shares)
        in_force.update({"modules": len(shares), "weights": values_of(self._backbone), "trained": any(
            module.parameters() for module in shares)})  # fmt: skip

    monkeypatch.setattr(Weights, "put_in_force", noted)
    record = xlt.run(*overrides, *choices, "transfer=zero_shot", "source=yo")
    assert 0 <= record["metrics"]["macro_f1"] <= 1
    sums = 1 + (choices[-1] != "task_method=seq_bn")
    monkeypatch.undo()
    assert in_force["modules"] == sums and not in_force["trained"]
    store = Store(tmp_path / "outputs" / "store")
    folders = {artifact.manifest["label"]: artifact.folder for kind in ("language_module", "task_module")
               for artifact in store.list(kind)}  # fmt: skip
    assert len(folders) == 3
    backbone = Backbone.open(Path(overrides[1].removeprefix("model.path=")))
    before = values_of(backbone)
    expected = {name: weight.double() for name, weight in before.items()}
    parts = [folder for label, folder in folders.items() if "seed0" in label or label.endswith("text-mt")]
    assert len(parts) == 2
    for folder, override in zip(parts, ("method", "task_method"), strict=True):
        if f"{override}=seq_bn" not in choices:
            whole = f"{override}=full" in choices
            module = (FULL if whole else SparseFineTuning(count=1)).load(backbone, folder)
            for name, weight in own_weights(backbone).items():
                expected[name] += weight.detach().double() - before[name].double()
            module.detach()
    for name, weight in in_force["weights"].items():
        torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("transfer", ["multi_source", "ensemble"])
def test_copies_take_turns(transfer: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    in_force: set[frozenset[int]] = set()
    put = Weights.put_in_force

    def noted(self: Weights, shares: dict[DifferenceModule, float]) -> None:
        in_force.add(frozenset(module.backbone.modules.index(module) for module in shares if module in module.backbone.modules))
        put(self, shares)

    monkeypatch.setattr(Weights, "put_in_force", noted)
    record = xlt.run(*overrides, "method=full", "task_method=full", f"transfer={transfer}", "source=[mt,yo]")
    assert 0 <= record["metrics"]["macro_f1"] <= 1
    if transfer == "multi_source":
        assert {frozenset({0, 2}), frozenset({1, 2})} <= in_force, "either language with the task"
    else:
        assert {frozenset({0, 1}), frozenset({0, 2})} <= in_force, "the target's language with either task module"
