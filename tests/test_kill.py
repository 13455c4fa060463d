"""A run that was killed and started again ends as one that was left alone: bit for bit, wherever the kills came."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import xlt
from xlt.store import MANIFEST, Store
from xlt.training.loop import Trainer

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "kill_test.py"
CHECKPOINTS = ["train.language.loop.checkpoint_seconds=0", "train.task.checkpoint_seconds=0"]


@pytest.fixture(scope="module")
def kill_test() -> ModuleType:
    """The script for people as a module."""
    specification = importlib.util.spec_from_file_location("kill_test", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["kill_test"] = module  # its dataclasses look themselves up there
    specification.loader.exec_module(module)
    return module


class Killed(BaseException):
    """Nothing catches it."""


class Fuse:
    """Ends the process, so to speak, at one of the places that are wrapped: the `length`-th that is come upon."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.length = sys.maxsize
        monkeypatch.setattr(os, "fsync", self._wrap(os.fsync))
        monkeypatch.setattr(Trainer, "_step", self._wrap(Trainer._step))
        monkeypatch.setattr(Path, "rename", self._wrap(Path.rename))
        remove = shutil.rmtree
        # a dead process tidies nothing up
        monkeypatch.setattr(shutil, "rmtree", lambda *given, **named: remove(*given, **named) if self.length > 0 else None)

    def _wrap(self, function: Callable) -> Callable:
        def wrapped(*given: Any, **named: Any) -> Any:
            self.length -= 1
            if self.length == 0:
                raise Killed
            return function(*given, **named)

        return wrapped


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    return Fuse(monkeypatch)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_fell_over_in_random_places_equals_an_undisturbed_one(
    overrides: list[str], tmp_path: Path, kill_test: ModuleType, fuse: Fuse, seed: int
) -> None:
    calm, restless, draw, kills = tmp_path / "calm", tmp_path / "restless", random.Random(seed), 0
    command = [*(text for text in overrides if not text.startswith("paths.outputs=")), *CHECKPOINTS]
    expected = xlt.run(*command, f"paths.outputs={calm}")
    while True:
        fuse.length = draw.randint(1, 30)
        try:
            found = xlt.run(*command, f"paths.outputs={restless}")
            break
        except Killed:
            kills += 1
        fuse.length = sys.maxsize
        assert kill_test.half_made(restless / "store") == []
    assert kills >= 4
    assert kill_test.compare(calm, restless) == []
    assert found["metrics"] == expected["metrics"]


def test_the_comparison_sees_what_differs(overrides: list[str], tmp_path: Path, kill_test: ModuleType) -> None:
    one, other = tmp_path / "outputs", tmp_path / "other"
    xlt.run(*overrides)
    shutil.copytree(one, other)
    assert kill_test.compare(one, other) == []
    folders = {artifact.manifest["kind"]: artifact.folder for artifact in Store(other / "store").list()}
    predictions = folders["evaluation"] / "predictions.jsonl"
    predictions.write_text(predictions.read_text().replace("0.", "1.", 1))
    record = json.loads((folders["evaluation"] / "result.json").read_text())
    record["metrics"]["macro_f1"] += 1e-9
    (folders["evaluation"] / "result.json").write_text(json.dumps(record))
    (folders["language_module"] / "training.json").unlink()
    (folders["text"] / MANIFEST).unlink()
    (other / "store" / ".damaged" / "old").mkdir(parents=True)
    lines = kill_test.compare(one, other)
    for expected in ("training.json is missing", "predictions.jsonl: other bytes", "result.json: metrics.macro_f1"):
        assert sum(expected in line for line in lines) == 1, lines
    lines = kill_test.half_made(other / "store")
    for expected in ("training.json", "result.json", "is no artifact", "old was set aside"):
        assert any(expected in line for line in lines), lines


@pytest.mark.long
def test_a_process_that_was_killed_again_and_again_equals_an_undisturbed_one(tmp_path: Path, kill_test: ModuleType) -> None:
    outcome = kill_test.torment(kills=8, seed=0, folder=tmp_path / "kills")
    assert outcome.differences == []
    assert len(outcome.phases) == 8
    assert outcome.resumed > 0, "no kill came after a checkpoint: the comparison proves little"
