"""ModernBERT (Warner et al. 2024)."""

from xlt.backbones.anatomy import Anatomy
from xlt.backbones.sites import Place, PreNormSite

ANATOMY = Anatomy(
    objective="masked",
    layers=("layers",),
    places={
        "attention": Place("attn", "attention_adapters", PreNormSite, norm="attn_norm"),
        "output": Place("mlp", "output_adapters", PreNormSite, norm="mlp_norm"),
    },
    embeddings="embeddings",
    language_head=("head", "decoder"),
    linears={
        "query": "attn.Wqkv", "key": "attn.Wqkv", "value": "attn.Wqkv", "attention_output": "attn.Wo",
        "up": "mlp.Wi", "gate": "mlp.Wi", "down": "mlp.Wo",
    },
    self_attention="attn",
)  # fmt: skip
