"""DistilBERT and DistilmBERT (Sanh et al. 2019)."""

from xlt.backbones.anatomy import Anatomy
from xlt.backbones.sites import NormBehindSite, Place

ANATOMY = Anatomy(
    objective="masked",
    layers=("transformer.layer",),
    places={
        "attention": Place("attention", "attention_adapters", NormBehindSite, norm="sa_layer_norm"),
        "output": Place("ffn", "output_adapters", NormBehindSite, norm="output_layer_norm"),
    },
    embeddings="embeddings",
    language_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    linears={
        "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin",
        "attention_output": "attention.out_lin", "up": "ffn.lin1", "down": "ffn.lin2",
    },
    self_attention="attention",
)  # fmt: skip
