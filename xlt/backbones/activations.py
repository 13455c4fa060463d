"""Non-linearities, by transformers' names."""

from __future__ import annotations

from torch import nn

# All of transformers' but prelu and xielu, which have parameters of their own. They are written out because reading a
# configuration needs the names alone, and importing transformers' table takes seconds.
ACTIVATIONS = (
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "hardswish",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "sqrtsoftplus",
    "swish",
    "tanh",
)


def activation_function(name: str) -> nn.Module:
    """The non-linearity of this name."""
    from transformers.activations import ACT2FN

    return ACT2FN[name]
