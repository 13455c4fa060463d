"""Quantised backbones: modules work on them as on others, and what cannot be done is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import IDS, MASK, save_tiny_model, shaken

from xlt.backbones.backbone import Backbone
from xlt.cli import exit_status
from xlt.errors import UserError
from xlt.methods.bottleneck import Bottleneck
from xlt.methods.full import FullFineTuning
from xlt.methods.low_rank import LoRA
from xlt.random import generator

METHODS = (Bottleneck(name="seq_bn_inv", reduction_factor=4, invertible=True), LoRA(name="lora", rank=2))

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (the extra `quantised`)")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for the blocks in which 4-bit weights are kept."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("bert", "llama"):
        save_tiny_model(folder / kind, kind, hidden_size=128, intermediate_size=128)
    return folder


def opened(models: Path, kind: str, quantisation: str) -> Backbone:
    return Backbone.open(models / kind, language_head=True, quantisation=quantisation)


@torch.no_grad()
def logits(backbone: Backbone) -> torch.Tensor:
    return backbone.model(input_ids=IDS, attention_mask=MASK).logits.float()


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_life_of_a_module(method: Bottleneck | LoRA, kind: str, models: Path, tmp_path: Path) -> None:
    """Attach, train, save, load, detach; only the module gets gradients."""
    backbone = opened(models, kind, "8bit")
    assert backbone.quantised
    plain = logits(backbone)
    module = shaken(method.create(backbone, generator(0), language_head=True))
    changed = logits(backbone)
    assert (changed - plain).abs().max() > 1e-3
    backbone.model(input_ids=IDS, attention_mask=MASK).logits.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters().values())
    own = {id(parameter) for parameter in module.parameters().values()}
    assert all(parameter.grad is None for parameter in backbone.model.parameters() if id(parameter) not in own)
    module.save(tmp_path)
    module.detach()
    assert torch.equal(logits(backbone), plain)
    method.load(backbone, tmp_path)
    torch.testing.assert_close(logits(backbone), changed, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("quantisation", ["8bit", "4bit"])
def test_linear_maps_are_kept_small(quantisation: str, models: Path) -> None:
    def size(backbone: Backbone) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in backbone.layers[0].parameters())

    whole, small = (size(opened(models, "llama", form)) for form in ("none", quantisation))
    assert small < whole / 2


def test_full_fine_tuning_is_refused(models: Path) -> None:
    backbone = opened(models, "bert", "4bit")
    with pytest.raises(UserError, match="quantised"):
        FullFineTuning().create(backbone, generator(0))
    assert backbone.modules == []


def test_a_whole_run(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status([*overrides, "model.quantisation=8bit", "method=lora"]) == 0
    assert "score" in capsys.readouterr().out


def test_4_bits_need_a_gpu(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status([*overrides, "model.quantisation=4bit", "method=lora"]) == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_without_the_package(overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest))
    assert exit_status([*overrides, "model.quantisation=8bit"]) == 2
    assert "pip install" in capsys.readouterr().err
