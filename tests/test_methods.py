"""Methods: what attaching, training, storing and detaching a module does to a backbone, on every architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, IDS, LENGTHS, MASK, hidden_states, logits, shaken, tiny_backbone
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.backbones.sites import Site
from xlt.errors import UserError
from xlt.methods.base import Method, Module
from xlt.methods.bottleneck import Bottleneck, BottleneckModule
from xlt.methods.full import FullFineTuning
from xlt.methods.fusion import Fusion
from xlt.methods.invertible import InvertibleAdapter
from xlt.methods.none import NoAdaptation
from xlt.random import generator
from xlt.steps.audit import count_trainable

SEQ_BN = Bottleneck(name="seq_bn", reduction_factor=2)
SEQ_BN_INV = Bottleneck(name="seq_bn_inv", reduction_factor=2, invertible=True)
DOUBLE_SEQ_BN = Bottleneck(
    name="double_seq_bn", reduction_factor=2, places=["attention", "output"], reads_norm=False, activation="swish"
)
PAR_BN = Bottleneck(name="par_bn", reduction_factor=2, parallel=True, scaling=4.0, reads_norm=False)
VARIANTS = (  # of what an adapter computes
    DOUBLE_SEQ_BN,
    PAR_BN,
    dataclasses.replace(PAR_BN, name="scaled_par_bn", learned_scaling="scalar"),
    dataclasses.replace(SEQ_BN, name="channels", learned_scaling="channel"),
    dataclasses.replace(SEQ_BN, name="cross", places=["cross_attention", "output"]),
    dataclasses.replace(SEQ_BN, name="gated", gated=True),
    dataclasses.replace(SEQ_BN, name="norms", norm_before=True, norm_after=True),
    dataclasses.replace(SEQ_BN, name="norm_of_sum", norm_after=True, residual_before_norm_after=True),
    dataclasses.replace(SEQ_BN, name="adds_to_sum", residual="sum"),
    dataclasses.replace(SEQ_BN, name="adds_to_input", residual="input"),
    dataclasses.replace(SEQ_BN, name="no_final_norm", residual="sum", final_norm=False),
)
NO_IDENTITY = ("norm_of_sum", "adds_to_sum", "adds_to_input", "no_final_norm")  # though the adapter's maps add nothing
METHODS = (SEQ_BN, SEQ_BN_INV, FullFineTuning(name="full"), NoAdaptation(name="none"))


def is_refused(method: Method, architecture: str) -> bool:
    """Whether a method asks for what an architecture cannot do."""
    if not isinstance(method, Bottleneck):
        return False
    anatomy = anatomy_of(architecture)
    return (method.gated and anatomy.objective != "masked") or (not method.final_norm and architecture == "distilbert")


every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def pairs(*methods: Method) -> pytest.MarkDecorator:
    """Every architecture with every method that runs on it."""
    return pytest.mark.parametrize(
        ("architecture", "method"),
        [
            pytest.param(architecture, method, id=f"{architecture}-{method.name}")
            for architecture in ARCHITECTURES
            for method in methods
            if not is_refused(method, architecture)
        ],
    )


everything = pairs(*METHODS, *VARIANTS)


@pytest.fixture
def backbone(architecture: str) -> Backbone:
    return tiny_backbone(architecture)


def attached(method: Method, backbone: Backbone, seed: int = 0) -> Module:
    module = method.create(backbone, generator(seed), language_head=True)
    module.begin(0, {})
    return shaken(module, seed)


def tree(model: nn.Module) -> list[tuple[str, type, int, bool]]:
    """Every module's place and class, how many hooks it has, and whether it is in training mode."""
    return [
        (name, type(part), len(part._forward_hooks) + len(part._forward_pre_hooks), part.training)
        for name, part in model.named_modules()
    ]


# ---- attaching and detaching


@everything
def test_detaching_leaves_no_trace(method: Method, backbone: Backbone) -> None:
    def told() -> list[object]:
        """Every module's place, class, number of hooks, and mode; names and identities of all tensors; what a layer drops."""
        return [
            *tree(backbone.model),
            *((name, id(tensor)) for name, tensor in backbone.model.state_dict(keep_vars=True).items()),
            *(getattr(layer, backbone.anatomy.layer_dropout or "", None) for layer in backbone.layers),
            *(parameter.requires_grad for parameter in backbone.model.parameters()),
        ]

    told_before, logits_before = told(), logits(backbone)
    values_before = {name: parameter.clone() for name, parameter in backbone.model.named_parameters()}
    module = attached(method, backbone)
    assert torch.equal(logits(backbone), logits_before) == (not module.parameters())
    module.detach()
    assert torch.equal(logits(backbone), logits_before)
    assert told() == told_before
    assert backbone.modules == []
    assert all(torch.equal(parameter, values_before[name]) for name, parameter in backbone.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


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


@pairs(*(method for method in (SEQ_BN, SEQ_BN_INV, *VARIANTS) if method.name not in NO_IDENTITY))
@torch.no_grad()
def test_zero_up_projections_change_nothing(method: Bottleneck, backbone: Backbone) -> None:
    """Bit for bit: the last maps of the adapters, and of F and G, are zero, all others are not."""
    expected = logits(backbone)
    module = attached(method, backbone)
    for name, parameter in module.parameters().items():
        if any(part in name for part in (".adapter_up.", ".adapter_norm_after.", ".F.2.", ".G.2.")):
            parameter.zero_()
    assert torch.equal(logits(backbone), expected)


@every_architecture
@every_method
def test_creation_depends_on_its_generator_alone(method: Method, architecture: str) -> None:
    def created(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed())
        return dict(method.create(tiny_backbone(architecture), generator(seed), language_head=True).parameters())

    first, same, other = created(1), created(1), created(2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    if isinstance(method, Bottleneck):
        assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))


def test_initial_weights_are_small_and_biases_zero() -> None:
    backbone = tiny_backbone("bert", hidden_size=128)
    parameters = dataclasses.replace(SEQ_BN_INV, reduction_factor=1).create(backbone, generator(0)).parameters()
    assert all(not parameter.any() for name, parameter in parameters.items() if name.endswith("bias"))
    weights = torch.cat([parameter.flatten() for name, parameter in parameters.items() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean().item()) < 0.001


@pairs(*(method for method in (*METHODS, *VARIANTS) if not isinstance(method, FullFineTuning)))
def test_the_module_moves_with_the_model(method: Method, backbone: Backbone) -> None:
    """To a device, or to another number format: no part of a module may stay behind. (Differences in the backbone's own weights
    are made where these are when training begins.)"""
    module = attached(method, backbone)
    expected = logits(backbone)
    backbone.model.double()
    assert {parameter.dtype for parameter in module.parameters().values()} <= {torch.float64}
    torch.testing.assert_close(logits(backbone).float(), expected, atol=1e-4, rtol=1e-3)


@every_architecture
@torch.no_grad()
def test_a_module_takes_the_number_format_of_its_backbone(architecture: str, tmp_path: Path) -> None:
    """Attached to a backbone in bfloat16, and turned into it along with the backbone: the same."""
    cast_after, cast_before = tiny_backbone(architecture), tiny_backbone(architecture)
    attached(SEQ_BN_INV, cast_after).save(tmp_path)
    exact = logits(cast_after)
    cast_after.model.bfloat16()
    cast_before.model.bfloat16()
    SEQ_BN_INV.load(cast_before, tmp_path)
    assert torch.equal(logits(cast_after), logits(cast_before))
    assert logits(cast_before).dtype == torch.bfloat16
    assert (logits(cast_before).float() - exact).norm() < 0.05 * exact.norm()


@every_architecture
@pytest.mark.parametrize("method", [SEQ_BN_INV, DOUBLE_SEQ_BN, PAR_BN], ids=lambda method: method.name)
def test_mixed_precision(method: Bottleneck, backbone: Backbone) -> None:
    """Nearly the same numbers, and gradients in the format of the parameters."""
    module = attached(method, backbone)
    exact = logits(backbone).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = logits(backbone)
        rough.float().square().mean().backward()
    assert 0 < (rough.float() - exact).norm() < 0.05 * exact.norm()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.any() for parameter in module.parameters().values())


# ---- training


@everything
def test_training_reaches_the_module_and_nothing_else(method: Method, backbone: Backbone) -> None:
    pretrained = dict(backbone.model.named_parameters())
    module = attached(method, backbone)
    parameters = module.parameters()
    loss = logits(backbone).square().mean()
    if not parameters:
        assert not loss.requires_grad
        return
    loss.backward()
    assert all(parameter.grad is not None for parameter in parameters.values())
    unreached = [name for name, parameter in parameters.items() if not parameter.grad.any()]
    # all queries meet the same key bias, which then adds the same to every score of a softmax
    assert all(
        isinstance(method, FullFineTuning) and name.endswith(("key.bias", "k_proj.bias", "k_lin.bias")) for name in unreached
    )
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


@every_architecture
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_recomputation_gives_the_same_gradients(architecture: str) -> None:
    """Gradient checkpointing runs every layer twice, in training mode with dropout."""

    def gradients(recompute: bool) -> dict[str, torch.Tensor]:
        backbone = tiny_backbone(architecture)
        module = attached(dataclasses.replace(DOUBLE_SEQ_BN, dropout=0.1, invertible=True), backbone)
        if recompute:
            backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
        backbone.model.train()
        torch.manual_seed(0)
        logits(backbone).square().mean().backward()
        return {name: parameter.grad for name, parameter in module.parameters().items()}

    recomputed, kept = gradients(True), gradients(False)
    assert all(kept[name].any() for name in kept)
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-4)


DROPOUTS = {
    "mbart": {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.1},
    "m2m_100": {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.1},
    "gpt2": {"resid_pdrop": 0.3, "attn_pdrop": 0.2, "embd_pdrop": 0.1},
    "llama": {"attention_dropout": 0.3},
    "modernbert": {"embedding_dropout": 0.3, "attention_dropout": 0.2, "mlp_dropout": 0.1},
    "distilbert": {"dropout": 0.3, "attention_dropout": 0.2},
    **{
        architecture: {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
        for architecture in ("bert", "xlm_roberta", "deberta_v2")
    },
}


@every_architecture
@pytest.mark.parametrize("leave_out", [[], [0]], ids=["all_layers", "one_left_out"])
@torch.no_grad()
def test_the_dropout_of_the_model_stays(architecture: str, leave_out: list[int]) -> None:
    """In training mode, from the same seed, adapters that add nothing change nothing; detached they leave it as it was."""

    def drawn(backbone: Backbone) -> torch.Tensor:
        torch.manual_seed(1)
        return logits(backbone)

    backbone = tiny_backbone(architecture, **DROPOUTS[architecture])
    undisturbed = drawn(backbone)
    backbone.model.train()
    expected = drawn(backbone)
    assert (expected - undisturbed).abs().max() > 0.01
    module = attached(dataclasses.replace(SEQ_BN, leave_out=leave_out), backbone)
    assert not torch.equal(drawn(backbone), expected)
    for name, parameter in module.parameters().items():
        if ".adapter_up." in name:
            parameter.zero_()
    assert torch.equal(drawn(backbone), expected)
    module.detach()
    assert torch.equal(drawn(backbone), expected)
    backbone.model.eval()
    assert torch.equal(drawn(backbone), undisturbed)


@pytest.mark.parametrize("architecture", ["mbart", "m2m_100"])
@torch.no_grad()
def test_adapters_act_behind_the_dropout_of_the_layer(backbone: Backbone) -> None:
    """What they add is whole: 1 in every dimension, though the layer drops three quarters of h, and all of it at every place."""
    places = list(backbone.anatomy.places)
    backbone = tiny_backbone(backbone.config.model_type, dropout=0.75)
    module = shaken(dataclasses.replace(SEQ_BN, places=places).create(backbone, generator(0)))
    for name, parameter in module.parameters().items():
        if ".adapter_up." in name:
            parameter.fill_(1.0 if name.endswith("bias") else 0.0)
    ends: list[list[torch.Tensor]] = []  # h of each block before the dropout, and what goes on
    for layer, place in module.adapters:
        site = backbone.site(layer, place)
        site.original.register_forward_hook(
            lambda part, inputs, output: ends.append([output[0] if isinstance(output, tuple) else output])
        )
        site.register_forward_hook(
            lambda part, inputs, output: ends[-1].append(output[0] if isinstance(output, tuple) else output)
        )
    backbone.model.train()
    logits(backbone)
    assert len(ends) == 2 * 2 + 2 * 3
    for before, after in ends:
        kept = (after - 1).abs() > 1e-6
        assert 0.1 < kept.float().mean() < 0.4
        torch.testing.assert_close((after - 1)[kept], 4 * before[kept], atol=1e-5, rtol=1e-5)


# ---- storing


@everything
@pytest.mark.parametrize("language_head", [True, False], ids=["with_head", "without_head"])
def test_a_stored_module_comes_back(method: Method, language_head: bool, architecture: str, tmp_path: Path) -> None:
    """A module that was trained through the language head, on a fresh backbone with and without that head."""
    trained = tiny_backbone(architecture)
    attached(method, trained).save(tmp_path)
    loaded = tiny_backbone(architecture, language_head)
    module = method.load(loaded, tmp_path)
    assert torch.equal(hidden_states(loaded), hidden_states(trained))
    assert not any(parameter.requires_grad for parameter in module.parameters().values())
    if language_head:
        assert torch.equal(logits(loaded), logits(trained))


@every_architecture
@every_method
def test_a_stored_stack_comes_back(method: Method, architecture: str, tmp_path: Path) -> None:
    folders = [tmp_path / "language", tmp_path / "task"]
    trained, loaded = (tiny_backbone(architecture, language_head=False) for _ in range(2))
    for folder, kind in zip(folders, (SEQ_BN_INV, method), strict=True):
        folder.mkdir()
        module = kind.create(trained, generator(0))
        module.begin(0, {})
        shaken(module, seed=len(kind.name)).save(folder)
    for folder, kind in zip(folders, (SEQ_BN_INV, method), strict=True):
        kind.load(loaded, folder)
    assert torch.equal(hidden_states(loaded), hidden_states(trained))


@every_architecture
def test_what_a_file_holds_of_left_out_layers_is_not_read(architecture: str, tmp_path: Path) -> None:
    """Loaded with `leave_out`, a module is what it is without those layers' adapters; the file need not be MAD-X 2.0's."""
    backbone = tiny_backbone(architecture)
    whole = attached(SEQ_BN_INV, backbone)
    whole.save(tmp_path)
    last = backbone.layer_key(len(backbone.layers) - 1)
    with torch.no_grad():
        for name, parameter in whole.parameters().items():
            if name.startswith(f"{last}.") and ".adapter_up." in name:
                parameter.zero_()
    loaded = tiny_backbone(architecture)
    module = dataclasses.replace(SEQ_BN_INV, leave_out=[-1]).load(loaded, tmp_path)
    assert torch.equal(logits(loaded), logits(backbone))
    assert module.parameters().keys() == {name for name in whole.parameters() if not name.startswith(f"{last}.")}


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
def test_a_checkpoint_that_does_not_fit(stored: Bottleneck, expected: Bottleneck, architecture: str, tmp_path: Path) -> None:
    attached(stored, tiny_backbone("bert")).save(tmp_path)
    with pytest.raises(UserError, match="does not fit this backbone"):
        expected.load(tiny_backbone(architecture), tmp_path)


def test_a_full_copy_of_another_model_does_not_fit(tmp_path: Path) -> None:
    tiny_backbone("bert", intermediate_size=48).model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"another size.*intermediate"):
        FullFineTuning().load(tiny_backbone("bert"), tmp_path)


def test_a_full_copy_without_the_head_does_not_fit_where_the_head_is_needed(tmp_path: Path) -> None:
    module = FullFineTuning().create(tiny_backbone("bert"), generator(0), language_head=False)
    module.begin(0, {})
    module.save(tmp_path)
    with pytest.raises(UserError, match=r"lacks.*cls\.predictions"):
        FullFineTuning().load(tiny_backbone("bert"), tmp_path)


# ---- adapters


@every_architecture
def test_the_order_of_a_stack_matters(architecture: str) -> None:
    def stack(*seeds: int) -> torch.Tensor:
        backbone = tiny_backbone(architecture)
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
def test_a_stack_on_bert_is_the_formula() -> None:
    """o_a = a(LN(h + x)) + h, o_b = b(LN(o_a + x)) + o_a, and LN(o_b + x) once, at the end."""
    backbone = tiny_backbone("bert")
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
def test_a_stack_on_llama_is_the_formula() -> None:
    """A layer's output is r_b with r_a = a(r) + r, r_b = b(r_a) + r_a: r is the residual stream, no norm before the adapters."""
    backbone = tiny_backbone("llama")
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


@everything
@torch.no_grad()
def test_padding_does_not_change_real_positions(method: Method, backbone: Backbone) -> None:
    attached(method, backbone)
    together = hidden_states(backbone)
    for row, length in enumerate(LENGTHS):
        alone = backbone.hidden_states(IDS[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "m2m_100"])
@pytest.mark.parametrize("method", [SEQ_BN_INV, DOUBLE_SEQ_BN, PAR_BN], ids=lambda method: method.name)
@torch.no_grad()
def test_padding_on_the_left(method: Method, backbone: Backbone) -> None:
    """Where positions are counted from the first token: M2M100 does it itself, decoders are told."""
    attached(method, backbone)
    ids, mask = IDS.flip(1), MASK.flip(1)
    if backbone.anatomy.objective == "causal":
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        together = backbone.encoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    else:
        together = backbone.hidden_states(ids, mask)
    for row, length in enumerate(LENGTHS):
        alone = backbone.hidden_states(ids[row : row + 1, -length:], mask[row : row + 1, -length:])
        torch.testing.assert_close(together[row, -length:], alone[0], atol=1e-5, rtol=1e-5)


@everything
@torch.no_grad()
def test_a_text_of_one_token(method: Method, backbone: Backbone) -> None:
    base = backbone.hidden_states(IDS[:1, :1], MASK[:1, :1])
    module = attached(method, backbone)
    states = backbone.hidden_states(IDS[:1, :1], MASK[:1, :1])
    assert states.shape == base.shape == (1, 1, 16)
    assert torch.equal(states, base) == (not module.parameters())


@every_architecture
@pytest.mark.parametrize("method", [SEQ_BN_INV, DOUBLE_SEQ_BN, PAR_BN], ids=lambda method: method.name)
def test_a_hidden_size_that_does_not_divide(method: Bottleneck, architecture: str, tmp_path: Path) -> None:
    """18 = 3 heads of 6: halves of 9, bottlenecks of 18 // 2 = 9 and 18 // 5 = 3."""
    method = dataclasses.replace(method, layer_reduction_factors={"1": 5.0})
    heads = {"num_attention_heads": 3, "decoder_attention_heads": 3, "num_key_value_heads": 3}
    trained, loaded = (tiny_backbone(architecture, hidden_size=18, **heads) for _ in range(2))
    module = attached(method, trained)
    module.save(tmp_path)
    method.load(loaded, tmp_path)
    assert torch.equal(logits(loaded), logits(trained))
    sizes = [adapter.adapter_up.in_features for adapter in module.adapters.values()]
    assert set(sizes) == {3, int(18 // method.reduction_factor)}
    assert sizes.count(3) == len([where for where in module.adapters if where[0] == 1]) > 0
    logits(trained).square().mean().backward()
    assert all(parameter.grad.any() for parameter in module.parameters().values())


DECODERS = ("llama", "gpt2", "mbart", "m2m_100")


@pytest.mark.parametrize("architecture", DECODERS)
@pytest.mark.parametrize(
    "method",
    [dataclasses.replace(SEQ_BN_INV, places=["attention", "cross_attention", "output"]), DOUBLE_SEQ_BN, PAR_BN],
    ids=["every_place", "double_seq_bn", "par_bn"],
)
@torch.no_grad()
def test_a_cache_does_not_change_what_is_written(method: Bottleneck, backbone: Backbone) -> None:
    """Texts of several lengths, padded on the left where the prompt is continued."""
    ids, mask = (IDS, MASK) if backbone.anatomy.objective == "denoising" else (IDS.flip(1), MASK.flip(1))

    def written(use_cache: bool) -> tuple[torch.Tensor, torch.Tensor]:
        result = backbone.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, min_new_tokens=8, max_new_tokens=8, use_cache=use_cache,
            return_dict_in_generate=True, output_logits=True, pad_token_id=0,
        )  # fmt: skip
        return result.sequences, torch.stack(result.logits)

    _, base_scores = written(use_cache=True)
    attached(method, backbone)
    (cached, scores), (computed, expected) = written(use_cache=True), written(use_cache=False)
    assert torch.equal(cached, computed)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    assert (scores - base_scores).abs().max() > 0.01


@every_architecture
@torch.no_grad()
def test_left_out_layers_have_no_adapter(backbone: Backbone) -> None:
    """With -1, MAD-X 2.0, everything below the last layer has one; with 0 the first layer puts out what it always did."""

    def outputs() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(
                lambda part, inputs, output: found.append(output[0] if isinstance(output, tuple) else output)
            )
            for layer in backbone.layers
        ]
        hidden_states(backbone)
        for hook in hooks:
            hook.remove()
        return found

    base, count = outputs(), len(backbone.layers)
    whole = attached(SEQ_BN, backbone).parameters()
    backbone.modules[-1].detach()
    for left_out in (-1, 0):
        module = attached(dataclasses.replace(SEQ_BN, leave_out=[left_out]), backbone)
        key = f"{backbone.layer_key(left_out % count)}."
        assert module.parameters().keys() == {name for name in whole if not name.startswith(key)}
        assert not any(isinstance(part, Site) for part in backbone.layers[left_out].modules())
        changed = [not torch.equal(now, before) for now, before in zip(outputs(), base, strict=True)]
        assert changed == [left_out == -1] + [True] * (count - 1)
        module.detach()


@pytest.mark.parametrize("layer", [2, -3])
def test_leaving_out_a_layer_that_there_is_not(layer: int) -> None:
    backbone = tiny_backbone("bert")
    with pytest.raises(UserError, match="layers are 0 to 1"):
        dataclasses.replace(SEQ_BN, leave_out=[layer]).create(backbone, generator(0))
    with pytest.raises(UserError, match="layers are 0 to 1"):
        dataclasses.replace(SEQ_BN, layer_reduction_factors={"2": 4.0}).create(backbone, generator(0))
    assert backbone.modules == []


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("bert", {"places": ["cross_attention"]}, "a bert model has no such block; it has attention, output"),
        ("distilbert", {"final_norm": False}, "close their blocks themselves"),
        *((decoder, {"gated": True}, "looks at all positions") for decoder in DECODERS),
    ],
)
def test_what_an_architecture_cannot_do(architecture: str, changes: dict, message: str) -> None:
    backbone = tiny_backbone(architecture)
    before = tree(backbone.model)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SEQ_BN, **changes).create(backbone, generator(0))
    assert backbone.modules == []
    assert tree(backbone.model) == before


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
def test_only_the_first_module_supplies_an_invertible_adapter(architecture: str) -> None:
    def stack(*methods: Bottleneck) -> list[BottleneckModule]:
        backbone = tiny_backbone(architecture)
        return [method.create(backbone, generator(0)) for method in methods]

    assert [bool(module.invertible) for module in stack(SEQ_BN_INV, SEQ_BN_INV)] == [True, False]
    assert [bool(module.invertible) for module in stack(SEQ_BN, SEQ_BN_INV)] == [False, False]
    first, second = stack(SEQ_BN_INV, SEQ_BN_INV)
    assert {name for name in first.parameters() if "invertible" in name}
    assert not {name for name in second.parameters() if "invertible" in name}


def head_by_hand(backbone: Backbone, invertible: InvertibleAdapter, hidden: torch.Tensor) -> torch.Tensor:
    """The language head with the inverse between its transformation and its output embedding."""
    model, kind = backbone.model, backbone.config.model_type
    if kind == "bert":
        return model.cls.predictions.decoder(invertible.inverse(model.cls.predictions.transform(hidden)))
    if kind == "xlm-roberta":
        head = model.lm_head
        return head.decoder(invertible.inverse(head.layer_norm(gelu(head.dense(hidden)))))
    if kind == "distilbert":
        return model.vocab_projector(invertible.inverse(model.vocab_layer_norm(gelu(model.vocab_transform(hidden)))))
    if kind == "deberta-v2":
        head = model.lm_predictions.lm_head
        transformed = head.LayerNorm(gelu(head.dense(hidden)))
        return linear(invertible.inverse(transformed), model.get_input_embeddings().weight, head.bias)
    if kind == "modernbert":
        return model.decoder(invertible.inverse(model.head(hidden)))
    scores = model.lm_head(invertible.inverse(hidden))
    return scores + model.final_logits_bias if kind == "mbart" else scores


@every_architecture
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_where_the_invertible_adapter_acts(tied: bool, architecture: str, tmp_path: Path) -> None:
    """Forward on the embeddings' output, inverse on the output embedding's input, nowhere else."""
    backbone, without_inverse, plain = (tiny_backbone(architecture, tie_word_embeddings=tied) for _ in range(3))
    module = attached(SEQ_BN_INV, backbone)
    for name, parameter in module.parameters().items():
        if ".adapter_up." in name:
            parameter.zero_()
    plain.embeddings.register_forward_hook(lambda part, inputs, output: module.invertible(output))
    expected = hidden_states(plain)
    assert torch.equal(hidden_states(backbone), expected)
    torch.testing.assert_close(logits(backbone), head_by_hand(plain, module.invertible, expected), atol=1e-5, rtol=1e-5)
    assert (logits(backbone) - plain.language_head(expected)).abs().max() > 0.01
    module.save(tmp_path)
    dataclasses.replace(SEQ_BN_INV, inverse_at_head=False).load(without_inverse, tmp_path)
    assert torch.equal(logits(without_inverse), plain.language_head(expected))


# ---- sizes


def shapes() -> Iterator[tuple[str, dict, Bottleneck, int]]:
    conf = Path(__file__).parents[1] / "conf" / "model"
    paper, large = Bottleneck(), Bottleneck(reduction_factor=2, invertible=True)
    inverted = dataclasses.replace(paper, invertible=True)
    double = Bottleneck(places=["attention", "output"], reads_norm=False, activation="swish")
    for name in ("mbert", "xlmr"):
        shape = OmegaConf.to_container(OmegaConf.load(conf / f"{name}.yaml").shape)
        yield f"{name}-seq_bn", shape, paper, 894_528
        yield f"{name}-seq_bn-one_left_out", shape, dataclasses.replace(paper, leave_out=[-1]), 819_984
        yield f"{name}-seq_bn_inv", shape, inverted, 1_190_592
        yield f"{name}-seq_bn_inv-2", shape, large, 7_387_776
        yield f"{name}-double_seq_bn", shape, double, 1_789_056
        yield f"{name}-double_seq_bn_inv", shape, dataclasses.replace(double, invertible=True), 2_085_120
        yield f"{name}-par_bn", shape, Bottleneck(parallel=True, scaling=4.0, reads_norm=False, reduction_factor=2), 7_091_712
    llama = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}  # fmt: skip
    yield "llama-seq_bn", llama, paper, 67_248_128
    yield "llama-seq_bn_inv", llama, inverted, 75_642_880
    yield "llama-double_seq_bn", llama, double, 134_496_256


@pytest.mark.parametrize(("shape", "method", "expected"), [pytest.param(*case[1:], id=case[0]) for case in shapes()])
def test_parameter_counts_of_the_literature(shape: dict, method: Bottleneck, expected: int) -> None:
    """Gurgurov et al. 2025, table 9, the public MAD-X adapters and AdapterHub's; nothing is allocated for it."""
    backbone = Backbone.from_shape(shape, language_head=True)
    assert count_trainable(method, backbone) == expected
    assert all(parameter.is_meta for parameter in backbone.model.parameters())
    assert backbone.modules == []


def test_the_parameter_count_of_a_fusion() -> None:
    """Three matrices and two biases in each of mBERT's twelve layers."""
    shape = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf" / "model" / "mbert.yaml").shape)
    backbone = Backbone.from_shape(shape)
    for _ in range(2):
        Bottleneck().create(backbone, generator(0)).freeze()
    module = Fusion(members=["a", "b"]).create(backbone, generator(0))
    assert sum(parameter.numel() for parameter in module.parameters().values()) == 21_252_096


def test_full_fine_tuning_counts_everything() -> None:
    backbone = tiny_backbone("bert")
    everything = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert count_trainable(FullFineTuning(), backbone, language_head=True) == everything
    without_head = sum(parameter.numel() for parameter in backbone.encoder.parameters())
    assert count_trainable(FullFineTuning(), backbone, language_head=False) == without_head < everything
