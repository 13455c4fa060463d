"""What tests share: a tiny random backbone with its tokenizer, a tiny data set, text, and where real data may be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NETRC"] = os.devnull  # no W&B account of whoever runs the tests
for variable in ("XLT_MIRROR", "WANDB_API_KEY"):
    os.environ.pop(variable, None)

torch.set_num_threads(1)  # tiny models: threads would wait for one another
os.environ["OMP_NUM_THREADS"] = "1"  # likewise in processes that tests start

SHARED = Path(__file__).resolve().parents[2] / "shared"
WORDS = [f"{onset}{vowel}" for onset in "bdfgklmnprst" for vowel in "aeiou"]
LABELS = ("kiki", "bouba")


def tiny_config(kind: str):
    """A two-layer configuration of one architecture."""
    sizes = {"vocab_size": 5 + len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 66}  # fmt: skip
    if kind == "llama":
        return LlamaConfig(**sizes, num_key_value_heads=1, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    if kind == "xlm_roberta":
        return XLMRobertaConfig(**sizes, type_vocab_size=1, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    return BertConfig(**sizes, pad_token_id=0)


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


def save_tiny_model(folder: Path, kind: str = "bert", seed: int = 0) -> Path:
    """A random model of one architecture with its tokenizer, as a folder."""
    torch.manual_seed(seed)
    model_class = AutoModelForCausalLM if kind == "llama" else AutoModelForMaskedLM
    model_class.from_config(tiny_config(kind)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


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
    for kind in ("bert", "xlm_roberta", "llama"):
        save_tiny_model(root / "models" / kind, kind)
    write_labelled_data(root / "mirror" / "tiny" / "topics")
    (root / "text").mkdir()
    for number, code in enumerate(("mt", "yo", "en")):
        draw = torch.Generator().manual_seed(100 + number)
        (root / "text" / f"{code}.txt").write_text("".join(sentence(draw, 8) + "\n" for _ in range(200)))
    return root


@pytest.fixture
def overrides(world: Path, tmp_path: Path) -> list[str]:
    """A whole experiment that takes a second or two, with its own outputs."""
    return [
        "model=hf", f"model.path={world}/models/bert", "data=text", f"data.path={world}/text/@lang.txt", "lang=mt",
        "task.name=topics", "task.data.id=tiny/topics", f"task.labels=[{','.join(LABELS)}]", f"paths.mirror={world}/mirror",
        f"paths.outputs={tmp_path}/outputs", "train=quick", "train.language.length=32", "train.language.loop.steps=6",
        "train.language.loop.batch_size=4", "train.language.loop.evaluate_every=3", "train.task.epochs=2",
        "train.task.batch_size=8", "device=cpu",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped, visibly, where it is missing."""
    if not (SHARED / "mirror").is_dir():
        pytest.skip("real data is not here: no folder shared/mirror beside the checkout")
    return SHARED
