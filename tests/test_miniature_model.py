"""How the miniature backbones begin: the heads of a BERT's first layer look at the neighbours, everything else is as usual."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import tiny_config
from torch import nn

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone, config_from_shape
from xlt.backbones.models import Model, ScratchModel
from xlt.cli import compose
from xlt.config import build
from xlt.miniature.model import MiniatureModel, look_at_neighbours
from xlt.random import generator

SHAPE = {
    "model_type": "bert", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "vocab_size": 200, "pad_token_id": 0,
}  # fmt: skip
LENGTH = SHAPE["max_position_embeddings"]
OFFSETS = (-1, 1, -2, 2)  # of the heads, in turn
CHOICE = build(compose(["lang=qaa", "model=miniature"]).model, "model", Model)


def new_bert(seed: int = 0, **changes: int) -> nn.Module:
    """Random weights, as transformers draws them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone.new(config_from_shape({**SHAPE, **changes}), anatomy_of("bert")).eval()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@torch.no_grad()
def attention(model: nn.Module, texts: int = 48) -> torch.Tensor:
    """How much each position of random texts attends to each other in the first layer: [texts, heads, from, to]."""
    heads = model.config.num_attention_heads
    ids = torch.randint(5, model.config.vocab_size, (texts, LENGTH), generator=generator("texts"))
    embeddings = model.bert.embeddings(ids)
    layer = model.bert.encoder.layer[0].attention.self
    query, key = (
        projection(embeddings).view(texts, LENGTH, heads, -1).transpose(1, 2) for projection in (layer.query, layer.key)
    )
    return (query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])).softmax(dim=-1)


def by_offset(attended: torch.Tensor) -> dict[int, float]:
    """The mean attention of one head to the position that is so far away: from [texts, from, to]."""
    mean = attended.mean(dim=0)
    return {offset: torch.diagonal(mean, offset).mean().item() for offset in range(-LENGTH + 1, LENGTH)}


@pytest.mark.parametrize("sharpness", [CHOICE.sharpness, MiniatureModel.sharpness])
@pytest.mark.parametrize("seed", range(3))
def test_each_head_attends_most_to_its_neighbour(sharpness: float, seed: int) -> None:
    """Among word embeddings as transformers draws them, which are as large as the positions' waves."""
    model = new_bert(seed)
    look_at_neighbours(model, sharpness)
    attended = attention(model)
    for head, offset in enumerate(OFFSETS):
        profile = by_offset(attended[:, head])
        others = [value for other, value in profile.items() if other != offset and abs(other) <= 8]
        assert max(profile, key=profile.get) == offset
        assert profile[offset] > 0.3
        assert profile[offset] > 10 * max(others)


@torch.no_grad()
def test_no_other_position_is_taken_for_the_neighbour() -> None:
    """Over the whole length: by the positions alone, without the noise of what stands there."""
    model = new_bert()
    look_at_neighbours(model, CHOICE.sharpness)
    model.bert.embeddings.word_embeddings.weight.zero_()
    model.bert.embeddings.token_type_embeddings.weight.zero_()
    (attended,) = attention(model, texts=1)
    for head, offset in enumerate(OFFSETS):
        rivals = attended[head].clone()
        for position in range(max(0, -offset), LENGTH - max(0, offset)):
            at_neighbour = rivals[position, position + offset].item()
            rivals[position, position + offset] = 0.0
            assert at_neighbour > 2 * rivals[position].max(), f"head {head}: {position} looks at {int(rivals[position].argmax())}"


def test_without_it_heads_attend_everywhere_alike() -> None:
    """So that the tests above measure something."""
    attended = attention(new_bert())
    for head, offset in enumerate(OFFSETS):
        assert by_offset(attended[:, head])[offset] < 0.05


def test_more_heads_than_offsets_begin_again() -> None:
    model = new_bert(num_attention_heads=6, hidden_size=144)
    look_at_neighbours(model, 6.0)
    profiles = [by_offset(head) for head in attention(model).transpose(0, 1)]
    assert [max(profile, key=profile.get) for profile in profiles] == [-1, 1, -2, 2, -1, 1]


def test_a_sharper_beginning_is_sharper() -> None:
    shares = []
    for sharpness in (0.5, 2.0, 6.0):
        model = new_bert()
        look_at_neighbours(model, sharpness)
        shares.append(by_offset(attention(model)[:, 0])[-1])
    assert shares == sorted(shares)
    assert shares[0] < 0.5 * shares[2]


def test_only_positions_and_the_first_layer_s_queries_and_keys_change() -> None:
    """And that without chance: everything is drawn as it would have been, and can be trained."""
    model, random_state = new_bert(), torch.get_rng_state()
    before = weights(model)
    look_at_neighbours(model, 6.0)
    first = "bert.encoder.layer.0.attention.self"
    assert changed(model, before) == {
        "bert.embeddings.position_embeddings.weight", f"{first}.query.weight", f"{first}.key.weight",
    }  # fmt: skip
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


# ---- the choice


def miniature(**settings: Any) -> MiniatureModel:
    return MiniatureModel(languages=["qaa"], shape=SHAPE, **settings)


def test_the_choice_begins_so() -> None:
    assert isinstance(CHOICE, MiniatureModel)
    assert CHOICE.sharpness > 0
    model, expected = new_bert(), new_bert()
    CHOICE.initialise(model)
    look_at_neighbours(expected, CHOICE.sharpness)
    assert changed(model, weights(expected)) == set()


@pytest.mark.parametrize("choice", [miniature(sharpness=0.0), ScratchModel(languages=["qaa"], shape=SHAPE)])
def test_without_sharpness_it_begins_as_bert_does(choice: ScratchModel) -> None:
    model = new_bert()
    before = weights(model)
    choice.initialise(model)
    assert changed(model, before) == set()


@pytest.mark.parametrize("architecture", ["llama", "xlm_roberta"])
def test_other_architectures_are_left_alone(architecture: str) -> None:
    model = Backbone.new(tiny_config(architecture), anatomy_of(architecture))
    before = weights(model)
    miniature(sharpness=6.0).initialise(model)
    assert changed(model, before) == set()
