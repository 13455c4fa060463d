"""LoRA and (IA)³: what they compute, alone and in compositions, on every architecture; how they are stored; PEFT's and
AdapterHub's own numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import ARCHITECTURES, WORDS, tiny_backbone
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Average, Composable, Parallel, Stack
from xlt.config import build
from xlt.errors import UserError
from xlt.methods.base import Method
from xlt.methods.bottleneck import Bottleneck
from xlt.methods.formats import method_of_folder
from xlt.methods.full import FullFineTuning
from xlt.methods.low_rank import IA3, LoRA, PeftMethod, PeftModule
from xlt.random import generator
from xlt.steps.audit import count_trainable

LORA = LoRA(name="lora", targets=["query", "value", "attention_output", "up", "down"], rank=3, alpha=6)
SCALES = IA3(name="ia3")
SEQ_BN = Bottleneck(name="seq_bn", reduction_factor=4, places=["attention", "output"])

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_method = pytest.mark.parametrize("method", [LORA, SCALES], ids=lambda method: method.name)
pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # PEFT's, of transformers
]

LENGTHS = (9, 6, 3)
MASK = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
IDS = torch.randint(5, 5 + len(WORDS), MASK.shape, generator=generator("ids")) * MASK
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def reading(backbone: Backbone) -> dict[str, torch.Tensor]:
    """The batch; a decoder reads what its encoder reads."""
    more = {"decoder_input_ids": IDS} if backbone.anatomy.objective == "denoising" else {}
    return {"input_ids": IDS, "attention_mask": MASK, **more}


@torch.no_grad()
def logits(backbone: Backbone) -> torch.Tensor:
    return backbone.model(**reading(backbone)).logits


@torch.no_grad()
def hidden_states(backbone: Backbone) -> torch.Tensor:
    return backbone.hidden_states(IDS, MASK)


def attached(method: Method, backbone: Backbone, seed: int = 0) -> Any:
    """A module with parameters as after training."""
    module = method.create(backbone, generator(seed), language_head=True)
    draw = generator(seed, "shaken")
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
    return module


def tree(backbone: Backbone) -> list[tuple[str, type, int, bool, list[str]]]:
    """Every module's place, class, hooks, mode and attributes."""
    return [
        (name, type(part), len(part._forward_hooks) + len(part._forward_pre_hooks), part.training, sorted(vars(part)))
        for name, part in backbone.model.named_modules()
    ]


def linear(backbone: Backbone, name: str) -> nn.Module:
    """The pretrained linear map with this name from the encoder."""
    part = backbone.encoder.get_submodule(name)
    return part.get_base_layer() if hasattr(part, "get_base_layer") else part


@torch.no_grad()
def change_by_hand(backbone: Backbone, module: PeftModule, share: float = 1.0) -> None:
    """Write what the module does into the weights of a backbone without modules."""
    for name, parameter in module.parameters().items():
        path, _, tensor = name.rpartition(".")
        part = linear(backbone, path)
        weight = part.weight.T if isinstance(part, Conv1D) else part.weight
        if tensor == "lora_A":
            scaling = module.method.alpha / module.method.rank
            weight += share * scaling * module.parameters()[f"{path}.lora_B"] @ parameter
        elif tensor == "ia3_l":
            weight *= parameter
            if part.bias is not None and parameter.shape[1] == 1:
                part.bias *= parameter[:, 0]


# ---- what is computed


@every_architecture
@every_method
def test_a_module_is_a_change_of_weights(method: PeftMethod, architecture: str) -> None:
    backbone, by_hand = tiny_backbone(architecture), tiny_backbone(architecture)
    before = logits(backbone)
    change_by_hand(by_hand, attached(method, backbone))
    torch.testing.assert_close(logits(backbone), logits(by_hand), **CLOSE)
    assert (logits(backbone) - before).abs().max() > 0.01


@every_architecture
@every_method
def test_a_new_module_changes_nothing(method: PeftMethod, architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    before = logits(backbone)
    parameters = method.create(backbone, generator(0)).parameters()
    assert torch.equal(logits(backbone), before)
    first = [parameter for name, parameter in parameters.items() if name.endswith("lora_A")]
    for matrix in first:  # U(-1/√in, 1/√in)
        assert 0.8 * matrix.shape[1] ** -0.5 < matrix.abs().max() <= matrix.shape[1] ** -0.5
    assert len({float(matrix[0, 0].detach()) for matrix in first}) == len(first)


@every_method
def test_creation_depends_on_its_generator_alone(method: PeftMethod) -> None:
    def created(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed())
        return dict(method.create(tiny_backbone("bert"), generator(seed)).parameters())

    first, same, other = created(1), created(1), created(2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("lora_A"))


def test_names_of_parameters() -> None:
    backbone = tiny_backbone("bert")
    names = LoRA(leave_out=[-1]).create(backbone, generator(0)).parameters().keys()
    linears = ("encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.value")
    assert list(names) == [f"{linear}.{tensor}" for linear in linears for tensor in ("lora_A", "lora_B")]


def test_maps_that_do_the_work_of_several_are_changed_once() -> None:
    names = LoRA(targets=["query", "key", "value"], leave_out=[1]).create(tiny_backbone("gpt2"), generator(0)).parameters().keys()
    assert list(names) == ["h.0.attn.c_attn.lora_A", "h.0.attn.c_attn.lora_B"]


@every_architecture
@every_method
def test_training_reaches_the_module_and_nothing_else(method: PeftMethod, architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    pretrained = list(backbone.model.parameters())
    module = attached(method, backbone)
    backbone.model(**reading(backbone)).logits.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters().values())
    assert all(parameter.grad is None for parameter in pretrained)


@every_method
def test_other_modules_stay_as_trainable_as_they_are(method: PeftMethod) -> None:
    backbone = tiny_backbone("bert")
    full = FullFineTuning().create(backbone, generator(0))
    full.begin(0, {})
    trained = [*full.parameters().values(), *full.passes_gradients()]
    adapter = SEQ_BN.create(backbone, generator(0))
    frozen, open_one = (method.create(backbone, generator(0)) for _ in range(2))
    frozen.freeze()
    above = method.create(backbone, generator(0))
    backbone.activate(Stack(frozen, above))
    above.detach()
    assert all(parameter.requires_grad for parameter in (*trained, *adapter.parameters().values()))
    assert all(parameter.requires_grad for parameter in open_one.parameters().values())
    assert not any(parameter.requires_grad for parameter in frozen.parameters().values())


def test_dropout_acts_in_training_alone() -> None:
    backbone = tiny_backbone("llama")
    attached(replace(LORA, dropout=0.5), backbone)
    assert torch.equal(logits(backbone), logits(backbone))
    backbone.model.train()
    assert not torch.equal(logits(backbone), logits(backbone))


def test_half_precision_weights_are_changed_in_single_precision() -> None:
    backbone = tiny_backbone("llama")
    backbone.model.bfloat16()
    module = attached(LORA, backbone)
    assert {parameter.dtype for parameter in module.parameters().values()} == {torch.float32}
    assert logits(backbone).dtype == torch.bfloat16


# ---- attaching and detaching


@every_architecture
@every_method
def test_detaching_leaves_no_trace(method: PeftMethod, architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    before, structure = logits(backbone), tree(backbone)
    parameters = {name: (parameter, parameter.clone()) for name, parameter in backbone.model.named_parameters()}
    module = attached(method, backbone)
    backbone.activate(Parallel(module, Stack()))
    module.detach()
    assert tree(backbone) == structure
    assert torch.equal(logits(backbone), before)
    left = dict(backbone.model.named_parameters())
    assert list(left) == list(parameters)
    assert all(left[name] is own and torch.equal(own, value) for name, (own, value) in parameters.items())
    assert not any(parameter.requires_grad for parameter in left.values())


@every_architecture
def test_a_stack_of_all_kinds_comes_off_from_the_top(architecture: str) -> None:
    """Sites of bottleneck adapters stand where linear maps stood, and the other way round."""
    backbone = tiny_backbone(architecture)
    methods = (LORA, SEQ_BN, LORA, SCALES, SEQ_BN, LORA, SCALES)
    seen, structures, modules = [], [], []
    for seed, method in enumerate(methods):
        seen.append(logits(backbone))
        structures.append(tree(backbone))
        modules.append(attached(method, backbone, seed))
    assert all((one - other).abs().max() > 1e-3 for one, other in pairwise(seen))
    for module, output, structure in reversed(list(zip(modules, seen, structures, strict=True))):
        module.detach()
        assert torch.equal(logits(backbone), output)
        assert tree(backbone) == structure


@every_architecture
def test_updates_of_maps_under_adapters(architecture: str) -> None:
    """A LoRA changes the pretrained map wherever it is attached, before or after an adapter."""
    outputs = []
    for methods in ((SEQ_BN, LORA), (LORA, SEQ_BN)):
        backbone = tiny_backbone(architecture)
        for method in methods:
            attached(method, backbone, seed=len(method.name))
        outputs.append(logits(backbone))
    torch.testing.assert_close(*outputs, **CLOSE)


# ---- compositions


@every_architecture
def test_stacked_and_averaged_updates(architecture: str) -> None:
    """A stack adds the updates, an average adds shares of them; what is in neither rests."""
    backbone = tiny_backbone(architecture)
    a, b, c = (attached(LORA, backbone, seed) for seed in range(3))

    def by_hand(*shares: float) -> torch.Tensor:
        plain = tiny_backbone(architecture)
        for module, share in zip((a, b, c), shares, strict=True):
            change_by_hand(plain, module, share)
        return logits(plain)

    torch.testing.assert_close(logits(backbone), by_hand(1, 1, 1), **CLOSE)
    cases: list[tuple[Composable | None, tuple[float, ...]]] = [
        (Stack(c, a), (1, 0, 1)),
        (Average(a, b, weights=[1, 3]), (0.25, 0.75, 0)),
        (Stack(c, Average(a, b)), (0.5, 0.5, 1)),
        (Average(Stack(a, c), Stack(b, c)), (0.5, 0.5, 1)),
        (b, (0, 1, 0)),
        (None, (1, 1, 1)),
    ]
    for composition, shares in cases:
        backbone.activate(composition)
        torch.testing.assert_close(logits(backbone), by_hand(*shares), **CLOSE)
    backbone.activate(Stack())
    assert torch.equal(logits(backbone), logits(tiny_backbone(architecture)))


@every_architecture
def test_branches_have_modules_of_their_own(architecture: str) -> None:
    """Rows of a parallel composition are what each branch gives alone, and nothing of it stays."""
    lora, scaling = LORA, SCALES
    if architecture == "deberta_v2":  # its query and key maps read more than the batch
        lora, scaling = (replace(method, targets=["value", "down"]) for method in (LORA, SCALES))
    backbone = tiny_backbone(architecture)
    a, b, scales, c = (attached(method, backbone, seed) for seed, method in enumerate((lora, lora, scaling, lora)))
    adapter, other = attached(SEQ_BN, backbone, 4), attached(scaling, backbone, 5)
    branches = [Stack(a, c, adapter), Stack(b, c), Average(a, b, weights=[1, 3]), scales, Stack(), Stack(scales, other, a)]
    alone = []
    for branch in branches:
        backbone.activate(branch)
        alone.append(hidden_states(backbone))
    backbone.activate(Parallel(*branches))
    for rows, expected in zip(hidden_states(backbone).chunk(len(branches)), alone, strict=True):
        torch.testing.assert_close(rows, expected, **CLOSE)
    backbone.activate(a)
    expected = tiny_backbone(architecture)
    change_by_hand(expected, a)
    torch.testing.assert_close(logits(backbone), logits(expected), **CLOSE)


def test_branches_of_a_map_that_reads_more_than_the_batch() -> None:
    """DeBERTa's query and key maps also read the vectors of relative positions, which belong to no branch."""
    backbone = tiny_backbone("deberta_v2")
    a, b, task = (attached(LoRA(), backbone, seed) for seed in range(3))
    backbone.activate(Parallel(Stack(a, task), Stack(b, task)))
    with pytest.raises(UserError, match=r"query_proj.*differ between the branches"):
        hidden_states(backbone)
    backbone.activate(task)
    expected = hidden_states(backbone)
    backbone.activate(Parallel(task, task))
    torch.testing.assert_close(hidden_states(backbone), expected.repeat(2, 1, 1), **CLOSE)


def test_gradients_of_branches() -> None:
    """The module that two branches share learns from both, the others from their own rows alone."""
    backbone = tiny_backbone("bert")
    a, b, shared = (attached(LORA, backbone, seed) for seed in range(3))
    modules = {"a": a, "b": b, "shared": shared}

    def gradients(composition: Composable, rows: slice) -> dict[str, torch.Tensor]:
        backbone.activate(composition)
        backbone.model.zero_grad()
        backbone.hidden_states(IDS, MASK)[rows].square().sum().backward()
        return {
            f"{key}.{name}": parameter.grad.clone()
            for key, module in modules.items()
            for name, parameter in module.parameters().items()
            if parameter.grad is not None
        }

    first, second = gradients(Stack(a, shared), slice(None)), gradients(Stack(b, shared), slice(None))
    both = gradients(Parallel(Stack(a, shared), Stack(b, shared)), slice(None))
    for name, gradient in both.items():
        parts = [part[name] for part in (first, second) if name in part]
        assert len(parts) == (2 if name.startswith("shared.") else 1)
        torch.testing.assert_close(gradient, sum(parts), atol=1e-3, rtol=1e-4)
    assert both.keys() == {*first, *second}


def test_scales_have_no_share() -> None:
    backbone = tiny_backbone("bert")
    a, b = (attached(SCALES, backbone, seed) for seed in range(2))
    with pytest.raises(UserError, match="no share of it"):
        backbone.activate(Average(a, b))
    adapters = [attached(SEQ_BN, backbone, seed) for seed in range(2)]
    backbone.activate(Average(*(Stack(a, adapter) for adapter in adapters)))  # a is in force as a whole
    averaged = logits(backbone)
    backbone.activate(Stack(a, Average(*adapters)))
    assert torch.equal(logits(backbone), averaged)


@pytest.mark.parametrize("first", [LORA, SCALES], ids=lambda method: method.name)
@torch.no_grad()
def test_a_lora_and_scales_on_the_same_map(first: PeftMethod) -> None:
    """In the order of attachment: s ⊙ (W x + b + B A x), or s ⊙ (W x + b) + B A x."""
    backbone, by_hand = tiny_backbone("bert"), tiny_backbone("bert")
    methods = [replace(LORA, targets=["key"]), replace(SCALES, targets=["key"], at_input=[])]
    for method in methods if first is LORA else reversed(methods):
        change_by_hand(by_hand, attached(method, backbone))
    torch.testing.assert_close(logits(backbone), logits(by_hand), **CLOSE)


# ---- folded into the weights


@every_architecture
@every_method
def test_a_merged_module(method: PeftMethod, architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    before, structure = logits(backbone), tree(backbone)
    module = attached(method, backbone)
    unmerged = logits(backbone)
    module.merge()
    name = next(iter(module.parameters())).rpartition(".")[0]
    assert not torch.equal(linear(backbone, name).weight, linear(tiny_backbone(architecture), name).weight)
    torch.testing.assert_close(logits(backbone), unmerged, **CLOSE)
    module.unmerge()
    assert torch.equal(logits(backbone), unmerged)
    module.merge()
    module.detach()
    assert torch.equal(logits(backbone), before)
    assert tree(backbone) == structure


def test_merging_knows_the_share_and_ends_with_the_composition() -> None:
    backbone = tiny_backbone("bert")
    a, b = attached(LORA, backbone, 1), attached(SEQ_BN, backbone, 2)
    backbone.activate(Stack(b, Average(a, Stack())))
    half = logits(backbone)
    a.merge()
    torch.testing.assert_close(logits(backbone), half, **CLOSE)
    backbone.activate(Stack(a, b))
    whole = logits(backbone)
    assert (whole - half).abs().max() > 1e-3
    a.merge()
    torch.testing.assert_close(logits(backbone), whole, **CLOSE)
    c = attached(LORA, backbone, 3)
    c.detach()
    assert torch.equal(logits(backbone), whole)


def test_only_what_acts_alone_can_be_merged() -> None:
    backbone = tiny_backbone("bert")
    a, b = (attached(LORA, backbone, seed) for seed in range(2))
    for composition in (None, b, Parallel(a, a)):
        backbone.activate(composition)
        with pytest.raises(UserError, match="cannot be folded"):
            a.merge()
    backbone.activate(a)
    alone = logits(backbone)
    a.merge()
    torch.testing.assert_close(logits(backbone), alone, **CLOSE)


# ---- storing


@every_architecture
@every_method
@pytest.mark.parametrize("loaded_with_head", [True, False], ids=["to_head", "to_encoder"])
@pytest.mark.parametrize("saved_with_head", [True, False], ids=["from_head", "from_encoder"])
def test_a_stored_module_comes_back(
    method: PeftMethod, saved_with_head: bool, loaded_with_head: bool, architecture: str, tmp_path: Path
) -> None:
    method = replace(method, leave_out=[0])
    trained, loaded, found = (tiny_backbone(architecture, head) for head in (saved_with_head, *2 * [loaded_with_head]))
    attached(method, trained).save(tmp_path)
    module = method.load(loaded, tmp_path)
    assert not any(parameter.requires_grad for parameter in module.parameters().values())
    method_of_folder(tmp_path).load(found, tmp_path)
    expected = hidden_states(trained)
    assert torch.equal(hidden_states(loaded), expected)
    assert torch.equal(hidden_states(found), expected)
    assert not torch.equal(expected, hidden_states(tiny_backbone(architecture)))


@every_architecture
@every_method
@pytest.mark.parametrize("language_head", [True, False], ids=["with_head", "encoder"])
def test_peft_reads_what_is_stored(method: PeftMethod, language_head: bool, architecture: str, tmp_path: Path) -> None:
    def output(model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(**reading(trained))[0]

    trained = tiny_backbone(architecture, language_head)
    attached(method, trained).save(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_backbone(architecture, language_head).model, tmp_path)
    assert torch.equal(output(loaded), output(trained.model))


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"]),
        peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", use_rslora=True),
        peft.LoraConfig(r=2, target_modules=["v_proj"], layers_to_transform=[1]),
        peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=[]),
    ],
    ids=["plain", "rank_stabilised", "one_layer", "scales", "scaled_outputs"],
)
def test_what_peft_stored_is_read(config: peft.PeftConfig, tmp_path: Path) -> None:
    model = peft.get_peft_model(tiny_backbone("llama").model, config)
    draw = generator("peft")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
        expected = model(input_ids=IDS, attention_mask=MASK).logits
    model.save_pretrained(tmp_path)
    backbone = tiny_backbone("llama")
    method_of_folder(tmp_path).load(backbone, tmp_path)
    torch.testing.assert_close(logits(backbone), expected, atol=1e-6, rtol=1e-6)
    assert not torch.equal(expected, logits(tiny_backbone("llama")))


@pytest.mark.parametrize(
    "method",
    [
        LoRA(targets=["query", "key", "value", "up", "down"], rank=4, alpha=16, leave_out=[-1]),
        LoRA(targets=["intermediate"]),
        IA3().compatible_with("adapterhub"),
    ],
    ids=["lora", "intermediate", "scales"],
)
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_adapterhub_folders_come_back(method: PeftMethod, architecture: str, tmp_path: Path) -> None:
    trained, loaded = tiny_backbone(architecture), tiny_backbone(architecture, language_head=False)
    attached(method, trained).save_for_adapterhub(tmp_path)
    found = method_of_folder(tmp_path)
    assert type(found) is type(method)
    found.load(loaded, tmp_path)
    assert torch.equal(hidden_states(loaded), hidden_states(trained))
    if method.targets == ["intermediate"]:
        assert all({"bert": "intermediate", "llama": "down_proj"}[architecture] in name for name in found_names(tmp_path))


def found_names(folder: Path) -> list[str]:
    return list(load_file(folder / "adapter.safetensors"))


@pytest.mark.parametrize(
    ("method", "architecture"),
    [(SCALES, "bert"), (LORA, "bert"), (LoRA(targets=["gate"]), "llama"), (LoRA(), "gpt2")],
    ids=["inputs", "attention_output", "gate", "fused"],
)
def test_what_adapterhub_cannot_compute_is_not_written(method: PeftMethod, architecture: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Keep PEFT's format"):
        method.create(tiny_backbone(architecture), generator(0)).save_for_adapterhub(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("version", "alpha"), [("adapters.1.0.1", 4.0), ("adapters.0.2.2", 4.0), ("adapters.1.1.0", 16.0)])
def test_old_adapterhub_files_have_no_factor(version: str, alpha: float, tmp_path: Path) -> None:
    attached(LoRA(rank=4, alpha=16), tiny_backbone("bert")).save_for_adapterhub(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))
    assert method_of_folder(tmp_path).alpha == alpha


def test_what_is_stored_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        attached(LORA, tiny_backbone("bert")).save(tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    targets = json.loads((tmp_path / "one" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)


# ---- refusals


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            LoRA(targets=["gate"]),
            r"bert model has no linear map 'gate'.*linear maps here are: attention_output, down",
        ),
        (LoRA(leave_out=[2]), "layers are 0 to 1"),
        (IA3(leave_out=[-3]), "layers are 0 to 1"),
        (LoRA(leave_out=[0, -1]), "no linear map is left"),
    ],
    ids=["target", "layer", "layer_from_the_end", "nothing"],
)
def test_what_a_backbone_does_not_have(method: PeftMethod, expected: str) -> None:
    backbone = tiny_backbone("bert")
    structure = tree(backbone)
    with pytest.raises(UserError, match=expected):
        method.create(backbone, generator(0))
    assert backbone.modules == []
    assert tree(backbone) == structure


@pytest.mark.parametrize(
    ("stored", "expected", "architecture", "what"),
    [
        (LoRA(targets=["query"]), LoRA(), "bert", r"missing .*value\.lora_A"),
        (LoRA(targets=["query", "key", "value"]), LoRA(), "bert", r"unexpected .*key\.lora_A"),
        (LoRA(rank=4), LoRA(), "bert", r"another size .*query\.lora_A"),
        (LoRA(), IA3(), "bert", r"missing .*ia3_l.*unexpected .*lora_A"),
        (LoRA(), LoRA(), "llama", "does not fit this backbone"),
        (LoRA(), LoRA(targets=[]), "llama", r"changes no linear map of this llama model.*encoder\.layer\.0"),
    ],
    ids=["missing", "unexpected", "rank", "kind", "architecture", "architecture_found"],
)
def test_a_checkpoint_that_does_not_fit(
    stored: PeftMethod, expected: PeftMethod, architecture: str, what: str, tmp_path: Path
) -> None:
    attached(stored, tiny_backbone("bert")).save(tmp_path)
    with pytest.raises(UserError, match=what):
        expected.load(tiny_backbone(architecture), tmp_path)


def test_a_checkpoint_with_a_hole(tmp_path: Path) -> None:
    """Also where the file itself says what is changed."""
    attached(LoRA(), tiny_backbone("bert")).save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "layer.1.attention.self.value" not in name}, path)
    with pytest.raises(UserError, match=r"missing .*layer\.1\.attention\.self\.value\.lora_A"):
        method_of_folder(tmp_path).load(tiny_backbone("bert"), tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"rank_pattern": {"query": 4}}, "rank_pattern"),
        ({"bias": "all"}, "bias=all"),
        ({"init_lora_weights": "pissa"}, "changes the backbone's weights"),
        ({"peft_type": "LOHA"}, "of type LOHA.*IA3, LORA"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_computed_is_not_read(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    attached(LoRA(), tiny_backbone("bert")).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=expected):
        method_of_folder(tmp_path)


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_the_choices_are_the_defaults(name: str) -> None:
    choice = OmegaConf.load(Path(__file__).parents[1] / "conf" / "method" / f"{name}.yaml")
    method = build(choice, "method", Method)
    assert method == type(method)(name=name)
    for changes in ({"targets": []}, {"targets": ["key", "key"]}):
        with pytest.raises(UserError, match=r"method\.targets"):
            build({**choice, **changes}, "method", Method)
    if name == "ia3":
        with pytest.raises(UserError, match=r"method\.at_input: up is not among"):
            build({**choice, "at_input": ["up"]}, "method", Method)
    with pytest.raises(UserError, match="Did you mean query"):
        build({**choice, "targets": ["querry"]}, "method", Method)


# ---- AdapterHub's numbers

TOLERANCE = {"atol": 2e-5, "rtol": 0.0}
GOLDEN = (
    "bert_lora", "bert_lora_all", "bert_lora_merged", "bert_ia3", "bert_ia3_merged", "bert_merged_lora", "llama_lora",
    "llama_ia3", "xlmr_lora",
)  # fmt: skip


@dataclass
class Case:
    """One case of the collection, with its adapter loaded as its folder describes it."""

    folder: Path
    description: dict[str, Any]
    backbone: Backbone
    module: PeftModule
    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]


def golden_case(shared: Path, name: str) -> Case:
    folder = shared / "golden" / name
    if not folder.is_dir():
        pytest.skip(f"the case {name} is not here: no folder shared/golden/{name}")
    description = json.loads((folder / "case.json").read_text())
    model = getattr(transformers, description["base_class"]).from_pretrained(folder / description["base_dir"])
    backbone = Backbone(model.eval(), None, anatomy_of(description["model_type"].replace("-", "_")))
    (leaf,) = (child["children"][0] for child in description["composition"]["children"])
    module = method_of_folder(folder / leaf).load(backbone, folder / leaf)
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    return Case(folder / leaf, description, backbone, module, inputs, outputs)


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_golden_outputs(name: str, shared: Path) -> None:
    case = golden_case(shared, name)
    real = case.inputs["attention_mask"] == 1
    reading = {key: case.inputs[key] for key in ("input_ids", "attention_mask")}
    outputs = case.backbone.model(**reading, output_hidden_states=True)
    for layer, state in enumerate(outputs.hidden_states):
        torch.testing.assert_close(state[real], case.expected[f"hidden_states.{layer}"][real], **TOLERANCE)
    torch.testing.assert_close(outputs.logits[real], case.expected["logits"][real], **TOLERANCE)
    case.module.merge()
    torch.testing.assert_close(case.backbone.model(**reading).logits[real], outputs.logits[real], **TOLERANCE)
    if name == "bert_lora_merged":  # that of bert_ia3_merged forgets the biases
        torch.testing.assert_close(case.backbone.model(**reading).logits[real], case.expected["merged_logits"][real], **TOLERANCE)
        weights = {key: value for key, value in case.expected.items() if key.startswith("merged_weight.")}
        assert len(weights) == len(case.backbone.layers)
        for key, expected in weights.items():
            path = key.removeprefix("merged_weight.bert.").removesuffix(".weight")
            torch.testing.assert_close(linear(case.backbone, path).weight, expected, **TOLERANCE)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_folders_are_written_alike(name: str, shared: Path, tmp_path: Path) -> None:
    case = golden_case(shared, name)
    case.module.save_for_adapterhub(tmp_path)
    theirs = json.loads((case.folder / "adapter_config.json").read_text())
    ours = json.loads((tmp_path / "adapter_config.json").read_text())
    assert ours["config"] == {key: theirs["config"][key] for key in ours["config"]}
    peer = torch.load(case.folder / "pytorch_adapter.bin", weights_only=True)
    written = {
        key.replace(".loras.xlt.", f".loras.{theirs['name']}."): tensor
        for key, tensor in load_file(tmp_path / "adapter.safetensors").items()
    }
    assert written.keys() == peer.keys()
    assert all(torch.equal(written[key], peer[key]) for key in peer)


def test_golden_training(shared: Path) -> None:
    """Loss and gradients of the first step, and the losses of three steps."""
    case = golden_case(shared, "bert_train_lora")
    prefix, parameters = case.backbone.model.base_model_prefix, case.module.parameters()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    settings = {name: case.description["optimizer"][name] for name in ("lr", "weight_decay", "betas", "eps")}
    optimiser = torch.optim.AdamW(parameters.values(), **settings)
    losses = []
    for step in range(case.description["optimizer"]["steps"] + 1):
        loss = case.backbone.model(**case.inputs).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            torch.testing.assert_close(loss.detach(), case.expected["loss"].reshape(()), **TOLERANCE)
            for name, parameter in parameters.items():
                path, _, tensor = name.rpartition(".")
                expected = case.expected[f"grad.{prefix}.{path}.loras.lang.{tensor}"]
                assert (parameter.grad - expected).abs().max() <= 1e-4 * expected.abs().max()
        optimiser.step()
    torch.testing.assert_close(torch.tensor(losses), case.expected["step_losses"], atol=2e-5, rtol=1e-4)


# ---- sizes


def sizes() -> Iterator[Any]:
    scales = IA3().compatible_with("adapterhub")
    conf = Path(__file__).parents[1] / "conf" / "model"
    for name in ("mbert", "xlmr"):
        shape = OmegaConf.to_container(OmegaConf.load(conf / f"{name}.yaml").shape)
        yield pytest.param(shape, LoRA(), 294_912, id=f"{name}-lora")
        yield pytest.param(shape, LoRA(targets=["query", "key", "value"]), 442_368, id=f"{name}-lora-qkv")
        yield pytest.param(shape, scales, 55_296, id=f"{name}-ia3")
    llama = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}  # fmt: skip
    yield pytest.param(llama, LoRA(), 3_407_872, id="llama-lora")
    yield pytest.param(llama, scales, 196_608, id="llama-ia3")
    yield pytest.param(llama, IA3(), 524_288, id="llama-ia3-as-published")  # 1024 + 1024 + 14336 a layer


@pytest.mark.parametrize(("shape", "method", "expected"), list(sizes()))
def test_parameter_counts_of_the_literature(shape: dict[str, Any], method: PeftMethod, expected: int) -> None:
    """Gurgurov et al. 2025, table 9, and what AdapterHub's library counts; nothing is allocated for it."""
    backbone = Backbone.from_shape(shape, language_head=True)
    structure = tree(backbone)
    assert count_trainable(method, backbone) == expected
    assert tree(backbone) == structure
    assert all(parameter.is_meta for parameter in backbone.model.parameters())
