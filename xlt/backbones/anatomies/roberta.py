"""RoBERTa (Liu et al. 2019): BERT's layers with a head of another name."""

from dataclasses import replace

from xlt.backbones.anatomies import bert

ANATOMY = replace(bert.ANATOMY, language_head=("lm_head",))
