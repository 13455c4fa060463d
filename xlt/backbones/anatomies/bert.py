"""BERT and mBERT (Devlin et al. 2019)."""

from xlt.backbones.anatomy import Anatomy, PostNormSite

ANATOMY = Anatomy(
    objective="masked",
    layers="encoder.layer",
    feed_forward="output",
    site=PostNormSite,
    embeddings="embeddings",
    language_head="cls",
    adapter_key="encoder.layer.{layer}.output.adapters",
)
