"""The scripts for people, as they are typed."""

from __future__ import annotations

import json
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
