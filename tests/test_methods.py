"""Methods: what attaching, training, storing and detaching a module does to a backbone, on every architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import layer_norm, linear

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.backbones.sites import Site
from xlt.errors import UserError
from xlt.methods.base import Method, Module
from xlt.methods.bottleneck import Bottleneck, BottleneckModule
from xlt.methods.full import FullFineTuning
from xlt.methods.invertible import InvertibleAdapter
from xlt.methods.none import NoAdaptation
from xlt.random import generator
from xlt.steps.audit import count_trainable

ARCHITECTURES = ("bert", "xlm_roberta", "llama")
SEQ_BN = Bottleneck(name="seq_bn", reduction_factor=4)
SEQ_BN_INV = Bottleneck(name="seq_bn_inv", reduction_factor=4, invertible=True)
METHODS = (SEQ_BN, SEQ_BN_INV, FullFineTuning(name="full"), NoAdaptation(name="none"))

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)

LENGTHS = (9, 6, 3)
MASK = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
IDS = torch.randint(5, 60, MASK.shape, generator=generator("ids")) * MASK


@pytest.fixture
def backbone(world: Path, architecture: str) -> Backbone:
    return opened(world, architecture)


def opened(world: Path, architecture: str, language_head: bool = True) -> Backbone:
    return Backbone.open(world / "models" / architecture, language_head=language_head)


def of_size(**sizes: int) -> Backbone:
    """An untrained BERT of other sizes than the tiny one's."""
    config, anatomy = tiny_config("bert"), anatomy_of("bert")
    config.update(sizes)
    return Backbone(Backbone.new(config, anatomy), None, anatomy)


def logits(backbone: Backbone) -> torch.Tensor:
    return backbone.model(input_ids=IDS, attention_mask=MASK).logits


@torch.no_grad()
def hidden_states(backbone: Backbone) -> torch.Tensor:
    return backbone.hidden_states(IDS, MASK)


@torch.no_grad()
def shaken(module: Module, seed: int = 0) -> Module:
    """The module with large random parameters, biases included, as if it had been trained."""
    draw = generator(seed, "shaken")
    for parameter in module.parameters().values():
        parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
    return module


def attached(method: Method, backbone: Backbone, seed: int = 0) -> Module:
    return shaken(method.create(backbone, generator(seed), language_head=True), seed)


def tree(model: nn.Module) -> list[tuple[str, type, int]]:
    """Every module's place and class, and how many hooks it has."""
    return [(name, type(part), len(part._forward_hooks) + len(part._forward_pre_hooks)) for name, part in model.named_modules()]


# ---- attaching and detaching


@every_architecture
@every_method
def test_detaching_leaves_no_trace(method: Method, backbone: Backbone) -> None:
    tree_before = tree(backbone.model)
    parameters_before = {name: parameter.clone() for name, parameter in backbone.model.named_parameters()}
    logits_before = logits(backbone)
    module = attached(method, backbone)
    assert torch.equal(logits(backbone), logits_before) == (not module.parameters())
    module.detach()
    assert torch.equal(logits(backbone), logits_before)
    assert tree(backbone.model) == tree_before
    assert backbone.modules == []
    parameters = dict(backbone.model.named_parameters())
    assert parameters.keys() == parameters_before.keys()
    assert all(torch.equal(parameters[name], parameters_before[name]) for name in parameters)
    assert not any(parameter.requires_grad for parameter in parameters.values())


@every_architecture
@every_method
def test_a_stack_comes_off_from_the_top(method: Method, backbone: Backbone) -> None:
    below = attached(SEQ_BN_INV, backbone, seed=1)
    with_one = logits(backbone)
    above = attached(method, backbone, seed=2)
    if above.parameters():
        with pytest.raises(ValueError, match="reverse order"):
            below.detach()
    above.detach()
    assert torch.equal(logits(backbone), with_one)


@every_architecture
@pytest.mark.parametrize("method", [SEQ_BN, SEQ_BN_INV], ids=lambda method: method.name)
@torch.no_grad()
def test_zero_up_projections_change_nothing(method: Bottleneck, backbone: Backbone) -> None:
    """Bit for bit: the last maps of the adapters, and of F and G, are zero, all others are not."""
    expected = logits(backbone)
    module = attached(method, backbone)
    for name, parameter in module.parameters().items():
        if ".adapter_up." in name or ".F.2." in name or ".G.2." in name:
            parameter.zero_()
    assert torch.equal(logits(backbone), expected)


@every_architecture
@every_method
def test_creation_depends_on_its_generator_alone(method: Method, world: Path, architecture: str) -> None:
    def created(seed: int) -> dict[str, torch.Tensor]:
        backbone = opened(world, architecture)
        torch.manual_seed(torch.seed())
        return dict(method.create(backbone, generator(seed), language_head=True).parameters())

    first, same, other = created(1), created(1), created(2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    if isinstance(method, Bottleneck):
        assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))


def test_initial_weights_are_small_and_biases_zero() -> None:
    parameters = dataclasses.replace(SEQ_BN_INV, reduction_factor=1).create(of_size(hidden_size=128), generator(0)).parameters()
    assert all(not parameter.any() for name, parameter in parameters.items() if name.endswith("bias"))
    weights = torch.cat([parameter.flatten() for name, parameter in parameters.items() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean().item()) < 0.001


@every_architecture
def test_the_module_moves_with_the_model(backbone: Backbone) -> None:
    """To a device, or to another number format: no part of a module may stay behind."""
    module = attached(SEQ_BN_INV, backbone)
    expected = logits(backbone)
    backbone.model.double()
    assert {parameter.dtype for parameter in module.parameters().values()} == {torch.float64}
    torch.testing.assert_close(logits(backbone).float(), expected, atol=1e-5, rtol=1e-4)


# ---- training


@every_architecture
@every_method
def test_training_reaches_the_module_and_nothing_else(method: Method, backbone: Backbone) -> None:
    pretrained = dict(backbone.model.named_parameters())
    module = attached(method, backbone)
    parameters = module.parameters()
    loss = logits(backbone).square().mean()
    if not parameters:
        assert not loss.requires_grad
        return
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in parameters.values())
    if isinstance(method, FullFineTuning):
        assert {id(parameter) for parameter in parameters.values()} == {id(parameter) for parameter in pretrained.values()}
    else:
        assert all(parameter.grad is None for parameter in pretrained.values())


@every_architecture
@every_method
def test_a_frozen_module_is_not_trained_by_the_one_above(method: Method, backbone: Backbone) -> None:
    below = attached(SEQ_BN_INV, backbone, seed=1)
    below.freeze()
    above = attached(method, backbone, seed=2)
    assert not any(parameter.requires_grad for parameter in below.parameters().values())
    assert all(parameter.requires_grad for parameter in above.parameters().values())
    shared = {id(parameter) for parameter in below.parameters().values()}
    assert not any(id(parameter) in shared for parameter in above.parameters().values())


# ---- storing


@every_architecture
@every_method
@pytest.mark.parametrize("language_head", [True, False], ids=["with_head", "without_head"])
def test_a_stored_module_comes_back(method: Method, language_head: bool, architecture: str, world: Path, tmp_path: Path) -> None:
    """A module that was trained through the language head, on a fresh backbone with and without that head."""
    trained = opened(world, architecture)
    attached(method, trained).save(tmp_path)
    loaded = opened(world, architecture, language_head)
    module = method.load(loaded, tmp_path)
    assert torch.equal(hidden_states(loaded), hidden_states(trained))
    assert not any(parameter.requires_grad for parameter in module.parameters().values())
    if language_head:
        assert torch.equal(logits(loaded), logits(trained))


@every_architecture
@every_method
def test_a_stored_stack_comes_back(method: Method, architecture: str, world: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "language", tmp_path / "task"]
    trained, loaded = (opened(world, architecture, language_head=False) for _ in range(2))
    for folder, kind in zip(folders, (SEQ_BN_INV, method), strict=True):
        folder.mkdir()
        shaken(kind.create(trained, generator(0)), seed=len(kind.name)).save(folder)
    for folder, kind in zip(folders, (SEQ_BN_INV, method), strict=True):
        kind.load(loaded, folder)
    assert torch.equal(hidden_states(loaded), hidden_states(trained))


@pytest.mark.parametrize(
    ("stored", "expected", "architecture"),
    [
        (SEQ_BN, SEQ_BN_INV, "bert"),
        (SEQ_BN_INV, SEQ_BN, "bert"),
        (SEQ_BN, dataclasses.replace(SEQ_BN, reduction_factor=16), "bert"),
        (dataclasses.replace(SEQ_BN, reduction_factor=16), SEQ_BN, "bert"),
        (SEQ_BN, SEQ_BN, "llama"),
    ],
    ids=["invertible_missing", "invertible_extra", "smaller", "larger", "architecture"],
)
def test_a_checkpoint_that_does_not_fit(
    stored: Bottleneck, expected: Bottleneck, architecture: str, world: Path, tmp_path: Path
) -> None:
    attached(stored, opened(world, "bert")).save(tmp_path)
    with pytest.raises(UserError, match="does not fit this backbone"):
        expected.load(opened(world, architecture), tmp_path)


def test_a_full_copy_of_another_model_does_not_fit(world: Path, tmp_path: Path) -> None:
    of_size(intermediate_size=48).model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"another size.*intermediate"):
        FullFineTuning().load(opened(world, "bert"), tmp_path)


def test_a_full_copy_without_the_head_does_not_fit_where_the_head_is_needed(world: Path, tmp_path: Path) -> None:
    FullFineTuning().create(opened(world, "bert"), generator(0), language_head=False).save(tmp_path)
    with pytest.raises(UserError, match=r"lacks.*cls\.predictions"):
        FullFineTuning().load(opened(world, "bert", language_head=True), tmp_path)


# ---- adapters


@every_architecture
def test_the_order_of_a_stack_matters(architecture: str, world: Path) -> None:
    def stack(*seeds: int) -> torch.Tensor:
        backbone = opened(world, architecture)
        for seed in seeds:
            attached(SEQ_BN, backbone, seed)
        return hidden_states(backbone)

    assert torch.equal(stack(1, 2), stack(1, 2))
    assert (stack(1, 2) - stack(2, 1)).abs().max() > 0.01


def bottleneck_by_hand(module: Module, layer: int, state: torch.Tensor) -> torch.Tensor:
    """U·relu(D·state + d) + u with the module's stored tensors."""
    prefix = f"{module.backbone.layer_key(layer)}.{module.backbone.anatomy.places['output'].key}.adapters."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in module.parameters().items() if name.startswith(prefix)}
    inner = linear(state, tensors["adapter_down.0.weight"], tensors["adapter_down.0.bias"]).relu()
    return linear(inner, tensors["adapter_up.weight"], tensors["adapter_up.bias"])


@torch.no_grad()
def test_a_stack_on_bert_is_the_formula(world: Path) -> None:
    """o_a = a(LN(h + x)) + h, o_b = b(LN(o_a + x)) + o_a, and LN(o_b + x) once, at the end."""
    backbone = opened(world, "bert")
    modules = [attached(SEQ_BN, backbone, seed) for seed in (1, 2)]
    seen: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for number in range(2):
        for parameter in backbone.site(number, "output").original.LayerNorm.parameters():  # else LN is a plain normalisation
            parameter.add_(torch.randn(parameter.shape, generator=generator(number)), alpha=0.5)
        backbone.site(number, "output").register_forward_hook(
            lambda part, inputs, output, number=number: seen.update({number: (*inputs, output)})
        )
    hidden_states(backbone)
    for number, (intermediate, x, output) in seen.items():
        original = backbone.site(number, "output").original

        def norm(state: torch.Tensor, weights: nn.LayerNorm = original.LayerNorm) -> torch.Tensor:
            return layer_norm(state, state.shape[-1:], weights.weight, weights.bias, backbone.config.layer_norm_eps)

        o = linear(intermediate, original.dense.weight, original.dense.bias)
        for module in modules:
            o = bottleneck_by_hand(module, number, norm(o + x)) + o
        torch.testing.assert_close(output, norm(o + x), atol=1e-6, rtol=1e-5)
    assert len(seen) == 2


@torch.no_grad()
def test_a_stack_on_llama_is_the_formula(world: Path) -> None:
    """A layer's output is r_b with r_a = a(r) + r, r_b = b(r_a) + r_a: r is the residual stream, no norm before the adapters."""
    backbone = opened(world, "llama")
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    for layer in backbone.layers:
        layer.register_forward_hook(
            lambda part, arguments, output: outputs.append(output if isinstance(output, torch.Tensor) else output[0])
        )
        layer.register_forward_pre_hook(lambda part, arguments: inputs.append(arguments[0]))
    hidden_states(backbone)
    plain = outputs[0]  # of the first layer without adapters: r itself, as its input is the same with them
    modules = [attached(SEQ_BN, backbone, seed) for seed in (1, 2)]
    inputs.clear()
    outputs.clear()
    hidden_states(backbone)
    r = plain
    for module in modules:
        r = bottleneck_by_hand(module, 0, r) + r
    torch.testing.assert_close(outputs[0], r, atol=1e-6, rtol=1e-5)
    assert torch.equal(inputs[1], outputs[0])


@every_architecture
@every_method
@torch.no_grad()
def test_padding_does_not_change_real_positions(method: Method, backbone: Backbone) -> None:
    attached(method, backbone)
    together = hidden_states(backbone)
    for row, length in enumerate(LENGTHS):
        alone = backbone.hidden_states(IDS[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-6, rtol=1e-5)


@every_architecture
@torch.no_grad()
def test_left_out_layers_have_no_adapter(backbone: Backbone) -> None:
    def states() -> tuple[torch.Tensor, ...]:
        return backbone.encoder(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states

    base = states()
    whole = sum(parameter.numel() for parameter in attached(SEQ_BN, backbone).parameters().values())
    backbone.modules[-1].detach()
    module = attached(dataclasses.replace(SEQ_BN, leave_out=[0]), backbone)
    assert sum(parameter.numel() for parameter in module.parameters().values()) == whole // 2
    assert torch.equal(states()[1], base[1])
    assert not torch.equal(states()[2], base[2])
    assert [name for name, part in backbone.encoder.named_modules() if isinstance(part, Site)] == [
        f"{backbone.layer_key(1)}.{backbone.anatomy.places['output'].module}"
    ]


@pytest.mark.parametrize("layer", [2, -3])
def test_leaving_out_a_layer_that_there_is_not(layer: int, world: Path) -> None:
    backbone = opened(world, "bert")
    with pytest.raises(UserError, match="layers are 0 to 1"):
        dataclasses.replace(SEQ_BN, leave_out=[layer]).create(backbone, generator(0))
    assert backbone.modules == []


# ---- invertible adapters


@pytest.mark.parametrize("hidden", [8, 7], ids=["even", "odd"])
@pytest.mark.parametrize("reduction_factor", [1, 2])
@torch.no_grad()
def test_the_inverse_undoes_the_forward_pass(hidden: int, reduction_factor: int) -> None:
    adapter = InvertibleAdapter(hidden, reduction_factor, "gelu").double()
    state = torch.randn(4, 3, hidden, generator=generator(0)).double()
    moved = adapter(state)
    assert (moved - state).abs().max() > 0.1
    torch.testing.assert_close(adapter.inverse(moved), state, atol=1e-12, rtol=0)
    torch.testing.assert_close(adapter(adapter.inverse(state)), state, atol=1e-12, rtol=0)


@torch.no_grad()
def test_an_invertible_adapter_worked_out_by_hand() -> None:
    """F(v) = v, G(v) = 2v: (1, 2 | 3, 4) becomes (4, 6 | 11, 16)."""
    adapter = InvertibleAdapter(4, 1, "linear")
    for part, factor in ((adapter.F, 1.0), (adapter.G, 2.0)):
        part[0].weight.copy_(torch.eye(2))
        part[2].weight.copy_(factor * torch.eye(2))
        part[0].bias.zero_()
        part[2].bias.zero_()
    assert adapter(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [4, 6, 11, 16]
    assert adapter.inverse(torch.tensor([4.0, 6.0, 11.0, 16.0])).tolist() == [1, 2, 3, 4]


@every_architecture
def test_only_the_first_module_supplies_an_invertible_adapter(architecture: str, world: Path) -> None:
    def stack(*methods: Bottleneck) -> list[BottleneckModule]:
        backbone = opened(world, architecture)
        return [method.create(backbone, generator(0)) for method in methods]

    assert [bool(module.invertible) for module in stack(SEQ_BN_INV, SEQ_BN_INV)] == [True, False]
    assert [bool(module.invertible) for module in stack(SEQ_BN, SEQ_BN_INV)] == [False, False]
    first, second = stack(SEQ_BN_INV, SEQ_BN_INV)
    assert {name for name in first.parameters() if "invertible" in name}
    assert not {name for name in second.parameters() if "invertible" in name}


def head_by_hand(backbone: Backbone, invertible: InvertibleAdapter, hidden: torch.Tensor) -> torch.Tensor:
    """The language head with the inverse between its transformation and its output embedding."""
    head = backbone.language_head
    if backbone.config.model_type == "bert":
        return head.predictions.decoder(invertible.inverse(head.predictions.transform(hidden)))
    if backbone.config.model_type == "xlm-roberta":
        return head.decoder(invertible.inverse(head.layer_norm(nn.functional.gelu(head.dense(hidden)))))
    return head(invertible.inverse(hidden))


@every_architecture
@torch.no_grad()
def test_where_the_invertible_adapter_acts(architecture: str, world: Path) -> None:
    """Forward on the embeddings' output, inverse on the output embedding's input, nowhere else."""
    backbone, plain = opened(world, architecture), opened(world, architecture)
    module = attached(SEQ_BN_INV, backbone)
    for name, parameter in module.parameters().items():
        if ".adapter_up." in name:
            parameter.zero_()
    plain.embeddings.register_forward_hook(lambda part, inputs, output: module.invertible(output))
    expected = hidden_states(plain)
    assert torch.equal(hidden_states(backbone), expected)
    torch.testing.assert_close(logits(backbone), head_by_hand(plain, module.invertible, expected), atol=1e-6, rtol=1e-5)
    assert (logits(backbone) - plain.language_head(expected)).abs().max() > 0.01


# ---- sizes


def shapes() -> Iterator[tuple[str, dict, Bottleneck, int]]:
    conf = Path(__file__).parents[1] / "conf" / "model"
    paper, large = Bottleneck(), Bottleneck(reduction_factor=2, invertible=True)
    for name in ("mbert", "xlmr"):
        shape = OmegaConf.to_container(OmegaConf.load(conf / f"{name}.yaml").shape)
        yield f"{name}-seq_bn", shape, paper, 894_528
        yield f"{name}-seq_bn_inv", shape, dataclasses.replace(paper, invertible=True), 1_190_592
        yield f"{name}-seq_bn_inv-2", shape, large, 7_387_776
    llama = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}  # fmt: skip
    yield "llama-seq_bn", llama, paper, 67_248_128
    yield "llama-seq_bn_inv", llama, dataclasses.replace(paper, invertible=True), 75_642_880


@pytest.mark.parametrize(("shape", "method", "expected"), [pytest.param(*case[1:], id=case[0]) for case in shapes()])
def test_parameter_counts_of_the_literature(shape: dict, method: Bottleneck, expected: int) -> None:
    """Gurgurov et al. 2025, table 9, and the public MAD-X adapters; nothing is allocated for it."""
    backbone = Backbone.from_shape(shape, language_head=True)
    assert count_trainable(method, backbone) == expected
    assert all(parameter.is_meta for parameter in backbone.model.parameters())
    assert backbone.modules == []


def test_full_fine_tuning_counts_everything(world: Path) -> None:
    backbone = opened(world, "bert")
    everything = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert count_trainable(FullFineTuning(), backbone, language_head=True) == everything
    without_head = sum(parameter.numel() for parameter in backbone.encoder.parameters())
    assert count_trainable(FullFineTuning(), backbone, language_head=False) == without_head < everything
