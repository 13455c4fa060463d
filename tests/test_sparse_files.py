"""Files of sparse modules: what is stored comes back, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import hidden_states, logits, tiny_backbone
from sparse_helpers import RANDOM, every_architecture, is_same, shaken, values_of

from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.methods.formats import method_of_folder
from xlt.methods.sparse import SparseFineTuning, SparseModule
from xlt.methods.sparse_files import COMPOSABLE_SFT, DESCRIPTION, Stored, read_composable_sft, write_composable_sft
from xlt.random import generator


@every_architecture
@pytest.mark.parametrize("language_head", [True, False], ids=["with_head", "without_head"])
def test_a_stored_module_comes_back(language_head: bool, architecture: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(architecture)
    module = RANDOM.create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator(1)), alpha=0.3)
    expected, states = logits(backbone), hidden_states(backbone)
    module.save(tmp_path)
    loaded = tiny_backbone(architecture, language_head)
    module = method_of_folder(tmp_path).load(loaded, tmp_path)
    assert isinstance(module, SparseModule) and module.parameters() == {}
    torch.testing.assert_close(hidden_states(loaded), states, atol=1e-6, rtol=1e-5)
    if language_head:
        torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)


def test_a_module_with_another_vocabulary_is_refused(tmp_path: Path, world: Path) -> None:
    """As many pieces, in another order: the sizes of all tensors fit."""
    backbone = Backbone.open(world / "models" / "bert")
    shaken(backbone, 0).save(tmp_path)
    described = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps({**described, "vocabulary": "0" * 16}))
    with pytest.raises(UserError, match="another vocabulary than this backbone has: the rows of the embeddings"):
        method_of_folder(tmp_path).load(backbone, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("bert", {"vocab_size": 70}, r"word_embeddings\.weight \[65, 16\] \(here \[70, 16\]\)"),
        ("bert", {"num_hidden_layers": 1}, r"layer\.1\..*Use the backbone that it was trained on"),
        ("bert", {"hidden_size": 32}, "made for a model of model type bert, hidden size 16"),
        ("xlm_roberta", {}, "this one is of model type xlm-roberta"),
    ],
)
@pytest.mark.parametrize("composable", [False, True], ids=["own", "composable_sft"])
def test_a_module_of_another_anatomy_is_refused(
    architecture: str, changes: dict[str, int], said: str, composable: bool, tmp_path: Path
) -> None:
    module = shaken(tiny_backbone("bert"), 0, count=3000)
    (module.save_for_composable_sft if composable else module.save)(tmp_path)
    if composable and "model type" in said:  # which that format does not say: the names and the sizes do
        said = r"does not fit this backbone.*embeddings"
    with pytest.raises(UserError, match=said):
        method_of_folder(tmp_path).load(tiny_backbone(architecture, **changes), tmp_path)


def test_positions_of_composable_sft(tmp_path: Path) -> None:
    """The first dimension runs fastest: in a tensor of 2 rows and 3 columns, (0, 2) is number 4 there and 2 here."""
    whole = torch.arange(4.0).view(2, 2)
    stored = Stored((2, 3), torch.tensor([0.5, 1.5, 1e-9, 2.5]), torch.tensor([1, 2, 3, 5]))
    write_composable_sft({"weight": stored}, {"head": whole}, tmp_path / COMPOSABLE_SFT)
    content = torch.load(tmp_path / COMPOSABLE_SFT, weights_only=True)
    assert content["diffs"]["weight"]["size"] == torch.Size([2, 3])
    assert content["diffs"]["weight"]["index_steps"] == [2, 2, 1]
    assert content["diffs"]["weight"]["values"].tolist() == [0.5, 1.5, 2.5]
    found = read_composable_sft(tmp_path / COMPOSABLE_SFT)
    assert found["weight"].positions.tolist() == [1, 2, 5] and found["weight"].values.tolist() == [0.5, 1.5, 2.5]
    assert found["head"].replaces and torch.equal(found["head"].values, whole)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no pickle", "cannot be read as sparse differences of composable-sft"),
        ({"diffs": {}}, r"cannot be read as sparse differences of composable-sft \('abs'\)"),
        ({"diffs": {"a": 3}, "abs": {}}, "cannot be read as sparse differences of composable-sft"),
        (
            {"diffs": {}, "abs": {"a": print}},
            r"more than tensors and numbers \(print\).*can run code.*torch\.save\(\{'diffs'",
        ),
    ],
)
def test_a_file_that_is_none_of_composable_sft_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / COMPOSABLE_SFT
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=said):
        method_of_folder(tmp_path).load(tiny_backbone("bert"), tmp_path)


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    folders = [tmp_path / "own", tmp_path / "composable"]
    module = shaken(tiny_backbone("bert"), 0, count=3000)
    loaded = []
    for folder, save in zip(folders, (module.save, module.save_for_composable_sft), strict=True):
        folder.mkdir()
        save(folder)
        backbone = tiny_backbone("bert")
        method_of_folder(folder).load(backbone, folder)
        loaded.append(values_of(backbone))
    assert is_same(loaded[0], loaded[1])
    assert is_same(loaded[0], values_of(module.backbone))


def test_biases_in_the_format_of_composable_sft_are_differences(tmp_path: Path) -> None:
    """Whole tensors of the encoder, too: they are added up with others. A head goes along as it is."""
    backbone = tiny_backbone("bert")
    module = SparseFineTuning(selection="biases").create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(0.5)
    hidden_states(backbone)
    module.save_for_composable_sft(tmp_path, {"classifier.weight": torch.ones(2, 16)})
    stored = read_composable_sft(tmp_path / COMPOSABLE_SFT)
    assert {name for name, one in stored.items() if one.replaces} == {
        "cls.predictions.bias", "cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias",
        "classifier.weight",
    }  # fmt: skip
    loaded = tiny_backbone("bert")
    method_of_folder(tmp_path).load(loaded, tmp_path)
    for name, weight in values_of(loaded).items():
        torch.testing.assert_close(weight, values_of(backbone)[name], atol=1e-6, rtol=0)


def test_a_pooler_is_left_aside(tmp_path: Path) -> None:
    """Task models of composable-sft have one, which nothing here uses."""
    pooler = Stored((16, 16), torch.ones(3), torch.tensor([0, 7, 200]))
    key = Stored((16,), torch.ones(1), torch.tensor([3]))
    name = "bert.encoder.layer.0.attention.self.key.bias"
    write_composable_sft({"bert.pooler.dense.weight": pooler, name: key}, {}, tmp_path / COMPOSABLE_SFT)
    module = method_of_folder(tmp_path).load(tiny_backbone("bert"), tmp_path)
    assert module.differences.keys() == {name}


def test_quantised_weights_cannot_be_changed() -> None:
    backbone = tiny_backbone("bert")
    backbone.model.is_quantized = True
    with pytest.raises(UserError, match="quantised ones cannot be"):
        RANDOM.create(backbone, generator(0))
