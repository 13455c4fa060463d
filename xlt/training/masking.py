"""Masking for masked language modelling (Devlin et al. 2019): of the chosen positions 80 % become the mask token, 10 % a
random token, 10 % stay."""

from __future__ import annotations

import torch

IGNORED = -100  # label of a position without loss


def mask_tokens(
    input_ids: torch.Tensor,
    special: torch.Tensor,
    mask_token: int,
    vocabulary_size: int,
    probability: float,
    scheme: str,
    generator: torch.Generator,
    words: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide some tokens of a batch.

    Args:
        input_ids: [batch, sequence].
        special: [batch, sequence], True where nothing may be hidden (special tokens, padding).
        probability: share of the other positions that is chosen.
        scheme: `exact` chooses round(probability · n) positions of the batch, at least one; `bernoulli` each by chance;
            `whole_words` as many as `exact`, word by word, so that no word helps to guess its own pieces (the last one
            chosen may be cut).
        words: [batch, sequence], the number of each position's word; for `whole_words`.

    Returns:
        The ids with hidden tokens, and the labels: the original id at the chosen positions, `IGNORED` elsewhere.
    """
    candidates = (~special).flatten().nonzero().squeeze(1)
    count = min(len(candidates), max(1, round(probability * len(candidates))))
    if scheme == "bernoulli":
        chosen = candidates[torch.rand(len(candidates), generator=generator) < probability]
    elif scheme == "exact":
        chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
    else:
        turn = torch.randperm(int(words.max()) + 1, generator=generator)[words.flatten()[candidates]]
        chosen = candidates[turn.argsort(stable=True)[:count]]
    inputs, labels = input_ids.flatten().clone(), torch.full((input_ids.numel(),), IGNORED)
    labels[chosen] = inputs[chosen]
    fate = torch.rand(len(chosen), generator=generator)
    random_ids = torch.randint(vocabulary_size, (len(chosen),), generator=generator)
    replaced = torch.where(fate < 0.9, random_ids, inputs[chosen])
    inputs[chosen] = torch.where(fate < 0.8, torch.full_like(chosen, mask_token), replaced)
    return inputs.view_as(input_ids), labels.view_as(input_ids)
