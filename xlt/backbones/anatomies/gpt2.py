"""GPT-2 (Radford et al. 2019) and mGPT (Shliazhko et al. 2022)."""

from xlt.backbones.anatomy import Anatomy
from xlt.backbones.sites import Place, PreNormSite

ANATOMY = Anatomy(
    objective="causal",
    layers=("h",),
    places={
        "attention": Place("attn", "attention_adapters", PreNormSite, norm="ln_1"),
        "output": Place("mlp", "output_adapters", PreNormSite, norm="ln_2"),
    },
    embeddings="drop",
    language_head=("lm_head",),
    linears={
        "query": "attn.c_attn", "key": "attn.c_attn", "value": "attn.c_attn", "attention_output": "attn.c_proj",
        "up": "mlp.c_fc", "down": "mlp.c_proj",
    },
    self_attention="attn",
)  # fmt: skip
