"""AdapterHub's folders: what xlt writes is complete, and what all of its versions wrote is read or refused with a reason."""

from __future__ import annotations

import json
import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import hidden_states, logits, shaken, tiny_backbone
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertForMaskedLM
from transformers.activations import ACT2FN

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.methods.base import Method, Module
from xlt.methods.bottleneck import Bottleneck
from xlt.methods.formats import method_of_folder
from xlt.methods.fusion import Fusion
from xlt.random import generator

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "check_adapterhub.py"
ENVIRONMENT = "XLT_ADAPTERHUB_ENVIRONMENT"
REQUIRED = {"mh_adapter", "output_adapter", "reduction_factor", "non_linearity"}  # of adapters.BnConfig 1.3.0: no defaults
OPTIONAL = {
    "original_ln_before", "original_ln_after", "ln_before", "ln_after", "init_weights", "init_weights_seed", "is_parallel",
    "scaling", "use_gating", "residual_before_ln", "adapter_residual_before_ln", "inv_adapter", "inv_adapter_reduction_factor",
    "cross_adapter", "leave_out", "dropout", "phm_layer", "phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule",
    "factorized_phm_rule", "phm_c_init", "phm_init_range", "learn_phm", "hypercomplex_nonlinearity", "phm_rank", "phm_bias",
    "stochastic_depth",
}  # fmt: skip
OF_XLT = {"inverse_at_head", "gate_over_padding"}
FUSION = {  # of adapters.AdapterFusionConfig 1.3.0, all without defaults
    "key", "query", "value", "query_before_ln", "regularization", "residual_before", "temperature", "value_before_softmax",
    "value_initialized", "dropout_prob",
}  # fmt: skip

SEQ_BN = Bottleneck(name="seq_bn", reduction_factor=4, activation="gelu")
DOUBLE = Bottleneck(name="double_seq_bn", reduction_factor=4, places=["attention", "output"], reads_norm=False)
SEQ_BN_INV = Bottleneck(name="seq_bn_inv", reduction_factor=4, invertible=True)
EVERYTHING = Bottleneck(
    name="everything", places=["attention", "output"], reduction_factor=4, layer_reduction_factors={"1": 2.0}, invertible=True,
    norm_before=True, norm_after=True, gated=True, learned_scaling="channel",
)  # fmt: skip
as_either_file = pytest.mark.parametrize("kind", ["safetensors", "bin"])


def save(method: Method, folder: Path, backbone: Backbone | None = None) -> torch.Tensor:
    """Store a module with random parameters; what its backbone puts out with it."""
    backbone = backbone or tiny_backbone("bert")
    module = shaken(method.create(backbone, generator(0)))
    folder.mkdir(parents=True, exist_ok=True)
    module.save(folder)
    return hidden_states(backbone)


def description(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


def describe(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description of a folder in place."""
    content = description(folder)
    change(content)
    (folder / "adapter_config.json").write_text(json.dumps(content))


def rewrite(folder: Path, rename: Callable[[str], str | None], kind: str = "safetensors") -> None:
    """Give the tensors of a folder other names (None takes one away), in either kind of file."""
    path = folder / "adapter.safetensors"
    tensors = {new: tensor for name, tensor in load_file(path).items() if (new := rename(name)) is not None}
    path.unlink()
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, folder / "pytorch_adapter.bin")


def load(folder: Path, backbone: Backbone | None = None) -> tuple[Backbone, Module]:
    """What the folder says of itself is all there is to know."""
    backbone = backbone or tiny_backbone("bert")
    return backbone, method_of_folder(folder).load(backbone, folder)


def fused(folder: Path, *members: Method, backbone: Backbone) -> Fusion:
    """Store a fusion with random parameters."""
    for number, member in enumerate(members):
        shaken(member.create(backbone, generator(number)), number)
    method = Fusion(name="fusion", members=[str(number) for number in range(len(members))], trained_on="nothing")
    module = shaken(method.create(backbone, generator(9)))
    folder.mkdir(parents=True, exist_ok=True)
    module.save(folder)
    return method


# ---- with AdapterHub's library itself


@pytest.mark.slow
def test_both_libraries_compute_the_same() -> None:
    environment = os.environ.get(ENVIRONMENT)
    if not environment:
        pytest.skip(f"{ENVIRONMENT} names no virtual environment with AdapterHub's library; {SCRIPT.name} --install makes one")
    command = [sys.executable, str(SCRIPT), "--environment", environment]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_script_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--environment", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"--environment {tmp_path} --install"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


# ---- what is written


@pytest.mark.parametrize("method", [SEQ_BN, SEQ_BN_INV, DOUBLE, EVERYTHING], ids=lambda method: method.name)
def test_a_description_has_what_the_reader_needs(method: Bottleneck, tmp_path: Path) -> None:
    save(method, tmp_path)
    written = description(tmp_path)
    assert written.keys() == {"config", "hidden_size", "model_class", "model_name", "model_type", "name", "version"}
    assert (written["model_type"], written["hidden_size"], written["version"]) == ("bert", 16, "adapters.1.3.0")
    assert REQUIRED <= written["config"].keys() <= REQUIRED | OPTIONAL | OF_XLT
    assert isinstance(written["config"]["scaling"], float | str)  # the reader knows no whole numbers there


def test_a_whole_number_as_scaling_is_written_as_a_fraction(tmp_path: Path) -> None:
    save(Bottleneck(scaling=4), tmp_path)
    assert '"scaling": 4.0' in (tmp_path / "adapter_config.json").read_text()


@pytest.mark.parametrize(("leave_out", "written"), [([-1], [1]), ([0], [0]), ([], [])])
def test_left_out_layers_are_written_by_their_number(leave_out: list[int], written: list[int], tmp_path: Path) -> None:
    save(Bottleneck(leave_out=leave_out), tmp_path)
    assert description(tmp_path)["config"]["leave_out"] == written


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("bert", "bert.encoder.layer.1.attention.output.adapters.xlt.adapter_up.weight"),
        ("xlm_roberta", "roberta.encoder.layer.1.attention.output.adapters.xlt.adapter_up.weight"),
        ("llama", "model.layers.1.attention_adapters.adapters.xlt.adapter_up.weight"),
        ("mbart", "model.decoder.layers.1.attention_adapters.adapters.xlt.adapter_up.weight"),
    ],
)
@pytest.mark.parametrize("language_head", [True, False], ids=["with_head", "without_head"])
def test_names_begin_with_the_encoders_prefix(language_head: bool, architecture: str, name: str, tmp_path: Path) -> None:
    """AdapterHub's models with head find fusion layers in no other way."""
    save(DOUBLE, tmp_path, tiny_backbone(architecture, language_head))
    names = load_file(tmp_path / "adapter.safetensors").keys()
    assert name in names
    assert all(other.startswith(f"{name.partition('.')[0]}.") for other in names)


def test_an_own_norm_is_written_under_both_of_its_names(tmp_path: Path) -> None:
    save(EVERYTHING, tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    adapter = "bert.encoder.layer.0.output.adapters.xlt"
    assert torch.equal(tensors[f"{adapter}.adapter_norm_before.weight"], tensors[f"{adapter}.adapter_down.0.weight"])
    assert tensors[f"{adapter}.adapter_down.1.weight"].shape == (4, 16)


def test_nothing_tells_where_the_backbone_was(world: Path, tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path, Backbone.open(world / "models" / "bert"))
    assert str(world) not in (tmp_path / "adapter_config.json").read_text()


def test_a_fusion_is_a_setup_of_adapterhub(tmp_path: Path) -> None:
    fused(tmp_path, SEQ_BN, SEQ_BN, backbone=tiny_backbone("bert"))
    setup = json.loads((tmp_path / "adapter_setup.json").read_text())
    children = [{"type": "single", "children": [name]} for name in ("member_0", "member_1")]
    assert setup == {"adapter_setup": {"type": "Fuse", "children": children}, "head_setup": None, "version": "adapters.1.3.0"}
    for name in ("member_0", "member_1"):  # the loader goes by the name in the description
        assert description(tmp_path / name)["name"] == name
        assert f"bert.encoder.layer.0.output.adapters.{name}.adapter_up.bias" in load_file(
            tmp_path / name / "adapter.safetensors"
        )
    layers = tmp_path / "member_0,member_1"
    written = json.loads((layers / "adapter_fusion_config.json").read_text())
    assert (written["name"], written["adapter_names"]) == ("member_0,member_1", ["member_0", "member_1"])
    assert written["config"].keys() == FUSION
    name = "bert.encoder.layer.0.output.adapter_fusion_layer.member_0,member_1.query.weight"
    assert name in load_file(layers / "model_adapter_fusion.safetensors")


@pytest.mark.parametrize("inverse_at_head", [True, False])
def test_members_of_a_fusion_come_back_as_they_were_trained(inverse_at_head: bool, tmp_path: Path) -> None:
    """Also in what AdapterHub's format has no word for."""
    trained, loaded = tiny_backbone("bert"), tiny_backbone("bert")
    first = Bottleneck(reduction_factor=4, invertible=True, inverse_at_head=inverse_at_head)
    fused(tmp_path, first, SEQ_BN, backbone=trained).load(loaded, tmp_path)
    assert torch.equal(logits(loaded), logits(trained))


def test_no_activation_has_parameters_of_its_own() -> None:
    """Adapters have no place for them."""
    for name in Bottleneck.__dataclass_fields__["activation"].metadata["one_of"]:
        assert not isinstance(ACT2FN[name], nn.Module) or not list(ACT2FN[name].parameters())


# ---- what is read: files


@as_either_file
@pytest.mark.parametrize("prefix", ["bert.", ""], ids=["with_prefix", "without_prefix"])
@pytest.mark.parametrize("method", [SEQ_BN_INV, EVERYTHING], ids=lambda method: method.name)
def test_a_folder_says_what_it_is(method: Bottleneck, prefix: str, kind: str, tmp_path: Path) -> None:
    expected = save(method, tmp_path)
    rewrite(tmp_path, lambda name: prefix + name.removeprefix("bert."), kind)
    assert torch.equal(hidden_states(load(tmp_path)[0]), expected)


@pytest.mark.parametrize("name", ["mt-wiki@ukp", "sentiment/sst-2+a", "v1.2", "a,b", "(x|y)*", "ಕನ್ನಡ", "adapters", "F", r"\1"])
def test_any_name_of_a_module(name: str, tmp_path: Path) -> None:
    expected = save(EVERYTHING, tmp_path)
    rewrite(tmp_path, lambda key: key.replace("adapters.xlt.", f"adapters.{name}."))
    describe(tmp_path, lambda content: content.update(name=name))
    assert torch.equal(hidden_states(load(tmp_path)[0]), expected)


def test_a_name_that_the_tensors_do_not_have(tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    describe(tmp_path, lambda content: content.update(name="other"))
    with pytest.raises(UserError, match=r"missing .*unexpected encoder.layer.0.output.adapters.xlt"):
        load(tmp_path)
    describe(tmp_path, lambda content: content.pop("name"))
    with pytest.raises(UserError, match="has no name"):
        load(tmp_path)


class Harmful:
    """What opening it as a pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("with_torch", [True, False], ids=["torch", "pickle"])
def test_pickled_code_is_not_run(with_torch: bool, tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    (tmp_path / "adapter.safetensors").unlink()
    trace, path = tmp_path / "it ran", tmp_path / "pytorch_adapter.bin"
    if with_torch:
        torch.save({"weight": Harmful(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Harmful(trace), protocol=2))
    with pytest.raises(UserError, match=r"pytorch_adapter.bin cannot be read as a file of tensors alone"):
        load(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"weight": [1, 2]}, torch.ones(2), {"state": {"weight": torch.ones(2)}}])
def test_a_file_of_something_else(content: Any, tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    (tmp_path / "adapter.safetensors").unlink()
    torch.save(content, tmp_path / "pytorch_adapter.bin")
    with pytest.raises(UserError, match="cannot be read as a file of tensors alone"):
        load(tmp_path)


@pytest.mark.parametrize("file", ["adapter.safetensors", "pytorch_adapter.bin", "adapter_config.json"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"])
def test_a_broken_file(content: bytes, file: str, tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    if file == "pytorch_adapter.bin":
        (tmp_path / "adapter.safetensors").unlink()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        load(tmp_path)


@pytest.mark.parametrize("file", ["adapter.safetensors", "adapter_config.json"])
def test_a_missing_file(file: str, tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=file):
        load(tmp_path)


# ---- what is read: does it fit


def test_another_kind_of_model(tmp_path: Path) -> None:
    """The tensors of a BERT's adapter have the names and sizes of an XLM-R's."""
    save(SEQ_BN, tmp_path)
    rewrite(tmp_path, lambda name: name.removeprefix("bert."))
    with pytest.raises(UserError, match=r"made for a model of model type bert, .* model type xlm-roberta"):
        load(tmp_path, tiny_backbone("xlm_roberta"))
    describe(tmp_path, lambda content: content.pop("model_type"))
    load(tmp_path, tiny_backbone("xlm_roberta"))


def test_another_hidden_size(tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    with pytest.raises(UserError, match=r"hidden size 16, .*hidden size 32"):
        load(tmp_path, tiny_backbone("bert", hidden_size=32))


def test_a_missing_tensor_and_one_too_many(tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    rewrite(tmp_path, lambda name: name.replace("adapter_up.bias", "adapter_out.bias"))
    with pytest.raises(
        UserError, match=r"missing encoder.layer.0.\S*adapter_up.bias.* unexpected encoder.layer.0.\S*adapter_out"
    ):
        load(tmp_path)


def test_more_layers_than_the_backbone_has(tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path, tiny_backbone("bert", num_hidden_layers=3))
    with pytest.raises(UserError, match=r"unexpected encoder.layer.2"):
        load(tmp_path)


def test_another_bottleneck_size_than_described(tmp_path: Path) -> None:
    save(SEQ_BN, tmp_path)
    describe(tmp_path, lambda content: content["config"].update(reduction_factor=8))
    with pytest.raises(UserError, match=r"of another size .*adapter_down.0.weight"):
        load(tmp_path)


# ---- what is read: descriptions of all times


def described(config: Any, tmp_path: Path, **more: Any) -> Method:
    """The method of a folder with this config."""
    content = {"config": config, "name": "a", "model_type": "bert", "hidden_size": 16, "version": "3.0.0", **more}
    (tmp_path / "adapter_config.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return method_of_folder(tmp_path)


def adapter(**fields: Any) -> Bottleneck:
    return Bottleneck(name="adapterhub", **fields)


HOULSBY = {"places": ["attention", "output"], "activation": "swish", "reads_norm": False}
PARALLEL = {"parallel": True, "reduction_factor": 2.0, "reads_norm": False, "initialisation": "zero_up"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("pfeiffer", adapter()),
        ("seq_bn", adapter()),
        ("pfeiffer+inv", adapter(invertible=True)),
        ("seq_bn_inv", adapter(invertible=True)),
        ("houlsby", adapter(**HOULSBY)),
        ("double_seq_bn", adapter(**HOULSBY)),
        ("houlsby+inv", adapter(**HOULSBY, invertible=True)),
        ("parallel", adapter(**PARALLEL, scaling=4.0)),
        ("scaled_parallel", adapter(**PARALLEL, learned_scaling="scalar")),
        ('seq_bn[reduction_factor=2, non_linearity="gelu"]', adapter(reduction_factor=2.0, activation="gelu")),
        ("par_bn [scaling=2.5]", adapter(**PARALLEL, scaling=2.5)),
        (
            'seq_bn[leave_out=[0, 5], reduction_factor={"1": 2, "default": 8}]',
            adapter(leave_out=[0, 5], reduction_factor=8.0, layer_reduction_factors={"1": 2.0}),
        ),
        ("seq_bn[ln_before=True, residual_before_ln=False]", adapter(norm_before=True, residual="input")),
        ('seq_bn[non_linearity="LeakyReLU"]', adapter(activation="leaky_relu")),
        ("seq_bn[leave_out=[-1, 0]]", adapter(leave_out=[0])),  # -1 leaves nothing out in AdapterHub
    ],
)
def test_configs_by_name(config: str, expected: Bottleneck, tmp_path: Path) -> None:
    assert described(config, tmp_path) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("prefix_tuning|par_bn", "union of several kinds"),
        ({"architecture": "union", "configs": [{"architecture": "lora"}]}, "union of several kinds"),
        ("pfeifer", "Did you mean pfeiffer"),
        ("compacter", "configs that xlt reads are: double_seq_bn"),
        (None, "configs that xlt reads are"),
        ("seq_bn[2]", "not a list of key=value"),
        ("seq_bn[reduction_factor]", "not a list of key=value"),
        ("seq_bn[reduction_factor=]", "not a list of key=value"),
        ("seq_bn[reduction_factor=__import__('os').getpid()]", "not a list of key=value"),
        ("seq_bn[reduction_factor=2", "configs that xlt reads are"),
        ({"architecture": "reft"}, "kind reft"),
        ({"mh_adapter": False, "output_adapter": True}, "reduction_factor and its non_linearity"),
        ('seq_bn[non_linearity="prelu"]', "activation prelu"),
        ('seq_bn[scaling="often"]', "scaling=often"),
        ("seq_bn[phm_layer=True]", "phm_layer=True"),
        ('seq_bn[inv_adapter="glow"]', "not glow"),
    ],
)
def test_configs_that_are_refused(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        described(config, tmp_path)


@pytest.mark.parametrize(
    ("version", "written", "expected"),
    [(None, "gelu", "gelu_new"), (None, "gelu_orig", "gelu"), (None, "relu", "relu"), ("2.0.0", "gelu", "gelu")],
)
def test_activations_of_files_without_a_version(version: str | None, written: str, expected: str, tmp_path: Path) -> None:
    config = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 16, "non_linearity": written}
    assert described(config, tmp_path, version=version).activation == expected


def old_name(name: str) -> str:
    """As adapter-transformers 1.x called a tensor."""
    for new, old in (
        ("attention.output.adapters.", "attention.output.attention_text_lang_adapters."),
        (".output.adapters.", ".output.layer_text_lang_adapters."),
        ("invertible_adapters.", "invertible_lang_adapters."),
    ):
        name = name.replace(new, old)
    return name


@as_either_file
def test_a_file_of_the_first_version(kind: str, tmp_path: Path) -> None:
    """Other names, a nested config of the invertible adapter, another word for the activation."""
    method = Bottleneck(places=["attention", "output"], reduction_factor=4, activation="gelu_new", invertible=True)
    expected = save(method, tmp_path)
    rewrite(tmp_path, old_name, kind)

    def as_then(content: dict[str, Any]) -> None:
        nested = {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2}
        content["config"] = {
            "original_ln_before": True, "original_ln_after": True, "residual_before_ln": True, "ln_before": False,
            "ln_after": False, "mh_adapter": True, "output_adapter": True, "non_linearity": "gelu", "reduction_factor": 4,
            "adapter_residual_before_ln": False, "attention_type": "sent-lvl-dynamic", "invertible_adapter": nested,
        }  # fmt: skip
        content["type"] = "text_lang"
        del content["version"]

    describe(tmp_path, as_then)
    assert torch.equal(hidden_states(load(tmp_path)[0]), expected)


@pytest.mark.parametrize("version", [None, "adapters.1.3.0"])
def test_a_task_adapter_that_declares_an_invertible_adapter_without_having_one(version: str | None, tmp_path: Path) -> None:
    expected = save(SEQ_BN, tmp_path)

    def as_then(content: dict[str, Any]) -> None:
        content["config"].update(
            inv_adapter="nice", inv_adapter_reduction_factor=2, non_linearity="gelu_orig" if version is None else "gelu"
        )
        content["type"] = "text_task"
        del content["version"]
        content |= {"version": version} if version else {}

    describe(tmp_path, as_then)
    assert torch.equal(hidden_states(load(tmp_path)[0]), expected)
    describe(tmp_path, lambda content: content.update(type="text_lang"))
    with pytest.raises(UserError, match="missing invertible_adapters"):
        load(tmp_path)


def test_a_task_adapter_that_has_its_invertible_adapter(tmp_path: Path) -> None:
    expected = save(SEQ_BN_INV, tmp_path)
    describe(tmp_path, lambda content: content.update(type="text_task"))
    assert torch.equal(hidden_states(load(tmp_path)[0]), expected)


# ---- what is read: fusion


def test_fusion_layers_that_no_adapter_needs_are_passed_over(tmp_path: Path) -> None:
    """AdapterHub makes them in every layer, also in those that the members leave out."""
    trained, loaded = tiny_backbone("bert"), tiny_backbone("bert")
    member = Bottleneck(reduction_factor=4, leave_out=[0])
    method = fused(tmp_path, member, member, backbone=trained)
    path = tmp_path / "member_0,member_1" / "model_adapter_fusion.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name.replace("layer.1.", "layer.0."): tensor + 1 for name, tensor in tensors.items()}, path)
    method.load(loaded, tmp_path)
    assert torch.equal(hidden_states(loaded), hidden_states(trained))


@pytest.mark.parametrize("changes", [{"temperature": True}, {"query": False}, {"key": False}, {"residual_before": True}])
def test_fusions_that_are_refused(changes: dict[str, bool]) -> None:
    with pytest.raises(UserError, match=f"does not compute fusion layers with {next(iter(changes))}"):
        Fusion.from_adapterhub({"value": True, **changes}, ["a", "b"])


@pytest.mark.parametrize(
    "setup",
    [
        {"type": "Stack", "children": [{"type": "single", "children": ["a"]}]},
        {"type": "Fuse", "children": [{"type": "Stack", "children": [{"type": "single", "children": ["a"]}]}]},
    ],
)
def test_setups_that_are_no_fusion_of_adapters(setup: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "adapter_setup.json").write_text(json.dumps({"adapter_setup": setup}))
    with pytest.raises(UserError, match="not the setup of a fusion over adapters alone"):
        Fusion(members=["a", "b"]).load(tiny_backbone("bert"), tmp_path)


@torch.no_grad()
def test_a_setup_that_adapterhub_wrote(shared: Path) -> None:
    case = shared / "golden" / "bert_fuse"
    base = json.loads((case / "case.json").read_text())["base_dir"]
    backbone = Backbone(BertForMaskedLM.from_pretrained(case / base).eval(), None, anatomy_of("bert"))
    Fusion(members=["a", "b"]).load(backbone, case / "setup")
    inputs, expected = load_file(case / "inputs.safetensors"), load_file(case / "outputs.safetensors")["last_hidden_state"]
    real = inputs["attention_mask"] == 1
    found = backbone.hidden_states(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(found[real], expected[real], atol=2e-5, rtol=0)
