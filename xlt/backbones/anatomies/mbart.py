"""mBART (Liu et al. 2020): an encoder and a decoder; layers are counted through both."""

from xlt.backbones.anatomy import Anatomy
from xlt.backbones.sites import Place, PreNormSite

ANATOMY = Anatomy(
    objective="denoising",
    layers=("encoder.layers", "decoder.layers"),
    places={
        "attention": Place("self_attn", "attention_adapters", PreNormSite, norm="self_attn_layer_norm"),
        "cross_attention": Place("encoder_attn", "cross_attention_adapters", PreNormSite, norm="encoder_attn_layer_norm"),
        "output": Place("fc2", "output_adapters", PreNormSite, norm="final_layer_norm"),
    },
    embeddings="encoder.layernorm_embedding",
    language_head=("lm_head",),
    linears={
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "attention_output": "self_attn.out_proj", "up": "fc1", "down": "fc2",
    },
    self_attention="self_attn",
    layer_dropout="dropout",
    invertible_key="encoder.invertible_adapters",
)  # fmt: skip
