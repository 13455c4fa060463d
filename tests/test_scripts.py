"""The scripts for people, as they are typed."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

import xlt

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def script(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a script in this process; what it prints."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    capsys.readouterr()
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return capsys.readouterr().out


def test_store_and_predict(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = xlt.run(*overrides)
    store = tmp_path / "outputs" / "store"

    (tmp_path / "texts.txt").write_text("ki ba du\n\nba ki\n")
    shown = script("predict.py", record.path, tmp_path / "texts.txt", monkeypatch=monkeypatch, capsys=capsys)
    rows = [json.loads(line) for line in shown.splitlines()]
    assert [row["text"] for row in rows] == ["ki ba du", "ba ki"]
    assert {row["label"] for row in rows} <= {"kiki", "bouba"}

    (tmp_path / "examples.jsonl").write_text('{"id": "7", "text": "ki ba du"}\n')
    shown = script("predict.py", record.path, tmp_path / "examples.jsonl", monkeypatch=monkeypatch, capsys=capsys)
    assert json.loads(shown) == {"id": "7", **rows[0]}

    listed = script("store.py", "list", "--store", store, monkeypatch=monkeypatch, capsys=capsys)
    for kind in ("text", "tokens", "examples", "language_module", "task_module", "evaluation"):
        assert f"all of {kind}" in listed

    (store / ".damaged" / "old").mkdir(parents=True)
    pruned = script("store.py", "prune", "--yes", "--store", store, monkeypatch=monkeypatch, capsys=capsys)
    assert "old" in pruned
    assert len(list(store.glob("[!.]*/*/artifact.json"))) == 6, "what a record was made from stays"

    would = script("store.py", "prune", "--kinds", "tokens", "text", "--store", store, monkeypatch=monkeypatch, capsys=capsys)
    assert "would go" in would
    assert list(store.glob("tokens/*"))
    script("store.py", "prune", "--kinds", "tokens", "text", "--yes", "--store", store, monkeypatch=monkeypatch, capsys=capsys)
    assert not list(store.glob("tokens/*")) + list(store.glob("text/*"))
    assert xlt.load(record).predict(["ki"])


def test_inspect_data(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is shown is what a run then reads, and nothing is trained."""
    without_labels = [*overrides, "task.data.id=tiny/none"]  # there is no such data set
    shown = script("inspect_data.py", *without_labels, monkeypatch=monkeypatch, capsys=capsys)
    assert re.search(r"documents_read +200\n", shown)
    assert re.search(r"scripts +LATIN 1\n", shown)
    assert re.search(r"fertility 1, bytes_per_token .*, unknown_share 0\n", shown)
    assert len(shown.partition("samples\n")[2].splitlines()) == 10
    kinds = {folder.name for folder in (tmp_path / "outputs" / "store").glob("[!.]*")}
    assert kinds - {"revisions.json", "hashes.json"} == {"text", "tokens"}


def test_inspect_the_sizes_of_conceptnet(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = '/a/[]\t/r/IsA\t/c/{0}/ba_{1}\t/c/en/du\t{{"weight": 1.0}}\n'
    content = "".join(line.format(code, number) for code, count in (("mt", 5), ("qqq", 2)) for number in range(count))
    (tmp_path / "graph.csv.gz").write_bytes(gzip.compress(content.encode()))
    kept = [text for text in overrides if not text.startswith("data")]
    arguments = ["--sizes", *kept, "data=conceptnet", f"data.path={tmp_path}/graph.csv.gz"]
    shown = script("inspect_data.py", *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert re.search(r"^mt +5 +5 +0\.00 +3895 +0\.14$", shown, re.MULTILINE)
    assert re.search(r"^qqq +2 +2 +0\.00$", shown, re.MULTILINE)
    with pytest.raises(SystemExit) as stopped:
        script("inspect_data.py", "--sizes", *overrides, monkeypatch=monkeypatch, capsys=capsys)
    assert stopped.value.code == 2
    assert "--sizes reads data=conceptnet" in capsys.readouterr().err
