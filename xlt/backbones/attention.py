"""Prefixes: keys and values that modules put in front of those which a layer's attention makes of its own sequence.

transformers hands queries, keys and values, projected and rotated, to the attention function that the model's configuration
names. While a composition has prefixes in force, that is `attend_with_prefix`. Prefixes are as they were learnt, without
rotation; every position sees them, and they never enter the generation cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import pad

from xlt.backbones.sites import Site
from xlt.errors import UserError

if TYPE_CHECKING:
    from xlt.backbones.backbone import Backbone

_WITH_PREFIX, _WITHOUT = "sdpa_with_prefix", "sdpa"  # attention functions, by their names in a configuration
_POOL = "prefix_tuning"  # the name of the pool below the encoder, AdapterHub's
_PREFIX = "prefix"  # the attribute of an attention module that gives its prefix


class Prefix(nn.Module, ABC):
    """A module's keys and values for some layers, `length` of each.

    Attributes:
        layers: their numbers.
    """

    def __init__(self, layers: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = layers
        self.dropout = nn.Dropout(dropout)
        self._states: dict[int, torch.Tensor] = {}

    @abstractmethod
    def states(self) -> torch.Tensor:
        """[length, 2 · layers, heads · head size]: entry 2j are the keys, 2j + 1 the values of the j-th of `layers`."""

    def compute(self) -> None:
        """Make the states of all layers, for one pass of the model."""
        self._states = dict(zip(self.layers, self.states().split(2, dim=1), strict=True))

    def at_layer(self, layer: int, texts: int) -> torch.Tensor:
        """Keys and values [texts, length, 2, heads · head size]."""
        return self.dropout(self._states[layer].expand(texts, -1, -1, -1))


class PrefixPool(nn.Module):
    """All prefixes attached to a backbone. It stands below the encoder as long as there are any.

    Attributes:
        prefix_tunings: of each module, by its key: a prefix for each stack of layers, by AdapterHub's name of the stack.
        branches: the keys of the modules in force, in their order, for each copy of the batch.
    """

    def __init__(self, backbone: Backbone, stacks: Sequence[str]) -> None:
        super().__init__()
        self.prefix_tunings = nn.ModuleDict()
        self.branches: Sequence[Sequence[str]] = ()
        self.backbone = backbone
        parts = [layer.get_submodule(backbone.anatomy.self_attention) for layer in backbone.layers]
        self._attentions = [part.original if isinstance(part, Site) else part for part in parts]
        for number, attention in enumerate(self._attentions):
            setattr(attention, _PREFIX, partial(self._at_layer, number))
        parents = [backbone.encoder.get_submodule(path.rpartition(".")[0]) for path in backbone.anatomy.layers]
        self._hooks = [
            parent.register_forward_pre_hook(partial(self._compute, stack)) for parent, stack in zip(parents, stacks, strict=True)
        ]

    @classmethod
    def of(cls, backbone: Backbone, stacks: Sequence[str]) -> PrefixPool:
        """The backbone's pool, put into its place when first asked for.

        Args:
            stacks: AdapterHub's name of each list of layers.

        Raises:
            UserError: the model's attention cannot take prefixes.
        """
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        if hasattr(backbone.encoder, _POOL):
            return backbone.encoder.get_submodule(_POOL)
        kind, chosen = backbone.config.model_type, backbone.config._attn_implementation
        if backbone.anatomy.self_attention is None:
            raise UserError(
                f"Prefixes go through transformers' attention functions, and {kind} models compute attention in a way of their "
                "own. Use an adapter or low-rank updates (method=seq_bn, method=lora) with this model."
            )
        if chosen != _WITHOUT:
            raise UserError(
                f"Prefixes go through scaled dot-product attention, and this {kind} model computes attention as {chosen!r}. "
                f"Load it with attn_implementation={_WITHOUT!r}."
            )
        AttentionInterface.register(_WITH_PREFIX, attend_with_prefix)
        AttentionMaskInterface.register(_WITH_PREFIX, sdpa_mask)
        backbone.encoder.add_module(_POOL, cls(backbone, stacks))
        return backbone.encoder.get_submodule(_POOL)

    def put_in_force(self, branches: Sequence[Sequence[str]]) -> None:
        """Choose the prefixes of each copy of the batch by their modules' keys; without any, attention is the ordinary one."""
        self.branches = branches
        self.backbone.model.set_attn_implementation(_WITH_PREFIX if any(branches) else _WITHOUT)

    def remove_if_empty(self) -> None:
        """Take the pool and all that belongs to it off the backbone if no module has prefixes any more."""
        if self.prefix_tunings:
            return
        self.put_in_force(())
        for hook in self._hooks:
            hook.remove()
        for attention in self._attentions:
            delattr(attention, _PREFIX)
        delattr(self.backbone.encoder, _POOL)

    def _compute(self, stack: str, layers: nn.Module, inputs: tuple[Any, ...]) -> None:
        for key in {key for branch in self.branches for key in branch}:
            if stack in self.prefix_tunings[key]:
                self.prefix_tunings[key][stack].compute()

    def _at_layer(self, layer: int, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
        """What stands in front of a layer's keys [batch, heads, keys, head size]; None for nothing.

        Returns:
            Keys and values [batch, heads, length, head size], and which of them a text sees, [batch, length], None for all.
        """
        batch, heads, _, size = key.shape
        texts = batch // len(self.branches)
        rows = []
        for branch in self.branches:
            prefixes = [prefix for name in reversed(branch) for prefix in self.prefix_tunings[name].values()]
            own = [prefix.at_layer(layer, texts) for prefix in prefixes if layer in prefix.layers]
            rows.append(torch.cat(own, dim=1) if own else key.new_empty(texts, 0, 2, heads * size))
        lengths = [part.shape[1] for part in rows]
        if not any(lengths):
            return None
        filled = [pad(part, (0, 0, 0, 0, max(lengths) - part.shape[1], 0)) for part in rows]
        states = torch.cat(filled).to(key.dtype).unflatten(-1, (heads, size))
        seen = None
        if len(set(lengths)) > 1:
            missing = max(lengths) - torch.tensor(lengths, device=key.device).repeat_interleave(texts)
            seen = torch.arange(max(lengths), device=key.device) >= missing[:, None]
        return *states.permute(2, 0, 3, 1, 4), seen


def attend_with_prefix(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """transformers' scaled dot-product attention, with the module's prefix in front of its keys and values.

    Args:
        query: [batch, heads, queries, head size].
        key, value: [batch, key heads, keys, head size].
        attention_mask: what each query sees, [batch, 1, queries, keys]; None for all, or in causal models for all before it.
    """
    prefix = getattr(module, _PREFIX)(key) if hasattr(module, _PREFIX) else None
    if prefix is not None:
        keys, values, seen = prefix
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        attention_mask = _visible(attention_mask, seen, keys.shape[2], query, key, causal)
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _visible(
    mask: torch.Tensor | None, seen: torch.Tensor | None, length: int, query: torch.Tensor, key: torch.Tensor, causal: bool
) -> torch.Tensor | None:
    """What each query sees of the prefix and of the keys behind it, [batch, 1, queries, length + keys]; None for all."""
    batch, queries, keys = len(query), query.shape[2], key.shape[2]
    causal = causal and queries > 1  # as scaled dot-product attention takes a missing mask
    if mask is None:
        if seen is None and not causal:
            return None
        mask = torch.ones(queries, keys, dtype=torch.bool, device=key.device)
        mask = (mask.tril() if causal else mask)[None, None]
    if seen is None:
        seen = torch.ones(batch, length, dtype=torch.bool, device=key.device)
    columns = seen[:, None, None].expand(-1, mask.shape[1], queries, -1)
    if mask.dtype != torch.bool:  # what is added to the scores
        columns = torch.zeros_like(columns, dtype=mask.dtype).masked_fill(~columns, torch.finfo(mask.dtype).min)
    return torch.cat([columns, mask.expand(batch, -1, queries, -1)], dim=-1)
