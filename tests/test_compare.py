"""Comparing systems on stored predictions: the script as it is typed, and what its figures are."""

from __future__ import annotations

import json
import runpy
import statistics
import sys
from pathlib import Path

import pytest
from conftest import tiny_experiment

import xlt
from xlt.errors import UserError
from xlt.record import Record
from xlt.report.systems import System

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compare.py"


def compare(*arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of what the script prints."""
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
    capsys.readouterr()
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def records(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    """Two seeds of a task module that has learnt nothing, and of one that has."""
    overrides = tiny_experiment(world, tmp_path_factory.mktemp("compared"))
    choices = {"weak": "train.task.learning_rate=1e-6", "strong": "train.task.learning_rate=1e-2"}
    return {
        name: [xlt.run(*overrides, "method=none", choice, "train.task.epochs=6", f"seed={seed}") for seed in (0, 1)]
        for name, choice in choices.items()
    }


def test_what_the_script_prints(
    records: dict[str, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, found in records.items():
        for record in found:
            folder = tmp_path / f"{name}-{record['seed']}"
            folder.mkdir()
            (folder / "result.json").write_bytes(record.path.read_bytes())
    patterns = [tmp_path / f"{name}-*" for name in records]
    heading, weak, strong = compare(*patterns, monkeypatch=monkeypatch, capsys=capsys)
    assert heading == ["system", "seeds", "macro_f1", "95 % interval", "gain", "95 % interval", "p"]
    means = {name: statistics.fmean(run["metrics"]["macro_f1"] for run in found) for name, found in records.items()}
    assert weak[2].startswith(f"{means['weak']:.4f} ± ")
    assert len(weak) == 4, "the baseline gains nothing over itself"
    assert strong[4] == f"{means['strong'] - means['weak']:+.4f}"
    low, high = json.loads(strong[5].replace("+", ""))
    assert low <= means["strong"] - means["weak"] <= high
    assert 0 < float(strong[6]) <= 1


def test_a_system_compared_with_itself_gains_nothing(records: dict[str, list[Record]]) -> None:
    gain = System(records["strong"]).gain_over(System(records["strong"]))
    assert (gain.mean, gain.interval, gain.probability, gain.seeds) == (0, (0, 0), 1, (0, 1))


def test_the_interval_of_one_run_is_that_of_its_record(records: dict[str, list[Record]]) -> None:
    """Up to the draws: both are bootstraps of a thousand samples."""
    record = records["weak"][0]
    assert System([record]).interval == pytest.approx(record["intervals"]["macro_f1"], abs=0.03)
    assert System([record]).deviation is None


def test_seeds_that_only_one_side_has_are_left_out(records: dict[str, list[Record]]) -> None:
    gain = System(records["strong"]).gain_over(System(records["weak"][1:]))
    assert gain.seeds == (1,)
    assert gain.mean == pytest.approx(records["strong"][1]["metrics"]["macro_f1"] - records["weak"][1]["metrics"]["macro_f1"])


def test_other_test_examples(records: dict[str, list[Record]], tmp_path: Path) -> None:
    rows = records["weak"][1].predictions()
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({**row, "id": f"x{row['id']}"}) + "\n" for row in rows))
    inputs = {**records["weak"][1]["payload"]["inputs"], "test_examples": {"kind": "examples", "fields": "others"}}
    content = {**records["weak"][1], "payload": {**records["weak"][1]["payload"], "inputs": inputs}}
    other = Record(content, tmp_path / "result.json", tmp_path / "other.jsonl")
    with pytest.raises(UserError, match="same test examples"):
        System([records["weak"][0], other])
    with pytest.raises(UserError, match="compared in pairs"):
        System(records["strong"]).gain_over(System([other]))


def test_reading_a_record(records: dict[str, list[Record]], tmp_path: Path) -> None:
    record = records["weak"][0]
    for path in (record.path, record.path.parent):
        assert dict(Record.read(path)) == dict(record)
        assert Record.read(path).predictions() == record.predictions()
    with pytest.raises(UserError, match="There is no record"):
        Record.read(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match="not a record of xlt"):
        Record.read(tmp_path)
    gone = {**record, "store": str(tmp_path / "elsewhere")}
    (tmp_path / "result.json").write_text(json.dumps(gone))
    with pytest.raises(UserError, match="no longer has the predictions"):
        Record.read(tmp_path)


def test_runs_that_differ_in_more_than_their_seed(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, lang in enumerate(("mt", "yo")):
        record = xlt.run(*overrides, "method=none", f"lang={lang}")
        (tmp_path / f"run{number}").mkdir()
        (tmp_path / f"run{number}" / "result.json").write_bytes(record.path.read_bytes())
    with pytest.raises(SystemExit, match=r"differ in lang \(mt, yo\)"):
        compare(tmp_path / "run*", monkeypatch=monkeypatch, capsys=capsys)
