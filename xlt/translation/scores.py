"""How good translations are: chrF (Popović 2015) and BLEU (Papineni et al. 2002), as sacrebleu computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

METRICS = {"chrf": CHRF(), "bleu": BLEU(force=True)}
"""With sacrebleu's defaults: chrF2 over six orders of characters; BLEU with the tokenizer 13a and exponential smoothing. (`force`
keeps it from advising about spaces before full stops.)"""


def counts(translations: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What the scores are made of, counted in each sentence: [sentences, counts]. Test sets add up."""
    statistics = [metric._extract_corpus_statistics(list(translations), [list(references)]) for metric in METRICS.values()]
    return np.array([[number for part in row for number in part] for row in zip(*statistics, strict=True)], dtype=float)


def metrics(sums: np.ndarray) -> dict[str, np.ndarray]:
    """chrF and BLEU [samples], from 0 to 100, of test sets from the sums of their sentences' counts [samples, counts]."""
    widths = {"chrf": 3 * METRICS["chrf"].char_order, "bleu": 2 + 2 * METRICS["bleu"].max_ngram_order}
    result, start = {}, 0
    for name, width in widths.items():
        rows = sums[:, start : start + width].round().astype(int).tolist()
        result[name] = np.array([METRICS[name]._compute_score_from_stats(row).score for row in rows])
        start += width
    return result


def score(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """chrF and BLEU of a test set, from 0 to 100."""
    sums = counts(translations, references).sum(axis=0)[None]
    return {name: float(values[0]) for name, values in metrics(sums).items()}
