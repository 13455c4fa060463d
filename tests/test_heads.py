"""Heads: what each kind computes, and how AdapterHub's files of them are read and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import IDS, MASK, hidden_states, shaken, tiny_backbone
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, layer_norm, leaky_relu, linear

from xlt.backbones.backbone import Backbone
from xlt.backbones.heads import ClassificationHead, LabelHead, LanguageHead, QuestionAnsweringHead, TaggingHead, load_head
from xlt.errors import UserError
from xlt.methods.bottleneck import Bottleneck, BottleneckModule
from xlt.random import generator

SEQ_BN_INV = Bottleneck(name="seq_bn_inv", reduction_factor=4, invertible=True)
LANGUAGE = {
    "head_type": "masked_lm", "vocab_size": 65, "embedding_size": 16, "layers": 2, "activation_function": "gelu",
    "layer_norm": True, "bias": True, "shift_labels": False, "label2id": None,
}  # fmt: skip


@torch.no_grad()
def randomised(head: torch.nn.Module) -> torch.nn.Module:
    """The head in evaluation mode, every parameter random."""
    draw = generator("head")
    for parameter in head.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return head.eval()


def write(folder: Path, config: dict | None, tensors: dict[str, torch.Tensor], **more: object) -> Path:
    """A folder with a head called `xx`, as AdapterHub's library writes it."""
    description = {"config": config, "name": "xx", "model_type": "bert", "hidden_size": 16, "version": "adapters.1.3.0", **more}
    (folder / "head_config.json").write_text(json.dumps(description))
    save_file({f"heads.xx.{name}": tensor for name, tensor in tensors.items()}, folder / "model_head.safetensors")
    return folder


def language_tensors() -> dict[str, torch.Tensor]:
    shapes = {"0.weight": (16, 16), "0.bias": (16,), "2.weight": (16,), "2.bias": (16,), "3.weight": (65, 16), "3.bias": (65,)}
    draw = generator("language head")
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


# ---- what they compute


def test_the_names_of_stored_heads_stay() -> None:
    head = ClassificationHead(8, 3, dropout=0.1, pooling="first")
    assert list(head.state_dict()) == ["layers.1.weight", "layers.1.bias", "layers.4.weight", "layers.4.bias"]


@torch.no_grad()
def test_layers_by_hand() -> None:
    """tanh between two maps; one map has nothing before it; with three and without non-linearity the numbers close up."""
    states = torch.randn(2, 5, 8, generator=generator(0))
    head = randomised(TaggingHead(8, 3, dropout=0.5, layers=2))
    tensors = head.state_dict()
    inner = linear(states, tensors["layers.1.weight"], tensors["layers.1.bias"]).tanh()
    expected = linear(inner, tensors["layers.4.weight"], tensors["layers.4.bias"])
    torch.testing.assert_close(head(states, torch.ones(2, 5).long()), expected)

    head = randomised(ClassificationHead(8, 3, dropout=0.5, pooling="first", layers=1, bias=False))
    assert list(head.state_dict()) == ["layers.1.weight"]
    torch.testing.assert_close(head(states, torch.ones(2, 5).long()), linear(states[:, 0], head.state_dict()["layers.1.weight"]))

    head = randomised(QuestionAnsweringHead(8, 2, dropout=0.5, layers=3, activation=None))
    numbers = ("1", "3", "5")
    assert [name for name in head.state_dict() if name.endswith("weight")] == [f"layers.{number}.weight" for number in numbers]
    expected = states
    for number in numbers:
        expected = linear(expected, head.state_dict()[f"layers.{number}.weight"], head.state_dict()[f"layers.{number}.bias"])
    torch.testing.assert_close(head(states, torch.ones(2, 5).long()), expected)


def head_by_hand(tensors: dict[str, torch.Tensor], states: torch.Tensor, module: BottleneckModule | None) -> torch.Tensor:
    inner = gelu(linear(states, tensors["0.weight"], tensors["0.bias"]))
    inner = layer_norm(inner, (16,), tensors["2.weight"], tensors["2.bias"], 1e-12)  # the model's own eps
    return linear(module.invertible.inverse(inner) if module else inner, tensors["3.weight"], tensors["3.bias"])


@torch.no_grad()
def test_the_inverse_acts_before_the_output_embedding(tmp_path: Path) -> None:
    """Whichever of module and head came first, and no longer once the module is gone; not where the method leaves it out."""
    tensors = language_tensors()
    write(tmp_path, LANGUAGE, tensors)
    states = torch.randn(3, 5, 16, generator=generator(0))
    mask = torch.ones(3, 5)

    backbone = tiny_backbone("bert")
    before = load_head(tmp_path, backbone)
    torch.testing.assert_close(before(states, mask), head_by_hand(tensors, states, None))
    module = shaken(SEQ_BN_INV.create(backbone, generator(0)))
    after = load_head(tmp_path, backbone)
    expected = head_by_hand(tensors, states, module)
    assert (expected - head_by_hand(tensors, states, None)).abs().max() > 0.1
    for head in (before, after):
        torch.testing.assert_close(head(states, mask), expected)
    module.detach()
    for head in (before, after):
        torch.testing.assert_close(head(states, mask), head_by_hand(tensors, states, None))

    shaken(SEQ_BN_INV.compatible_with("adapterhub").create(backbone, generator(0)))
    torch.testing.assert_close(before(states, mask), head_by_hand(tensors, states, None))


@torch.no_grad()
def test_language_heads_of_several_forms(tmp_path: Path) -> None:
    """One map alone; or with another non-linearity and no norm between two."""
    backbone = tiny_backbone("bert")
    states, mask = torch.randn(3, 5, 16, generator=generator(0)), torch.ones(3, 5)
    tensors = language_tensors()
    single = {**LANGUAGE, "head_type": "causal_lm", "layers": 1, "bias": False, "shift_labels": True}
    head = load_head(write(tmp_path, single, {"0.weight": tensors["3.weight"]}), backbone)
    assert isinstance(head, LanguageHead) and head.causal
    torch.testing.assert_close(head(states, mask), linear(states, tensors["3.weight"]))

    double = {**LANGUAGE, "activation_function": "leakyrelu", "layer_norm": False}
    renamed = {name.replace("3.", "2."): tensor for name, tensor in tensors.items() if not name.startswith("2.")}
    head = load_head(write(tmp_path, double, renamed), backbone)
    assert not head.causal
    inner = leaky_relu(linear(states, tensors["0.weight"], tensors["0.bias"]), 0.01)
    torch.testing.assert_close(head(states, mask), linear(inner, tensors["3.weight"], tensors["3.bias"]))


# ---- files


def heads(backbone: Backbone) -> list[LabelHead]:
    pooling = "last" if backbone.anatomy.objective == "causal" else "first"
    return [
        ClassificationHead(16, 3, 0.1, pooling),
        ClassificationHead(16, 3, 0.0, pooling, layers=1, bias=False),
        ClassificationHead(16, 3, 0.3, pooling, layers=3, activation="leaky_relu"),
        TaggingHead(16, 3, 0.1),
        TaggingHead(16, 3, 0.2, layers=2, activation="gelu"),
        QuestionAnsweringHead(16, 3, 0.1),
    ]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("architecture", ["bert", "xlm_roberta", "llama"])
@torch.no_grad()
def test_a_stored_head_comes_back(architecture: str, number: int, tmp_path: Path) -> None:
    backbone = tiny_backbone(architecture)
    head = randomised(heads(backbone)[number])
    head.save(tmp_path, backbone, ["c", "a", "b"], name="topics")
    loaded = load_head(tmp_path, backbone)
    assert type(loaded) is type(head)
    assert loaded.settings == head.settings
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    states = hidden_states(backbone)
    assert torch.equal(loaded(states, MASK), head(states, MASK))
    assert json.loads((tmp_path / "head_config.json").read_text())["config"]["label2id"] == {"c": 0, "a": 1, "b": 2}
    assert all(name.startswith("heads.topics.") for name in load_file(tmp_path / "model_head.safetensors"))


def test_files_call_the_leaky_relu_as_the_library_does(tmp_path: Path) -> None:
    backbone = tiny_backbone("bert")
    heads(backbone)[2].save(tmp_path, backbone, ["c", "a", "b"])
    assert json.loads((tmp_path / "head_config.json").read_text())["config"]["activation_function"] == "leakyrelu"


@pytest.mark.parametrize("name", ["bert_stack_cls", "bert_stack_tag", "bert_stack_qa"])
def test_a_stored_head_has_the_form_of_the_library_s(name: str, shared: Path, tmp_path: Path) -> None:
    """The same keys and values, and tensors of the same names."""
    stored = shared / "golden" / name / "task"
    peer = json.loads((stored / "head_config.json").read_text())
    backbone = tiny_backbone("bert", hidden_size=peer["hidden_size"])
    head = load_head(stored, backbone)
    head.save(tmp_path, backbone, list(peer["config"]["label2id"]), name=peer["name"])
    ours = json.loads((tmp_path / "head_config.json").read_text())
    assert ours["config"] == {**peer["config"], "dropout_prob": backbone.config.hidden_dropout_prob}
    assert ours.keys() == peer.keys()
    assert {**ours, "config": None, "model_name": None} == {**peer, "config": None, "model_name": None}
    theirs = torch.load(stored / "pytorch_model_head.bin", weights_only=True)
    written = load_file(tmp_path / "model_head.safetensors")
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("architecture", "pooling", "usual"), [("bert", "mean", "first"), ("bert", "last", "first"), ("llama", "first", "last")]
)
def test_a_head_that_reads_what_the_library_s_do_not(architecture: str, pooling: str, usual: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(architecture)
    with pytest.raises(UserError, match=f"read the {usual} token.*pooling={pooling}"):
        ClassificationHead(16, 3, 0.1, pooling).save(tmp_path, backbone, ["c", "a", "b"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "tensors", "more", "message"),
    [
        (None, {}, {}, "a copy of the model's own head"),
        ({**LANGUAGE, "head_type": "taging"}, {}, {}, "no heads of the kind taging. Did you mean tagging"),
        ({**LANGUAGE, "activation_function": "gleu"}, {}, {}, "does not know the activation gleu. Did you mean gelu"),
        ({"head_type": "classification", "use_pooler": True}, {}, {}, "use_pooler=true"),
        ({"head_type": "tagging", "layers": 1}, {}, {}, "does not say what the head's num_labels is"),
        (LANGUAGE, {"5.weight": torch.ones(2)}, {}, "unexpected layers.5.weight"),
        (LANGUAGE, {"3.bias": torch.ones(64)}, {}, "another size layers.3.bias"),
        (LANGUAGE, {}, {"hidden_size": 32}, "hidden size 32"),
    ],
    ids=["own", "kind", "activation", "pooler", "incomplete", "unexpected", "size", "model"],
)  # fmt: skip
def test_heads_that_cannot_be_read(config: dict | None, tensors: dict, more: dict, message: str, tmp_path: Path) -> None:
    write(tmp_path, config, {**language_tensors(), **tensors}, **more)
    with pytest.raises(UserError, match=message):
        load_head(tmp_path, tiny_backbone("bert"))


def test_a_folder_without_a_head(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no head_config\.json"):
        load_head(tmp_path, tiny_backbone("bert"))
    write(tmp_path, LANGUAGE, language_tensors())
    (tmp_path / "model_head.safetensors").unlink()
    with pytest.raises(UserError, match=r"model_head\.safetensors nor pytorch_model_head\.bin"):
        load_head(tmp_path, tiny_backbone("bert"))


def test_the_model_s_own_language_head_is_untouched(tmp_path: Path) -> None:
    backbone = tiny_backbone("bert")
    expected = backbone.model(input_ids=IDS, attention_mask=MASK).logits
    load_head(write(tmp_path, LANGUAGE, language_tensors()), backbone)
    assert torch.equal(backbone.model(input_ids=IDS, attention_mask=MASK).logits, expected)
