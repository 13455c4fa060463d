"""Which weights of a backbone a sparse module may change: the largest scores over many tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from xlt.errors import UserError

_HALF = 16  # bits of a score that are looked at together
_CHUNK = 1 << 24  # scores that are counted at a time: counting needs 8 bytes for each


def largest(scores: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The flat positions of the `count` largest scores of all tensors together, ascending, by name; [k] each, int64.

    Of equal scores those come first whose tensor, and whose position in it, does. The order of finite numbers that are not
    negative is that of their bits as integers, so the smallest score that is chosen is found by counting, first by the upper
    half of the bits and then by the lower one. No copy of the scores is made.

    Args:
        scores: fp32, of any shape, none negative. Tensors without a chosen score are left out of the result.

    Raises:
        UserError: a score is not a finite number, or there are fewer scores than that.
    """
    for name, tensor in scores.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{name}: its changes or gradients are not finite numbers, so none can be chosen. Lower the learning rate "
                "(method.dense_learning_rate), or use precision=fp32 if it is bf16."
            )
    total = sum(tensor.numel() for tensor in scores.values())
    if not 0 < count <= total:
        raise UserError(f"{count:,} weights are to be chosen out of {total:,}. Choose at least one, and not more than there are.")
    bits = [tensor.reshape(-1).view(torch.int32) for tensor in scores.values()]
    upper, above = _reached(bits, count, 0, 0)
    lower, more = _reached(bits, count - above, upper, _HALF)
    threshold = upper << _HALF | lower
    ties = count - above - more  # scores equal to the smallest chosen one that are chosen, too
    chosen = {}
    for name, tensor in zip(scores, bits, strict=True):
        positions = (tensor >= threshold).nonzero().squeeze(1)
        tied = (tensor[positions] == threshold).cumsum(0)
        if len(tied) and tied[-1] > ties:
            positions = positions[(tensor[positions] > threshold) | (tied <= ties)]
            ties = 0
        elif len(tied):
            ties -= int(tied[-1])
        if len(positions):
            chosen[name] = positions
    return chosen


def _reached(bits: list[torch.Tensor], count: int, upper: int, known: int) -> tuple[int, int]:
    """The half of the bits at which the scores, from the largest down, come to be `count`, and how many are above it.

    Args:
        upper: of the scores looked at, the upper half of the bits, where it is known.
        known: how many of the bits are known.
    """
    counts = torch.zeros(1 << _HALF, dtype=torch.int64)
    for tensor in bits:
        for chunk in tensor.split(_CHUNK):
            halves = chunk[chunk >> _HALF == upper] & ((1 << _HALF) - 1) if known else chunk >> _HALF
            counts += torch.bincount(halves, minlength=1 << _HALF).cpu()
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, count))
    return (1 << _HALF) - 1 - place, int(from_above[place - 1]) if place else 0
