"""BERT and mBERT (Devlin et al. 2019)."""

from xlt.backbones.anatomy import Anatomy
from xlt.backbones.sites import NormInsideSite, Place

ANATOMY = Anatomy(
    objective="masked",
    layers=("encoder.layer",),
    places={
        "attention": Place("attention.output", "attention.output", NormInsideSite),
        "output": Place("output", "output", NormInsideSite),
    },
    embeddings="embeddings",
    language_head=("cls",),
    linears={
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "attention_output": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense",
    },
    self_attention="attention.self",
    has_pooler=True,
)  # fmt: skip
