"""What sparse modules change, and what two of them have in common."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import tiny_backbone
from sparse_helpers import overlap, shaken

from xlt.analysis.sparsity import Part, parts
from xlt.analysis.sparsity import overlap as overlap_of
from xlt.errors import UserError
from xlt.methods.sparse_files import Stored


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
    said = load_script("sparse_modules").report(folders)
    assert re.search(rf"^a +b +{overlap(*modules):,} ", said, re.MULTILINE)
    assert said.count("bert.encoder.layer.1 ") == 2
    with pytest.raises(UserError, match="holds no sparse module"):
        load_script("sparse_modules").report([tmp_path])


def load_script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
