"""Runs with `method=fusion`: what the members are, on what the fusion layers are trained, and which of them are evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import tiny_experiment
from safetensors.torch import load_file
from test_bad_input import complaint, replaced
from test_pipeline import made, run

import xlt
from xlt import cli
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.methods.fusion import FusionModule
from xlt.record import Record
from xlt.steps.composition import Composition
from xlt.steps.language_module import LanguageModuleStep

MEMBERS = 'method.members=["method=seq_bn","lang=yo method=seq_bn_inv"]'
FUSION = ["method=fusion", MEMBERS]
FAST = ["train.language.loop.learning_rate=0.05", "train.task.learning_rate=0.05"]  # so that a few steps can be seen


@pytest.fixture(scope="module")
def fused(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Record]:
    """A run whose fusion layers are trained with the task: what was typed, and its record."""
    typed = [*tiny_experiment(world, tmp_path_factory.mktemp("fused")), *FUSION, *FAST]
    return typed, xlt.run(*typed)


def experiment(*typed: str) -> Experiment:
    return Experiment.from_config(cli.compose(typed))


def fusion_step(*typed: str) -> LanguageModuleStep:
    return experiment(*typed).evaluations[0].language_module


def folders(record: Mapping, *typed: str) -> dict[str, Path]:
    """Where the artifacts of a run's modules are: `member0`, `member1`, `language_module`, `task_module`."""
    store, task_module = Path(record["store"]), experiment(*typed).evaluations[0].task_modules[0]
    fusion = task_module.language_module
    steps = {**{f"member{number}": step for number, step in enumerate(fusion.members)}, "language_module": fusion}
    steps["task_module"] = task_module
    return {name: next(store.glob(f"{step.kind}/*-{step.fingerprint[:16]}")) for name, step in steps.items()}


def opened(record: Record) -> Composition:
    """What `xlt.load` answers with."""
    predictor = xlt.load(record)
    return predictor._step.open_composition(predictor._artifacts, torch.device("cpu"))


def layers(setup: Path) -> dict[str, torch.Tensor]:
    """The fusion layers of a stored fusion, by what stands behind the layer's name: `0.query.weight`."""
    stored = load_file(setup / "member_0,member_1" / "model_adapter_fusion.safetensors")
    return {f"{name.split('.layer.')[1][0]}.{'.'.join(name.split('.')[-2:])}": tensor for name, tensor in stored.items()}


def same_tensors(first: Path, second: Path) -> bool:
    one, other = load_file(first / "adapter.safetensors"), load_file(second / "adapter.safetensors")

    def plain(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # without the module's own name
        return {".".join(part for part in name.split(".") if part not in ("xlt", "member_0", "member_1")): tensor
                for name, tensor in stored.items()}  # fmt: skip

    one, other = plain(one), plain(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- the graph


def test_members_are_the_modules_of_runs_of_their_own(overrides: list[str]) -> None:
    fusion = fusion_step(*overrides, *FUSION)
    alone = [fusion_step(*overrides, "method=seq_bn"), fusion_step(*replaced(overrides, lang="yo"), "method=seq_bn_inv")]
    assert [member.fingerprint for member in fusion.members] == [step.fingerprint for step in alone]


def test_each_member_stands_in_the_plan_once(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    typed = [*overrides, "method=fusion", 'method.members=["method=seq_bn","lang=yo","method=seq_bn"]', "plan=true"]
    shown, _ = run(typed, capsys)
    modules = [line.split()[1] for line in shown.splitlines() if line.startswith("language_module ")]
    assert modules == ["bert-seq_bn-text-mt", "bert-seq_bn_inv-text-yo", "bert-fusion-mt-of3"]


def test_a_member_differs_from_the_run_in_what_it_names(overrides: list[str], world: Path) -> None:
    """The language and the settings of training are the run's; the method is seq_bn_inv unless it is named."""
    typed = [*overrides, "language.seed=3", "train.language.mask_probability=0.3", "method=fusion"]
    members = ["language.seed=1", f"data.path={world}/text/yo.txt method.reduction_factor=2"]
    fusion = fusion_step(*typed, f"method.members={json.dumps(members)}")
    first, second = fusion.members
    assert (first.seed, second.seed) == (1, 3)
    assert [member.method.name for member in fusion.members] == ["seq_bn_inv"] * 2
    assert (first.method.reduction_factor, second.method.reduction_factor) == (16, 2)
    assert {member.language.key for member in fusion.members} == {"mt"}
    assert [member.tokens[0].text.corpus.path for member in fusion.members] == [
        f"{world}/text/{name}.txt" for name in ("@lang", "yo")
    ]
    assert {member.training.mask_probability for member in fusion.members} == {0.3}


def test_the_fingerprint_knows_members_not_their_spelling(overrides: list[str]) -> None:
    said = ["lang=yo method=seq_bn_inv", "method=seq_bn lang=mt"]
    fusion, again, turned = (
        fusion_step(*overrides, "method=fusion", f"method.members={json.dumps(members)}")
        for members in (said, ["method=seq_bn_inv lang=yor", "method=seq_bn"], said[::-1])
    )
    assert fusion.fingerprint == again.fingerprint
    assert fusion.fingerprint != turned.fingerprint, "the last member's norm is what the others read"


# ---- what is trained


def test_the_evaluated_layers_were_trained_with_the_task(fused: tuple[list[str], Record]) -> None:
    typed, record = fused
    found = folders(record, *typed)
    beginning, trained = layers(found["language_module"]), layers(found["task_module"] / "language_module")
    assert beginning.keys() == trained.keys()
    assert all(not torch.equal(beginning[name], trained[name]) for name in trained if name.endswith("value.weight"))
    assert record["training"].keys() == {"task_module"}
    module = opened(record).backbone.modules[2]
    assert isinstance(module, FusionModule)
    loaded = {f"{layer}.{name}": tensor for (layer, _), part in module.layers.items() for name, tensor in part.named_parameters()}
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)


def test_members_are_used_as_they_were(fused: tuple[list[str], Record]) -> None:
    typed, record = fused
    found = folders(record, *typed)
    for number in range(2):
        for holder in (found["language_module"], found["task_module"] / "language_module"):
            assert same_tensors(found[f"member{number}"], holder / f"member_{number}")


@torch.no_grad()
def test_the_score_is_that_of_the_trained_layers(fused: tuple[list[str], Record], world: Path) -> None:
    """A loaded run answers as the one that was scored; with the fusion layers as they began it does not."""
    typed, record = fused
    rows = [json.loads(line)["probabilities"]["kiki"] for line in record.predictions_path.read_text().splitlines()]
    file = world / "mirror" / "tiny" / "topics" / "data" / "mlt_Latn" / "test.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert [answer["probabilities"]["kiki"] for answer in xlt.load(record).predict(texts)] == pytest.approx(rows, abs=1e-6)
    composition, beginning = opened(record), layers(folders(record, *typed)["language_module"])
    for (layer, _), part in composition.backbone.modules[2].layers.items():
        for name, parameter in part.named_parameters():
            parameter.copy_(beginning[f"{layer}.{name}"])
    others = [answer["probabilities"]["kiki"] for answer in composition.predict([{"text": text} for text in texts])]
    assert max(abs(one - other) for one, other in zip(rows, others, strict=True)) > 1e-5


def test_a_second_run_is_all_from_the_store(fused: tuple[list[str], Record], capsys: pytest.CaptureFixture[str]) -> None:
    typed, _ = fused
    capsys.readouterr()
    _, said = run(typed, capsys)
    assert made(said) == []
    _, said = run([*[text for text in typed if not text.startswith("method")], "method=seq_bn"], capsys)
    assert made(said) == ["task_module", "evaluation"], "a run of the member alone has its module already"


def test_layers_trained_on_text(fused: tuple[list[str], Record], capsys: pytest.CaptureFixture[str]) -> None:
    typed = [*fused[0], "method.trained_on=text"]
    _, said = run(typed, capsys)
    assert made(said) == ["language_module", "task_module", "evaluation"], "the members are there"
    found, beginning = folders(fused[1], *typed), layers(folders(fused[1], *fused[0])["language_module"])
    trained = layers(found["language_module"])
    assert all(not torch.equal(trained[name], beginning[name]) for name in trained if name.endswith("value.weight"))
    assert not (found["task_module"] / "language_module").exists()
    assert (found["language_module"] / "training.json").is_file()
    assert all(same_tensors(found[f"member{number}"], found["language_module"] / f"member_{number}") for number in range(2))


def test_layers_trained_on_nothing(fused: tuple[list[str], Record], capsys: pytest.CaptureFixture[str]) -> None:
    """They are evaluated as they begin: W_v the identity, keys and queries close to 0."""
    typed = [*fused[0], "method.trained_on=nothing"]
    _, said = run(typed, capsys)
    assert made(said) == ["language_module", "task_module", "evaluation"]
    found = folders(fused[1], *typed)
    assert not (found["task_module"] / "language_module").exists()
    for name, tensor in layers(found["language_module"]).items():
        if name.endswith("value.weight"):
            torch.testing.assert_close(tensor, torch.eye(16), atol=1e-6, rtol=0)
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            assert 0 < tensor.abs().max() < 0.1


@pytest.mark.parametrize(
    ("changes", "asked"),
    [([], True), (["method.regularisation=0"], False), (["method.value=false"], False), (["method.trained_on=nothing"], False)],
)
def test_the_penalty_enters_the_loss_of_each_step_that_trains_the_layers(
    changes: list[str], asked: bool, fused: tuple[list[str], Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    penalties: list[torch.Tensor | None] = []
    penalty = FusionModule.penalty

    def observed(module: FusionModule) -> torch.Tensor | None:
        penalties.append(penalty(module))
        return penalties[-1]

    monkeypatch.setattr(FusionModule, "penalty", observed)
    record = xlt.run(*fused[0], *changes, "seed=7")
    assert len(penalties) == record["training"]["task_module"]["steps"]
    assert all(value is not None and value.requires_grad and value > 0 for value in penalties) is asked
    assert any(value is not None for value in penalties) is asked


# ---- what is refused


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([], ["at least two members", "method.members="]),
        (["method=seq_bn"], ["at least two members"]),
        (["method=seq_bn", "method=none"], ["'method=none'", "no language module"]),
        (["method=seq_bn", "method=lora"], ["'method=lora'", "cannot be fused", "method=lora makes no bottleneck adapters"]),
        (["method=prefix_tuning", "method=seq_bn"], ["'method=prefix_tuning'", "cannot be fused"]),
        (["method=seq_bn", "method=seq_bnn"], ["'method=seq_bnn'", "Did you mean seq_bn"]),
        (["method=seq_bn", "methd=seq_bn"], ["'methd=seq_bn'", "methd is not a setting", "method"]),
        (["method=seq_bn", "method.reduction=2"], ["'method.reduction=2'", "method.reduction_factor"]),
        (["method=seq_bn", "lang=xyz"], ["lang=xyz", "paths.languages"]),
        (["method=seq_bn", "data.path=nowhere.txt"], ["nowhere.txt", "no such file"]),
        (["method=seq_bn", "language.path=nowhere"], ["nowhere", "neither a folder here nor"]),
    ],
)
def test_refused_members(
    members: list[str], expected: list[str], overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*overrides, "method=fusion", f"method.members={json.dumps(members)}"]
    said = complaint(typed, capsys, tmp_path / "outputs", may_stay=frozenset())
    for fragment in expected:
        assert fragment in said


def test_a_member_for_another_backbone(
    overrides: list[str], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = ["method=seq_bn", f"model=hf model.path={world}/models/xlm_roberta"]
    said = complaint([*overrides, "method=fusion", f"method.members={json.dumps(members)}"], capsys, tmp_path / "outputs")
    assert "another backbone than the run's, bert" in said


def test_python_refuses_members_too(overrides: list[str]) -> None:
    with pytest.raises(UserError, match="Did you mean seq_bn"):
        xlt.run(*overrides, "method=fusion", 'method.members=["method=seq_bn","method=seq_bnn"]')
