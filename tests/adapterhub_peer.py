"""AdapterHub's side of scripts/check_adapterhub.py. It runs in an environment of its own and knows nothing of xlt.

    python tests/adapterhub_peer.py jobs.json

Each job names a model folder and a file of inputs. A job that reads loads the module in `folder`, a job that writes adds modules
by their `configs`, gives them random values and saves them to `folder`, as .bin and as safetensors. Both then compute
`outputs`. What else there is to say about each job goes to the file `answers` beside the jobs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import adapters
import torch
from adapters.composition import Fuse
from adapters.configuration import AdapterConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

CLASSES = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "denoising": AutoModelForSeq2SeqLM}
SETUP = "adapter_setup.json"


def main() -> None:
    """Do the jobs of the file named on the command line."""
    path = Path(sys.argv[1])
    torch.set_num_threads(1)
    answers = []
    for job in json.loads(path.read_text(encoding="utf-8")):
        try:
            answers.append(read(job) if job["what"] == "read" else write(job))
        except Exception as error:  # every job is told about, whatever happens in it
            answers.append({"problems": [f"{type(error).__name__}: {error}"]})
    path.with_name("answers.json").write_text(json.dumps(answers), encoding="utf-8")


def read(job: dict[str, Any]) -> dict[str, Any]:
    """Load the module of a folder, and compute."""
    model, folder = opened(job), Path(job["folder"])
    info: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": []}
    if (folder / SETUP).is_file():
        setup, _ = model.load_adapter_setup(str(folder), use_safetensors=True, set_active=True)
        names, fusion = sorted(setup.flatten()), [setup.name]
        files = [folder / name / "adapter.safetensors" for name in names]
        files.append(folder / setup.name / "model_adapter_fusion.safetensors")
    else:
        names, fusion = [model.load_adapter(str(folder), use_safetensors=True, set_active=True, loading_info=info)], []
        files = [folder / "adapter.safetensors"]
    stored = {key: tensor for path in files for key, tensor in load_file(path).items()}
    problems = differences(model, stored, [*names, *fusion], info)
    compute(model, job)
    return {"problems": problems, "configs": [plain(model.adapters_config.get(name)) for name in names]}


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Make modules with random values, save them in both kinds of file, and compute."""
    model, configs = opened(job), [AdapterConfig.load(config) for config in job["configs"]]
    names = job["names"]
    for name, config in zip(names, configs, strict=True):
        model.add_adapter(name, config=config)
    setup = Fuse(*names) if job["fusion"] else names[0]
    if job["fusion"]:
        model.add_adapter_fusion(setup, job["fusion"])
    model.set_active_adapters(setup)
    shake(model, [*names, ",".join(names)], job["seed"])
    for kind in ("bin", "safetensors"):
        options = {"use_safetensors": kind == "safetensors", "with_head": False}
        target = Path(job["folder"]) / kind
        target.mkdir()
        try:
            for name in names:
                model.save_adapter(str(target / name), name, **options)
            if job["fusion"]:
                model.save_adapter_fusion(str(target / setup.name), setup, **options)
        except RuntimeError as error:  # it cannot write tensors that are in a module twice as safetensors
            if kind == "bin" or "share memory" not in str(error):
                raise
    compute(model, job)
    return {"problems": [], "configs": [plain(config) for config in configs]}


def opened(job: dict[str, Any]) -> nn.Module:
    """The model with its own language head, as AdapterHub's training scripts use it."""
    torch.manual_seed(0)
    model, report = CLASSES[job["objective"]].from_pretrained(job["model"], attn_implementation="eager", output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    adapters.init(model)
    return model.eval()


def differences(model: nn.Module, stored: dict[str, torch.Tensor], names: list[str], info: dict[str, list[str]]) -> list[str]:
    """Where the modules in the model are not what the files hold, and what the loader says of that."""
    state = model.state_dict()
    there = {key for key in state if any(f".{name}." in key for name in names)}
    problems = [f"not loaded {key}" for key in sorted(there & stored.keys()) if not torch.equal(state[key], stored[key])]
    problems += [f"unexpected {key}" for key in sorted((stored.keys() - there) | set(info["unexpected_keys"]))]
    # A prefix goes by many names; one of them is enough. Fusion layers where no adapter is are there and never used.
    loaded = {state[key].data_ptr() for key in there & stored.keys()}
    for key in sorted((there - stored.keys()) | set(info["missing_keys"])):
        layer, _, is_fusion = key.partition(".adapter_fusion_layer.")
        if state[key].data_ptr() not in loaded and not (is_fusion and not model.get_submodule(layer).adapters):
            problems.append(f"missing {key}")
    return problems


@torch.no_grad()
def shake(model: nn.Module, names: list[str], seed: int) -> None:
    """Add N(0, 0.1) to the parameters of modules."""
    draw = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        if any(f".{name}." in key for name in names):
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)


@torch.no_grad()
def compute(model: nn.Module, job: dict[str, Any]) -> None:
    """Hidden states after every layer, and logits."""
    options = {} if job["objective"] == "masked" else {"use_cache": False}
    answer = model(**load_file(job["inputs"]), output_hidden_states=True, **options)
    outputs = {"logits": answer.logits}
    for kind in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        for number, states in enumerate(getattr(answer, kind, None) or ()):
            outputs[f"{kind}.{number}"] = states
    save_file({name: tensor.contiguous().clone() for name, tensor in outputs.items()}, job["outputs"])


def plain(config: Any) -> dict[str, Any]:
    """A config with all its keys."""
    return AdapterConfig.load(config).to_dict()


if __name__ == "__main__":
    main()
