"""Check that xlt computes what the libraries that it is compatible with compute, on cases that they wrote and ran.

    python scripts/check_golden.py FOLDER
    python scripts/check_golden.py FOLDER --kinds bottleneck fusion
    python scripts/check_golden.py FOLDER/bert_seq_bn

FOLDER holds a folder for each case: `case.json`, which says what the case is; adapters, heads and fusion layers as the library
stored them; `inputs.safetensors` and `outputs.safetensors`. Cases point to the models that they share in `_bases`. xlt reads
the files with what it reads a user's files with, composes the modules as the case says, and compares every tensor of
`outputs.safetensors`: hidden states, scores, losses, attention of fusion layers, merged weights, gradients, the losses and
the weights of training.

Positions of padding are not compared; scores of texts and what a decoder behind an encoder puts out are compared whole.
Tolerances: the case's `suggested_atol`; 1e-4 of the largest value for gradients; 1e-4 of each value for the losses of training.
Of trained weights that had a gradient near 0 the optimiser's step depends on rounding, and more of it is allowed.

The exit status is 0 if all that was asked for agrees. It is not if a number differs, a case cannot be run or is of a kind that
xlt does not compute, if nothing compares one of the outputs, and if there are no cases.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy, linear

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import FUSION_CONFIG, HEAD_CONFIG, named_as_stored, read_description
from xlt.backbones.composition import Average, Composable, Parallel, Stack
from xlt.backbones.heads import ClassificationHead, Head, LanguageHead, QuestionAnsweringHead, load_head
from xlt.backbones.sites import Site
from xlt.errors import UserError, suggest
from xlt.methods.averaging import average_parameters
from xlt.methods.base import Module
from xlt.methods.bottleneck import ADAPTERHUB_PLACES, Bottleneck
from xlt.methods.differences import own_weights
from xlt.methods.formats import method_of_folder
from xlt.methods.fusion import Fusion, FusionModule
from xlt.methods.low_rank import IA3, PeftModule
from xlt.methods.sparse import SparseFineTuning
from xlt.methods.sparse_files import COMPOSABLE_SFT, read_composable_sft
from xlt.training.masking import IGNORED

NOT_COMPUTED = ("spiel",)  # kinds that have a name, and that xlt does not compute yet
KINDS = (
    "bottleneck", "lora", "ia3", "prefix_tuning", "average", "parallel", "fusion", "merge", "training", "composable_sft",
    *NOT_COMPUTED,
)  # fmt: skip
UNREADABLE = "?"  # in place of the kind of a case that cannot be read

ATOL = 2e-5  # where a case does not say
GRADIENT_TOLERANCE = 1e-4  # of the largest value of a tensor
LOSS_TOLERANCE = 1e-4  # of each loss of training
_GRADIENT_ROUNDING = 1e-5  # of the largest value of a gradient: what float32 may put into any other

_MODEL_INPUTS = {"input_ids", "attention_mask", "decoder_input_ids"}
_LABELS = {"labels", "start_positions", "end_positions"}
# Models that AdapterHub wrote classes for; in all others it hooks the output embedding.
_ADAPTERHUB_CLASSES = {
    "albert", "bart", "bert", "bert-generation", "deberta", "deberta-v2", "distilbert", "electra", "gpt2", "gptj", "llama",
    "mbart", "mistral", "mt5", "plbart", "roberta", "t5", "xlm-roberta", "xmod",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far a computed tensor is from the stored one.

    Attributes:
        error: the largest difference; of gradients and losses of training relative, of others absolute.
    """

    name: str
    error: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.error <= self.tolerance

    @property
    def badness(self) -> float:
        """The error in tolerances."""
        return self.error / max(self.tolerance, sys.float_info.min)


@dataclasses.dataclass
class Result:
    """What came of a case.

    Attributes:
        problem: why it could not be compared, or not all of it; None where it could.
    """

    name: str
    kind: str
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and all(comparison.agrees for comparison in self.comparisons)

    @property
    def worst(self) -> Comparison | None:
        return max(self.comparisons, key=lambda comparison: comparison.badness, default=None)


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of cases, or one case")
    parser.add_argument(
        "--kinds", nargs="+", default=[], metavar="KIND",
        help=f"only cases of these kinds, with spaces or commas between them: {', '.join(KINDS)}. A case that composes, merges "
        "or trains modules is of that kind, whatever the modules are. Not computed yet, and failing: "
        + ", ".join(NOT_COMPUTED),
    )  # fmt: skip
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    try:
        results = check(arguments.folder, asked_kinds(arguments.kinds))
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if all(result.passed for result in results) else 1)


def asked_kinds(words: Sequence[str]) -> tuple[str, ...]:
    """The kinds named on the command line.

    Raises:
        UserError: there is no such kind.
    """
    names = [name for word in words for name in word.split(",") if name]
    for name in names:
        if name not in KINDS:
            raise UserError(f"--kinds {name}: there is no such kind of case. {suggest(name, KINDS, 'kinds')}")
    return tuple(names)


def check(folder: Path, kinds: Sequence[str] = ()) -> list[Result]:
    """Check the cases of a folder and print a table.

    Args:
        kinds: those to check; none for all. A case whose kind cannot be told is always among them, and fails.

    Raises:
        UserError: there is nothing to check.
    """
    found = [(case, *describe(case)) for case in find_cases(folder)]
    chosen = [one for one in found if not kinds or one[1] == UNREADABLE or set(one[1].split("+")) & set(kinds)]
    if not chosen:
        there = ", ".join(sorted({kind for _, kind, _ in found}))
        raise UserError(f"{folder} holds no case of the kinds {', '.join(kinds)}. Its cases are of the kinds: {there}.")
    width = max(len(case.name) for case, _, _ in chosen)
    print(f"{'case':{width}}  {'kind':14}  {'error':>8}  {'tolerance':>9}  {'':6}  what differs most")
    results = []
    for case, kind, description in chosen:
        result = check_case(case, kind, description)
        results.append(result)
        print(row(result, width), flush=True)
    failed = [result.name for result in results if not result.passed]
    print(f"\n{len(results) - len(failed)} of {len(results)} cases agree.", end="")
    print(f" {len(found) - len(results)} cases of other kinds were not asked for." if len(found) > len(results) else "")
    absent = [kind for kind in kinds if not any(kind in result.kind.split("+") for result in results)]
    if absent:
        print(f"Of these kinds there is no case: {', '.join(absent)}.")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return results


def find_cases(folder: Path) -> list[Path]:
    """The folders of the cases, by name; a folder that is a case is the only one.

    Raises:
        UserError: there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the cases, or that of one case.")
    if (folder / "case.json").exists():
        return [folder]
    cases = sorted(case for case in folder.iterdir() if case.is_dir() and not case.name.startswith(("_", ".")))
    if not cases:
        raise UserError(f"{folder} holds no cases: there is no folder with a case.json in it.")
    return cases


def describe(folder: Path) -> tuple[str, dict[str, Any]]:
    """The kind of a case, and its case.json."""
    try:
        case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        return kind_of(case, folder), case
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return UNREADABLE, {"problem": f"its case.json cannot be used ({type(error).__name__}: {error})"}


def kind_of(case: Mapping[str, Any], folder: Path) -> str:
    """What a case is about: training, merging, a composition, or the kind of its modules."""
    if "adapters" not in case:
        if any(folder.rglob("pytorch_diff.bin")):
            return "composable_sft"
        return "spiel" if "sft" in json.dumps(case).lower() else UNREADABLE
    if "trained_adapter" in case:
        return "training"
    if "merge" in case:
        return "merge"
    types = set(node_types(case["composition"]))
    for kind, node in (("fusion", "Fuse"), ("parallel", "Parallel"), ("average", "Average")):
        if node in types:
            return kind
    return "+".join(sorted({architecture(adapter["config"]) for adapter in case["adapters"].values()}))


def node_types(node: Mapping[str, Any]) -> Iterator[str]:
    """The types of all nodes of a composition."""
    yield node["type"]
    if node["type"] != "single":
        for child in node["children"]:
            yield from node_types(child)


def architecture(config: Any) -> str:
    """The kind of module behind the `config` of an adapter."""
    kind = config.get("architecture") if isinstance(config, Mapping) else None
    if kind == "lora":
        return "ia3" if config.get("composition_mode") == "scale" else "lora"
    return kind or "bottleneck"


def check_case(folder: Path, kind: str, description: Mapping[str, Any]) -> Result:
    """Run a case and compare its outputs. Whatever goes wrong is the case's failure."""
    result = Result(folder.name, kind)
    if kind == UNREADABLE:
        result.problem = description.get("problem", "its case.json does not say what kind of case it is")
        return result
    if kind in NOT_COMPUTED or any(part not in KINDS for part in kind.split("+")):
        result.problem = f"xlt does not compute cases of this kind, {kind}"
        return result
    try:
        case = (SparseCase if kind == "composable_sft" else Case)(folder, description, result.comparisons)
        case.run()
        if not case.expected:
            result.problem = "it has no outputs to compare"
        if left := sorted(case.expected.keys() - case.compared):
            result.problem = f"nothing compares {', '.join(left[:3])}{f' and {len(left) - 3} more' if len(left) > 3 else ''}"
    except UserError as error:
        result.problem = str(error)
    except Exception as error:  # a defect in one case must not hide what the others say
        result.problem = f"{type(error).__name__}: {error}"
    return result


def row(result: Result, width: int) -> str:
    """A line of the table."""
    worst = result.worst
    numbers = f"{worst.error:8.1e}  {worst.tolerance:9.1e}" if worst else f"{'':8}  {'':9}"
    differing = [comparison.name for comparison in result.comparisons if not comparison.agrees]
    said = worst.name if worst else ""
    if differing:
        said = f"{len(differing)} of {len(result.comparisons)} differ, most {said}"
    if result.problem:
        said = "; ".join([said] * bool(differing) + [" ".join(result.problem.split())])
    return f"{result.name:{width}}  {result.kind:14}  {numbers}  {'ok' if result.passed else 'FAILED':6}  {said}"


class Case:
    """A case, set up by xlt.

    Attributes:
        comparisons: what has been compared, in the order in which that was done.
        compared: the names of outputs among it.
        modules: the attached modules by their names in the case.
        heads: the heads that the case brings along, by name; none where it uses the model's own.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], comparisons: list[Comparison]) -> None:
        self.open(folder, description, comparisons)
        inputs = read(folder / "inputs.safetensors")
        if strange := inputs.keys() - _MODEL_INPUTS - _LABELS:
            raise UserError(f"inputs.safetensors holds {', '.join(sorted(strange))}, which is nothing that xlt's models read")
        self.inputs = {name: tensor for name, tensor in inputs.items() if name in _MODEL_INPUTS}
        self.labels = {name: tensor for name, tensor in inputs.items() if name in _LABELS}
        self.adapterhub = "adapters" in description["produced_by"]
        self.modules = {name: self.load_module(adapter["dir"]) for name, adapter in description["adapters"].items()}
        self.fusions: list[FusionModule] = []
        self.backbone.activate(self.compose(description["composition"]))
        self.branches = self.backbone.composition.branches()
        self.heads = self.load_heads()
        self.check_inverse()

    def open(self, folder: Path, description: Mapping[str, Any], comparisons: list[Comparison]) -> None:
        """What every case begins with: what is expected, and the model."""
        self.folder = folder
        self.description = description
        self.comparisons = comparisons
        self.compared: set[str] = set()
        self.expected = read(folder / "outputs.safetensors")
        self.tolerance = float(description.get("suggested_atol", ATOL))
        self.backbone = open_model(folder / description["base_dir"], description["base_class"])

    def run(self) -> None:
        """Compare everything that xlt computes in this case with what is stored."""
        self.compare_outputs()
        if any(name.startswith("merged_") for name in self.expected):
            self.compare_folded()
        if "merge" in self.description:
            self.compare_average()
        if "trained_adapter" in self.description:
            self.compare_training()

    # ---- setting up

    def load_module(self, folder: str) -> Module:
        """Attach a stored module, computing as the library that stored it."""
        method = method_of_folder(self.folder / folder)
        if self.adapterhub:
            method = method.compatible_with("adapterhub")
        if isinstance(method, Bottleneck):
            method = dataclasses.replace(method, inverse_at_head=self.inverse_at_head)
        return dataclasses.replace(method, **self.description.get("load_kwargs", {})).load(self.backbone, self.folder / folder)

    @property
    def inverse_at_head(self) -> bool:
        """Whether the inverse of an invertible adapter acts in a language head: in AdapterHub's library not in the own head of a
        model that it has classes for."""
        own_head = not self.description["peer_class"].endswith("AdapterModel")
        return not (self.adapterhub and own_head and self.description["model_type"] in _ADAPTERHUB_CLASSES)

    def compose(self, node: Mapping[str, Any]) -> Composable:
        """A composition of the case in xlt's terms."""
        kind, children, options = node["type"], node["children"], node.get("kwargs") or {}
        if kind == "single":
            return self.modules[children[0]]
        parts = [self.compose(child) for child in children]
        if kind == "Fuse":
            folder = self.folder / self.description["fusion"]["dir"]
            stored = read_description(folder, FUSION_CONFIG)
            fusion = Fusion.from_adapterhub(stored["config"], [child["children"][0] for child in children])
            self.fusions.append(fusion.load_layers(self.backbone, folder, parts))
            return self.fusions[-1]
        makers = {"Stack": Stack, "Parallel": Parallel, "Average": partial(Average, divides_twice=self.adapterhub)}
        if kind not in makers:
            raise UserError(f"xlt has no composition {kind}. {suggest(kind, [*makers, 'Fuse'], 'compositions')}")
        return makers[kind](*parts, **options)

    def load_heads(self) -> dict[str, Head]:
        """The heads that the case names, or the one that was stored beside its last module, if that is not the model's own."""
        head = self.description.get("head")
        if isinstance(head, Mapping):
            folders = {"": head["dir"]} if "dir" in head else {name: one["dir"] for name, one in head.items()}
        else:
            beside = [adapter["dir"] for adapter in self.description["adapters"].values() if self.has_head(adapter["dir"])]
            folders = {"": beside[-1]} if beside else {}
        return {name: load_head(self.folder / folder, self.backbone) for name, folder in folders.items()}

    def has_head(self, folder: str) -> bool:
        """Whether a folder holds a head, and not a copy of the model's own."""
        path = self.folder / folder
        return (path / HEAD_CONFIG).is_file() and bool(read_description(path, HEAD_CONFIG).get("config"))

    def check_inverse(self) -> None:
        """Refuse a case that says something else of the inverse than what xlt knows of the library."""
        said = self.description.get("inverse_applied_at_head")
        owns_one = any(getattr(branch[0][0], "invertible", None) is not None for branch in self.branches)
        labelled = any(not isinstance(head, LanguageHead) for head in self.heads.values())
        applied = self.inverse_at_head and owns_one and not labelled
        if said is not None and said != applied:
            raise UserError(
                f"case.json says inverse_applied_at_head={said}, but with a {self.description['peer_class']} and these adapters "
                f"it is {applied}"
            )

    # ---- comparing

    def compare(
        self, name: str, computed: torch.Tensor, expected: torch.Tensor, real: torch.Tensor | None = None,
        tolerance: float | None = None, scale: torch.Tensor | float = 1.0,
    ) -> None:  # fmt: skip
        """Note how far a tensor is from another.

        Args:
            real: positions that are no padding, [rows, length]; None compares all.
            tolerance: None takes that of the case.
            scale: what differences are divided by.
        """
        tolerance = self.tolerance if tolerance is None else tolerance
        if computed.shape != expected.shape:
            name, error = f"{name} (its shape is {list(computed.shape)}, not {list(expected.shape)})", math.inf
        else:
            difference = ((computed.detach().double() - expected.double()).abs() / scale).nan_to_num(nan=math.inf)
            chosen = difference if real is None else difference[real]
            if not chosen.numel():
                raise UserError(f"there is no position of {name} to compare")
            error = float(chosen.max())
        self.comparisons.append(Comparison(name, error, tolerance))

    def compare_outputs(self, where: str = "") -> None:
        """Compare what a forward pass gives: of several ways to the same result, each.

        Args:
            where: what the names in the report begin with; the outputs are the same.
        """
        with torch.no_grad():
            for name, computed, real in self.outputs():
                if name in self.expected:
                    self.compare(where + name, computed, self.expected[name], real)
                    self.compared.add(name)

    def outputs(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """Everything that a forward pass gives: name, tensor, and which of its positions are no padding (None: all count)."""
        real = self.real.repeat(len(self.branches), 1)
        decoder_real = None if self.backbone.anatomy.objective == "denoising" else real
        options = {} if self.backbone.anatomy.objective == "masked" else {"use_cache": False}
        with fusion_weights(self.fusions) as weights:
            output = self.backbone.model(**self.inputs, output_hidden_states=True, **options)
        for name, positions in (("hidden_states", real), ("encoder_hidden_states", real), ("decoder_hidden_states", None)):
            for number, states in enumerate(getattr(output, name, None) or ()):
                yield f"{name}.{number}", states, positions
        for name, shares in weights.items():
            yield name, torch.cat(shares), real
        last = self.backbone.hidden_states(**self.inputs)
        yield "last_hidden_state", last, decoder_real
        if not self.heads:
            yield "logits", output.logits, decoder_real
            if not self.legacy_head:
                yield "logits", self.backbone.language_head(last), decoder_real
        for name, scores in self.scores(last).items():
            whole = name.startswith("logits") and scores.ndim == 2  # of texts
            yield name, scores, None if whole or decoder_real is None else self.real
        if self.labels and len(self.branches) == 1:
            yield "loss", self.loss(), None

    @property
    def legacy_head(self) -> bool:
        """Whether the model keeps its head where only old versions of transformers have it, out of reach for xlt's training."""
        return bool(getattr(self.backbone.config, "legacy", False))

    @property
    def real(self) -> torch.Tensor:
        """Positions that are no padding, [rows, length]."""
        return self.inputs["attention_mask"] == 1

    def scores(self, last: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the case's heads make of the last layer's states; of branches, each head of those of the branch with its name."""
        result = {}
        for name, head in self.heads.items():
            states = last.chunk(len(self.branches))[self.branch_of(name)] if name else last
            scores = head(states, self.inputs["attention_mask"])
            ending = f".{name}" if name else ""
            if isinstance(head, QuestionAnsweringHead):
                result |= {f"start_logits{ending}": scores[..., 0], f"end_logits{ending}": scores[..., 1]}
            else:
                result[f"logits{ending}"] = scores
        return result

    def branch_of(self, head: str) -> int:
        """The number of the branch that holds the module of a head's name."""
        (number,) = [n for n, branch in enumerate(self.branches) if any(part is self.modules[head] for part, _ in branch)]
        return number

    def loss(self) -> torch.Tensor:
        """The mean loss of the case's labels, a scalar."""
        head = self.heads.get("")
        if head is None:
            scores = {"logits": self.backbone.model(**self.inputs).logits}
        else:
            scores = self.scores(self.backbone.hidden_states(**self.inputs))
        if isinstance(head, QuestionAnsweringHead):
            ends = [(scores[f"{end}_logits"], self.labels[f"{end}_positions"]) for end in ("start", "end")]
            beyond = len(self.real[0])  # answers that the text was cut before do not count
            return sum(cross_entropy(values, places.clamp(0, beyond), ignore_index=beyond) for values, places in ends) / 2
        logits, labels = scores["logits"], self.labels["labels"]
        if isinstance(head, ClassificationHead):
            return cross_entropy(logits, labels)
        if head is not None and not isinstance(head, LanguageHead):
            labels = labels.masked_fill(~self.real, IGNORED)
        elif self.backbone.anatomy.objective == "causal" if head is None else head.causal:
            logits, labels = logits[:, :-1], labels[:, 1:]  # each position predicts the token after it
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def compare_folded(self) -> None:
        """Fold the module into the model's weights, and compare them and what comes out: with the library's folded model, and, as
        folding is to change nothing, with its model before that."""
        (module,) = self.modules.values()
        if not isinstance(module, PeftModule):
            raise UserError("xlt folds LoRA and (IA)³ into a model's weights, and nothing else")
        biases = [(layer.get_base_layer(), layer.get_base_layer().bias) for layer in module.layers.values()]
        module.merge()
        self.compare_outputs("folded: ")
        if self.adapterhub and isinstance(module.method, IA3):  # the library forgets to scale the biases
            for linear, bias in biases:
                linear.bias = bias
        with torch.no_grad():
            for name, computed, real in self.outputs():
                if f"merged_{name}" in self.expected:
                    self.compare(f"merged_{name}", computed, self.expected[f"merged_{name}"], real)
                    self.compared.add(f"merged_{name}")
        for name in self.expected:
            if name.startswith("merged_weight."):
                self.compare(name, self.own_weight(name.removeprefix("merged_weight.")), self.expected[name])
                self.compared.add(name)
        module.unmerge()

    def own_weight(self, name: str) -> torch.Tensor:
        """The model's parameter of a name that it had before anything was attached."""
        part: Any = self.backbone.model
        for step in name.split("."):
            if isinstance(part, Site):
                part = part.original
            part = getattr(part.get_base_layer() if hasattr(part, "get_base_layer") else part, step)
        return part

    def compare_average(self) -> None:
        """Make the merged module from what it was merged from, and compare its weights and what comes out with them."""
        merge = self.description["merge"]
        if merge["combine_strategy"] != "linear" or not merge["normalize_weights"]:
            raise UserError(f"xlt does not average modules in this way: {dict(merge)}")
        averaged = average_parameters([self.modules[name] for name in merge["inputs"]], merge["weights"])
        (merged,) = [module for name, module in self.modules.items() if name not in merge["inputs"]]
        parameters = merged.parameters()
        # AdapterHub's library loses the invertible adapter where it averages modules of a model with a head of its own
        lost = {name for name in averaged.keys() - parameters.keys() if name.startswith(self.backbone.anatomy.invertible_key)}
        if averaged.keys() - lost != parameters.keys():
            raise UserError("the merged module has other parameters than the modules that it was merged from")
        for name, parameter in parameters.items():
            self.compare(f"average of {name}", averaged[name], parameter)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(averaged[name])
        self.compare_outputs("with averaged weights: ")

    def compare_training(self) -> None:
        """Compare the gradients of a first backward pass, the losses of the steps after it, and where they lead."""
        adapter = self.description["trained_adapter"]
        module = self.modules[adapter]
        parameters = {f"grad.{name}": part for name, part in {**self.head_parameters(), **self.stored_names(adapter)}.items()}
        # The library names the network that makes prefixes after the first layer that uses it, and a head has a name of its own.
        short = {key: re.sub(r".*\.prefix_tuning\.pool\.", "grad.prefix_tuning.", key) for key in self.expected}
        short = {key: re.sub(r"^grad\.heads\.[^.]+\.", "grad.heads.", name) for key, name in short.items()}
        named = {key: parameters[name] for key, name in short.items() if name in parameters}
        trained = module.parameters()
        for part in (*trained.values(), *named.values()):
            part.requires_grad_(True)
        self.loss().backward()
        for key, part in named.items():
            gradient = torch.zeros_like(part) if part.grad is None else part.grad
            expected = self.expected[key]
            largest = expected.abs().max().double().clamp(min=torch.finfo(expected.dtype).tiny)
            self.compare(key, gradient, expected, tolerance=GRADIENT_TOLERANCE, scale=largest)
            self.compared.add(key)
        for part in {*named.values()} - {*trained.values()}:
            part.requires_grad_(False)
        if "optimizer" in self.description:
            self.compare_steps(f"trained_{adapter}", trained)

    def compare_steps(self, folder: str, trained: Mapping[str, nn.Parameter]) -> None:
        """Take the case's optimiser steps with the module, whose gradients are there, and compare it with the one in a folder.

        Adam divides a gradient by its size, so that it makes a whole step out of a gradient that is nothing but rounding: there
        as much is allowed for.
        """
        settings = dict(self.description["optimizer"])
        if settings.pop("class") != "torch.optim.AdamW":
            raise UserError(f"these steps are to be taken with {self.description['optimizer']['class']}, not torch.optim.AdamW")
        steps = settings.pop("steps")
        options = {key: value for key, value in settings.items() if key in ("lr", "betas", "eps", "weight_decay")}
        gradients = {key: part.grad.double().abs() for key, part in trained.items() if part.grad is not None}
        optimizer = torch.optim.AdamW(trained.values(), **options)
        losses = []
        for step in range(steps + 1):
            optimizer.zero_grad()
            loss = self.loss()
            losses.append(loss.detach())
            if step < steps:
                loss.backward()
                optimizer.step()
        if "step_losses" in self.expected:
            expected = self.expected["step_losses"]
            self.compare("step_losses", torch.stack(losses), expected, tolerance=LOSS_TOLERANCE, scale=expected.abs().double())
            self.compared.add("step_losses")
        expected = self.load_module(folder).parameters()
        if expected.keys() != trained.keys():
            raise UserError(f"{folder} holds other parameters than xlt trains")
        for key, parameter in trained.items():
            gradient = gradients.get(key, torch.zeros_like(parameter))
            uncertain = (_GRADIENT_ROUNDING * gradient.max() / gradient).clamp(max=1.0).where(gradient > 0, 0.0)  # part of a step
            allowed = self.tolerance + steps * options["lr"] * uncertain
            self.compare(f"trained {key}", parameter, expected[key], scale=allowed / self.tolerance)

    def stored_names(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of a module by the library's names, with and without the encoder's prefix."""
        prefix = f"{self.backbone.model.base_model_prefix}."
        named = named_as_stored(self.modules[name].adapterhub_parameters(), self.backbone, name)
        return {**{key.removeprefix(prefix): part for key, part in named.items()}, **named}

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the case's head by the library's names, without the head's: of one that it brings along, of the
        model's own, and of that taken apart into numbered layers (linear, non-linearity, norm, output embedding)."""
        if head := self.heads.get(""):
            return {f"heads.{key.removeprefix('layers.')}": part for key, part in head.named_parameters()}
        model = self.backbone.model
        named = model.named_parameters(remove_duplicate=False)
        own = {key: part for key, part in named if not key.startswith(f"{model.base_model_prefix}.")}
        paths = () if self.legacy_head else self.backbone.anatomy.language_head
        places = [part for path in paths for part in model.get_submodule(path).modules()]
        layers = [part for part in places if isinstance(part, nn.Linear | nn.LayerNorm)]
        numbers = (0, 2, 3) if len(layers) > 1 else (0,)
        converted = {
            f"heads.{number}.{key}": part
            for number, layer in zip(numbers, layers, strict=False)
            for key, part in layer.named_parameters()
        }
        return {**own, **converted}


class SparseCase(Case):
    """A case of composable-sft: a language's differences and a task's applied to a model, or the choice of a sparse one."""

    def __init__(self, folder: Path, description: Mapping[str, Any], comparisons: list[Comparison]) -> None:
        self.open(folder, description, comparisons)
        self.inputs = read(folder / "inputs.safetensors")

    def run(self) -> None:
        """Compare everything that xlt computes in this case with what is stored."""
        if "k" in self.description:
            self.compare_choice()
        else:
            self.compare_applied()

    def compare_applied(self) -> None:
        """What the model computes with the differences, and the differences themselves."""
        names = self.description["sft"]
        folders = {name: self.folder / names[name] for name in ("lang", "task")}
        methods = {name: method_of_folder(folder) for name, folder in folders.items()}
        weights = own_weights(self.backbone)
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        self.compare_states("mlm_base")
        language = methods["lang"].load(self.backbone, folders["lang"])
        self.compare_states("mlm_lang")
        for name in [name for name in self.expected if name.startswith("dense_diff.")]:
            plain = name.removeprefix("dense_diff.")
            self.compare(name, weights[plain] - before[plain], self.expected[name])
            self.compared.add(name)
        task = methods["task"].load(self.backbone, folders["task"])
        head = read_composable_sft(folders["task"] / COMPOSABLE_SFT)
        classify = partial(linear, weight=head["classifier.weight"].values, bias=head["classifier.bias"].values)
        self.compare_states("tok_lang_task", classify)
        self.backbone.activate(task)
        self.compare_states("tok_task", classify)
        task.detach()
        language.detach()
        self.compare_states("mlm_base")
        dataclasses.replace(methods["lang"], language_head=False).load(self.backbone, folders["lang"])
        self.compare_states("mlm_lang_noabs")

    def compare_states(self, name: str, classify: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        """What the model puts out as it is now.

        Args:
            classify: the head; None for the model's own.
        """
        real = self.inputs["attention_mask"] == 1
        with torch.no_grad():
            states = self.backbone.hidden_states(**self.inputs)
            scores = self.backbone.model(**self.inputs).logits if classify is None else classify(states)
        for what, computed in (("last_hidden_state", states), ("logits", scores)):
            self.compare(f"{name}.{what}", computed, self.expected[f"{name}.{what}"], real)
            self.compared.add(f"{name}.{what}")

    def compare_choice(self) -> None:
        """Which weights are chosen after the dense phase, and what is stored after the sparse one."""
        dense, mask, sparse = (
            {name.removeprefix(f"{prefix}."): one for name, one in self.expected.items() if name.startswith(f"{prefix}.")}
            for prefix in ("after_full_ft", "mask", "after_sparse_ft")
        )
        module = SparseFineTuning(count=self.description["k"], norms=True).create(self.backbone, torch.Generator(), True)
        module.begin(0, {})
        with torch.no_grad():
            for name, values in module.parameters().items():
                values.copy_(dense[name].view_as(values))
        kept = module.end(0)
        for name, expected in mask.items():
            chosen = torch.zeros(expected.shape).flatten()
            chosen[kept.get(name, [])] = 1
            self.compare(f"mask.{name}", chosen.view_as(expected), expected.float(), tolerance=0.0)
        module.begin(1, kept)
        with torch.no_grad():
            for name, values in module.parameters().items():
                trained = sparse[name].flatten()
                values.copy_((trained[kept[name]] if name in kept else trained).view_as(values))
        with TemporaryDirectory() as folder:
            module.save_for_composable_sft(Path(folder))
            ours = read_composable_sft(Path(folder) / COMPOSABLE_SFT)
        theirs = read_composable_sft(self.folder / self.description["sft"]["dir"] / COMPOSABLE_SFT)
        empty = {name for name, one in theirs.items() if not one.values.numel()}
        if ours.keys() != theirs.keys() - empty:
            raise UserError(f"xlt stores other tensors: {', '.join(sorted(ours.keys() ^ (theirs.keys() - empty))[:3])}")
        for name, one in ours.items():
            if one.positions is not None:
                self.compare(f"positions of {name}", one.positions, theirs[name].positions, tolerance=0.0)
            self.compare(f"stored {name}", one.values, theirs[name].values)
        self.compared |= self.expected.keys()


@contextmanager
def fusion_weights(fusions: Sequence[FusionModule]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """The weights that fusion layers give their members in the forward passes within, by `fusion_attention.<layer>.<place>`."""
    weights: dict[str, list[torch.Tensor]] = {}

    def keep(name: str, layer: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        weights.setdefault(name, []).append(layer.weights(*inputs))

    hooks = [
        layer.register_forward_pre_hook(partial(keep, f"fusion_attention.{number}.{ADAPTERHUB_PLACES[place]}"))
        for fusion in fusions
        for (number, place), layer in fusion.layers.items()
    ]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


def open_model(folder: Path, class_name: str) -> Backbone:
    """A backbone of the transformers class that a case names, in evaluation mode.

    Raises:
        UserError: there is no such folder or class.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"the case's model is not there: {folder} has no config.json")
    model_class = getattr(transformers, class_name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        raise UserError(f"transformers has no model class {class_name}")
    model, report = model_class.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{folder} lacks weights of a {class_name}: {', '.join(missing[:3])}")
    return Backbone(model.eval(), None, anatomy_of(model.config.model_type.replace("-", "_")))


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"the case has no {path.name}")
    return load_file(path)


if __name__ == "__main__":
    main()
