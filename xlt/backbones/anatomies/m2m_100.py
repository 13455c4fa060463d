"""M2M100 (Fan et al. 2021) and NLLB: mBART's layers, without a norm behind the embeddings."""

from dataclasses import replace

from xlt.backbones.anatomies import mbart

ANATOMY = replace(mbart.ANATOMY, embeddings="encoder.embed_tokens")
