"""Whole runs with sparse modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_kill import CHECKPOINTS, Killed

import xlt
from xlt.methods.differences import Weights
from xlt.methods.sparse import NewSparseModule, SparseModule
from xlt.report.systems import System
from xlt.store import Store
from xlt.training.loop import Trainer

SPARSE = ["method=lt_sft", "task_method=lt_sft", "method.reduction_factor=8", "task_method.reduction_factor=8"]


@pytest.fixture
def beginnings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What each loop begins with: the initial value of everything that is trained in it."""
    found: list[dict[str, torch.Tensor]] = []
    train = Trainer.train

    def kept(self: Trainer) -> Any:
        found.append({name: parameter.detach().clone() for name, parameter in self.parameters.items()})
        return train(self)

    monkeypatch.setattr(Trainer, "train", kept)
    return found


def test_a_run(overrides: list[str], beginnings: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """Two phases each; the heads begin the second one as the first, and the phases have lengths of their own."""
    record = xlt.run(*overrides, *SPARSE, "task_method.dense_epochs=1", "method.dense_steps=4")
    dense_language, sparse_language, dense_task, sparse_task = beginnings
    for dense, sparse in ((dense_language, sparse_language), (dense_task, sparse_task)):
        heads = [name for name in sparse if name.startswith(("head.", "cls."))]
        assert len(heads) >= 2 and all(torch.equal(dense[name], sparse[name]) for name in heads)
    count = {name: sum(parameter.numel() for parameter in trained.values()) for name, trained in
             (("language", sparse_language), ("task", sparse_task))}  # fmt: skip
    assert count["language"] == 2 * 3 * 16 * 16 // 8 + 65 + 16 * 16 + 16
    heads = sum(parameter.numel() for name, parameter in sparse_task.items() if name.startswith("head."))
    assert count["task"] == 2 * 2 * 16 * 16 // 8 + heads
    figures = record["training"]
    assert figures["language_module"]["trainable_parameters"] == count["language"]
    assert (figures["language_module"]["steps"], figures["task_module"]["steps"]) == (4 + 6, 6 + 12)
    folders = {artifact.manifest["kind"]: artifact.folder for artifact in Store(tmp_path / "outputs" / "store").list()}
    phases = json.loads((folders["language_module"] / "training.json").read_text())["phases"]
    assert [phase["steps"] for phase in phases] == [4, 6]
    answers = xlt.load(record).predict(["ki ba du", "ba ki"])
    assert [set(answer["probabilities"]) for answer in answers] == [{"kiki", "bouba"}] * 2
    assert not (Store(tmp_path / "outputs" / "store").root / ".work").exists() or not any(
        (tmp_path / "outputs" / "store" / ".work").iterdir()
    )


@pytest.mark.parametrize("method", ["fish_mask", "rand_sft", "bitfit"])
def test_the_baselines_run(method: str, overrides: list[str]) -> None:
    size = [] if method == "bitfit" else [f"{name}.reduction_factor=8" for name in ("method", "task_method")]
    record = xlt.run(*overrides, f"method={method}", f"task_method={method}", *size)
    batches = 64 if method == "fish_mask" else 0
    assert record["training"]["language_module"]["steps"] == batches + 6
    assert record["training"]["task_module"]["steps"] == batches + 12


@pytest.mark.parametrize(
    "choices",
    [["method=seq_bn_inv", *SPARSE[1::2]], ["method=lt_sft", "task_method=seq_bn"], ["method=lt_sft", "task_method=lora"]],
    ids=["lt_sft_on_adapters", "adapters_on_lt_sft", "lora_on_lt_sft"],
)
def test_it_goes_with_other_methods(choices: list[str], overrides: list[str]) -> None:
    record = xlt.run(*overrides, *choices, *([SPARSE[2]] if "method=lt_sft" in choices else []))
    assert 0 <= record["metrics"]["macro_f1"] <= 1


def test_a_module_of_the_store_is_ready_made_for_others(overrides: list[str], tmp_path: Path) -> None:
    record = xlt.run(*overrides, *SPARSE)
    folders = {artifact.manifest["kind"]: artifact.folder for artifact in Store(tmp_path / "outputs" / "store").list()}
    again = xlt.run(*overrides, *SPARSE[1::2], f"language.path={folders['language_module']}", f"paths.store={tmp_path}/other")
    assert again["metrics"] == record["metrics"]


@pytest.mark.parametrize(
    ("selection", "kill_at"),
    [("magnitude", 5), ("magnitude", 7), ("magnitude", 20), ("magnitude", 30), ("fisher", 5), ("fisher", 20)],
)
def test_a_run_that_was_killed_in_either_phase_equals_an_undisturbed_one(
    selection: str, kill_at: int, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of a run are 6 and 6 of the language, 12 and 12 of the task."""
    command = [*(text for text in overrides if not text.startswith("paths.outputs=")), *SPARSE, *CHECKPOINTS]
    command += [f"method.selection={selection}", f"task_method.selection={selection}"]
    step, steps, begun = Trainer._step, [0], []
    expected = xlt.run(*command, f"paths.outputs={tmp_path}/calm")

    def fragile(self: Trainer, *given: Any) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == kill_at:
            raise Killed
        return step(self, *given)

    begin = NewSparseModule.begin
    monkeypatch.setattr(Trainer, "_step", fragile)
    monkeypatch.setattr(NewSparseModule, "begin", lambda self, *given: (begun.append(given[0]), begin(self, *given)))
    with pytest.raises(Killed):
        xlt.run(*command, f"paths.outputs={tmp_path}/killed")
    found = xlt.run(*command, f"paths.outputs={tmp_path}/killed")
    assert steps[0] == 36 + 1, "no step but the one that was killed is done twice"
    assert begun.count(0) + begun.count(1) == 5, "only the phase that was killed begins twice"
    assert found["metrics"] == expected["metrics"]
    for kind in ("language_module", "task_module"):
        calm, killed = (
            next(artifact.folder for artifact in Store(tmp_path / name / "store").list(kind)) for name in ("calm", "killed")
        )
        assert (calm / "sparse.safetensors").read_bytes() == (killed / "sparse.safetensors").read_bytes()


@pytest.mark.parametrize("transfer", ["multi_source", "ensemble"])
def test_several_languages_in_a_run(transfer: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of several languages, each with its own language's differences in force; or a task module of each language."""
    in_force: set[frozenset[int]] = set()
    put = Weights.put_in_force

    def noted(self: Weights, shares: dict[SparseModule, float]) -> None:
        in_force.add(frozenset(module.backbone.modules.index(module) for module in shares if module in module.backbone.modules))
        put(self, shares)

    monkeypatch.setattr(Weights, "put_in_force", noted)
    record = xlt.run(*overrides, *SPARSE, f"transfer={transfer}", "source=[mt,yo]")
    assert 0 <= record["metrics"]["macro_f1"] <= 1
    if transfer == "multi_source":
        assert {frozenset({0, 2}), frozenset({1, 2})} <= in_force, "either language with the task"
    else:
        assert {frozenset({0, 1}), frozenset({0, 2})} <= in_force, "the target's language with either task module"


@pytest.mark.long
def test_a_sparse_module_helps_languages_that_the_model_does_not_know(tmp_path: Path) -> None:
    """With as many weights as adapters have and 300 steps in both phases together: the interval of the gain over three seeds is
    above 0 on each of two unseen languages."""
    training = ["train.language.loop.steps=150", "train.language.loop.learning_rate=5e-3"]
    sparse = ["method=lt_sft", "method.reduction_factor=2", *training]
    runs = {
        (method, seed): xlt.run(
            "model=miniature", "data=miniature", "task=mini_topic", "lang=[qad,qbb]", "task_method=seq_bn", "train=miniature",
            "train.task.epochs=12", "device=cpu", f"seed={seed}", f"paths.outputs={tmp_path}", *choices,
        )
        for method, choices in {"none": ["method=none"], "lt_sft": sparse}.items()
        for seed in range(3)
    }  # fmt: skip
    for place in range(2):
        systems = {method: System([runs[method, seed][place] for seed in range(3)]) for method in ("none", "lt_sft")}
        gain = systems["lt_sft"].gain_over(systems["none"])
        assert gain.mean > 0.01 and gain.interval[0] > 0
