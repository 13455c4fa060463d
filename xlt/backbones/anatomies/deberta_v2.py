"""mDeBERTa-v3 and DeBERTa-v3 (He et al. 2021): BERT's layers, attention of their own, a head that shares the embeddings."""

from dataclasses import replace

from xlt.backbones.anatomies import bert

ANATOMY = replace(
    bert.ANATOMY,
    language_head=("lm_predictions",),
    linears={
        **bert.ANATOMY.linears,
        "query": "attention.self.query_proj", "key": "attention.self.key_proj", "value": "attention.self.value_proj",
    },
    self_attention=None,
    inverse_after="lm_predictions.lm_head.LayerNorm",
    head_reads_embeddings=True,
    has_pooler=False,
    configuration={"legacy": False},
)  # fmt: skip
