"""Llama and the decoders that share its layers (Touvron et al. 2023)."""

from xlt.backbones.anatomy import Anatomy, PreNormSite

ANATOMY = Anatomy(
    objective="causal",
    layers="layers",
    feed_forward="mlp",
    site=PreNormSite,
    embeddings="embed_tokens",
    language_head="lm_head",
    adapter_key="layers.{layer}.output_adapters.adapters",
)
