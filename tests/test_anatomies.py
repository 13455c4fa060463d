"""Anatomies: what they say of an architecture is so, on its tiny model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    ARCHITECTURES,
    IDS,
    MASK,
    decoder_reads,
    hidden_states,
    logits,
    shaken,
    tiny_backbone,
    tiny_config,
    tiny_tokenizer,
)
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from xlt.backbones.anatomy import Anatomy, anatomy_of, known_architectures
from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Composable
from xlt.backbones.sites import NormInsideSite, PreNormSite, Site
from xlt.errors import UserError
from xlt.methods.bottleneck import Bottleneck
from xlt.random import generator

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
HIDDEN, INTERMEDIATE = 16, 32


@pytest.fixture
def backbone(architecture: str) -> Backbone:
    return tiny_backbone(architecture)


def first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def with_adapters(backbone: Backbone, **changes: Any) -> Backbone:
    """The backbone with adapters at all of its places."""
    shaken(Bottleneck(places=list(backbone.anatomy.places), reduction_factor=4, **changes).create(backbone, generator(0)))
    return backbone


# ---- what the paths lead to


@pytest.mark.parametrize("architecture", known_architectures())
def test_every_part_that_an_anatomy_names_is_there(architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    anatomy = backbone.anatomy
    decoders = [layer for path in anatomy.layers if "decoder" in path for layer in backbone.encoder.get_submodule(path)]
    assert len(backbone.layers) == 2 * len(anatomy.layers)
    for number, layer in enumerate(backbone.layers):
        assert backbone.encoder.get_submodule(backbone.layer_key(number)) is layer
        for name, place in anatomy.places.items():
            assert backbone.has_place(number, name) == (name != "cross_attention" or layer in decoders)
            if backbone.has_place(number, name):
                assert isinstance(layer.get_submodule(place.module), nn.Module)
                norm = layer.get_submodule(place.norm or f"{place.module}.LayerNorm")
                assert isinstance(norm, nn.Identity) or tuple(norm.weight.shape) == (HIDDEN,)
        for path in anatomy.linears.values():
            assert isinstance(layer.get_submodule(path), (nn.Linear, Conv1D))
        if anatomy.self_attention is not None:
            layer.get_submodule(anatomy.self_attention)
        if anatomy.layer_dropout is not None:
            assert getattr(layer, anatomy.layer_dropout) == 0.1
    assert not backbone.has_place(0, "no_such_place")
    assert {"query", "key", "value", "attention_output", "up", "down"} <= anatomy.linears.keys()
    for path in (*anatomy.language_head, *filter(None, [anatomy.inverse_after])):
        backbone.model.get_submodule(path)
    assert isinstance(backbone.embeddings, nn.Module)


def sizes(linear: nn.Module) -> tuple[int, int]:
    """What goes in, what comes out; Conv1D stores the transposed matrix."""
    return tuple(linear.weight.shape) if isinstance(linear, Conv1D) else tuple(linear.weight.shape)[::-1]


@pytest.mark.parametrize("architecture", known_architectures())
def test_the_linear_maps_are_what_they_are_called(architecture: str) -> None:
    """By their sizes; a map that does the work of several is as large as all of them."""
    backbone = tiny_backbone(architecture)
    linears = backbone.anatomy.linears
    keys = HIDDEN // 2 if architecture == "llama" else HIDDEN  # its two heads share their keys and values
    expected = {
        "query": (HIDDEN, HIDDEN), "key": (HIDDEN, keys), "value": (HIDDEN, keys), "attention_output": (HIDDEN, HIDDEN),
        "up": (HIDDEN, INTERMEDIATE), "gate": (HIDDEN, INTERMEDIATE), "down": (INTERMEDIATE, HIDDEN),
    }  # fmt: skip
    for layer in backbone.layers:
        for path in set(linears.values()):
            names = [name for name in linears if linears[name] == path]
            inputs, outputs = zip(*(expected[name] for name in names), strict=True)
            assert sizes(layer.get_submodule(path)) == (inputs[0], sum(outputs))


@every_architecture
@torch.no_grad()
def test_what_attention_is_given(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """`self_attention` calls transformers' attention function with what the maps of queries, keys and values put out."""
    anatomy, calls, projected = backbone.anatomy, [], {}
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any) -> Any:
        calls.append((module, query, key, value))
        return attention(module, query, key, value, *rest, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", spy)
    for layer in backbone.layers:
        for name in ("query", "key", "value"):
            layer.get_submodule(anatomy.linears[name]).register_forward_hook(
                lambda part, inputs, output, layer=layer, name=name: projected.update({(layer, name): output})
            )
    hidden_states(backbone)
    if anatomy.self_attention is None:
        assert not calls
        return
    of_module = {module: states for module, *states in calls}
    crossing = [layer.encoder_attn for layer in backbone.layers if hasattr(layer, "encoder_attn")]
    assert of_module.keys() == {*(layer.get_submodule(anatomy.self_attention) for layer in backbone.layers), *crossing}
    for layer in backbone.layers:
        states = of_module[layer.get_submodule(anatomy.self_attention)]
        for number, (name, state) in enumerate(zip(("query", "key", "value"), states, strict=True)):
            expected = projected[layer, name]
            if anatomy.linears["query"] == anatomy.linears["key"]:
                expected = expected.chunk(3, dim=-1)[number]
            expected = expected.unflatten(-1, (-1, HIDDEN // 2)).transpose(1, 2)
            # rotary positions turn queries and keys, and leave their lengths
            torch.testing.assert_close(state.norm(dim=-1), expected.norm(dim=-1), atol=1e-5, rtol=1e-5)
            if name == "value":
                assert torch.equal(state, expected)


@every_architecture
@torch.no_grad()
def test_the_output_of_the_embeddings_enters_the_first_layer(backbone: Backbone) -> None:
    seen: list[torch.Tensor] = []
    backbone.embeddings.register_forward_hook(lambda part, inputs, output: seen.append(output))
    backbone.layers[0].register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0]))
    hidden_states(backbone)
    entered, arrived = seen
    if backbone.config.model_type == "m2m_100":  # positions are added in between
        entered = entered + backbone.encoder.encoder.embed_positions(IDS, entered)
    assert torch.equal(entered, arrived)


# ---- sites


class Recorder(Composable):
    """Leaves h as it is and keeps what each site gave: h, x, the norm."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor, nn.Module | None]] = {}

    def at_site(self, site: Site, hidden: torch.Tensor, residual: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
        self.seen[site.layer_index, site.place] = (hidden, residual, norm)
        return hidden

    def closes(self, site: Site) -> None:
        return None

    def branches(self) -> list:
        return [[]]


@every_architecture
@torch.no_grad()
def test_a_site_sees_the_parts_of_its_block(architecture: str) -> None:
    """On the model without sites: a norm that closes a block is given h + x; one that opens it x, and the next is given h + x."""
    plain, backbone = tiny_backbone(architecture), with_adapters(tiny_backbone(architecture))
    given: list[tuple[int, torch.Tensor]] = []  # to each norm in turn, then what the layer puts out
    for number, layer in enumerate(plain.layers):
        places = [place for name, place in plain.anatomy.places.items() if plain.has_place(number, name)]
        for place in places:
            layer.get_submodule(place.norm or f"{place.module}.LayerNorm").register_forward_pre_hook(
                lambda part, inputs, number=number: given.append((number, inputs[0]))
            )
        layer.register_forward_hook(lambda part, inputs, output, number=number: given.append((number, first(output))))
    expected = logits(plain)
    backbone.composition = Recorder()
    assert torch.equal(logits(backbone), expected)
    for number in range(len(backbone.layers)):
        states = [state for layer, state in given if layer == number]
        places = [name for name in backbone.anatomy.places if backbone.has_place(number, name)]
        assert len(states) == len(places) + 1
        for position, name in enumerate(places):
            hidden, residual, norm = backbone.composition.seen[number, name]
            if backbone.anatomy.places[name].site is PreNormSite:
                assert norm is None
                assert torch.equal(residual, states[position])
                assert torch.equal(residual + hidden, states[position + 1])
            else:
                assert norm is not None
                assert torch.equal(hidden + residual, states[position])
                assert backbone.site(number, name).can_leave_out_norm == isinstance(backbone.site(number, name), NormInsideSite)


@every_architecture
@torch.no_grad()
def test_transformers_reports_on_a_model_with_sites(architecture: str) -> None:
    """Hidden states and attention weights of all layers; adapters at every place change them, those that rest do not."""
    plain, backbone = tiny_backbone(architecture), with_adapters(tiny_backbone(architecture))
    fields = ["hidden_states", "attentions"]
    if plain.anatomy.objective == "denoising":
        fields = [f"{part}_{field}" for part in ("encoder", "decoder") for field in fields] + ["cross_attentions"]

    def report(backbone: Backbone) -> list[torch.Tensor]:
        backbone.model.set_attn_implementation("eager")
        output = backbone.encoder(
            input_ids=IDS, attention_mask=MASK, output_hidden_states=True, output_attentions=True,
            **decoder_reads(backbone, IDS, MASK),
        )  # fmt: skip
        return [state for field in fields for state in output[field]]

    expected, adapted = report(plain), report(backbone)
    assert len(adapted) == len(expected)
    assert not torch.equal(adapted[len(plain.encoder.get_submodule(plain.anatomy.layers[0]))], expected[2])
    backbone.composition = Recorder()
    assert all(torch.equal(*pair) for pair in zip(report(backbone), expected, strict=True))


# ---- language heads


@every_architecture
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("invertible", [False, True], ids=["plain", "invertible"])
@torch.no_grad()
def test_the_language_head_gives_the_logits_of_the_model(invertible: bool, tied: bool, architecture: str) -> None:
    """Also of chosen positions alone, as training asks for them."""
    backbone = tiny_backbone(architecture, tie_word_embeddings=tied)
    if invertible:
        with_adapters(backbone, invertible=True)
    expected = logits(backbone)
    assert torch.equal(backbone.language_head(hidden_states(backbone)), expected)
    chosen = MASK == 1
    torch.testing.assert_close(backbone.language_head(hidden_states(backbone)[chosen]), expected[chosen], atol=1e-5, rtol=1e-5)


# ---- opening


@every_architecture
@torch.no_grad()
def test_a_folder_opens_with_and_without_its_head(architecture: str, tmp_path: Path) -> None:
    """As the same model, in evaluation mode, without a parameter that training would change."""
    saved = tiny_backbone(architecture)
    saved.model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for language_head in (True, False):
        backbone = Backbone.open(tmp_path, language_head=language_head)
        assert torch.equal(hidden_states(backbone), hidden_states(saved))
        assert not backbone.model.training
        assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
        assert not any("pooler" in name for name, _ in backbone.model.named_parameters())
        if language_head:
            assert torch.equal(logits(backbone), logits(saved))


@every_architecture
def test_a_folder_without_its_head_is_refused_where_the_head_is_needed(architecture: str, tmp_path: Path) -> None:
    saved = tiny_backbone(architecture, tie_word_embeddings=False)
    saved.encoder.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks weights that are needed here"):
        Backbone.open(tmp_path, language_head=True)


@every_architecture
def test_a_shape_is_the_model_without_its_weights(architecture: str) -> None:
    config = tiny_config(architecture)
    for language_head in (True, False):
        shaped = Backbone.from_shape({**config.to_dict(), "model_type": config.model_type}, language_head=language_head)
        real = tiny_backbone(architecture, language_head)
        assert all(parameter.is_meta for parameter in shaped.model.parameters())
        assert [name for name, _ in shaped.model.named_parameters()] == [name for name, _ in real.model.named_parameters()]


# ---- unknown architectures


def test_an_unknown_architecture_is_told_what_to_write() -> None:
    with pytest.raises(UserError) as caught:
        anatomy_of("berd")
    message = str(caught.value)
    assert "bert" in message
    assert "model.anatomy=my_package.my_module" in message
    required = [field.name for field in dataclasses.fields(Anatomy) if field.default is field.default_factory]
    assert required == ["objective", "layers", "places", "embeddings", "language_head"]
    assert all(f"{name}=..." in message for name in required)
    for site in ("NormInsideSite", "NormBehindSite", "PreNormSite"):
        assert site in message


def test_an_anatomy_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_anatomy.py").write_text("from xlt.backbones.anatomies.bert import ANATOMY\n")
    (tmp_path / "not_an_anatomy.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert anatomy_of("berd", "my_anatomy") is anatomy_of("bert")
    for module in ("not_an_anatomy", "nowhere.at_all"):
        with pytest.raises(UserError, match=rf"model\.anatomy={module}"):
            anatomy_of("berd", module)
