"""Adapters that AdapterHub's library wrote and ran: the same files on the same backbone have to give the same numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone
from xlt.methods.bottleneck import Bottleneck, BottleneckModule
from xlt.random import generator
from xlt.tasks.sequence_classification import ClassificationHead

TOLERANCE = {"atol": 2e-5, "rtol": 0.0}
LANGUAGE_MODELS = (
    "bert_seq_bn", "bert_seq_bn_rf16", "bert_leave_out_last", "bert_seq_bn_inv_head", "xlmr_seq_bn", "xlmr_seq_bn_inv_head",
    "llama_seq_bn", "llama_seq_bn_inv_head",
)  # fmt: skip
CLASSIFIERS = ("bert_stack_cls", "xlmr_stack_cls", "llama_stack_cls")


@dataclasses.dataclass
class Case:
    """One case of the collection, set up by xlt."""

    folder: Path
    description: dict[str, Any]
    backbone: Backbone
    modules: list[BottleneckModule]
    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]

    @property
    def real(self) -> torch.Tensor:
        """Positions that are no padding: the others depend on the attention kernel."""
        return self.inputs["attention_mask"] == 1


@pytest.fixture
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    folder = shared / "golden" / request.param
    if not folder.is_dir():
        pytest.skip(f"the case {request.param} is not here: no folder shared/golden/{request.param}")
    description = json.loads((folder / "case.json").read_text())
    anatomy = anatomy_of(description["model_type"].replace("-", "_"))
    model_class = AutoModelForMaskedLM if anatomy.objective == "masked" else AutoModelForCausalLM
    model = model_class.from_pretrained(folder / description["base_dir"], dtype=torch.float32)
    backbone = Backbone(model.eval(), None, anatomy)
    assert description["composition"]["type"] == "Stack"
    leaves = [child["children"][0] for child in description["composition"]["children"]]
    modules = [attach(backbone, folder / description["adapters"][name]["dir"]) for name in leaves]
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    return Case(folder, description, backbone, modules, inputs, outputs)


def attach(backbone: Backbone, folder: Path) -> BottleneckModule:
    """The adapter of a folder as AdapterHub writes it, with the peer's own weights."""
    description = json.loads((folder / "adapter_config.json").read_text())
    config = description["config"]
    assert config["original_ln_before"] and config["original_ln_after"] and config["output_adapter"] and not config["mh_adapter"]
    method = Bottleneck(
        reduction_factor=config["reduction_factor"],
        activation=config["non_linearity"],
        invertible=config["inv_adapter"] == "nice",
        invertible_reduction_factor=config["inv_adapter_reduction_factor"] or 2,
        leave_out=config["leave_out"],
    )
    module = method.create(backbone, generator(0))
    stored = torch.load(folder / "pytorch_adapter.bin", weights_only=True)
    prefix = f"{backbone.model.base_model_prefix}."
    renamed = {key.removeprefix(prefix).replace(f".{description['name']}.", ".xlt."): tensor for key, tensor in stored.items()}
    tensors = module.named_tensors()
    assert renamed.keys() == tensors.keys()
    with torch.no_grad():
        for key, tensor in tensors.items():
            assert tensor.shape == renamed[key].shape
            tensor.copy_(renamed[key])
    return module


@pytest.mark.parametrize("case", [*LANGUAGE_MODELS, *CLASSIFIERS], indirect=True)
@torch.no_grad()
def test_every_layer(case: Case) -> None:
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    states = case.backbone.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(states) == sum(name.startswith("hidden_states.") for name in case.expected)
    for layer, state in enumerate(states):
        torch.testing.assert_close(state[case.real], case.expected[f"hidden_states.{layer}"][case.real], **TOLERANCE)
    last = case.backbone.hidden_states(ids, mask)
    torch.testing.assert_close(last[case.real], case.expected["last_hidden_state"][case.real], **TOLERANCE)


@pytest.mark.parametrize("case", LANGUAGE_MODELS, indirect=True)
@torch.no_grad()
def test_language_head(case: Case) -> None:
    """With an invertible adapter: its inverse stands before the output embedding."""
    assert case.description.get("inverse_applied_at_head", False) == (case.modules[0].invertible is not None)
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    logits = case.backbone.model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[case.real], case.expected["logits"][case.real], **TOLERANCE)
    chosen = case.backbone.language_head(case.backbone.hidden_states(ids, mask)[case.real])  # as training calls it
    torch.testing.assert_close(chosen, case.expected["logits"][case.real], **TOLERANCE)


@pytest.mark.parametrize("case", CLASSIFIERS, indirect=True)
@torch.no_grad()
def test_classification_head(case: Case) -> None:
    """Which token is read, the head's layers, and the loss over a stack of language and task adapter."""
    stored = torch.load(case.folder / case.description["head"]["dir"] / "pytorch_model_head.bin", weights_only=True)
    weights = {f"layers.{key.split('.', 2)[2]}": tensor for key, tensor in stored.items()}
    pooling = "last" if case.backbone.anatomy.objective == "causal" else "first"
    head = ClassificationHead(case.backbone.config.hidden_size, len(weights["layers.4.bias"]), dropout=0.1, pooling=pooling)
    head.load_state_dict(weights)
    hidden = case.backbone.hidden_states(case.inputs["input_ids"], case.inputs["attention_mask"])
    scores = head.eval()(hidden, case.inputs["attention_mask"])
    torch.testing.assert_close(scores, case.expected["logits"], **TOLERANCE)
    loss = torch.nn.functional.cross_entropy(scores, case.inputs["labels"])
    torch.testing.assert_close(loss, case.expected["loss"].reshape(()), **TOLERANCE)


@pytest.mark.parametrize("case", LANGUAGE_MODELS, indirect=True)
def test_what_is_stored_has_the_same_form(case: Case, tmp_path: Path) -> None:
    """The description that xlt writes says of the adapter what the peer's says."""
    case.modules[0].save(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    peer = json.loads((case.folder / "lang" / "adapter_config.json").read_text())
    assert written["config"] == {key: peer["config"][key] for key in written["config"]}
    assert {key: written[key] for key in ("hidden_size", "model_type", "version")} == {
        key: peer[key] for key in ("hidden_size", "model_type", "version")
    }
    count = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter.safetensors").values())
    assert count == case.description["adapters"]["lang"]["n_params"]
