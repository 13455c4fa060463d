"""XLM-R base and large (Conneau et al. 2020), Glot500 (Imani et al. 2023): RoBERTa's anatomy."""

from xlt.backbones.anatomies.roberta import ANATOMY

__all__ = ["ANATOMY"]
