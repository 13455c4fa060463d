"""Prefix tuning: what attention sees of a prefix, on every architecture that takes one, alone and among other modules."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.integrations import sdpa_attention

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Average, Parallel, Stack
from xlt.errors import UserError
from xlt.methods.base import Method, Module
from xlt.methods.bottleneck import Bottleneck
from xlt.methods.formats import method_of_folder
from xlt.methods.prefix_tuning import FlatPrefix, PrefixTuning
from xlt.random import generator
from xlt.steps.audit import count_trainable

PREFIX = PrefixTuning(name="prefix_tuning", prefix_length=3, bottleneck_size=4)
FLAT = dataclasses.replace(PREFIX, name="flat", flat=True)
BOTTLENECK = Bottleneck(places=["attention", "output"], reduction_factor=4)
CLOSE = {"atol": 1e-6, "rtol": 1e-5}

every_architecture = pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"deberta_v2"}))
decoders = pytest.mark.parametrize("architecture", ["llama", "gpt2"])
every_kind = pytest.mark.parametrize("method", [PREFIX, FLAT], ids=lambda method: method.name)

LENGTHS = (9, 6, 3)
MASK = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
IDS = torch.randint(5, 60, MASK.shape, generator=generator("ids")) * MASK


@pytest.fixture
def backbone(world: Path, architecture: str) -> Backbone:
    return opened(world, architecture)


def opened(world: Path, architecture: str) -> Backbone:
    return Backbone.open(world / "models" / architecture, language_head=True)


@torch.no_grad()
def hidden_states(backbone: Backbone) -> torch.Tensor:
    return backbone.hidden_states(IDS, MASK)


@torch.no_grad()
def attached(method: Method, backbone: Backbone, seed: int = 0) -> Module:
    """A module with large random parameters, as if it had been trained."""
    module = method.create(backbone, generator(seed))
    for parameter in module.parameters().values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator(seed, parameter.shape)))
    return module


def state(backbone: Backbone) -> tuple[Any, ...]:
    """All that attaching could leave behind: modules, their attributes and hooks, and the attention function."""
    parts = [
        (name, type(part), sorted(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks))
        for name, part in backbone.model.named_modules()
    ]
    return parts, backbone.config._attn_implementation, [id(parameter) for parameter in backbone.model.parameters()]


# ---- what is computed


@pytest.mark.parametrize("case", ["bert_prefix_tuning", "bert_prefix_tuning_flat", "llama_prefix_tuning"])
@torch.no_grad()
def test_what_adapterhub_computes(case: str, shared: Path) -> None:
    """From the files that its library wrote, to every layer's output."""
    folder = shared / "golden" / case
    if not folder.is_dir():
        pytest.skip(f"the case {case} is not here: no folder shared/golden/{case}")
    description = json.loads((folder / "case.json").read_text())
    anatomy = anatomy_of(description["model_type"])
    model_class = AutoModelForMaskedLM if anatomy.objective == "masked" else AutoModelForCausalLM
    model = model_class.from_pretrained(folder / description["base_dir"], dtype=torch.float32).eval()
    backbone = Backbone(model, None, anatomy)
    module = method_of_folder(folder / "lang").load(backbone, folder / "lang")
    assert sum(parameter.numel() for parameter in module.parameters().values()) == description["adapters"]["lang"]["n_params"]
    inputs, expected = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    real = inputs["attention_mask"] == 1
    output = model(**inputs, output_hidden_states=True)
    found = {f"hidden_states.{layer}": hidden for layer, hidden in enumerate(output.hidden_states)}
    found |= {"logits": output.logits, "last_hidden_state": output.hidden_states[-1]}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor[real], expected[name][real], atol=2e-5, rtol=0)


def network_by_hand(module: Module, stack: str) -> torch.Tensor:
    """[positions, 2 · layers, heads · head size] from the module's parameters."""
    tensors = {
        name.removeprefix(f"prefix_tuning.prefix_tunings.{stack}."): tensor for name, tensor in module.parameters().items()
    }
    inner = (tensors["wte.weight"] @ tensors["control_trans.0.weight"].T + tensors["control_trans.0.bias"]).tanh()
    outer = inner @ tensors["control_trans.2.weight"].T + tensors["control_trans.2.bias"]
    return outer.reshape(len(outer), 4, -1)


@every_architecture
@torch.no_grad()
def test_every_layer_reads_its_own_prefix(
    architecture: str, backbone: Backbone, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first keys and values of each self-attention are the network's, the others its own; cross-attention has no prefix."""
    plain = opened(world, architecture)
    ordinary = sdpa_attention.sdpa_attention_forward
    seen: list[dict[str, torch.Tensor | None]] = []

    def recorded(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
    ) -> Any:
        seen.append({"key": key, "value": value, "mask": mask})
        return ordinary(module, query, key, value, mask, **options)

    module = attached(PREFIX, backbone)
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", recorded)
    hidden_states(backbone)
    stacks = {name.split(".")[2] for name in module.parameters()}
    assert stacks == {"mbart": {"encoder_prefix", "self_prefix"}, "m2m_100": {"encoder_prefix", "self_prefix"},
                      "distilbert": {"self"}}.get(architecture, {"self_prefix"})  # fmt: skip
    cross = "encoder_prefix" in stacks
    own = [*seen[:2], seen[2], seen[4]] if cross else seen  # decoder layers attend to themselves, then to the encoder
    expected = [(stack, number) for stack in sorted(stacks) for number in range(2)]
    for call, (stack, number) in zip(own, expected, strict=True):
        entries = network_by_hand(module, stack)
        for name, entry in (("key", 2 * number), ("value", 2 * number + 1)):
            heads, size = call[name].shape[1], call[name].shape[3]
            by_hand = entries[:, entry].reshape(3, heads, size).transpose(0, 1)
            torch.testing.assert_close(call[name][:, :, :3], by_hand.expand(len(IDS), -1, -1, -1), **CLOSE)
        assert call["key"].shape[2] == 3 + IDS.shape[1]
        assert call["mask"] is None or call["mask"][..., :3].all()
    assert all(call["key"].shape[2] == IDS.shape[1] for call in seen if not any(call is one for one in own))

    first: list[torch.Tensor] = []  # the first layer's keys without a prefix
    monkeypatch.setattr(
        sdpa_attention, "sdpa_attention_forward", lambda module, query, key, *others, **options: first.append(key) or
        ordinary(module, query, key, *others, **options)
    )  # fmt: skip
    plain.model.set_attn_implementation("sdpa_with_prefix")  # without a pool it is the ordinary function
    hidden_states(plain)
    assert torch.equal(own[0]["key"][:, :, 3:], first[0])


@decoders
@pytest.mark.parametrize("with_mask", [True, False])
@torch.no_grad()
def test_a_prefix_made_of_a_text_is_that_text(with_mask: bool, backbone: Backbone) -> None:
    """Its keys and values in front of a continuation give what the model makes of the whole."""
    ids = IDS[:1]
    whole = backbone.encoder(input_ids=ids, output_hidden_states=True).hidden_states
    cache = backbone.encoder(input_ids=ids[:, :4], use_cache=True).past_key_values
    entries = [tensor[0].transpose(0, 1).flatten(1) for layer in cache.layers for tensor in (layer.keys, layer.values)]
    module = dataclasses.replace(FLAT, prefix_length=4).create(backbone, generator(0))
    (parameter,) = module.parameters().values()
    parameter.copy_(torch.stack(entries, dim=1).flatten())
    mask = torch.ones_like(ids[:, 4:]) if with_mask else None
    positions = torch.arange(4, ids.shape[1])[None]
    behind = backbone.encoder(input_ids=ids[:, 4:], attention_mask=mask, position_ids=positions, output_hidden_states=True)
    for layer, expected in zip(behind.hidden_states, whole, strict=True):
        torch.testing.assert_close(layer, expected[:, 4:], **CLOSE)


@every_architecture
@torch.no_grad()
def test_padding_does_not_change_real_positions(backbone: Backbone) -> None:
    attached(PREFIX, backbone)
    together = hidden_states(backbone)
    for row, length in enumerate(LENGTHS):
        alone = backbone.hidden_states(IDS[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], **CLOSE)


@decoders
@torch.no_grad()
def test_padding_on_the_left_does_not_change_real_positions(backbone: Backbone) -> None:
    attached(PREFIX, backbone)
    ids, mask = torch.zeros_like(IDS), MASK.flip(1)
    for row, length in enumerate(LENGTHS):
        ids[row, -length:] = IDS[row, :length]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    together = backbone.encoder(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    for row, length in enumerate(LENGTHS):
        alone = backbone.hidden_states(IDS[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together[row, -length:], alone[0], **CLOSE)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mbart"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@torch.no_grad()
def test_the_generation_cache_changes_nothing(cache: str, backbone: Backbone) -> None:
    left = backbone.anatomy.objective == "causal"
    ids, mask = (IDS.flip(1), MASK.flip(1)) if left else (IDS, MASK)

    def scores(**options: Any) -> torch.Tensor:
        result = backbone.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, min_new_tokens=6, max_new_tokens=6, output_logits=True,
            return_dict_in_generate=True, **options,
        )  # fmt: skip
        return torch.stack(result.logits)

    without = scores(use_cache=False)
    attached(PREFIX, backbone)
    expected = scores(use_cache=False)
    assert (expected - without).abs().max() > 0.01
    torch.testing.assert_close(scores(use_cache=True, cache_implementation=cache), expected, **CLOSE)


@decoders
@torch.no_grad()
def test_a_text_read_in_two_parts(backbone: Backbone) -> None:
    """With the cache of the first part, which holds no prefix."""
    attached(PREFIX, backbone)
    whole = backbone.encoder(input_ids=IDS[:1]).last_hidden_state
    cache = backbone.encoder(input_ids=IDS[:1, :4], use_cache=True).past_key_values
    assert cache.get_seq_length() == 4
    rest = backbone.encoder(input_ids=IDS[:1, 4:], past_key_values=cache).last_hidden_state
    torch.testing.assert_close(rest, whole[:, 4:], **CLOSE)


@pytest.mark.parametrize("architecture", ["bert"])
@torch.no_grad()
def test_a_mask_that_is_added_to_the_scores(backbone: Backbone) -> None:
    attached(PREFIX, backbone)
    seen = MASK.bool()[:, None, None].expand(-1, 1, MASK.shape[1], -1)
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    found = backbone.encoder(input_ids=IDS, attention_mask=added).last_hidden_state
    torch.testing.assert_close(found[MASK == 1], hidden_states(backbone)[MASK == 1], **CLOSE)


@every_architecture
@every_kind
@torch.no_grad()
def test_left_out_layers_have_no_prefix(method: PrefixTuning, architecture: str, world: Path) -> None:
    def states(backbone: Backbone) -> tuple[torch.Tensor, ...]:
        options = {"decoder_input_ids": IDS} if backbone.anatomy.objective == "denoising" else {}
        output = backbone.encoder(input_ids=IDS, attention_mask=MASK, output_hidden_states=True, **options)
        return output.hidden_states if not options else output.encoder_hidden_states

    base, other = opened(world, architecture), opened(world, architecture)
    attached(dataclasses.replace(method, leave_out=[-len(other.layers)]), other)
    assert torch.equal(states(other)[1], states(base)[1])
    assert not torch.equal(states(other)[2], states(base)[2])


def test_only_the_layers_that_have_a_prefix_are_paid_for(world: Path) -> None:
    def count(method: PrefixTuning) -> int:
        return sum(parameter.numel() for parameter in method.create(opened(world, "llama"), generator(0)).parameters().values())

    assert count(FLAT) == 2 * count(dataclasses.replace(FLAT, leave_out=[1])) == 3 * 2 * 2 * 8  # one key head of size 8
    assert count(PREFIX) - count(dataclasses.replace(PREFIX, leave_out=[1])) == (4 + 1) * 2 * 8


def test_dropout_acts_on_each_text_by_itself_and_in_training_only(world: Path) -> None:
    backbone = opened(world, "llama")
    ids = IDS[:1].repeat(2, 1)
    attached(dataclasses.replace(PREFIX, dropout=0.5), backbone)
    first, second = backbone.hidden_states(ids, torch.ones_like(ids))
    assert torch.equal(first, second)
    backbone.model.train()  # this model has no dropout of its own
    first, second = backbone.hidden_states(ids, torch.ones_like(ids))
    assert (first - second).abs().max() > 0.01


# ---- attaching and detaching


@every_architecture
@every_kind
def test_detaching_leaves_no_trace(method: PrefixTuning, backbone: Backbone) -> None:
    before, expected = state(backbone), hidden_states(backbone)
    module = attached(method, backbone)
    assert (hidden_states(backbone) - expected).abs().max() > 0.01
    second = attached(method, backbone, seed=1)
    second.detach()
    assert state(backbone)[1] == "sdpa_with_prefix"
    module.detach()
    assert state(backbone) == before
    assert torch.equal(hidden_states(backbone), expected)
    assert backbone.modules == []


@every_architecture
def test_a_module_that_rests_is_not_seen(backbone: Backbone) -> None:
    """Nor does it change how the others are computed: bit for bit."""
    base = hidden_states(backbone)
    first = attached(PREFIX, backbone)
    with_first = hidden_states(backbone)
    second = attached(FLAT, backbone, seed=1)
    backbone.activate(first)
    assert torch.equal(hidden_states(backbone), with_first)
    backbone.activate(Stack())
    assert torch.equal(hidden_states(backbone), base)
    backbone.activate(second)
    assert not torch.equal(hidden_states(backbone), base)


@every_architecture
def test_the_module_moves_with_the_model(backbone: Backbone) -> None:
    module = attached(PREFIX, backbone)
    expected = hidden_states(backbone)
    backbone.model.double()
    assert {parameter.dtype for parameter in module.parameters().values()} == {torch.float64}
    torch.testing.assert_close(hidden_states(backbone).float(), expected, atol=1e-5, rtol=1e-4)


@every_kind
def test_creation_depends_on_its_generator_alone(method: PrefixTuning, world: Path) -> None:
    def created(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed())
        return dict(method.create(opened(world, "mbart"), generator(seed)).parameters())

    first, same, other = created(1), created(1), created(2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_initial_values_are_those_of_the_library(world: Path) -> None:
    """Embeddings and flat prefixes N(0, 1); linear maps uniform between ±1/√inputs."""
    method = dataclasses.replace(PREFIX, prefix_length=400, bottleneck_size=64)
    values = {
        name.split(".", 3)[3]: value for name, value in method.create(opened(world, "bert"), generator(0)).parameters().items()
    }
    assert values["wte.weight"].std().item() == pytest.approx(1.0, rel=0.03)
    for map_name, inputs in (("control_trans.0", 16), ("control_trans.2", 64)):
        for kind in ("weight", "bias"):
            bound = inputs**-0.5
            assert 0.9 * bound < values[f"{map_name}.{kind}"].abs().max().item() <= bound
    weight = values["control_trans.2.weight"]
    assert weight.std().item() == pytest.approx(64**-0.5 / 3**0.5, rel=0.03)
    flat = dataclasses.replace(FLAT, prefix_length=200).create(opened(world, "bert"), generator(0))
    (values_of_flat,) = flat.parameters().values()
    assert values_of_flat.std().item() == pytest.approx(1.0, rel=0.03)


def test_published_sizes() -> None:
    """(30, 512) on mBERT as AdapterHub counts it, and on the shape of Llama-3-8B; nothing is allocated for it."""
    shape = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf" / "model" / "mbert.yaml").shape)
    llama = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}  # fmt: skip
    by_hand = 30 * 4096 + (4096 + 1) * 512 + (512 + 1) * 32 * 2 * 8 * 128
    for where, expected in ((shape, 9_872_384), (llama, by_hand)):
        backbone = Backbone.from_shape(where, language_head=True)
        assert count_trainable(PrefixTuning(), backbone) == expected
        assert backbone.modules == []


# ---- training


@every_architecture
@every_kind
def test_training_reaches_the_prefix_and_nothing_else(method: PrefixTuning, backbone: Backbone) -> None:
    pretrained = dict(backbone.model.named_parameters())
    module = attached(method, backbone)
    backbone.hidden_states(IDS, MASK).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters().values())
    assert all(parameter.grad is None for parameter in pretrained.values())


@every_architecture
def test_a_prefix_is_computed_once_for_each_pass(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an encoder and that of a decoder once each."""
    computed: list[FlatPrefix] = []
    states = FlatPrefix.states
    monkeypatch.setattr(FlatPrefix, "states", lambda prefix: computed.append(prefix) or states(prefix))
    module = attached(FLAT, backbone)
    hidden_states(backbone)
    assert len(computed) == len(set(computed)) == len(module.parameters()) == len(backbone.anatomy.layers)


@every_architecture
def test_gradient_checkpointing_changes_nothing(architecture: str, world: Path) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        backbone = opened(world, architecture)
        for part in backbone.model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        module = attached(PREFIX, backbone)
        if checkpointing:
            backbone.model.activation_checkpointing_enable()
        backbone.model.train()
        torch.manual_seed(0)
        backbone.hidden_states(IDS, MASK).square().mean().backward()
        return [parameter.grad for parameter in module.parameters().values()]

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)


# ---- storing


@every_architecture
@every_kind
def test_a_stored_module_comes_back(method: PrefixTuning, architecture: str, world: Path, tmp_path: Path) -> None:
    trained, loaded, described = (opened(world, architecture) for _ in range(3))
    method = dataclasses.replace(method, leave_out=[-1])
    attached(method, trained).save(tmp_path)
    module = method.load(loaded, tmp_path)
    assert torch.equal(hidden_states(loaded), hidden_states(trained))
    assert not any(parameter.requires_grad for parameter in module.parameters().values())
    method_of_folder(tmp_path).load(described, tmp_path)
    assert torch.equal(hidden_states(described), hidden_states(trained))


@every_kind
def test_what_is_stored_is_described_as_by_adapterhub(method: PrefixTuning, shared: Path, world: Path, tmp_path: Path) -> None:
    """Its library, 1.3.0, loads these files whole: the copies that it writes below every layer are the same tensors."""
    attached(dataclasses.replace(method, leave_out=[-1]), opened(world, "bert")).save(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
    peer = json.loads((shared / "golden" / "bert_prefix_tuning" / "lang" / "adapter_config.json").read_text())["config"]
    assert written == peer | {
        "prefix_length": 3,
        "bottleneck_size": 4,
        "flat": method.flat,
        "cross_prefix": False,
        "leave_out": [1],
    }
    names = {"wte.weight", "control_trans.0.weight", "control_trans.0.bias", "control_trans.2.weight", "control_trans.2.bias"}
    assert set(load_file(tmp_path / "adapter.safetensors")) == {
        f"bert.prefix_tuning.prefix_tunings.xlt.self_prefix.{name}" for name in ({"control_trans"} if method.flat else names)
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cross_prefix": "encoder_prefix"},
            r"prefixes for cross_prefix, encoder_prefix, self_prefix\..*cross_prefix=False",
        ),
        ({"encoder_prefix": None}, r"holds prefixes for self_prefix\..*here encoder_prefix, self_prefix"),
    ],
    ids=["cross_attention", "decoder_only"],
)
def test_prefixes_in_other_places_are_refused(changes: dict[str, str | None], message: str, world: Path, tmp_path: Path) -> None:
    attached(FLAT, opened(world, "mbart")).save(tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    for new, old in changes.items():
        name = "model.prefix_tuning.prefix_tunings.xlt.{}.control_trans"
        if old is None:
            tensors.pop(name.format(new))
        else:
            tensors[name.format(new)] = tensors[name.format(old)].clone()
    save_file(tensors, tmp_path / "adapter.safetensors")
    backbone = opened(world, "mbart")
    before = state(backbone)
    with pytest.raises(UserError, match=message):
        FLAT.load(backbone, tmp_path)
    assert state(backbone) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [({"use_gating": True}, "use_gating"), ({"non_linearity": "tanhh"}, "activation tanhh.*tanh")],
    ids=["gate", "activation"],
)
def test_what_is_not_computed_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PrefixTuning.from_adapterhub({"architecture": "prefix_tuning", **config})


# ---- compositions


@every_architecture
@torch.no_grad()
def test_a_stack_sees_all_its_prefixes(architecture: str, world: Path) -> None:
    """The later one in front, as if the two were one."""
    backbone, expected = opened(world, architecture), opened(world, architecture)
    below = attached(FLAT, backbone, seed=1)
    above = attached(dataclasses.replace(FLAT, prefix_length=2), backbone, seed=2)
    one = attached(dataclasses.replace(FLAT, prefix_length=5), expected)
    for name, parameter in one.parameters().items():
        entries = [module.parameters()[name].view(length, -1) for module, length in ((above, 2), (below, 3))]
        parameter.copy_(torch.cat(entries).flatten())
    assert torch.equal(hidden_states(backbone), hidden_states(expected))
    backbone.activate(Stack(above, below))
    torch.testing.assert_close(hidden_states(backbone), hidden_states(expected), **CLOSE)


@every_architecture
@pytest.mark.parametrize("full", [False, True], ids=["padded", "unpadded"])
@torch.no_grad()
def test_branches_see_their_own_prefixes_only(full: bool, backbone: Backbone) -> None:
    """Also where they differ in length, or a branch has none."""
    mask = torch.ones_like(MASK) if full else MASK
    long, short = attached(PREFIX, backbone, seed=1), attached(dataclasses.replace(FLAT, prefix_length=1), backbone, seed=2)
    adapter = attached(BOTTLENECK, backbone, seed=3)
    branches = (Stack(long, adapter), Stack(adapter), Stack(short, long), short)
    alone = []
    for branch in branches:
        backbone.activate(branch)
        alone.append(backbone.hidden_states(IDS, mask))
    assert all((one - other).abs().max() > 0.001 for one, other in pairwise(alone))
    backbone.activate(Parallel(*branches))
    together = backbone.hidden_states(IDS, mask)
    real = mask.repeat(len(branches), 1) == 1
    torch.testing.assert_close(together[real], torch.cat(alone)[real], **CLOSE)


def test_prefixes_have_no_mean(world: Path) -> None:
    backbone = opened(world, "bert")
    one, other = attached(PREFIX, backbone, seed=1), attached(PREFIX, backbone, seed=2)
    with pytest.raises(UserError, match="Stack or into the branches of a Parallel"):
        backbone.activate(Average(one, other))
    backbone.activate(one)
    alone = hidden_states(backbone)
    backbone.activate(Average(one))
    assert torch.equal(hidden_states(backbone), alone)


@every_architecture
def test_prefixes_and_adapters_do_not_mind_each_other(architecture: str, world: Path) -> None:
    """Under and over bottleneck adapters the same; whichever comes off leaves the other as it was alone."""

    def built(*methods: Method) -> Backbone:
        backbone = opened(world, architecture)
        for method in methods:
            attached(method, backbone)
        return backbone

    under, over = built(PREFIX, BOTTLENECK), built(BOTTLENECK, PREFIX)
    assert torch.equal(hidden_states(under), hidden_states(over))
    for both, rest in ((under, PREFIX), (over, BOTTLENECK)):
        both.modules[-1].detach()
        assert torch.equal(hidden_states(both), hidden_states(built(rest)))
        both.modules[-1].detach()
        base = built()
        assert torch.equal(hidden_states(both), hidden_states(base))
        assert state(both)[:2] == state(base)[:2]


# ---- models that do not take prefixes


@pytest.mark.parametrize(
    ("architecture", "method", "prepare", "message"),
    [
        ("deberta_v2", PREFIX, lambda backbone: None, "deberta-v2 models compute attention in a way of their own"),
        ("bert", PREFIX, lambda backbone: backbone.model.set_attn_implementation("eager"), "attn_implementation='sdpa'"),
        ("bert", dataclasses.replace(PREFIX, leave_out=[2]), lambda backbone: None, "layers are 0 to 1"),
        ("bert", dataclasses.replace(PREFIX, leave_out=[-3]), lambda backbone: None, "layers are 0 to 1"),
    ],
    ids=["own_attention", "eager", "no_such_layer", "no_such_layer_from_the_end"],
)
def test_refusals(architecture: str, method: PrefixTuning, prepare: Callable, message: str, world: Path) -> None:
    backbone = opened(world, architecture)
    prepare(backbone)
    before = state(backbone)
    with pytest.raises(UserError, match=message):
        method.create(backbone, generator(0))
    assert backbone.modules == []
    assert state(backbone) == before
