"""What training is about to cost and to change: estimated for the plan, said before step 1."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from xlt.backbones.backbone import Backbone
from xlt.methods.base import Method, Module
from xlt.steps.base import Estimate, Runtime
from xlt.training.settings import LoopSettings

if TYPE_CHECKING:
    from xlt.steps.backbone import BackboneStep

log = logging.getLogger("xlt")

_EFFICIENCY = 0.5  # of the matmul rate that a training step reaches; a rough figure
_PREDICTED = 0.15  # share of the tokens that a masked language model's head sees
_HOPELESS_SECONDS = 24 * 3600
_UNKNOWN_EXAMPLES = 1000  # assumed while a task's examples have not been read


def estimate_training(
    backbone: BackboneStep,
    count: Callable[[Backbone], int] | None,
    phases: Sequence[LoopSettings],
    examples: int | None,
    tokens_per_example: float,
    language_head: bool,
) -> Estimate:
    """Tokens, FLOPs and trainable parameters of training, all phases of it, from the backbone's shape alone.

    Args:
        count: trainable parameters of a module attached to a backbone; None trains the whole backbone.
        phases: how each is trained.
        examples: training examples, where known.
        tokens_per_example: on average, or the cap.
    """
    if backbone.shape is None:
        return Estimate()
    empty = _without_weights(json.dumps(backbone.shape), backbone.model.anatomy)
    trainable = count(empty) if count else sum(parameter.numel() for parameter in empty.model.parameters())
    rows = sum(settings.total_steps(examples or _UNKNOWN_EXAMPLES) * settings.batch_size for settings in phases)
    tokens = rows * tokens_per_example
    return Estimate(tokens, tokens * flops_per_token(empty, tokens_per_example, language_head, trainable), trainable)


def estimate_translation(texts_per_example: int, tokens_per_text: float, flops_per_token: float) -> Estimate:
    """Tokens that are read, and as many that are written, and what they cost.

    Args:
        flops_per_token: of the translator; 0 where that is unknown, or nothing is computed.
    """
    tokens = 2 * _UNKNOWN_EXAMPLES * texts_per_example * tokens_per_text
    return Estimate(tokens, tokens * flops_per_token)


def announce(
    title: str,
    model: nn.Module,
    modules: Sequence[Module],
    parameters: Mapping[str, nn.Parameter],
    settings: LoopSettings,
    examples: int,
    tokens_per_example: float,
    runtime: Runtime,
    flops_per_token: Callable[[int], float],
) -> None:
    """Say before step 1 what is trainable and how long it will take; warn where that is hopeless on this machine.

    Args:
        modules: that are attached to the model.
        flops_per_token: from the number of trainable parameters.
    """
    trainable = sum(parameter.numel() for parameter in parameters.values())
    chosen = {id(parameter) for parameter in parameters.values()}
    passing = {id(parameter): parameter.numel() for module in modules for parameter in module.passes_gradients()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    stray = [name for name, parameter in trained.items() if id(parameter) not in chosen | passing.keys()]
    if stray:
        raise AssertionError(f"{title}: parameters that nobody declared would be trained: {stray[:3]}")
    inside = [module.parameters() for module in modules if module.passes_gradients()]  # of weights that stay in place
    frozen = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in chosen)
    frozen -= sum(parameter.numel() for named in inside for parameter in named.values())
    steps = settings.total_steps(examples)
    tokens = steps * settings.batch_size * tokens_per_example
    flops = tokens * flops_per_token(trainable + sum(passing.values()))
    seconds = training_seconds(flops, runtime.flops_per_second)
    log.info(
        "%s: training %s parameters (%.2f %%), %s frozen, on %s; %s examples, %s steps of %d, %s; estimated time %s",
        title, f"{trainable:,}", 100 * trainable / (trainable + frozen), f"{frozen:,}", runtime.device, f"{examples:,}",
        f"{steps:,}", settings.batch_size, settings.precision, readable_time(seconds),
    )  # fmt: skip
    if seconds > _HOPELESS_SECONDS:
        log.warning(
            "%s: about %s on this machine (%s). Hints: train=quick takes minutes on a CPU; train.language.loop.steps=N shortens "
            "it; a GPU (device=cuda), best with precision=bf16, is far faster.",
            title, readable_time(seconds), runtime.device,
        )  # fmt: skip


def count_trainable(method: Method, backbone: Backbone, language_head: bool = True, members: Sequence[Method] = ()) -> int:
    """Trainable parameters of a module of `method`, which is attached to the backbone and detached again.

    Args:
        members: of the modules that it builds on.
    """
    attached = len(backbone.modules)
    with torch.device("meta"):
        for member in members:
            member.create(backbone, torch.Generator(), language_head)
        module = method.create(backbone, torch.Generator(), language_head)
    count = module.count()
    while len(backbone.modules) > attached:
        backbone.modules[-1].detach()
    return count


def training_seconds(flops: float, flops_per_second: float) -> float:
    """Estimated time of training on a machine with this matmul rate."""
    return flops / (flops_per_second * _EFFICIENCY)


@lru_cache
def flops_per_second(device: torch.device) -> float:
    """What a large matrix product reaches on the device, measured for a twentieth of a second."""
    size = 768 if device.type == "cpu" else 4096
    matrix = torch.ones(size, size, device=device)
    (matrix @ matrix).sum().item()
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < 0.05:
        product = matrix @ matrix
        products += 1
        if device.type != "cpu":
            torch.cuda.synchronize(device)
    del product
    return 2 * size**3 * products / (time.perf_counter() - started)


def readable_time(seconds: float) -> str:
    """`90` → `1.5 min`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def flops_per_token(backbone: Backbone, length: float, language_head: bool, trainable: int) -> float:
    """What a token of an input costs in training: 2 FLOPs a weight of the layers forward, plus attention's 4 · length · hidden a
    layer, plus the language head where it predicts; backward the same again through frozen weights, and once more for those that
    are trained.

    Args:
        trainable: how many parameters are trained.
    """
    config = backbone.config
    layers = sum(parameter.numel() for layer in backbone.layers for parameter in layer.parameters())
    forward = 2 * layers + 4 * length * config.hidden_size * len(backbone.layers)
    if language_head:
        predicted = _PREDICTED if backbone.anatomy.objective == "masked" else 1.0
        forward += predicted * 2 * config.hidden_size * config.vocab_size
    return 2 * forward + 2 * min(trainable, layers)


@lru_cache(maxsize=64)
def _without_weights(shape: str, anatomy: str | None) -> Backbone:
    return Backbone.from_shape(json.loads(shape), anatomy, language_head=True)
