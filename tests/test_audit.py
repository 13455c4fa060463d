"""What is said before step 1: estimates that hold against counted operations, and a warning where they are hopeless."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMaskedLM, BertConfig

from xlt.backbones.anatomies.bert import ANATOMY
from xlt.backbones.backbone import Backbone
from xlt.methods.bottleneck import Bottleneck
from xlt.methods.full import FullFineTuning
from xlt.random import generator
from xlt.steps import audit
from xlt.training.settings import LoopSettings


def backbone() -> Backbone:
    """A small BERT in which, as in real ones, matrices outweigh everything else."""
    config = BertConfig(
        vocab_size=2000, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=64,
    )  # fmt: skip
    return Backbone(AutoModelForMaskedLM.from_config(config), None, ANATOMY)


@pytest.mark.parametrize("method", [Bottleneck(reduction_factor=16), FullFineTuning()], ids=["seq_bn", "full"])
def test_estimate_against_counted_operations(method) -> None:
    """Within 15 % of what torch counts in one step with 15 % of the positions predicted."""
    rows, length = 4, 64
    opened = backbone()
    module = method.create(opened, generator(0), language_head=True)
    module.begin(0, {})
    trainable = sum(parameter.numel() for parameter in module.parameters().values())
    ids = torch.randint(2000, (rows, length))
    with FlopCounterMode(display=False) as counter:
        hidden = opened.hidden_states(ids, torch.ones_like(ids))
        chosen = hidden.flatten(0, 1)[: round(0.15 * rows * length)]
        opened.language_head(chosen).sum().backward()
    estimate = rows * length * audit.flops_per_token(opened, length, True, trainable)
    assert estimate == pytest.approx(counter.get_total_flops(), rel=0.15)


def cost_of(opened: Backbone) -> partial[float]:
    return partial(audit.flops_per_token, opened, 64.0, True)


def test_hopeless_training_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    opened = backbone()
    module = Bottleneck().create(opened, generator(0))
    settings = LoopSettings(steps=1_000_000)
    runtime = SimpleNamespace(flops_per_second=1e9, device=torch.device("cpu"))
    with caplog.at_level(logging.INFO, logger="xlt"):
        audit.announce("module", opened.model, [module], module.parameters(), settings, 100, 64.0, runtime, cost_of(opened))
    assert f"training {sum(p.numel() for p in module.parameters().values()):,} parameters" in caplog.text
    assert "days on this machine" in caplog.text
    assert "train=quick" in caplog.text


def test_undeclared_trainable_parameters_are_caught() -> None:
    opened = backbone()
    module = Bottleneck().create(opened, generator(0))
    next(opened.encoder.parameters()).requires_grad_(True)
    runtime = SimpleNamespace(flops_per_second=1e9, device=torch.device("cpu"))
    with pytest.raises(AssertionError, match="nobody declared"):
        audit.announce(
            "module", opened.model, [module], module.parameters(), LoopSettings(steps=1), 100, 64.0, runtime, cost_of(opened)
        )


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (90, "1.5 min"), (7200, "2.0 h"), (864000, "10.0 days")])
def test_readable_time(seconds: float, text: str) -> None:
    assert audit.readable_time(seconds) == text


def test_device_rate_is_measured(tmp_path: Path) -> None:
    assert 1e8 < audit.flops_per_second(torch.device("cpu")) < 1e14
