"""The whole path, from text and labels to the record, on tiny random models: what is reused, rebuilt, written and said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import xlt
from xlt import cli
from xlt.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Run the command line, which has to succeed; standard output and error."""
    status = cli.exit_status(arguments)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out, captured.err


def made(said: str) -> list[str]:
    """The kinds of the steps that were made, in order."""
    return re.findall(r"^making (\w+) ", said, re.MULTILINE)


def test_from_text_to_score(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown, said = run(overrides, capsys)
    assert set(made(said)) == {"text", "tokens", "examples", "language_module", "task_module", "evaluation"}
    (path,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    record = json.loads(path.read_text())
    lines = shown.strip().splitlines()
    assert lines[0].startswith(f"score     topics mt seq_bn_inv: macro_f1 {record['metrics']['macro_f1']:.3f} [")
    assert lines[1].startswith("baseline  not in the store yet: ")
    assert "method=none" in lines[1]
    assert lines[2] == f"record    {path}"


def test_several_target_languages(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record for each, as in runs of their own, and the mean."""
    together = [text for text in overrides if text != "lang=mt"] + ["lang=[mt,yo]", "method=none"]
    shown, _ = run(together, capsys)
    records = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "outputs" / "runs").rglob("result.json")}
    assert {name: record["lang"] for name, record in records.items()} == {"mt": "mt", "yo": "yo"}
    scores = [records[name]["metrics"]["macro_f1"] for name in ("mt", "yo")]
    assert f"mean      macro_f1 {sum(scores) / 2:.3f} over 2 languages" in shown
    _, said = run([*overrides, "method=none", "lang=yo"], capsys)
    assert made(said) == [], "the same results"
    both = xlt.run(*together)
    assert [record["metrics"] for record in both] == [records[name]["metrics"] for name in ("mt", "yo")]
    texts = ["ki ba du", "ba ki"]
    answers = [[answer["probabilities"]["kiki"] for answer in xlt.load(record).predict(texts)] for record in both]
    assert answers[0] != answers[1], "each is loaded as what it is"


def test_record_tells_the_whole_story(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(overrides, capsys)
    (path,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    record = json.loads(path.read_text())
    expected = {
        "model": "bert", "method": "seq_bn_inv", "task_method": "seq_bn", "data": "text", "lang": "mt", "task": "topics",
        "transfer": "in_language", "source": None, "source_task": None, "shots": None, "seed": 0, "language_seed": 0,
        "test_size": 40, "metric": "macro_f1",
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert set(record["metrics"]) == {"macro_f1", "accuracy"} == set(record["intervals"])
    for name, (low, high) in record["intervals"].items():
        assert low <= record["metrics"][name] <= high
    kinds = {name.split("/")[0] for name in record["fingerprints"]}
    assert kinds == {"text", "tokens", "backbone", "examples", "language_module", "task_module", "evaluation"}
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in record["fingerprints"].values())
    for role in ("language_module", "task_module"):
        costs = record["training"][role]
        assert costs["trainable_parameters"] > 0
        assert costs["seconds_per_step"] > 0
        assert costs["peak_memory_bytes"] > 0
        assert "energy_joules" in costs
    assert {"created", "device", "threads", "packages", "git", "revisions", "config"} <= record.keys()
    assert record["packages"]["torch"]
    predictions = [json.loads(line) for line in next(tmp_path.rglob("predictions.jsonl")).read_text().splitlines()]
    assert len(predictions) == 40
    right = sum(row["gold"] == row["predicted"] for row in predictions) / 40
    assert right == pytest.approx(record["metrics"]["accuracy"])


def test_the_baseline_stands_beside_the_score(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run([*overrides, "method=none"], capsys)
    shown, _ = run(overrides, capsys)
    assert re.search(r"^baseline  topics mt none: macro_f1 0\.\d+ \[", shown, re.MULTILINE)


def test_axes_that_are_not_used_are_null(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a language module neither text nor its settings matter: the score is found whatever they are."""
    run([*overrides, "method=none"], capsys)
    (path,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    record = json.loads(path.read_text())
    assert record["method"] is record["data"] is record["language_seed"] is None
    other_text = [text for text in overrides if not text.startswith("data")] + ["data=glotcc", "language.seed=5"]
    _, said = run([*other_text, "method=none", "train.language.length=64"], capsys)
    assert made(said) == []


def test_the_same_again_makes_nothing(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = run(overrides, capsys)
    second, said = run(overrides, capsys)
    assert made(said) == []
    assert first == second


def test_another_seed_reuses_the_language_module(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(overrides, capsys)
    _, said = run([*overrides, "seed=1"], capsys)
    assert made(said) == ["task_module", "evaluation"]
    assert "seed 0 → 1" in said


def test_another_task_reuses_the_language_module(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(overrides, capsys)
    _, said = run([*overrides, "task.labels=[bouba,kiki]"], capsys)
    assert made(said) == ["examples", "task_module", "evaluation"]


def test_another_size_rebuilds_the_module_and_says_why(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(overrides, capsys)
    _, said = run([*overrides, "method.reduction_factor=8"], capsys)
    assert made(said) == ["language_module", "task_module", "evaluation"]
    assert "method.reduction_factor 16.0 → 8.0" in said


def test_precision_is_part_of_a_result(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """bf16 computes about the same, keeps parameters in fp32, and is another module than fp32's."""
    from safetensors.torch import load_file

    run(overrides, capsys)
    _, said = run([*overrides, "train.language.loop.precision=bf16", "train.task.precision=bf16"], capsys)
    assert made(said) == ["language_module", "task_module", "evaluation"]
    assert "precision fp32 → bf16" in said
    folders = list((tmp_path / "outputs").glob("store/language_module/*"))
    losses = [json.loads((folder / "training.json").read_text())["best"]["loss"] for folder in folders]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]
    tensors = [load_file(folder / "adapter.safetensors") for folder in folders]
    assert {tensor.dtype for module in tensors for tensor in module.values()} == {torch.float32}


def test_labels_and_machine_settings_change_nothing(
    overrides: list[str], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(overrides, capsys)
    same = ["train.task.checkpoint_seconds=5", "train.task.micro_batch_size=8", "threads=1", "debug=true", "tracker=none"]
    _, said = run([*overrides, *same], capsys)
    assert made(said) == []


def test_two_runs_from_nothing_are_equal(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [text for text in overrides if not text.startswith("paths.outputs")] + [f"paths.outputs={tmp_path}/other"]
    run([*overrides, "threads=1"], capsys)
    run([*other, "threads=1"], capsys)
    for pattern in ("adapter.safetensors", "head.safetensors", "predictions.jsonl", "*.npy"):
        first = {path.relative_to(tmp_path / "outputs"): path.read_bytes() for path in (tmp_path / "outputs").rglob(pattern)}
        second = {path.relative_to(tmp_path / "other"): path.read_bytes() for path in (tmp_path / "other").rglob(pattern)}
        assert first
        assert first == second


def test_damage_is_named_and_mended(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(overrides, capsys)
    module = next((tmp_path / "outputs").glob("store/language_module/*/adapter.safetensors"))
    original = module.read_bytes()
    module.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    _, said = run([*overrides, "seed=1"], capsys)
    assert f"language_module {module.parent.name} is damaged (adapter.safetensors)" in said
    assert made(said) == ["language_module", "task_module", "evaluation"]
    assert module.read_bytes() == original


def test_a_renamed_model_is_still_the_same(
    overrides: list[str], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    run(overrides, capsys)
    shutil.copytree(world / "models" / "bert", tmp_path / "copy")
    renamed = [text for text in overrides if not text.startswith("model.path")] + [f"model.path={tmp_path}/copy"]
    _, said = run(renamed, capsys)
    assert made(said) == []


def test_force_makes_everything_anew(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(overrides, capsys)
    _, said = run([*overrides, "reuse=force"], capsys)
    assert len(made(said)) == 6


@pytest.mark.parametrize("method", ["none", "seq_bn", "full"])
@pytest.mark.parametrize("model", ["bert", "xlm_roberta", "llama"])
def test_methods_and_models(
    method: str, model: str, overrides: list[str], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each method trains, is stored and evaluated on each architecture (decoders by causal language modelling)."""
    run([*overrides, f"method={method}", f"model.path={world}/models/{model}"], capsys)


def test_full_task_module_on_an_adapter(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A method that trains the backbone's own weights leaves the adapters under it alone."""
    run([*overrides, "task_method=full"], capsys)


def test_backbone_from_scratch(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scratch = [
        "model=scratch", "model.languages=[en,yo]", "model.vocabulary_size=120", "model.shape.hidden_size=16",
        "model.shape.num_hidden_layers=1", "model.shape.num_attention_heads=2", "model.shape.intermediate_size=32",
        "model.shape.max_position_embeddings=40", "model.train.length=32", "model.train.loop.steps=4",
    ]  # fmt: skip
    arguments = [text for text in overrides if not text.startswith("model")] + scratch
    _, said = run(arguments, capsys)
    assert made(said).count("text") == 3
    assert {"tokenizer", "backbone"} <= set(made(said))
    _, said = run([*arguments, "method=none"], capsys)
    assert made(said) == ["task_module", "evaluation"]


def test_plan_of_a_sweep_counts_what_is_shared(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = [text for text in overrides if not text.startswith("lang=")]
    sweep += ["-m", "plan=true", "lang=mt,yo", "method=seq_bn,seq_bn_inv", "seed=0,1,2"]
    shown, _ = run(sweep, capsys)
    rows = [line.split() for line in shown.splitlines()]
    runs = {
        kind: sorted(int(row[2]) for row in rows if row and row[0] == kind)
        for kind in ("tokens", "language_module", "task_module")
    }
    assert runs == {"tokens": [6, 6], "language_module": [3, 3, 3, 3], "task_module": [1] * 12}
    assert "4 language modules, 12 task modules" in shown
    assert not list((tmp_path / "outputs" / "store").glob("[!.]*/*")), "a plan makes nothing"


def test_plan_without_network_or_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown, _ = run(["plan=true", "lang=mt", f"paths.outputs={tmp_path}/outputs"], capsys)
    assert "1,190,592" in shown
    assert "unresolved" in shown


def test_plan_says_hit_and_miss(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(overrides, capsys)
    shown, _ = run([*overrides, "plan=true", "method.reduction_factor=8"], capsys)
    state = {line.split()[0]: line.split()[3] for line in shown.splitlines() if len(line.split()) > 3 and line[0] != "1"}
    assert state["text"] == state["tokens"] == state["examples"] == "hit"
    assert state["language_module"] == state["task_module"] == state["evaluation"] == "miss"
    assert "method.reduction_factor 16.0 → 8.0" in shown


def test_sweep_makes_shared_steps_once(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = run([*overrides, "-m", "seed=0,1"], capsys)
    assert made(said).count("language_module") == 1
    assert made(said).count("task_module") == 2
    assert len(list((tmp_path / "outputs" / "sweeps").rglob("result.json"))) == 2


def test_from_python(overrides: list[str], world: Path) -> None:
    record = xlt.run(*overrides, seed=3, train={"task": {"epochs": 1}})
    assert record["seed"] == 3
    assert record.path.is_file()
    answers = xlt.load(record).predict(["ki ba du", "ba ki ki ki ki ki ki ki ki ki"])
    assert [set(answer["probabilities"]) for answer in answers] == [{"kiki", "bouba"}] * 2
    again = xlt.load(record.path).predict(["ba ki ki ki ki ki ki ki ki ki", "ki ba du"])
    for first, second in zip(answers, reversed(again), strict=True):
        assert first["label"] == second["label"]
        assert first["probabilities"]["kiki"] == pytest.approx(second["probabilities"]["kiki"], abs=1e-6)


def test_loaded_predictions_are_those_of_the_record(overrides: list[str], world: Path) -> None:
    """Saving and loading loses nothing, heads included: the test split is answered as when it was scored."""
    record = xlt.run(*overrides)
    rows = [json.loads(line) for line in record.predictions_path.read_text().splitlines()]
    file = world / "mirror" / "tiny" / "topics" / "data" / "mlt_Latn" / "test.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    for row, answer in zip(rows, xlt.load(record).predict(texts), strict=True):
        assert answer["label"] == row["predicted"]
        assert answer["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)


def test_loading_notices_a_changed_backbone(overrides: list[str], tmp_path: Path) -> None:
    from conftest import save_tiny_model

    folder = save_tiny_model(tmp_path / "model")
    changed = [text for text in overrides if not text.startswith("model.path")] + [f"model.path={folder}"]
    record = xlt.run(*changed, method="none")
    save_tiny_model(folder, seed=1)
    with pytest.raises(UserError, match="has changed since"):
        xlt.load(record)


def test_python_refuses_as_the_command_line_does(overrides: list[str]) -> None:
    with pytest.raises(UserError, match="Did you mean seq_bn"):
        xlt.run(*overrides, method="seq_b")


def test_offline_wandb(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = run([*overrides, "tracker=wandb", "tracker.mode=offline"], capsys)
    assert {"language_module", "task_module"} <= set(made(said))
    assert len(list((tmp_path / "outputs" / "tracker" / "wandb").glob("offline-run-*"))) == 2, "one series a module"


@pytest.mark.slow
def test_interrupted_run_goes_on(overrides: list[str], tmp_path: Path) -> None:
    """Ctrl-C in another process: a checkpoint, the command that resumes, and the same module in the end."""
    import signal
    import time

    long = [text for text in overrides if "steps" not in text] + ["train.language.loop.steps=2000", "threads=1"]
    command = [sys.executable, str(ROOT / "run.py"), *long]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    work = tmp_path / "outputs" / "store"
    deadline = time.monotonic() + 120
    while not list(work.glob("examples/*")) or not list(work.glob("tokens/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Stopped at step" in said
    assert "run.py" in said
    assert list(work.glob(".work/*/checkpoint/state.pt"))
    resumed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step" in resumed.stderr


@pytest.mark.slow
def test_two_processes_share_a_module(overrides: list[str], tmp_path: Path) -> None:
    """Both need the same language module: one makes it, the other waits and uses it."""
    longer = [*overrides, "train.language.loop.steps=400"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *longer, f"seed={seed}"],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum(made(text).count("language_module") for text in said) == 1
    assert any("waiting for another process" in text for text in said)
