"""What other libraries computed and stored: the same files on the same backbone have to give the same numbers.

The cases are run by scripts/check_golden.py; that it sees every deviation is tested here, too, on a pack that xlt writes itself.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import IDS, MASK, SHARED, shaken, tiny_backbone
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from xlt.backbones.backbone import Backbone
from xlt.backbones.checkpoints import named_as_stored, read_description
from xlt.errors import UserError
from xlt.methods.averaging import average_parameters
from xlt.methods.bottleneck import Bottleneck, BottleneckModule
from xlt.random import generator

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "check_golden.py"
SEQ_BN_INV = Bottleneck(name="seq_bn_inv", reduction_factor=4, invertible=True)
OF_XLT = {"inverse_at_head", "gate_over_padding"}  # what AdapterHub's library has no choice of
WITHOUT_EFFECT = {"cross_prefix"}  # of decoders behind an encoder
OPTIMIZER = {"class": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "steps": 2}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_golden", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module  # where dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


golden = load_script()


# ---- the peers' cases


def cases() -> list[Path]:
    """The cases that are here; one that says so where none is."""
    return sorted(path.parent for path in (SHARED / "golden").glob("*/case.json")) or [SHARED / "golden" / "none"]


@pytest.mark.parametrize("folder", cases(), ids=lambda folder: folder.name)
def test_a_case(folder: Path, shared: Path) -> None:
    kind, description = golden.describe(folder)
    result = golden.check_case(folder, kind, description)
    if kind in golden.NOT_COMPUTED:
        assert not result.passed and f"xlt does not compute cases of this kind, {kind}" in result.problem
    else:
        assert result.passed, golden.row(result, 0)


def loadable(folder: Path) -> bool:
    """Whether xlt loads the modules of a case as they are stored."""
    kind, description = golden.describe(folder)
    return kind not in golden.NOT_COMPUTED and "adapters" in description and "load_kwargs" not in description


@pytest.mark.parametrize("folder", list(filter(loadable, cases())), ids=lambda folder: folder.name)
def test_what_is_stored_has_the_same_form(folder: Path, shared: Path, tmp_path: Path) -> None:
    """The description that xlt writes says of a module what the peer's says, and the module has as many parameters."""
    _, description = golden.describe(folder)
    for name, module in golden.Case(folder, description, []).modules.items():
        count = sum(parameter.numel() for parameter in module.parameters().values())
        assert count == description["adapters"][name]["n_params"]
        peer = read_description(folder / description["adapters"][name]["dir"])
        without_inverse = isinstance(module, BottleneckModule) and module.invertible is None
        if "version" not in peer or (without_inverse and peer["config"]["inv_adapter"]):
            continue  # in the old format; or it says that it has an invertible adapter, which it lacks
        (tmp_path / name).mkdir()
        getattr(module, "save_for_adapterhub", module.save)(tmp_path / name)
        written = read_description(tmp_path / name)
        assert written["config"].keys() - peer["config"].keys() <= OF_XLT
        compared = (written["config"].keys() & peer["config"].keys()) - WITHOUT_EFFECT
        assert {key: written["config"][key] for key in compared} == {key: peer["config"][key] for key in compared}
        for key in ("hidden_size", "model_type", "version"):
            assert written[key] == peer[key]


# ---- a pack of xlt's own


def outputs(backbone: Backbone) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        output = backbone.model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    states = {f"hidden_states.{number}": state for number, state in enumerate(output.hidden_states)}
    return {**states, "last_hidden_state": output.hidden_states[-1], "logits": output.logits}


def masked_loss(backbone: Backbone) -> torch.Tensor:
    logits = backbone.model(input_ids=IDS, attention_mask=MASK).logits
    return cross_entropy(logits[MASK == 1], IDS[MASK == 1])


def train(backbone: Backbone, module: BottleneckModule, folder: Path) -> dict[str, torch.Tensor]:
    """Take two steps; gradients before, losses, and the module in `trained_lang`."""
    masked_loss(backbone).backward()
    named = named_as_stored(module.parameters(), backbone, "lang")
    gradients = {f"grad.{name}": parameter.grad.clone() for name, parameter in named.items()}
    options = {key: value for key, value in OPTIMIZER.items() if key not in ("class", "steps")}
    optimizer = torch.optim.AdamW(module.parameters().values(), **options)
    losses = []
    for _ in range(OPTIMIZER["steps"]):
        optimizer.zero_grad()
        losses.append(masked_loss(backbone))
        losses[-1].backward()
        optimizer.step()
    losses.append(masked_loss(backbone))
    (folder / "trained_lang").mkdir()
    module.save(folder / "trained_lang")
    return {**gradients, "loss": losses[0], "step_losses": torch.stack(losses)}


@pytest.fixture(scope="session")
def own_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with an adapter, as it is and trained, as a peer would write them down."""
    pack = tmp_path_factory.mktemp("golden")
    tiny_backbone("bert").model.save_pretrained(pack / "_bases" / "bert")
    for name in ("plain", "trained"):
        backbone = tiny_backbone("bert")
        module = shaken(SEQ_BN_INV.create(backbone, generator(0)))
        (pack / name / "lang").mkdir(parents=True)
        module.save(pack / name / "lang")
        single = {"type": "single", "children": ["lang"]}
        description = {
            "produced_by": {"xlt": "0"}, "model_type": "bert", "base_class": "BertForMaskedLM", "peer_class": "BertForMaskedLM",
            "base_dir": "../_bases/bert", "adapters": {"lang": {"dir": "lang", "config": {}}}, "head": "the model's own",
            "composition": {"type": "Stack", "children": [single]}, "inverse_applied_at_head": True, "suggested_atol": 2e-5,
        }  # fmt: skip
        inputs, expected = {"input_ids": IDS, "attention_mask": MASK}, outputs(backbone)
        if name == "trained":
            description |= {"trained_adapter": "lang", "optimizer": OPTIMIZER}
            inputs["labels"] = IDS.masked_fill(MASK == 0, -100)
            expected |= train(backbone, module, pack / name)
        (pack / name / "case.json").write_text(json.dumps(description))
        save_file(inputs, pack / name / "inputs.safetensors")
        save_file({key: tensor.detach().clone() for key, tensor in expected.items()}, pack / name / "outputs.safetensors")
    return pack


@pytest.fixture
def pack(own_pack: Path, tmp_path: Path) -> Path:
    """A copy that can be tampered with."""
    return Path(shutil.copytree(own_pack, tmp_path / "pack"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The script as it is typed; its exit status, or the message that it ends with."""
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        golden.main()
    return caught.value.code


Change = Callable[[Path], None]


def in_file(name: str, key: str, change: Callable[[torch.Tensor], object]) -> Change:
    """Change a tensor of a file in place."""

    def tamper(case: Path) -> None:
        tensors = load_file(case / name)
        assert key in tensors
        change(tensors[key])
        save_file(tensors, case / name)

    return tamper


def in_outputs(key: str, change: Callable[[torch.Tensor], object]) -> Change:
    return in_file("outputs.safetensors", key, change)


def in_description(**changes: object) -> Change:
    def tamper(case: Path) -> None:
        description = json.loads((case / "case.json").read_text())
        (case / "case.json").write_text(json.dumps({**description, **changes}))

    return tamper


def with_outputs(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Change which outputs there are."""

    def tamper(case: Path) -> None:
        tensors = load_file(case / "outputs.safetensors")
        change(tensors)
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, case / "outputs.safetensors")

    return tamper


def test_the_pack_agrees(pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, pack) == 0
    table = capsys.readouterr().out
    assert "2 of 2 cases agree" in table and "FAILED" not in table
    assert run(monkeypatch, pack / "plain") == 0
    assert "1 of 1 cases agree" in capsys.readouterr().out


LAST_REAL = (1, int(MASK[1].sum()) - 1)
GRADIENT = "grad.bert.encoder.layer.0.output.adapters.lang.adapter_up.weight"
WEIGHT = "bert.encoder.layer.0.output.adapters.xlt.adapter_up.weight"


@pytest.mark.parametrize(
    ("case", "tamper", "told"),
    [
        ("plain", in_outputs("hidden_states.1", lambda tensor: tensor[LAST_REAL][3].add_(1e-3)), "differ, most hidden_states.1"),
        ("plain", in_outputs("logits", lambda tensor: tensor[LAST_REAL][3].add_(1e-3)), "2 of 6 differ, most logits"),
        ("plain", in_outputs("hidden_states.1", lambda tensor: tensor[LAST_REAL].fill_(torch.nan)), "most hidden_states.1"),
        ("plain", with_outputs(lambda them: them.update(logits=them["logits"][:, :, 1:])), "its shape is"),
        ("plain", with_outputs(lambda them: them.update({"hidden_states.9": them["logits"]})), "compares hidden_states.9"),
        ("plain", with_outputs(lambda them: them.update(atention=them["logits"])), "nothing compares atention"),
        ("plain", with_outputs(lambda them: them.clear()), "no outputs to compare"),
        ("plain", lambda case: (case / "outputs.safetensors").unlink(), "no outputs.safetensors"),
        ("plain", in_file("lang/adapter.safetensors", WEIGHT, lambda tensor: tensor[0, 0].add_(0.1)), "differ, most"),
        ("plain", lambda case: (case / "lang" / "adapter.safetensors").unlink(), "holds no weights"),
        ("plain", lambda case: (case / "case.json").unlink(), "case.json cannot be used (FileNotFoundError"),
        ("plain", lambda case: (case / "case.json").write_text("{"), "case.json cannot be used (JSONDecodeError"),
        ("plain", in_description(adapters={"lang": {"dir": "lang", "config": {"architecture": "reft"}}}), "of this kind, reft"),
        ("plain", in_description(composition={"type": "Split", "children": []}), "xlt has no composition Split"),
        ("plain", in_description(base_dir="../_bases/gone"), "the case's model is not there"),
        ("plain", in_description(base_class="BertForMaskedML"), "transformers has no model class BertForMaskedML"),
        ("plain", in_description(base_class="BertForSequenceClassification"), "lacks weights of a BertForSequenceClassification"),
        ("plain", in_description(inverse_applied_at_head=False), "inverse_applied_at_head=False, but"),
        ("plain", in_description(produced_by={"adapters": "1.3.0"}), "inverse_applied_at_head=True, but"),
        ("plain", in_file("inputs.safetensors", "attention_mask", lambda tensor: tensor.zero_()), "there is no position of"),
        ("trained", in_outputs(GRADIENT, lambda tensor: tensor.mul_(1.0005)), f"1 of 40 differ, most {GRADIENT}"),
        ("trained", in_outputs("loss", lambda tensor: tensor.add_(1e-3)), "1 of 40 differ, most loss"),
        ("trained", in_outputs("step_losses", lambda tensor: tensor[-1].mul_(1.0005)), "1 of 40 differ, most step_losses"),
        ("trained", in_file("trained_lang/adapter.safetensors", WEIGHT, lambda tensor: tensor[0, 0].add_(1e-3)), "most trained"),
        ("trained", lambda case: shutil.rmtree(case / "trained_lang"), "has no adapter_config.json"),
        ("trained", in_description(optimizer={**OPTIMIZER, "weight_decay": 1.0}), "differ, most trained"),
        ("trained", in_description(optimizer={**OPTIMIZER, "class": "torch.optim.SGD"}), "torch.optim.SGD"),
        ("trained", with_outputs(lambda them: them.update({"grad.bert.xx": them["loss"]})), "nothing compares grad.bert.xx"),
    ],
)  # fmt: skip
def test_a_deviation_is_seen(
    case: str, tamper: Change, told: str, pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails its case, says why in one line, and leaves the other case alone."""
    tamper(pack / case)
    assert run(monkeypatch, pack) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith(f"{case} ")]
    assert " FAILED " in line and told in line
    assert lines[-2:] == ["1 of 2 cases agree.", f"FAILED: {case}"]


def test_padding_is_not_compared(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_outputs("hidden_states.1", lambda tensor: tensor[LAST_REAL[0], LAST_REAL[1] + 1].add_(1.0))(pack / "plain")
    assert run(monkeypatch, pack) == 0


def test_the_case_s_own_tolerance(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_outputs("hidden_states.1", lambda tensor: tensor[LAST_REAL][3].add_(1e-3))(pack / "plain")
    in_description(suggested_atol=2e-3)(pack / "plain")
    assert run(monkeypatch, pack) == 0


def test_kinds(pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, pack, "--kinds", "training") == 0
    shown = capsys.readouterr().out
    assert "1 of 1 cases agree. 1 cases of other kinds were not asked for." in shown and "plain" not in shown
    assert run(monkeypatch, pack, "--kinds", "training,bottleneck", "lora") == 0
    shown = capsys.readouterr().out
    assert "2 of 2 cases agree." in shown and "Of these kinds there is no case: lora." in shown
    (pack / "trained" / "case.json").write_text("{}")
    assert run(monkeypatch, pack, "--kinds", "bottleneck") == 1, "a case of which nobody can say what kind it is"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kinds", "botleneck"], "Did you mean bottleneck"),
        (["--kinds", "training,loar"], "Did you mean lora"),
        (["--kinds", "fusion"], "holds no case of the kinds fusion. Its cases are of the kinds: bottleneck, training."),
    ],
)
def test_kinds_that_there_are_not(arguments: list[str], told: str, pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told in str(run(monkeypatch, pack, *arguments))


def test_folders_without_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not a folder" in str(run(monkeypatch, tmp_path / "gone"))
    assert "holds no cases" in str(run(monkeypatch, tmp_path))
    (tmp_path / "_bases").mkdir()
    assert "holds no cases" in str(run(monkeypatch, tmp_path))


@pytest.mark.parametrize("kind", golden.NOT_COMPUTED)
def test_kinds_that_are_not_computed_fail(
    kind: str, pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pack / "other").mkdir()
    (pack / "other" / "case.json").write_text(json.dumps({"peer_class": "sft.SFT"}))
    if kind == "composable_sft":
        (pack / "other" / "pytorch_diff.bin").touch()
    for arguments in ([], ["--kinds", kind]):
        assert run(monkeypatch, pack, *arguments) == 1
        assert f"xlt does not compute cases of this kind, {kind}" in capsys.readouterr().out


# ---- averages of parameters


def module(seed: int, **changes: object) -> BottleneckModule:
    backbone = tiny_backbone("bert", **changes)
    return shaken(SEQ_BN_INV.create(backbone, generator(seed)), seed)


def test_an_average_of_parameters() -> None:
    """Σ w θ / Σ w, the invertible adapter's included."""
    first, second = module(1), module(2)
    averaged = average_parameters([first, second], [3.0, 1.0])
    assert any("invertible" in name for name in averaged)
    assert averaged.keys() == first.parameters().keys()
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, 0.75 * first.parameters()[name] + 0.25 * second.parameters()[name])
        assert not tensor.requires_grad


def test_averages_that_there_are_not() -> None:
    with pytest.raises(UserError, match="as many weights"):
        average_parameters([module(1), module(2)], [1.0])
    with pytest.raises(UserError, match="a sum above 0"):
        average_parameters([module(1), module(2)], [1.0, -1.0])
    with pytest.raises(UserError, match=r"differ in encoder\.layer\.0\.output.* and \d+ more"):
        average_parameters([module(1), module(2, hidden_size=32)], [1.0, 1.0])
