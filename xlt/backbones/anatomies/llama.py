"""Llama and the decoders that share its layers (Touvron et al. 2023)."""

from xlt.backbones.anatomy import Anatomy
from xlt.backbones.sites import Place, PreNormSite

ANATOMY = Anatomy(
    objective="causal",
    layers=("layers",),
    places={
        "attention": Place("self_attn", "attention_adapters", PreNormSite, norm="input_layernorm"),
        "output": Place("mlp", "output_adapters", PreNormSite, norm="post_attention_layernorm"),
    },
    embeddings="embed_tokens",
    language_head=("lm_head",),
    linears={
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "attention_output": "self_attn.o_proj", "up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj",
    },
    self_attention="self_attn",
    adapterhub_linears=("down", "up"),  # AdapterHub has them the wrong way round
)  # fmt: skip
