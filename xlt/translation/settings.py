"""How translation models are trained: from scratch, and to adapt them to a language."""

from __future__ import annotations

from dataclasses import dataclass, field

from xlt.config import setting
from xlt.training.settings import LoopSettings
from xlt.translation.parallel_text import ParallelText


@dataclass(frozen=True)
class TranslationTraining:
    """Training on parallel text.

    Attributes:
        parallel: the source of the parallel text; None: the run's.
        both_directions: learn to translate from the target into the source as well.
        length: tokens of a sentence at most, the language and the end included; longer ones are cut.
        label_smoothing: share of the probability that is wanted of all tokens alike.
        seed: of initialisation and data order.
        scored_pairs: how many held-out pairs BLEU and chrF are reported on, at most.
        loop: the loop itself.
    """

    parallel: ParallelText | None = setting(None, identity=False)  # the parallel text itself is an input of the step
    both_directions: bool = setting(False, identity=False)  # the directions are named in the step
    length: int = setting(128, at_least=4)
    label_smoothing: float = setting(0.0, at_least=0, at_most=0.9)
    seed: int = setting(0, at_least=0)
    scored_pairs: int = setting(500, at_least=1)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(epochs=5, batch_size=8, learning_rate=2e-5))


@dataclass(frozen=True)
class Adaptation(TranslationTraining):
    """Fine-tuning of a whole model on parallel text. A language that its tokenizer lacks gets a token of its own.

    Attributes:
        copy_from: a language whose token's embedding the new one begins with; None draws it at random.
    """

    copy_from: str | None = setting(None, identity=False)  # its token is named in the step
