"""What tests share: a tiny random backbone with its tokenizer, a tiny data set, text, and where real data may be."""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone, config_from_shape
from xlt.methods.base import Module
from xlt.random import generator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NETRC"] = os.devnull  # no W&B account of whoever runs the tests
for variable in ("XLT_MIRROR", "WANDB_API_KEY"):
    os.environ.pop(variable, None)

torch.set_num_threads(1)  # tiny models: threads would wait for one another
os.environ["OMP_NUM_THREADS"] = "1"  # likewise in processes that tests start

SHARED = Path(__file__).resolve().parents[2] / "shared"
WORDS = [f"{onset}{vowel}" for onset in "bdfgklmnprst" for vowel in "aeiou"]
LABELS = ("kiki", "bouba")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: at the end they would keep one process busy while the others have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


LENGTHS = (9, 6, 3)  # of three texts, padded on the right
MASK = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
IDS = torch.randint(5, 60, MASK.shape, generator=generator("ids")) * MASK


ARCHITECTURES = ("bert", "xlm_roberta", "distilbert", "deberta_v2", "modernbert", "llama", "gpt2", "mbart", "m2m_100")

_ENCODER_DECODER = {
    "decoder_layers": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
_SHAPES = {
    "bert": {},
    "xlm_roberta": {"type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3},
    "roberta": {"type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3},
    "distilbert": {"hidden_dim": 32},
    "deberta_v2": {  # as mDeBERTa-v3
        "relative_attention": True, "position_buckets": 8, "max_relative_positions": -1, "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False, "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0,
        "legacy": False,
    },
    "modernbert": {  # a layer that sees everything, then one that sees two positions to each side
        "global_attn_every_n_layers": 2, "local_attention": 4, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "llama": {"num_key_value_heads": 1, "bos_token_id": 2, "eos_token_id": 3},
    "gpt2": {"n_inner": 32, "bos_token_id": 2, "eos_token_id": 3},
    "mbart": _ENCODER_DECODER,
    "m2m_100": _ENCODER_DECODER,
}  # fmt: skip


def tiny_config(kind: str, **changes: object) -> PretrainedConfig:
    """A two-layer configuration of one architecture (`model_type`, with _ for -), with other fields on request."""
    sizes = {"vocab_size": 5 + len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 66, "pad_token_id": 0}  # fmt: skip
    model_type = {"xlm_roberta": "xlm-roberta", "deberta_v2": "deberta-v2"}.get(kind, kind)
    return config_from_shape({"model_type": model_type, **sizes, **_SHAPES[kind], **changes})


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", eos_token="[SEP]",
    )  # fmt: skip


def save_tiny_model(folder: Path, kind: str = "bert", seed: int = 0, **changes: object) -> Path:
    """A random model of one architecture with its tokenizer, as a folder."""
    torch.manual_seed(seed)
    Backbone.new(tiny_config(kind, **changes), anatomy_of(kind)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@functools.cache
def _random_model(kind: str, changes: tuple[tuple[str, object], ...]) -> nn.Module:
    torch.manual_seed(0)
    model = Backbone.new(tiny_config(kind, **dict(changes)), anatomy_of(kind)).eval()
    with torch.no_grad():  # no norm and no bias is left neutral: one that is forgotten shows
        for tensor in (*model.parameters(), *(buffer for name, buffer in model.named_buffers() if name == "final_logits_bias")):
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return model


def tiny_backbone(kind: str, language_head: bool = True, **changes: object) -> Backbone:
    """A backbone of its own with random weights, the same at every call, in evaluation mode and without tokenizer."""
    model = _random_model(kind, tuple(changes.items()))
    return Backbone(copy.deepcopy(model if language_head else model.base_model), None, anatomy_of(kind))


def decoder_reads(backbone: Backbone, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What an encoder-decoder is given besides, [batch, length] each, so that its decoder reads the same as its encoder."""
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask} if backbone.anatomy.objective == "denoising" else {}


def logits(backbone: Backbone, ids: torch.Tensor = IDS, mask: torch.Tensor = MASK, **options: torch.Tensor) -> torch.Tensor:
    """The model's own scores of the vocabulary, [batch, sequence, vocabulary]."""
    return backbone.model(input_ids=ids, attention_mask=mask, **decoder_reads(backbone, ids, mask), **options).logits


@torch.no_grad()
def hidden_states(backbone: Backbone) -> torch.Tensor:
    """The last layer's output for IDS, [batch, sequence, hidden]."""
    return backbone.hidden_states(IDS, MASK)


@torch.no_grad()
def shaken(module: Module, seed: int = 0) -> Module:
    """The module with large random parameters, biases included, as if it had been trained."""
    draw = generator(seed, "shaken")
    for parameter in module.parameters().values():
        parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
    return module


def sentence(draw: torch.Generator, words: int = 6, first: str | None = None) -> str:
    """A random sentence."""
    chosen = [WORDS[int(i)] for i in torch.randint(len(WORDS), (words,), generator=draw)]
    return " ".join([first, *chosen] if first else chosen)


def write_labelled_data(folder: Path, configs: tuple[str, ...] = ("mlt_Latn", "yor_Latn")) -> Path:
    """A data set in the layout of a hub clone: the first word tells the label."""
    lines = ["---", "configs:"]
    for number, config in enumerate(configs):
        draw = torch.Generator().manual_seed(number)
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, size in (("train", 48), ("validation", 24), ("test", 40)):
            path = folder / "data" / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {"index_id": i, "category": LABELS[i % 2], "text": sentence(draw, first="ba" if i % 2 else "ki")}
                for i in range(size)
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            lines += [f"  - split: {split}", f"    path: data/{config}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `models/<kind>`, `mirror/tiny/topics` and `text/<lang>.txt`."""
    root = tmp_path_factory.mktemp("world")
    for kind in ARCHITECTURES:
        save_tiny_model(root / "models" / kind, kind)
    write_labelled_data(root / "mirror" / "tiny" / "topics")
    (root / "text").mkdir()
    for number, code in enumerate(("mt", "yo", "en")):
        draw = torch.Generator().manual_seed(100 + number)
        (root / "text" / f"{code}.txt").write_text("".join(sentence(draw, 8) + "\n" for _ in range(200)))
    return root


def tiny_experiment(world: Path, outputs: Path) -> list[str]:
    """A whole experiment that takes a second or two, as overrides.

    Args:
        world: the folder that the fixture of that name makes.
        outputs: where everything goes.
    """
    return [
        "model=hf", f"model.path={world}/models/bert", "data=text", f"data.path={world}/text/@lang.txt", "lang=mt",
        "task.name=topics", "task.data.id=tiny/topics", f"task.labels=[{','.join(LABELS)}]", f"paths.mirror={world}/mirror",
        f"paths.outputs={outputs}", "train=quick", "train.language.length=32", "train.language.loop.steps=6",
        "train.language.loop.batch_size=4", "train.language.loop.evaluate_every=3", "train.task.epochs=2",
        "train.task.batch_size=8", "device=cpu",
    ]  # fmt: skip


@pytest.fixture
def overrides(world: Path, tmp_path: Path) -> list[str]:
    """The tiny experiment with outputs of its own."""
    return tiny_experiment(world, tmp_path / "outputs")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped, visibly, where it is missing."""
    if not (SHARED / "mirror").is_dir():
        pytest.skip("real data is not here: no folder shared/mirror beside the checkout")
    return SHARED
