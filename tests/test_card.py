"""Cards: what the README beside a module says, that its snippets run, and what publishing makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import IDS, MASK, tiny_experiment
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from test_bad_input import replaced
from test_scripts import script

import xlt
from xlt import cli
from xlt.backbones.backbone import Backbone
from xlt.experiment import Experiment
from xlt.record import Record

METHODS = {
    "seq_bn_inv": ("adapters", ["method=seq_bn_inv"]),
    "lora": ("peft", ["method=lora"]),
    "full": ("transformers", ["method=full"]),
    "fusion": ("adapters", ["method=fusion", 'method.members=["method=seq_bn","method=seq_bn_inv"]']),
}


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """The record of a run of each method, in one store."""
    typed, records = tiny_experiment(world, tmp_path_factory.mktemp("cards")), {}

    def run(method: str) -> Record:
        if method not in records:
            records[method] = xlt.run(*typed, *METHODS[method][1])
        return records[method]

    return run


def module_folder(record: Record, kind: str = "language_module") -> Path:
    """Where the last module of a kind that a record names lies in its store."""
    name = [name for name in record["fingerprints"] if name.startswith(f"{kind}/")][-1]
    return next(Path(record["store"]).glob(f"{name}-{record['fingerprints'][name][:16]}"))


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def snippet(card: ModelCard, library: str) -> str:
    """The code under a card's «Use it with …»."""
    return re.search(rf"## Use it with {library}\n\n```\w+\n(.*?)\n```", card.text, re.DOTALL)[1]


# ---- cards


@pytest.mark.parametrize("method", METHODS)
def test_the_header(method: str, runs: Callable[[str], Record], world: Path) -> None:
    record, library = runs(method), METHODS[method][0]
    data = card_of(module_folder(record)).data
    assert (data.base_model, data.language, data.library_name) == (f"{world}/models/bert", ["mt"], library)
    assert data.tags == ["xlt", "language-module", method]
    data = card_of(module_folder(record, "task_module")).data
    assert (data.base_model, data.language, data.library_name) == (f"{world}/models/bert", ["mt"], "adapters")
    assert data.tags == ["xlt", "task-module", "seq_bn"]


def test_what_the_card_tells(runs: Callable[[str], Record]) -> None:
    """Figures of the training, and what it was trained on."""
    record = runs("seq_bn_inv")
    folder = module_folder(record)
    text, figures = card_of(folder).text, record["training"]["language_module"]
    assert "# seq_bn_inv language module for Maltese (mt)" in text
    assert f"| Trained parameters | {figures['trainable_parameters']:,} |" in text
    assert f"| Size | {(folder / 'adapter.safetensors').stat().st_size / 1e6:.2f} MB |" in text
    assert "| Text | text (Maltese) |" in text
    assert "| Steps | 6 of 4, learning rate 0.001, linear |" in text
    assert f"| Validation loss | {figures['best']['loss']:.4f} nats a token, at step {figures['best_step']} |" in text
    task = card_of(module_folder(record, "task_module")).text
    assert "| Task | topics in Maltese |" in task
    assert "| On top of | the language module bert-seq_bn_inv-text-mt |" in task
    assert f"| Validation macro_f1 | {record['training']['task_module']['best']['macro_f1']:.4f}, at step" in task


def test_a_module_without_anything_learnt_has_a_card(overrides: list[str]) -> None:
    record = xlt.run(*overrides, "method=none", "task_method=none")
    card = card_of(module_folder(record, "task_module"))
    assert card.data.library_name == "xlt"
    assert "| On top of | the backbone alone |" in card.text
    assert "## Use it with" not in card.text


@pytest.mark.parametrize("method", ["seq_bn_inv", "lora", "full"])
def test_the_command_for_xlt(
    method: str, runs: Callable[[str], Record], overrides: list[str], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be typed as it stands, in front of a task."""
    folder = module_folder(runs(method))
    command = snippet(card_of(folder), "xlt").replace("FOLDER", str(folder)).split()
    assert command[:2] == ["python", "run.py"]
    whole = ["model=hf", f"model.path={folder}", "method=none", "lang=mt"]
    adapter = ["model=hf", f"model.path={world}/models/bert", f"language.path={folder}", "lang=mt"]
    assert command[2:] == (whole if method == "full" else adapter)
    status = cli.exit_status([*replaced(overrides, model=None, model__path=None, lang=None)[:-3], *command[2:]])
    assert status == 0, capsys.readouterr().err


def test_a_fusion_is_loaded_as_a_setup(runs: Callable[[str], Record]) -> None:
    card = card_of(module_folder(runs("fusion")))
    assert 'model.load_adapter_setup("FOLDER", use_safetensors=True, set_active=True)' in snippet(card, "adapters")
    assert "## Use it with xlt" not in card.text, "language.path reads single modules"
    assert 'model.load_adapter("FOLDER"' in card_of(module_folder(runs("seq_bn_inv"))).text


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_pefts_snippet_runs(model: str, overrides: list[str], world: Path, tmp_path: Path) -> None:
    """It names the class that the module was trained in, and computes what xlt computes with the module attached."""
    typed = [*replaced(overrides, model__path=world / "models" / model), "train.language.loop.learning_rate=0.05"]
    record = xlt.run(*typed, "method=lora")
    folder = module_folder(record)
    code = snippet(card_of(folder), "peft")
    assert {"bert": "transformers.BertForMaskedLM", "llama": "transformers.LlamaForCausalLM"}[model] in code
    names: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(folder)), names)
    assert isinstance(names["model"], peft.PeftModel)
    backbone = Backbone.open(world / "models" / model, language_head=True)
    backbone.model.eval()
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        plain = backbone.model(**inputs).logits
        Experiment.from_config(cli.compose(["method=lora", "lang=mt"])).method.load(backbone, folder)
        expected = backbone.model(**inputs).logits
        torch.testing.assert_close(names["model"](**inputs).logits, expected, atol=1e-6, rtol=1e-5)
    assert (expected - plain).abs().max() > 1e-4


def test_transformers_snippet_runs(runs: Callable[[str], Record]) -> None:
    folder = module_folder(runs("full"))
    names: dict[str, Any] = {}
    exec(snippet(card_of(folder), "transformers").replace("FOLDER", str(folder)), names)
    stored = load_file(folder / "model.safetensors")
    loaded = names["model"].state_dict()
    common = [name for name in loaded if f"bert.{name}" in stored]
    assert len(common) > 20
    assert all(torch.equal(loaded[name], stored[f"bert.{name}"]) for name in common)


def test_two_stores_hold_the_same_cards(overrides: list[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        xlt.run(*replaced(overrides, paths__outputs=tmp_path / name), "threads=1")
    cards = [sorted((tmp_path / name / "store").glob("*/*/README.md")) for name in ("one", "two")]
    assert [card.relative_to(tmp_path / "one") for card in cards[0]] == [card.relative_to(tmp_path / "two") for card in cards[1]]
    assert [card.parts[-3] for card in cards[0]] == ["language_module", "task_module"]
    assert [card.read_bytes() for card in cards[0]] == [card.read_bytes() for card in cards[1]]


# ---- publishing


@pytest.fixture
def publish(
    runs: Callable[[str], Record], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Runs scripts/publish.py from an empty folder on the store of `runs`; what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        store = runs("seq_bn_inv")["store"]
        return script("publish.py", *arguments, "--store", store, monkeypatch=monkeypatch, capsys=capsys)

    return run


def refused(publish: Callable[..., str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        publish(*arguments)
    assert isinstance(stop.value.code, str) and stop.value.code.startswith("error: ")
    assert "\n" not in stop.value.code
    return stop.value.code


def test_a_folder_for_the_hub(publish: Callable[..., str], runs: Callable[[str], Record], tmp_path: Path) -> None:
    record = runs("seq_bn_inv")
    source, folder = module_folder(record), tmp_path / "outputs" / "publish" / "mt-module"
    shown = publish(source, "--to", "me/mt-module")
    files = {path.name for path in source.iterdir()}
    assert "artifact.json" in files
    assert {path.name for path in folder.iterdir()} == files - {"artifact.json"}
    assert (folder / "adapter.safetensors").read_bytes() == (source / "adapter.safetensors").read_bytes()
    card = (folder / "README.md").read_text()
    assert "FOLDER" not in card
    assert 'model.load_adapter("me/mt-module", use_safetensors=True)' in card
    assert "language.path=me/mt-module" in card
    assert card in shown
    assert "nothing was uploaded" in shown
    assert "adapter.safetensors" in shown.split(card)[1]


def test_scores_of_a_published_module(
    publish: Callable[..., str], runs: Callable[[str], Record], overrides: list[str], tmp_path: Path
) -> None:
    """Of all the runs that rest on it and of no others, as a table and as the hub's model-index."""
    runs("lora")  # another module of the same store
    runs("fusion")  # of which the module is a member
    first = runs("seq_bn_inv")
    same_store = replaced(overrides, paths__outputs=Path(first["store"]).parent)
    second = xlt.run(*same_store, "method=seq_bn_inv", "seed=1")
    publish(module_folder(first).name.rpartition("-")[0], "--to", "me/mt", "--folder", tmp_path / "there")
    card = card_of(tmp_path / "there")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in card.text.splitlines() if line.startswith("| topics")
    ]
    for row, record in zip(rows, (first, second), strict=True):
        low, high = record["intervals"]["macro_f1"]
        score = record["metrics"]["macro_f1"]
        seed = str(record["seed"])
        assert row == ["topics", "mt", "seq_bn", seed, "macro_f1", f"{score:.3f}", f"{low:.3f} – {high:.3f}", "40"]
    assert card.data.model_name == "mt"
    found = {
        (result.metric_args["seed"], result.metric_type): (result.metric_value, result.task_type, result.dataset_name)
        for result in card.data.eval_results
    }
    assert found == {
        (record["seed"], name): (value, "text-classification", "topics mt")
        for record in (first, second)
        for name, value in record["metrics"].items()
    }
    index = card.data.to_dict()["model-index"]
    assert [model["name"] for model in index] == ["mt"]


def test_a_task_module_is_published_whole(publish: Callable[..., str], runs: Callable[[str], Record], tmp_path: Path) -> None:
    """With its head, and with the fusion layers that were trained along with it."""
    source = module_folder(runs("fusion"), "task_module")
    publish(source, "--to", "me/task", "--folder", tmp_path / "there")
    there = {path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*") if path.is_file()}
    here = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert there == here - {"artifact.json"}
    assert {"head.safetensors", "language_module/adapter_setup.json"} <= there


def test_a_module_that_is_not_there(publish: Callable[..., str]) -> None:
    said = refused(publish, "bert-seq_bn_inv-text-my", "--to", "me/mt")
    assert "has no module bert-seq_bn_inv-text-my" in said
    assert "Did you mean bert-seq_bn_inv-text-mt-" in said


def test_a_name_of_several_modules(publish: Callable[..., str], runs: Callable[[str], Record]) -> None:
    runs("seq_bn_inv"), runs("lora")
    said = refused(publish, "bert-", "--to", "me/mt")
    assert "bert- could be bert-" in said and "write more of the name" in said


def test_a_folder_that_holds_other_things_stays(
    publish: Callable[..., str], runs: Callable[[str], Record], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    module = module_folder(runs("seq_bn_inv"))
    said = refused(publish, module, "--to", "me/mt", "--folder", tmp_path / "mine")
    assert "holds other things" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    publish(module, "--to", "me/mt", "--folder", tmp_path / "card")
    publish(module, "--to", "me/other", "--folder", tmp_path / "card")  # a folder of its own is made anew
    assert "me/other" in (tmp_path / "card" / "README.md").read_text()


def test_a_project_with_a_readme_is_not_taken_for_a_published_module(
    publish: Callable[..., str], runs: Callable[[str], Record], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("# My thesis\n")
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    refused(publish, module_folder(runs("seq_bn_inv")), "--to", "me/mt", "--folder", tmp_path / "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"README.md", "thesis.tex"}


def test_the_store_is_no_folder_for_the_hub(publish: Callable[..., str], runs: Callable[[str], Record]) -> None:
    module = module_folder(runs("seq_bn_inv"))
    refused(publish, module, "--to", "me/mt", "--folder", module)
    assert (module / "adapter.safetensors").is_file()


def test_uploading_without_network(publish: Callable[..., str], runs: Callable[[str], Record], tmp_path: Path) -> None:
    said = refused(publish, module_folder(runs("seq_bn_inv")), "--to", "me/mt", "--push")
    assert "me/mt could not be uploaded" in said
    assert "hf auth login" in said
    assert (tmp_path / "outputs" / "publish" / "mt" / "adapter.safetensors").is_file()


def test_uploading(
    publish: Callable[..., str], runs: Callable[[str], Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub is asked for: a repository of that name, and the files of the folder."""
    asked: list[tuple[Any, ...]] = []

    class HfApi:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            asked.append((name, private, exist_ok))

        def upload_folder(self, repo_id: str, folder_path: Path) -> str:
            asked.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
            return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", HfApi)
    module = module_folder(runs("seq_bn_inv"))
    shown = publish(module, "--to", "me/mt", "--push", "--private")
    files = sorted(path.name for path in module.iterdir() if path.name != "artifact.json")
    assert asked == [("me/mt", True, True), ("me/mt", files)]
    assert "https://huggingface.co/me/mt" in shown and "nothing was uploaded" not in shown
