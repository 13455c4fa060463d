"""What sparse modules change, what two of them have in common, how they disturb one another; and what hands them over."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import hidden_states, save_tiny_model, tiny_backbone
from safetensors.torch import save_file
from sparse_helpers import RANDOM, overlap, shaken, values_of
from test_sweep import Runs, right

import xlt
from xlt.analysis.sparsity import Part, parts
from xlt.analysis.sparsity import overlap as overlap_of
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.methods.formats import method_of_folder
from xlt.methods.sparse import SparseModule
from xlt.methods.sparse_files import COMPOSABLE_SFT, Stored, read_composable_sft
from xlt.random import generator
from xlt.record import Record
from xlt.report.figures import bars, heat_maps
from xlt.report.interference import grids
from xlt.steps.composition import HEAD


def load_script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


SCRIPT = load_script("sparse_modules")


def test_the_overlap_by_hand() -> None:
    one = {
        "bert.encoder.layer.0.key.weight": Stored((2, 5), torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0, 4, 9])),
        "bert.encoder.layer.1.key.bias": Stored((4,), torch.tensor([0.5]), torch.tensor([2])),
        "cls.predictions.bias": Stored((3,), torch.ones(3)),
    }
    other = {
        "bert.encoder.layer.0.key.weight": Stored((2, 5), torch.tensor([1.0, 1.0]), torch.tensor([4, 9])),
        "bert.encoder.layer.0.key.bias": Stored((4,), torch.tensor([0.5]), torch.tensor([2])),
        "cls.predictions.bias": Stored((3,), torch.ones(3)),
    }
    both = overlap_of(one, other)
    assert (both.shared, both.by_chance, both.agreeing) == (2, pytest.approx(3 * 2 / 10), 0.5)
    assert overlap_of(one, one).agreeing == 1
    assert parts(one) == {
        "bert.encoder.layer.0": Part(10, 3, 6.0),
        "bert.encoder.layer.1": Part(4, 1, 0.5),
        "cls.predictions.bias": Part(3, 3, 3.0),
    }


def test_the_report_of_two_modules(tmp_path: Path) -> None:
    modules, folders = [], [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        modules.append(shaken(tiny_backbone("bert"), seed, count=2000))
        modules[-1].save(folder)
    said = SCRIPT.changes(folders)
    assert re.search(rf"^a +b +{overlap(*modules):,} ", said, re.MULTILINE)
    assert said.count("bert.encoder.layer.1 ") == 2
    with pytest.raises(UserError, match="holds no sparse module"):
        SCRIPT.changes([tmp_path])


# ---- densities by densities


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    folder = tmp_path / "records"
    folder.mkdir()
    return Runs(folder)


def sized(runs: Runs, hits: int, language: dict[str, Any], task: dict[str, Any], **settings: Any) -> Record:
    """The record of a run with modules of such sizes, so many of whose 100 answers are right."""
    record = runs.record(right(hits, 100 - hits), **settings)
    config = {**record["config"], "method": {"name": "lt_sft", **language}, "task_method": {"name": "lt_sft", **task}}
    alike = {
        "task": "letters",
        "model": "mbert",
        "transfer": "zero_shot",
        "source": ["en"],
        "shots": None,
        "payload": {"inputs": {}},
    }
    return Record({**record, **alike, "config": config}, record.path, record.predictions_path)


def test_a_grid_by_hand(runs: Runs) -> None:
    """From small to large whatever the order of the runs, seeds averaged, a cell that was not run left empty."""
    small, large, none = {"density": 0.01, "count": None}, {"density": 0.1}, {"name": "none"}
    records = [
        sized(runs, 70, large, small), sized(runs, 60, small, small, seed=0), sized(runs, 70, small, small, seed=1),
        sized(runs, 80, small, large), sized(runs, 50, none, small), sized(runs, 33, small, large, lang="wo"),
        sized(runs, 44, small, small, lang="wo"),
    ]  # fmt: skip
    maltese, wolof = grids(records)
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in maltese.markdown().splitlines()]
    assert table[0] == ["mt, accuracy: language ↓ task →", "density 0.01", "density 0.1"]
    assert [row[0] for row in table[2:]] == ["none", "density 0.01", "density 0.1"]
    assert [[cell.partition(" ")[0] for cell in row[1:]] for row in table[2:]] == [
        ["0.500", ""],
        ["0.650", "0.800"],
        ["0.700", ""],
    ]
    low, high = re.fullmatch(r"0\.800 \[(.*), (.*)\]", table[3][2]).groups()
    assert 0.65 < float(low) < 0.8 < float(high) < 0.95
    assert "| density 0.01 | 0.440 [" in wolof.markdown() and wolof.language_sizes == ["density 0.01"]


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ([{"count": 900}, {"count": 7_667_712}], ["count 900", "count 7,667,712"]),
        ([{"reduction_factor": 2}, {"reduction_factor": 16.0}], ["reduction_factor 16", "reduction_factor 2"]),
    ],
    ids=["counts", "factors"],
)
def test_sizes_go_from_small_to_large(sizes: list[dict[str, Any]], shown: list[str], runs: Runs) -> None:
    (grid,) = grids([sized(runs, 50, size, sizes[0]) for size in sizes])
    assert list(grid.language_sizes) == shown


def test_what_makes_no_grid(runs: Runs) -> None:
    size = {"density": 0.1}
    with pytest.raises(UserError, match=r"one pair of sizes.*Sweep over sizes"):
        grids([sized(runs, 50, size, size, seed=seed) for seed in range(2)])
    one, other = sized(runs, 50, size, size), sized(runs, 50, {"density": 0.2}, size)
    with pytest.raises(UserError, match=r"differ in model \(mbert, xlmr\)"):
        grids([one, Record({**other, "model": "xlmr"}, other.path, other.predictions_path)])


def test_the_grid_of_runs(overrides: list[str], tmp_path: Path) -> None:
    """From the records of runs as they are left behind."""
    sparse = ["method=rand_sft", "task_method=rand_sft", "task_method.reduction_factor=8"]
    records = [xlt.run(*overrides, *sparse, f"method.reduction_factor={factor}") for factor in (4, 8)]
    said = SCRIPT.grid([str(record.path.parent) for record in records])
    assert re.search(rf"reduction_factor 8 \| {records[1]['metrics']['macro_f1']:.3f} \[.*\n.*reduction_factor 4 \| ", said)


def test_figures(runs: Runs, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'xlt[plots]'")
    found = grids([sized(runs, hits, {"density": size}, {"density": 0.1}) for hits, size in ((40, 0.1), (60, 0.2))])
    heat_maps(found, tmp_path / "grid.svg")
    drawn = (tmp_path / "grid.svg").read_text()
    assert "<svg" in drawn and all(f"<!-- {text} -->" in drawn for text in ("0.400", "0.600", "density 0.2", "mt: accuracy"))
    bars({"a": {"layer.0": 0.25, "layer.1": 0.75}, "b": {"layer.0": 1.0}}, "mass", tmp_path / "deeper" / "mass.png")
    assert (tmp_path / "deeper" / "mass.png").read_bytes().startswith(b"\x89PNG")


def test_figures_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"mass\.sgv has no format for figures.*\.svg"):
        bars({"a": {"layer.0": 1.0}}, "mass", tmp_path / "mass.sgv")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'xlt\[plots\]'"):
        bars({"a": {"layer.0": 1.0}}, "mass", tmp_path / "mass.svg")


# ---- handing over


def test_the_folder_for_composable_sft(tmp_path: Path) -> None:
    """The language head goes along as it is, and a task's under the name that transformers has for it."""
    model = save_tiny_model(tmp_path / "model", "bert")
    module = trained_language_module(Backbone.open(model, language_head=True))
    expected = values_of(module.backbone)
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    module.save(own)
    save_file({"layers.1.weight": torch.ones(2, 16), "layers.1.bias": torch.zeros(2)}, own / HEAD)
    said = SCRIPT.export(own, model, other, head="classifier")
    assert "2 tensors of a head" in said
    stored = read_composable_sft(other / COMPOSABLE_SFT)
    assert {"classifier.weight", "classifier.bias", "cls.predictions.bias"} <= {
        name for name, one in stored.items() if one.replaces
    }
    backbone = Backbone.open(model, language_head=True)
    method_of_folder(other).load(backbone, other)
    for name, weight in values_of(backbone).items():
        torch.testing.assert_close(weight, expected[name], atol=2e-7, rtol=0)
    without = SCRIPT.export(own, model, tmp_path / "without")
    assert "0 tensors of a head" in without


def test_a_head_that_is_no_linear_map_is_not_handed_over(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "bert")
    module = trained_language_module(Backbone.open(model, language_head=True))
    module.save(tmp_path)
    for tensors in ({}, {"layers.1.weight": torch.ones(2, 2), "layers.4.weight": torch.ones(2, 2)}):
        if tensors:
            save_file(tensors, tmp_path / HEAD)
        with pytest.raises(UserError, match="is not one linear map"):
            SCRIPT.export(tmp_path, model, tmp_path / "other", head="classifier")
    assert not (tmp_path / "other").exists()


def trained_language_module(backbone: Backbone) -> SparseModule:
    module = RANDOM.create(backbone, generator(0), language_head=True)
    module.begin(0, {})
    with torch.no_grad():
        for parameter in module.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator(1)), alpha=0.3)
    hidden_states(backbone)
    return module
