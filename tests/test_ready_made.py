"""Language modules that were learnt elsewhere (`language.path=`), and decoders that write with theirs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model, tiny_experiment
from safetensors.torch import load_file, save_file
from test_bad_input import complaint, replaced
from test_pipeline import made, run

import xlt
from xlt import cli
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.methods.base import Module
from xlt.record import Record

METHODS = {
    "seq_bn_inv": ["method=seq_bn_inv"],
    "lora": ["method=lora"],
    "prefix_tuning": ["method=prefix_tuning", "method.prefix_length=3", "method.bottleneck_size=8"],
}
FAST = ["train.language.loop.learning_rate=0.05", "train.task.learning_rate=0.05"]  # so that a few steps can be seen
LABELLED = frozenset({"examples"})  # what may be made before a language module is opened


def module_of(record: Mapping[str, Any]) -> Path:
    """The folder of a run's language module in its store."""
    name = next(name for name in record["fingerprints"] if name.startswith("language_module/"))
    return next(Path(record["store"]).glob(f"{name}-{record['fingerprints'][name][:16]}"))


def predictions(record: Record) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.predictions_path.read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[list[str], Record, Path]]:
    """Runs that train a module of each method, once: what was typed without the method, the record, a copy of the module."""
    runs: dict[str, tuple[list[str], Record, Path]] = {}

    def train(method: str) -> tuple[list[str], Record, Path]:
        if method not in runs:
            root = tmp_path_factory.mktemp(method)
            typed = [*tiny_experiment(world, root / "outputs"), *FAST]
            record = xlt.run(*typed, *METHODS[method])
            folder = root / "modules" / "module-mt"
            shutil.copytree(module_of(record), folder, ignore=shutil.ignore_patterns("artifact.json"))
            runs[method] = typed, record, folder
        return runs[method]

    return train


@pytest.fixture
def adapter(trained: Callable[[str], tuple[list[str], Record, Path]], tmp_path: Path) -> Path:
    """A seq_bn_inv module trained on the tiny BERT, as a folder of one's own to change."""
    return shutil.copytree(trained("seq_bn_inv")[2], tmp_path / "adapter")


def describe(folder: Path, **changes: Any) -> None:
    """Change a module's adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def task_fingerprint(*typed: str) -> str:
    return Experiment.from_config(cli.compose(typed)).evaluations[0].task_modules[0].fingerprint


# ---- what is computed


@pytest.mark.parametrize("method", METHODS)
def test_a_ready_made_module_scores_as_where_it_was_trained(
    method: str, trained: Callable[[str], tuple[list[str], Record, Path]]
) -> None:
    """`@lang` stands for the language, and neither text nor tokens are asked for."""
    typed, record, folder = trained(method)
    without_text = [text for text in typed if not text.startswith("data")]
    again = xlt.run(*without_text, f"language.path={folder.parent}/module-@lang")
    assert predictions(again) == predictions(record)
    assert again["metrics"] == record["metrics"]
    assert again["fingerprint"] != record["fingerprint"]


def test_the_module_matters(trained: Callable[[str], tuple[list[str], Record, Path]]) -> None:
    """What the tests above compare is not the same for every module."""
    typed, record, _ = trained("seq_bn_inv")
    baseline = predictions(xlt.run(*typed, "method=none"))
    assert any(abs(one["probabilities"]["kiki"] - other["probabilities"]["kiki"]) > 1e-4
               for one, other in zip(baseline, predictions(record), strict=True))  # fmt: skip


def test_an_old_adapterhub_folder(trained: Callable[[str], tuple[list[str], Record, Path]], tmp_path: Path) -> None:
    """As adapter-transformers 1.x wrote it: other names for most things, and weights that torch pickled."""
    typed, record, folder = trained("seq_bn_inv")
    old = tmp_path / "old"
    old.mkdir()
    tensors = {
        re.sub(r"\bxlt\b", "mt", name)
        .replace(".adapters.", ".layer_text_lang_adapters.")
        .replace("invertible_adapters.", "invertible_lang_adapters."): tensor
        for name, tensor in load_file(folder / "adapter.safetensors").items()
    }
    assert "bert.encoder.layer.0.output.layer_text_lang_adapters.mt.adapter_down.0.weight" in tensors
    torch.save(tensors, old / "pytorch_adapter.bin")
    config = {
        "ln_after": False, "ln_before": False, "mh_adapter": False, "output_adapter": True, "adapter_residual_before_ln": False,
        "non_linearity": "relu", "original_ln_after": True, "original_ln_before": True, "reduction_factor": 16,
        "residual_before_ln": True, "invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2},
    }  # fmt: skip
    description = {"type": "text_lang", "config": config, "model_type": "bert", "model_class": "BertForMaskedLM", "name": "mt",
                   "hidden_size": 16, "model_name": "bert-base-multilingual-cased"}  # fmt: skip
    (old / "adapter_config.json").write_text(json.dumps(description))
    again = xlt.run(*typed, f"language.path={old}")
    assert predictions(again) == predictions(record)


def test_the_fingerprint_follows_the_content(overrides: list[str], adapter: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(adapter, tmp_path / "elsewhere")
    first = task_fingerprint(*overrides, f"language.path={adapter}")
    assert task_fingerprint(*overrides, f"language.path={elsewhere}") == first
    (elsewhere / "README.md").write_text("another card")
    assert task_fingerprint(*overrides, f"language.path={elsewhere}") == first
    for name in ("adapter_config.json", "adapter.safetensors"):
        changed = shutil.copytree(adapter, tmp_path / f"changed_{name}")
        content = bytearray((changed / name).read_bytes())
        content[-2] ^= 1
        (changed / name).write_bytes(content)
        assert task_fingerprint(*overrides, f"language.path={changed}") != first


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_the_fingerprint_follows_weights_in_either_of_pefts_files(weights: str, overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    fingerprints = set()
    for content in (b"1", b"2"):
        (tmp_path / weights).write_bytes(content)
        os.utime(tmp_path / weights, ns=(1, int(content)))  # two writings within one tick of the clock
        fingerprints.add(task_fingerprint(*overrides, f"language.path={tmp_path}"))
    assert len(fingerprints) == 2


def test_the_record_and_the_baseline(
    trained: Callable[[str], tuple[list[str], Record, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed, _, folder = trained("seq_bn_inv")
    typed = [*replaced(typed, paths__outputs=tmp_path / "outputs"), "seed=1"]
    shown, said = run([*typed, f"language.path={folder}"], capsys)
    assert made(said) == ["examples", "task_module", "evaluation"]
    baseline = next(line for line in shown.splitlines() if line.startswith("baseline"))
    assert "not in the store yet" in baseline and "method=none" in baseline and "language.path" not in baseline
    (path,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    record = json.loads(path.read_text())
    assert record["method"] == "module-mt"
    assert record["data"] is record["language_seed"] is None, "neither was used"
    assert record["training"].keys() == {"task_module"}
    origin = record["revisions"]["language_module/bert-module-mt-mt"]
    assert re.fullmatch("[0-9a-f]{64}", origin["content"])
    run([*typed, "method=none"], capsys)
    shown, said = run([*typed, f"language.path={folder}"], capsys)
    assert made(said) == []
    assert re.search(r"^baseline  topics mt none: macro_f1 0\.\d+ \[", shown, re.MULTILINE)


# ---- what the repository's code computes otherwise


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (["method=seq_bn"], False),
        (["method=seq_bn_inv"], True),
        (["method=seq_bn", "method.gated=true"], True),
        (["method=lora"], False),
        (["method=none"], False),
    ],
)
def test_compat_is_another_result_where_it_computes_another(method: list[str], changes: bool, overrides: list[str]) -> None:
    found = {task_fingerprint(*overrides, *method, f"compat={compat}") for compat in ("none", "adapterhub")}
    assert len(found) == (2 if changes else 1)


@pytest.mark.parametrize("invertible", [True, False])
def test_compat_and_ready_made_modules(invertible: bool, overrides: list[str], adapter: Path) -> None:
    if not invertible:
        config = json.loads((adapter / "adapter_config.json").read_text())["config"]
        describe(adapter, config=config | {"inv_adapter": None})
    typed = [*overrides, f"language.path={adapter}"]
    found = {task_fingerprint(*typed, f"compat={compat}") for compat in ("none", "adapterhub")}
    assert len(found) == (2 if invertible else 1)


# ---- what is refused


def test_a_module_for_another_kind_of_model(
    overrides: list[str], adapter: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = replaced(overrides, model__path=f"{world}/models/xlm_roberta")
    said = complaint([*typed, f"language.path={adapter}"], capsys, tmp_path / "outputs", LABELLED)
    assert "made for a model of model type bert" in said
    assert "this one is of model type xlm-roberta" in said


def test_a_module_with_another_vocabulary(
    overrides: list[str], adapter: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model has the same sizes, and two words have changed places in its vocabulary."""
    model = shutil.copytree(world / "models" / "bert", tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["ba"], vocabulary["be"] = vocabulary["be"], vocabulary["ba"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    typed = [*replaced(overrides, model__path=model), f"language.path={adapter}"]
    assert "another vocabulary" in complaint(typed, capsys, tmp_path / "outputs", LABELLED)


def test_other_weights_of_the_same_vocabulary_give_a_warning(
    overrides: list[str], adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Further pretraining of the same model, say: it may well work."""
    typed = [*overrides, f"language.path={adapter}"]
    warning = f"{adapter} was trained on other weights than those of"
    _, said = run(typed, capsys)
    assert warning not in said
    model = save_tiny_model(tmp_path / "model", seed=1)
    _, said = run(replaced(typed, model__path=model), capsys)
    assert warning in said


def test_a_module_without_one_of_its_tensors(
    overrides: list[str], adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(adapter / "adapter.safetensors")
    del tensors["bert.encoder.layer.1.output.adapters.xlt.adapter_up.bias"]
    save_file(tensors, adapter / "adapter.safetensors")
    said = complaint([*overrides, f"language.path={adapter}"], capsys, tmp_path / "outputs", LABELLED)
    assert "does not fit this backbone" in said
    assert "missing encoder.layer.1.output.adapters.adapter_up.bias" in said


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_weights_with_code_are_not_opened(
    overrides: list[str], adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors: dict[str, Any] = dict(load_file(adapter / "adapter.safetensors"))
    (adapter / "adapter.safetensors").unlink()
    torch.save({**tensors, "bert.evil": Touches(tmp_path / "executed")}, adapter / "pytorch_adapter.bin")
    said = complaint([*overrides, f"language.path={adapter}"], capsys, tmp_path / "outputs", LABELLED)
    assert "pytorch_adapter.bin cannot be read as a file of tensors alone" in said
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), ["no adapter_config.json"]),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), ["adapter_config.json is not JSON"]),
        (lambda folder: (folder / "adapter.safetensors").unlink(), ["holds no weights"]),
        (lambda folder: (folder / "adapter.safetensors").write_bytes(b"weights"), ["cannot be read as a file of tensors"]),
        (lambda folder: describe(folder, config="pfeifer"), ["'pfeifer'", "pfeiffer"]),
        (lambda folder: describe(folder, config={"architecture": "reft"}), ["of the kind reft"]),
        (lambda folder: describe(folder, peft_type="VERA"), ["PEFT module of type VERA"]),
        (lambda folder: describe(folder, hidden_size=768), ["hidden size 768", "hidden size 16"]),
    ],
    ids=["no description", "half a description", "no weights", "no tensors", "misspelt", "kind", "peft", "size"],
)
def test_folders_that_are_no_modules(
    spoil: Callable[[Path], Any], expected: list[str], overrides: list[str], adapter: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spoil(adapter)
    said = complaint([*overrides, f"language.path={adapter}"], capsys, tmp_path / "outputs", LABELLED)
    assert str(adapter) in said
    for fragment in expected:
        assert fragment in said


def test_no_module_for_this_language(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint([*overrides, f"language.path={tmp_path}/module-@lang"], capsys, tmp_path / "outputs")
    assert "module-mt" in said and "neither a folder here nor" in said


# ---- decoders write


PROMPTS = ["ki ba", "du", "ba be bi bo bu ki ki"]
WORDS_ALONE = {"max_new_tokens": 5, "suppress_tokens": list(range(5))}  # no special tokens, so that something is written


def run_of(model: str, world: Path, outputs: Path, *typed: str) -> Record:
    return xlt.run(*replaced(tiny_experiment(world, outputs), model__path=f"{world}/models/{model}"), *FAST, *typed)


def opened(record: Record, model: str, world: Path, method: Any) -> tuple[Backbone, Module]:
    """The backbone of a run with its language module attached, as one would do it by hand."""
    backbone = Backbone.open(world / "models" / model, language_head=True)
    module = method.load(backbone, module_of(record))
    backbone.model.eval()
    return backbone, module


@torch.no_grad()
def written(backbone: Backbone, prompt: str) -> str:
    """What transformers makes of one prompt, without padding; a decoder is not given the [SEP] that ends the prompt."""
    causal = backbone.anatomy.objective == "causal"
    ids = torch.tensor([backbone.tokenizer(prompt)["input_ids"]])
    ids = ids[:, :-1] if causal else ids
    output = backbone.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **WORDS_ALONE)
    return backbone.tokenizer.decode(output[0, ids.shape[1] if causal else 0 :], skip_special_tokens=True)


@pytest.mark.parametrize("model", ["llama", "mbart"])
@pytest.mark.parametrize("method", ["seq_bn_inv", "prefix_tuning", "full"])
def test_writing(method: str, model: str, world: Path, tmp_path: Path) -> None:
    """With the language module and without the task module: as by hand, and for several prompts as for each alone."""
    record = run_of(model, world, tmp_path / "outputs", *METHODS.get(method, [f"method={method}"]))
    predictor = xlt.load(record)
    texts = predictor.generate(PROMPTS, **WORDS_ALONE)
    module_method = Experiment.from_config(cli.compose([*METHODS.get(method, [f"method={method}"]), "lang=mt"])).method
    backbone, module = opened(record, model, world, module_method)
    assert texts == [written(backbone, prompt) for prompt in PROMPTS]
    assert texts == [predictor.generate([prompt], **WORDS_ALONE)[0] for prompt in PROMPTS]
    assert [len(text.split()) for text in texts] == [5, 5, 5]
    module.detach()
    assert texts != [written(backbone, prompt) for prompt in PROMPTS], "the module changes what is written"
    assert predictor.generate([]) == []
    assert {answer["label"] for answer in predictor.predict(PROMPTS)} <= {"kiki", "bouba"}


def test_an_encoder_does_not_write(trained: Callable[[str], tuple[list[str], Record, Path]]) -> None:
    with pytest.raises(UserError, match=r"bert is an encoder.*model=miniature_llama"):
        xlt.load(trained("seq_bn_inv")[1]).generate(["ki ba"])
