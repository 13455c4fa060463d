"""The choices of `model=`: a ready-made model by hub id or folder, or one pretrained here from scratch."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from xlt.backbones.anatomy import known_architectures
from xlt.config import setting
from xlt.corpora.base import TextSource
from xlt.errors import UserError, suggest
from xlt.training.settings import LanguageTraining, LoopSettings

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.steps.backbone import BackboneStep


@dataclass(frozen=True)
class Model(ABC):
    """Fields that every choice has.

    Attributes:
        name: what records and folder names call the model.
        anatomy: dotted path of a module with `ANATOMY`, for architectures that the package does not know.
        reduction_factor: what adapters on this model take unless told otherwise: 16 at a width of 768 (Gurgurov et al. 2025)
            makes bottlenecks of 48; a narrow model needs less to come to as many.
    """

    name: str | None = setting(None, is_name=True, identity=False)
    anatomy: str | None = setting(None)
    reduction_factor: float = setting(16.0, above=0, identity=False)

    @property
    def label(self) -> str:
        """The model's name in records and folder names."""
        return self.name or "model"

    @abstractmethod
    def draw(self, experiment: Experiment) -> BackboneStep:
        """This model's part of the graph."""


@dataclass(frozen=True)
class PretrainedModel(Model):
    """`model=mbert`, `xlmr`, and `hf` for any other.

    Attributes:
        path: hub id or folder.
        revision: branch, tag or commit of the hub; None takes the newest and remembers it.
        quantisation: `8bit` or `4bit` keep the linear maps' weights in that form, by bitsandbytes: 8-bit integers (Dettmers et
            al. 2022), or 4-bit NF4 with double quantisation (QLoRA, Dettmers et al. 2023). They stay frozen.
        shape: `model_type` and sizes as in config.json, for planning where that file cannot be reached.
    """

    path: str = setting("???", identity=False)
    revision: str | None = setting(None, identity=False)
    quantisation: str = setting("none", one_of=("none", "8bit", "4bit"), identity=False)
    shape: dict[str, Any] = field(default_factory=dict, metadata={"identity": False})

    @property
    def label(self) -> str:
        """The given name, else the last part of the path."""
        last_part = Path(self.path).expanduser().resolve().name if Path(self.path).expanduser().is_dir() else self.path
        return self.name or re.sub(r"[^A-Za-z0-9._-]+", "-", last_part.rpartition("/")[2]).strip("._-")[:64] or "model"

    def draw(self, experiment: Experiment) -> BackboneStep:
        return experiment.pretrained_backbone_step(self)


@dataclass(frozen=True)
class ScratchModel(Model):
    """`model=scratch`: tokenizer and weights are learnt from the text of some languages (`data=`).

    Attributes:
        languages: whose text is read.
        vocabulary_size: word pieces, special tokens included.
        alphabet: letters that become pieces though the text may not hold them: without them a word in another script is
            one unknown token.
        data: the source of the text; None: the run's.
        shape: `model_type` and sizes, as transformers names them.
        train: how it is pretrained.
        seed: of the text's split, initialisation and data order.
    """

    languages: list[str] = field(default_factory=list)
    vocabulary_size: int = setting(8000, at_least=100)
    alphabet: str = setting("", neutral=True)
    data: TextSource | None = setting(None, identity=False)
    shape: dict[str, Any] = field(default_factory=dict)
    train: LanguageTraining = field(
        default_factory=lambda: LanguageTraining(
            layout="packed", length=128, loop=LoopSettings(steps=10_000, batch_size=32, learning_rate=5e-4, warmup=0.06)
        )
    )
    seed: int = setting(0, at_least=0)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        if not self.languages:
            raise UserError(
                f"{where}.languages is empty: say whose text the backbone reads, for example '{where}.languages=[en,mt]'."
            )
        model_type = str(self.shape.get("model_type"))
        if model_type.replace("-", "_") not in known_architectures() and self.anatomy is None:
            hint = suggest(model_type, known_architectures(), "types")
            raise UserError(f"{where}.shape.model_type={model_type} is no choice. {hint}")
        if self.shape.get("hidden_size", 0) % max(1, self.shape.get("num_attention_heads", 1)):
            raise UserError(f"{where}.shape.hidden_size={self.shape['hidden_size']} has to be a multiple of num_attention_heads.")

    def draw(self, experiment: Experiment) -> BackboneStep:
        return experiment.scratch_backbone_step(self)

    def initialise(self, model: nn.Module) -> None:
        """Change how a new model begins, before it is trained; this class leaves it as transformers made it."""
