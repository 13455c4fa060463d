"""Prove that AdapterHub's library `adapters` reads what xlt writes and computes the same with it, and the reverse.

    python scripts/check_adapterhub.py --environment FOLDER --install
    python scripts/check_adapterhub.py --environment FOLDER
    python scripts/check_adapterhub.py --environment FOLDER --only llama

`adapters` needs an older transformers than xlt, so that it runs in a virtual environment of its own; --install makes it (1 GB).
For each architecture and kind of module, xlt makes a module with random values on a tiny model, stores it and computes;
AdapterHub loads the files, checks that no tensor is missing or too many, and computes. Then AdapterHub makes a module and stores
it, as .bin and as safetensors, and xlt loads it and computes. Hidden states and logits have to agree to within 2e-5 wherever
there is no padding. The exit status is 1 where they do not.

A — stands where AdapterHub itself cannot write safetensors: what is in a module twice (own norms, prefixes).

xlt writes safetensors only. AdapterHub reads them when asked to: model.load_adapter(folder, use_safetensors=True).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.utils.logging import disable_progress_bar

from xlt import cli
from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone, config_from_shape
from xlt.backbones.checkpoints import FUSION_CONFIG, read_description
from xlt.config import build
from xlt.errors import UserError
from xlt.methods.base import Method, Module
from xlt.methods.formats import method_of_folder
from xlt.methods.fusion import Fusion
from xlt.methods.low_rank import PeftModule
from xlt.random import generator

PEER = Path(__file__).resolve().parents[1] / "tests" / "adapterhub_peer.py"
PACKAGES = ("torch==2.13.0", "adapters==1.3.0", "transformers==4.57.6", "safetensors")
TOLERANCE = 2e-5
LAYERS = 4  # of every model here, those of an encoder and a decoder together

_SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 80}
_ENCODER_DECODER = {
    "d_model": 32, "encoder_layers": LAYERS // 2, "decoder_layers": LAYERS // 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 80,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **_SIZES},
    "xlm_roberta": {"model_type": "xlm-roberta", **_SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    "llama": {"model_type": "llama", **_SIZES, "num_key_value_heads": 2, "pad_token_id": 0},
    "mbart": {"model_type": "mbart", **_ENCODER_DECODER},
}
CLASSES = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "denoising": AutoModelForSeq2SeqLM}
ENCODERS = ("bert", "xlm_roberta")
EVERYWHERE = tuple(SHAPES)
WITHOUT_CROSS_ATTENTION = ("bert", "xlm_roberta", "llama")  # whose maps AdapterHub changes, and xlt does not


@dataclass(frozen=True)
class Kind:
    """A kind of module, in the words of both libraries.

    Attributes:
        choices: of a method of xlt, as on the command line; one for each adapter, where several are fused.
        configs: as many configurations of AdapterHub that say the same.
        fusion: AdapterHub's configuration of the fusion layers, or none.
        fusion_choices: the same in xlt's words.
        architectures: where both libraries have it.
    """

    choices: tuple[str, ...]
    configs: tuple[str | dict[str, Any], ...]
    fusion: str = ""
    fusion_choices: str = ""
    architectures: tuple[str, ...] = EVERYWHERE


def _one(choices: str, config: str | dict[str, Any], architectures: tuple[str, ...] = EVERYWHERE) -> Kind:
    return Kind((choices,), (config,), architectures=architectures)


_QUARTER = "method.reduction_factor=4"
_SHORT = "method.prefix_length=5 method.bottleneck_size=8"
_BY_LAYER = {"mh_adapter": False, "output_adapter": True, "original_ln_before": True, "non_linearity": "gelu"}
_CROSS = {**_BY_LAYER, "cross_adapter": True, "reduction_factor": 4}
KINDS: dict[str, Kind] = {
    "seq_bn": _one(f"method=seq_bn {_QUARTER}", "seq_bn[reduction_factor=4]"),
    "seq_bn_inv": _one(f"method=seq_bn_inv {_QUARTER}", "seq_bn_inv[reduction_factor=4]"),
    "double_seq_bn": _one(f"method=double_seq_bn {_QUARTER}", "double_seq_bn[reduction_factor=4]"),
    "par_bn": _one("method=par_bn", "par_bn"),
    "madx2": _one(f"method=madx2 {_QUARTER}", "seq_bn_inv[reduction_factor=4, leave_out=[3]]"),
    "par_bn, learned scaling": _one("method=par_bn method.learned_scaling=scalar", "scaled_par_bn"),
    "channel scaling": _one(
        f"method=seq_bn {_QUARTER} method.learned_scaling=channel", 'seq_bn[reduction_factor=4, scaling="channel"]'
    ),
    "own norms": _one(
        f"method=seq_bn {_QUARTER} method.norm_before=true method.norm_after=true",
        "seq_bn[reduction_factor=4, ln_before=True, ln_after=True]",
    ),
    "own norm after the sum": _one(
        f"method=double_seq_bn {_QUARTER} method.norm_after=true method.residual_before_norm_after=true",
        "double_seq_bn[reduction_factor=4, ln_after=True, adapter_residual_before_ln=True]",
    ),
    "gating": _one(f"method=seq_bn {_QUARTER} method.gated=true", "seq_bn[reduction_factor=4, use_gating=True]", ENCODERS),
    "leave_out": _one(f"method=seq_bn {_QUARTER} method.leave_out=[0,-2]", "seq_bn[reduction_factor=4, leave_out=[0, 2]]"),
    "layer_reduction_factors": _one(
        f"method=seq_bn {_QUARTER} +method.layer_reduction_factors={{1:2,3:0.5}} method.activation=gelu",
        {**_BY_LAYER, "reduction_factor": {"1": 2, "3": 0.5, "default": 4}},
    ),
    "residual x + h": _one(
        f"method=seq_bn {_QUARTER} method.residual=sum method.final_norm=false method.activation=leaky_relu",
        'seq_bn[reduction_factor=4, residual_before_ln="post_add", original_ln_after=False, non_linearity="leakyrelu"]',
        ENCODERS,  # AdapterHub fails on it in pre-norm models
    ),
    "residual a": _one(
        f"method=seq_bn {_QUARTER} method.residual=input method.final_norm=false method.initialisation=truncated",
        'seq_bn[reduction_factor=4, residual_before_ln=False, original_ln_after=False, init_weights="houlsby"]',
    ),
    "cross-attention": _one(
        f"method=seq_bn {_QUARTER} method.places=[cross_attention,output] method.activation=gelu", _CROSS, ("mbart",)
    ),
    "lora": _one("method=lora method.alpha=16", "lora[alpha=16]", WITHOUT_CROSS_ATTENTION),
    "lora everywhere": _one(
        "method=lora method.targets=[query,key,value,intermediate,output] method.rank=4 method.leave_out=[-1]",
        'lora[attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True, r=4, leave_out=[3]]',
        WITHOUT_CROSS_ATTENTION,
    ),
    "ia3": _one("method=ia3", "ia3", WITHOUT_CROSS_ATTENTION),
    "prefix_tuning": _one(
        f"method=prefix_tuning {_SHORT}", "prefix_tuning[prefix_length=5, bottleneck_size=8, cross_prefix=False]"
    ),
    "prefix_tuning, flat": _one(
        f"method=prefix_tuning {_SHORT} method.flat=true method.leave_out=[1]",
        "prefix_tuning_flat[prefix_length=5, bottleneck_size=8, cross_prefix=False, leave_out=[1]]",
    ),
    "fusion": Kind(
        (f"method=seq_bn_inv {_QUARTER}", "method=seq_bn method.reduction_factor=2"),
        ("seq_bn_inv[reduction_factor=4]", "seq_bn[reduction_factor=2]"),
        fusion="dynamic",
    ),
    "fusion, static": Kind(
        (f"method=double_seq_bn {_QUARTER}",) * 2, ("double_seq_bn[reduction_factor=4]",) * 2,
        fusion="static", fusion_choices="method.value=false method.regularisation=0",
    ),
    "fusion, leave_out": Kind(
        (f"method=seq_bn {_QUARTER} method.leave_out=[1]",) * 2, ("seq_bn[reduction_factor=4, leave_out=[1]]",) * 2,
        fusion="dynamic",
    ),
}  # fmt: skip
NAMES = ("mt-wiki@ukp", "ar_Arab")  # of AdapterHub's modules


@dataclass
class Case:
    """One kind on one architecture, and what is known of it.

    Attributes:
        largest: by direction, the largest difference.
        problems: whatever does not agree.
    """

    architecture: str
    label: str
    kind: Kind
    folder: Path
    largest: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def model(self) -> Path:
        """The folder of the tiny model, beside all cases on it."""
        return self.folder.parent / "model"

    @property
    def inputs(self) -> Path:
        return self.folder.parent / "inputs.safetensors"

    def job(self, what: str, seed: int) -> dict[str, Any]:
        """What AdapterHub is asked to do: `read` what xlt wrote, or `write`."""
        return {
            "what": what, "model": str(self.model), "objective": anatomy_of(self.architecture).objective, "seed": seed,
            "names": NAMES[: len(self.kind.configs)], "configs": self.kind.configs, "fusion": self.kind.fusion,
            "inputs": str(self.inputs), "folder": str(self.folder / what), "outputs": str(self.folder / f"{what}.peer"),
        }  # fmt: skip

    def opened(self) -> Backbone:
        """The tiny model, with its language head and without a tokenizer."""
        anatomy = anatomy_of(self.architecture)
        return Backbone(CLASSES[anatomy.objective].from_pretrained(self.model).eval(), None, anatomy)


def check(python: Path, folder: Path, only: str = "", say: Callable[[str], None] = print) -> list[Case]:
    """Compare both libraries in both directions.

    Args:
        python: the interpreter of the environment that has `adapters`.
        folder: where models, modules and outputs go; empty.
        only: what the name `architecture kind` has to contain.
    """
    cases = [
        Case(architecture, label, kind, folder / architecture / label.replace(" ", "_"))
        for architecture in SHAPES
        for label, kind in KINDS.items()
        if architecture in kind.architectures and only in f"{architecture} {label}"
    ]
    if not cases:
        raise UserError(
            f"--only {only!r} leaves nothing to check. Try an architecture ({', '.join(SHAPES)}) or a kind ({', '.join(KINDS)})."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty. Name a new folder, or leave --folder out.")
    for number, architecture in enumerate(dict.fromkeys(case.architecture for case in cases)):
        _write_model(folder / architecture, architecture, number)
    for case in cases:
        (case.folder / "read").mkdir(parents=True)
        (case.folder / "write").mkdir()
        backbone = case.opened()
        plain = _outputs(backbone, case.inputs)
        module = _made(case.kind, backbone, case.label)
        save = module.save_for_adapterhub if isinstance(module, PeftModule) else module.save
        save(case.folder / "read")
        outputs = _outputs(backbone, case.inputs)
        if (outputs["logits"] - plain["logits"]).abs().max() < 100 * TOLERANCE:
            case.problems.append("the module changes so little that this shows nothing")
        save_file(outputs, case.folder / "read.xlt")
    jobs = [case.job(what, seed) for seed, case in enumerate(cases) for what in ("read", "write")]
    answers = _ask(python, jobs, folder)
    for case, read, write in zip(cases, answers[::2], answers[1::2], strict=True):
        _compare(case, read, write)
    say(table(cases))
    return cases


def table(cases: list[Case]) -> str:
    """The largest differences, and what does not agree; — where AdapterHub cannot write safetensors."""
    directions = ("xlt → AdapterHub", "AdapterHub .bin → xlt", "AdapterHub safetensors → xlt")
    width = max(len(case.label) for case in cases)
    lines = [f"{'':12} {'':{width}}  {'  '.join(directions)}"]
    for case in cases:
        shown = [f"{case.largest[name]:.1e}" if name in case.largest else "—" for name in directions]
        cells = "  ".join(f"{value:>{len(name)}}" for name, value in zip(directions, shown, strict=True))
        lines.append(f"{case.architecture:12} {case.label:{width}}  {cells}{'  DIFFERS' if case.problems else ''}")
    lines += [f"{case.architecture} {case.label}: {problem}" for case in cases for problem in case.problems]
    failed = sum(bool(case.problems) for case in cases)
    return "\n".join([*lines, f"{len(cases) - failed} of {len(cases)} agree"])


def install(environment: Path) -> None:
    """Make the environment."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(_python(environment)), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


@torch.no_grad()
def _write_model(folder: Path, architecture: str, seed: int) -> None:
    """A random model, none of whose parameters are 0 or 1, and inputs with padding."""
    config = config_from_shape({**SHAPES[architecture], "max_position_embeddings": 40})
    anatomy = anatomy_of(architecture)
    model = Backbone.new(config, anatomy)
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name.lower() and name.endswith("weight")
        parameter.copy_(torch.randn(parameter.shape, generator=generator(seed, name)) * 0.15 + is_norm)
    model.save_pretrained(folder / "model")
    lengths = torch.tensor([9, 6, 3])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(5, 80, mask.shape, generator=generator(seed, "ids"))
    inputs = {"input_ids": ids.where(mask == 1, torch.tensor(config.pad_token_id)), "attention_mask": mask}
    if anatomy.objective == "denoising":
        inputs["decoder_input_ids"] = torch.randint(5, 80, (3, 7), generator=generator(seed, "decoder"))
    save_file(inputs, folder / "inputs.safetensors")


def _method(choices: str) -> Method:
    method: Method = build(cli.compose(shlex.split(choices)).method, "method", Method)
    return method.compatible_with("adapterhub")


@torch.no_grad()
def _made(kind: Kind, backbone: Backbone, label: str) -> Module:
    """A module of this kind with random values."""
    draw = generator(label)
    modules = [_method(choices).create(backbone, draw) for choices in kind.choices]
    if kind.fusion:
        members = ",".join(f"a{number}" for number in range(len(modules)))
        modules.append(_method(f"method=fusion method.members=[{members}] {kind.fusion_choices}").create(backbone, draw))
        modules[-1].trained = True
    for module in modules:
        for parameter in module.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
        module.freeze()
    backbone.activate()
    return modules[-1]


@torch.no_grad()
def _outputs(backbone: Backbone, inputs: Path) -> dict[str, torch.Tensor]:
    """Hidden states after every layer, and logits, where there is no padding."""
    given = load_file(inputs)
    options = {} if backbone.anatomy.objective == "masked" else {"use_cache": False}
    answer = backbone.model(**given, output_hidden_states=True, **options)
    outputs = {"logits": answer.logits}
    for kind in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        outputs |= {f"{kind}.{number}": states for number, states in enumerate(getattr(answer, kind, None) or ())}
    return {name: tensor.contiguous().clone() for name, tensor in outputs.items()}


def _ask(python: Path, jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Have AdapterHub do the jobs."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = subprocess.run([str(python), str(PEER), str(folder / "jobs.json")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"AdapterHub's side failed:\n{done.stderr[-2000:]}")
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


def _compare(case: Case, read: dict[str, Any], write: dict[str, Any]) -> None:
    """Fill in what agrees and what does not."""
    for what, answer in (("reading", read), ("writing", write)):
        case.problems += [f"AdapterHub, {what}: {problem}" for problem in answer["problems"]]
    if case.problems:
        return
    for ours, theirs in zip(read["configs"], write["configs"], strict=True):
        case.problems += [
            f"config.{key}: {ours.get(key)} rather than {theirs.get(key)}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
    _differ(case, "xlt → AdapterHub", load_file(case.folder / "read.xlt"), load_file(case.folder / "read.peer"))
    expected = load_file(case.folder / "write.peer")
    for kind in ("bin", "safetensors"):
        folder = case.folder / "write" / kind
        if any(folder.rglob("*.safetensors" if kind == "safetensors" else "*.bin")):
            direction, backbone = f"AdapterHub {'.' if kind == 'bin' else ''}{kind} → xlt", case.opened()
            try:
                _load(case.kind, backbone, folder)
            except UserError as error:
                case.problems.append(f"{direction}: {error}")
            else:
                _differ(case, direction, _outputs(backbone, case.inputs), expected)


def _load(kind: Kind, backbone: Backbone, folder: Path) -> None:
    """Attach what AdapterHub wrote, as AdapterHub computes it."""
    parts = [folder / name for name in NAMES[: len(kind.configs)]]
    modules = [method_of_folder(part).compatible_with("adapterhub").load(backbone, part) for part in parts]
    if kind.fusion:
        layers = folder / ",".join(NAMES)
        description = read_description(layers, FUSION_CONFIG)
        Fusion.from_adapterhub(description["config"], description["adapter_names"]).load_layers(backbone, layers, modules)


def _differ(case: Case, direction: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare outputs where there is no padding."""
    mask = load_file(case.inputs)["attention_mask"] == 1
    differences = {"names": float("inf")} if found.keys() != expected.keys() else {}
    for name in found.keys() & expected.keys():
        # what a decoder puts out has no padding here
        real = mask if found[name].shape[:2] == mask.shape else slice(None)
        differences[name] = (found[name] - expected[name])[real].abs().max().item()
    case.largest[direction] = max(differences.values())
    case.problems += [
        f"{direction}: {name} differs by {value:.1e}" for name, value in differences.items() if not value <= TOLERANCE
    ]


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="the virtual environment that has adapters")
    parser.add_argument("--install", action="store_true", help="make that environment first")
    parser.add_argument("--folder", type=Path, help="keep models, modules and outputs here; the folder has to be empty")
    parser.add_argument("--only", default="", help="check what holds this in its name: an architecture, a kind, or both")
    arguments = parser.parse_args()
    environment = arguments.environment
    if environment is None or not (arguments.install or _python(environment).is_file()):
        sys.exit(
            "error: this needs a virtual environment with AdapterHub's library, which cannot be the one that xlt is in. To make "
            f"one (1 GB): python scripts/check_adapterhub.py --environment {environment or 'FOLDER'} --install"
        )
    disable_progress_bar()
    try:
        if arguments.install:
            install(environment)
        with tempfile.TemporaryDirectory() as temporary:
            cases = check(_python(environment), arguments.folder or Path(temporary), arguments.only)
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.exit(any(case.problems for case in cases))


if __name__ == "__main__":
    main()
