"""How fast text is built, tokenised and packed, and how much memory that takes: at several sizes, and beside the way of
transformers' example run_mlm.py (datasets.map, tokenise and group) on the same text, tokenizer and number of processes.

python scripts/bench_data.py --megabytes 10 100 1000                       text building alone
python scripts/bench_data.py --megabytes 10 100 1000 --near-duplicates 0.8
python scripts/bench_data.py --megabytes 20 --tokenise --tokenizer FOLDER
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from xlt.corpora.text_files import TextFiles
from xlt.languages import load_languages
from xlt.steps.base import Workbench
from xlt.steps.text import TextStep, read_documents
from xlt.training.packing import packed, write_tokens

_WORDS = 50_000  # different ones, as frequent as Zipf says
_DOCUMENT = 800  # words: about the length of a crawled page
_LENGTH = 512  # tokens of a block


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--near-duplicates", type=float, default=None, metavar="SIMILARITY")
    parser.add_argument("--tokenise", action="store_true", help="tokenise and pack, too, beside datasets.map")
    parser.add_argument("--tokenizer", help="folder or hub id; by default word pieces are learnt from the text")
    parser.add_argument("--processes", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.processes} processes, near_duplicates={arguments.near_duplicates}")
    print(f"{'what':24}{'MB':>7}{'seconds':>10}{'MB/s':>8}{'peak MB':>9}")
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "text.txt"
            invent(text, megabytes * 1_000_000)
            built = Path(folder) / "built"
            built.mkdir()
            show("text", megabytes, measured(build_text, text, built, arguments.near_duplicates, arguments.processes))
            if not arguments.tokenise:
                continue
            tokenizer = arguments.tokenizer or learn_tokenizer(built, Path(folder) / "tokenizer")
            ours = measured(pack, built, tokenizer, arguments.processes)
            show("tokens, packed", megabytes, ours)
            theirs = measured(pack_by_datasets, built, tokenizer, arguments.processes)
            show("tokens, datasets.map", megabytes, theirs)
            print(f"{theirs[0] / ours[0]:.2f} times as fast, {ours[1] / theirs[1]:.2f} times the memory")


def invent(path: Path, size: int) -> None:
    """A file of documents of invented words, one a line."""
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzħġżċàòùèì"))
    words = np.array(["".join(draw.choice(letters, draw.integers(1, 12))) for _ in range(_WORDS)])
    frequency = 1 / np.arange(1, _WORDS + 1)
    cumulative = np.cumsum(frequency / frequency.sum())
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            document = " ".join(words[np.searchsorted(cumulative, draw.random(_DOCUMENT))]) + "\n"
            file.write(document)
            written += len(document.encode())


def build_text(path: Path, folder: Path, near_duplicates: float | None, processes: int) -> None:
    """The text step on a file."""
    torch.set_num_threads(processes)
    languages = load_languages()
    corpus = TextFiles(name="text", path=str(path), max_bytes=None, near_duplicates=near_duplicates)
    runtime: Any = SimpleNamespace(languages=languages, hub=None)  # all that a text asks for
    TextStep(corpus, languages.find("mt"), {}, 0).build(Workbench({}, folder, folder, runtime, {}))


def learn_tokenizer(built: Path, folder: Path) -> str:
    """Word pieces, learnt from the validation text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=16_000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(read_documents(built, "validation"), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    wrapped.save_pretrained(folder)
    return str(folder)


def pack(built: Path, name: str, processes: int) -> None:
    """Tokenise the training text into packed blocks on the disk."""
    os.environ["RAYON_NUM_THREADS"] = str(processes)  # what tokenizers' threads are called
    tokenizer = AutoTokenizer.from_pretrained(name)
    write_tokens(built, "train", packed(read_documents(built, "train"), tokenizer, _LENGTH), len(tokenizer))


def pack_by_datasets(built: Path, name: str, processes: int) -> None:
    """The same as run_mlm.py does it: tokenise with `map`, then chain and cut with a second `map`."""
    import datasets

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(name)
    data = datasets.Dataset.from_parquet(str(built / "train.parquet"), cache_dir=str(built / "cache"))

    def tokenise(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return tokenizer(rows["text"], return_special_tokens_mask=True)

    def group(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {key: [value for row in values for value in row] for key, values in rows.items()}
        whole = len(joined["input_ids"]) // _LENGTH * _LENGTH
        return {key: [values[at : at + _LENGTH] for at in range(0, whole, _LENGTH)] for key, values in joined.items()}

    tokens = data.map(tokenise, batched=True, num_proc=processes, remove_columns=["text"])
    tokens.map(group, batched=True, num_proc=processes)


def measured(work: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    """Do something in a process of its own.

    Returns:
        the seconds that it takes once everything is imported, and the greatest memory of it and all that it starts, in MB.
    """
    context = multiprocessing.get_context("spawn")
    seconds = context.Value("d", 0.0)
    process = context.Process(target=_timed, args=(seconds, work, arguments))
    process.start()
    peak = 0
    while process.is_alive():
        peak = max(peak, _memory(process.pid))
        time.sleep(0.1)
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)
    return seconds.value, peak / 1e6


def _timed(seconds: Any, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    begin = time.perf_counter()
    work(*arguments)
    seconds.value = time.perf_counter() - begin


def _memory(pid: int | None) -> int:
    """Bytes that a process and those below it hold; what they share counts once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        pass
    return total


def show(what: str, megabytes: int, figures: tuple[float, float]) -> None:
    """A line of the table."""
    seconds, peak = figures
    print(f"{what:24}{megabytes:>7}{seconds:>10.1f}{megabytes / seconds:>8.1f}{peak:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
