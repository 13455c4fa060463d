"""Mistakes are told before any work starts: status 2, one paragraph, no traceback, nothing left behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import save_tiny_model, write_labelled_data

from xlt import cli


def complaint(
    arguments: list[str], capsys: pytest.CaptureFixture[str], outputs: Path, may_stay: frozenset[str] = frozenset()
) -> str:
    """Run the command line, which has to refuse, and return what it says.

    Args:
        may_stay: kinds of artifacts that were sound and finished before the mistake could be seen.
    """
    status = cli.exit_status(arguments)
    captured = capsys.readouterr()
    assert status == 2, captured.err
    assert "Traceback" not in captured.err
    assert {path.parts[-3] for path in outputs.rglob("artifact.json")} <= may_stay
    assert not list(outputs.glob("runs/*"))
    assert not list(outputs.glob("store/.work/*"))
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert captured.err.rstrip().endswith(lines[0]), "the paragraph stands last"
    return lines[0]


# what is typed after a working experiment → what the answer has to hold
CASES: dict[str, tuple[list[str], list[str]]] = {
    "unknown method": (["method=seq_bnn"], ["seq_bnn", "seq_bn", "choices of method"]),
    "unknown model": (["model=mbertt"], ["mbert", "choices of model"]),
    "unknown task": (["task=sib20"], ["sib200", "choices of task"]),
    "unknown data": (["data=glotc"], ["glotcc", "choices of data"]),
    "unknown training": (["train=papers"], ["paper", "choices of train"]),
    "unknown tracker": (["tracker=wandbb"], ["wandb", "choices of tracker"]),
    "unknown transfer": (["transfer=in_languages"], ["in_language", "choices of transfer"]),
    "unknown task method": (["task_method=seqbn"], ["seq_bn", "choices of"]),
    "unknown setting": (["sed=1"], ["sed is not a setting", "seed"]),
    "unknown group": (["methd=full"], ["methd is not a setting", "method"]),
    "unknown setting of a group": (["method.reduction=8"], ["method.reduction is not a setting", "method.reduction_factor"]),
    "unknown nested setting": (["train.task.epoch=3"], ["train.task.epochs"]),
    "setting added by force": (["+method.rank=8"], ["method.rank is not a setting"]),
    "group added by force": (["+rank=8"], ["rank is not a setting"]),
    "setting added deep inside": (["+train.language.loop.rate=1"], ["train.language.loop.rate", "learning_rate"]),
    "not a number": (["method.reduction_factor=big"], ["method.reduction_factor", "big"]),
    "not a whole number": (["seed=1.5"], ["seed", "1.5"]),
    "not a boolean": (["plan=perhaps"], ["plan", "perhaps"]),
    "no number at all": (["train.task.learning_rate=nan"], ["train.task.learning_rate is not a number"]),
    "reduction factor of zero": (["method.reduction_factor=0"], ["method.reduction_factor", "above 0"]),
    "negative seed": (["seed=-1"], ["seed=-1", "at least 0"]),
    "negative learning rate": (["train.task.learning_rate=-0.1"], ["train.task.learning_rate", "above 0"]),
    "mask everything": (["train.language.mask_probability=1.5"], ["mask_probability=1.5", "at most 0.9"]),
    "warm-up over one": (["train.task.warmup=2"], ["train.task.warmup=2", "at most 1"]),
    "batch of none": (["train.language.loop.batch_size=0"], ["batch_size=0", "at least 1"]),
    "unknown schedule": (["train.task.schedule=liner"], ["schedule=liner", "linear"]),
    "unknown precision": (["train.task.precision=fp16"], ["precision=fp16", "bf16"]),
    "unknown activation": (["method.activation=rellu"], ["activation=rellu", "relu"]),
    "unknown reuse": (["reuse=never"], ["reuse=never", "only_cached"]),
    "steps and epochs": (["train.task.steps=5"], ["either steps or epochs"]),
    "neither steps nor epochs": (["train.task.epochs=null"], ["either steps or epochs"]),
    "unreadable override": (["lang=[mt"], ["cannot be read", "key=value"]),
    "spaces around the sign": (["=3"], ["cannot be read", "key=value"]),
    "no language": (["lang=???"], ["lang has no value"]),
    "unknown language": (["lang=xyz"], ["lang=xyz", "paths.languages"]),
    "language by its name": (["lang=Maltese"], ["mt (Maltese)"]),
    "ambiguous language": (["lang=ku"], ["ambiguous", "ckb", "kmr"]),
    "language that the data set lacks": (["lang=yue", "task.data.language_column=wikipedia"], ["zh-yue", "has no configuration"]),
    "language without a code there": (["lang=oto"], ["does not have Otomi", "languages that it has"]),
    "language that tries to leave": (["lang=../mt"], ["lang=../mt"]),
    "table of languages that is not there": (["paths.languages=nowhere.csv"], ["nowhere.csv", "no such file"]),
    "name that tries to leave": (["task.name=../../topics"], ["task.name", "cannot be a name"]),
    "method's name with a slash": (["method.name=a/b"], ["method.name", "cannot be a name"]),
    "column that tries to leave": (["task.data.language_column=../x"], ["task.data.language_column", "cannot be a name"]),
    "model that is not there": (["model.path=nowhere"], ["nowhere", "neither a folder here nor a model id"]),
    "model of the hub without network": (["model.path=org/some-model"], ["org/some-model", "hf download", "--local-dir"]),
    "data set without network": (["task.data.id=org/some-data"], ["org/some-data", "--repo-type dataset", "XLT_MIRROR"]),
    "data set's id that tries to leave": (["task.data.id=../topics"], ["neither a folder here nor a dataset id"]),
    "model without a path": (["model.path=???"], ["model.path has no value"]),
    "mirror that is not there": (["paths.mirror=nowhere"], ["paths.mirror=nowhere", "hf download"]),
    "text without a path": (["data.path=???"], ["data.path has no value"]),
    "text that is not there": (["data.path=nowhere.txt"], ["nowhere.txt", "no such file"]),
    "GPU where there is none": (["device=cuda"], ["device=cuda", "device=cpu"]),
    "only what the store has": (["reuse=only_cached"], ["reuse=only_cached", "reuse=auto"]),
    "metric that the task lacks": (["task.metric=f1"], ["task.metric=f1", "macro_f1"]),
    "one label": (["task.labels=[kiki]"], ["at least two labels"]),
    "label that was not declared": (["task.labels=[kiki,booba]"], ["'bouba'", "task.labels"]),
    "column that the data lacks": (["task.data.columns.text=sentence"], ["no column sentence", "text"]),
    "split that the data lacks": (
        ["task.data.splits.train=learn"],
        ["in the split train", "has: validation, test", "data.splits"],
    ),
    "slice that is none": (["task.data.splits.train='train[10]'"], ["'train[10]'", "validation[100:200]"]),
    "no labels to learn from": (["task.data.splits.train=null"], ["transfer=in_language", "train", "does not have"]),
    "layer that is not there": (["method.leave_out=[7]"], ["leave_out=[7]", "0 to 1"]),
    "choice that is no choice": (["task=7"], ["task"]),
    "class that is no method": (["method._target_=builtins.dict"], ["method._target_=builtins.dict", "Method"]),
    "class that is not there": (["method._target_=my_plugin.Method"], ["my_plugin", "install the plugin"]),
    "anatomy that is not there": (["model.anatomy=my_plugin.anatomy"], ["model.anatomy=my_plugin.anatomy"]),
    "W&B without an account": (["tracker=wandb"], ["wandb login", "tracker.mode=offline"]),
    "sweep with one bad job": (["-m", "method=none,vera"], ["method=vera", "choices of method"]),
    "sweep with one bad language": (["-m", "lang=mt,xyz"], ["lang=xyz"]),
}


@pytest.mark.parametrize("case", CASES)
def test_told_before_any_work(case: str, overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed, expected = CASES[case]
    keys = {argument.split("=")[0] for argument in typed}
    if "model" in keys:
        keys.add("model.path")
    arguments = [argument for argument in overrides if argument.split("=")[0] not in keys] + typed
    said = complaint(arguments, capsys, tmp_path / "outputs")
    for fragment in expected:
        assert fragment in said


def replaced(overrides: list[str], **values: object) -> list[str]:
    """The overrides with other values for some keys (`__` stands for a dot)."""
    changed = {name.replace("__", "."): value for name, value in values.items()}
    kept = [text for text in overrides if text.split("=")[0] not in changed]
    return [*kept, *(f"{name}={value}" for name, value in changed.items())]


def test_empty_text(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    said = complaint(replaced(overrides, data__path=tmp_path / "empty.txt"), capsys, tmp_path / "outputs")
    assert "0 bytes of text" in said


def test_tiny_text(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.txt").write_text("bonġu\n" * 3)
    said = complaint(replaced(overrides, data__path=tmp_path / "tiny.txt"), capsys, tmp_path / "outputs")
    assert "too little to learn from" in said


def test_folder_without_text(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts").mkdir()
    said = complaint(replaced(overrides, data__path=tmp_path / "texts"), capsys, tmp_path / "outputs")
    assert "holds no .txt" in said


def test_text_of_another_format(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.docx").write_bytes(b"x" * 5000)
    said = complaint(replaced(overrides, data__path=tmp_path / "text.docx"), capsys, tmp_path / "outputs")
    assert ".docx" in said


def test_one_sentence_over_and_over(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found only by reading: nothing of the attempt stays in the store."""
    (tmp_path / "same.txt").write_text("the same sentence\n" * 200)
    said = complaint(replaced(overrides, data__path=tmp_path / "same.txt"), capsys, tmp_path / "outputs", frozenset({"examples"}))
    assert "1 different documents" in said


def test_broken_json_lines(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.jsonl").write_text('{"text": "ki ba du"}\n' * 100 + "{broken\n")
    said = complaint(
        replaced(overrides, data__path=tmp_path / "text.jsonl"), capsys, tmp_path / "outputs", frozenset({"examples"})
    )
    assert "'malformed JSON': 1" in said  # and there is too little else


def test_json_lines_without_the_field(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.jsonl").write_text('{"content": "ki ba du"}\n' * 100)
    said = complaint(
        replaced(overrides, data__path=tmp_path / "text.jsonl"), capsys, tmp_path / "outputs", frozenset({"examples"})
    )
    assert "no field text" in said
    assert "content" in said


def test_model_without_weights(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    said = complaint(replaced(overrides, model__path=folder), capsys, tmp_path / "outputs")
    assert "holds no weights" in said


def test_model_of_unknown_architecture(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bertha"}))
    said = complaint(replaced(overrides, model__path=folder), capsys, tmp_path / "outputs")
    assert "'bertha'" in said
    assert "bert, deberta_v2, distilbert, gpt2, llama, m2m_100, mbart, modernbert, roberta, xlm_roberta" in said
    assert "ANATOMY" in said


def test_model_without_its_language_head(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModel

    folder = save_tiny_model(tmp_path / "model")
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    said = complaint(replaced(overrides, model__path=folder), capsys, tmp_path / "outputs")
    assert "masked-language-model head" in said
    assert "method=none" in said


def test_folder_that_is_no_model(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    said = complaint(replaced(overrides, model__path=tmp_path / "folder"), capsys, tmp_path / "outputs")
    assert "holds no config.json" in said


def test_broken_config(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "config.json").write_text("{")
    said = complaint(replaced(overrides, model__path=folder), capsys, tmp_path / "outputs")
    assert "not valid JSON" in said


def test_damaged_weights(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    said = complaint(replaced(overrides, model__path=folder), capsys, tmp_path / "outputs")
    assert "not a safetensors file" in said


def test_model_without_tokenizer(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_model(tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    said = complaint(replaced(overrides, model__path=folder), capsys, tmp_path / "outputs")
    assert "tokenizer" in said


def test_test_data_without_text(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_labelled_data(tmp_path / "mirror" / "tiny" / "topics")
    file = folder / "data" / "mlt_Latn" / "test.jsonl"
    file.write_text(file.read_text() + '{"index_id": 99, "category": "kiki", "text": " "}\n')
    said = complaint(replaced(overrides, paths__mirror=tmp_path / "mirror"), capsys, tmp_path / "outputs")
    assert "row 40" in said
    assert "no text" in said


@pytest.mark.parametrize(
    ("split", "others", "may_stay"),
    [("train", "validation, test", {"examples"}), ("test", "train, validation", {"examples", "task_module"})],
)
def test_split_that_turns_out_to_be_empty(
    split: str, others: str, may_stay: set[str], overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found only by reading, and refused where it is needed."""
    arguments = [*overrides, "method=none", f"task.data.splits.{split}='{split}[100:]'"]
    said = complaint(arguments, capsys, tmp_path / "outputs", frozenset(may_stay))
    assert f"no examples in the split {split} of topics-mt; it has {others}" in said


def test_table_of_languages_without_names(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "languages.csv").write_text("iso3,flores\nqaa,qaa_Latn\n")
    said = complaint(replaced(overrides, paths__languages=tmp_path / "languages.csv"), capsys, tmp_path / "outputs")
    assert "has no name" in said


def test_table_of_languages_that_tries_to_leave(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "languages.csv").write_text("iso3,name,flores\nqaa,Testish,../../x\n")
    said = complaint(replaced(overrides, paths__languages=tmp_path / "languages.csv"), capsys, tmp_path / "outputs")
    assert "cannot be a name" in said


def test_output_folder_that_cannot_be_written(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    said = complaint(replaced(overrides, paths__outputs=tmp_path / "file" / "outputs"), capsys, tmp_path / "file")
    assert "Cannot write" in said
    assert "paths.outputs" in said


def test_full_disk_before_work(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = complaint(overrides, capsys, tmp_path / "outputs")
    assert "0 MB free" in said


def test_full_disk_during_work(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xlt.training.packing.write_tokens", full)
    status = cli.exit_status(overrides)
    said = capsys.readouterr().err
    assert status == 2
    assert "The disk is full" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "outputs" / "store" / "tokens").glob("*"))


def test_gated_repository() -> None:
    """What the hub answers for one is turned into what to accept and where the token goes."""
    from httpx import Request, Response
    from huggingface_hub.errors import GatedRepoError

    from xlt.hub import _hub_error

    response = Response(403, request=Request("GET", "https://huggingface.co/meta-llama/Meta-Llama-3-8B"))
    said = str(_hub_error(GatedRepoError("Access is restricted", response=response), "meta-llama/Meta-Llama-3-8B", "model", None))
    assert "https://huggingface.co/meta-llama/Meta-Llama-3-8B" in said
    assert "hf auth login" in said
    assert "HF_TOKEN" in said


def test_data_set_with_a_loading_script(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mirror" / "tiny" / "topics"
    folder.mkdir(parents=True)
    (folder / "topics.py").write_text("raise SystemExit('remote code was run')")
    said = complaint(replaced(overrides, paths__mirror=tmp_path / "mirror"), capsys, tmp_path / "outputs")
    assert "loading script" in said


def test_traceback_when_asked_for(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.exit_status([*overrides, "seed=-1", "debug=true"]) == 2
    assert "Traceback" in capsys.readouterr().err
