"""A package outside xlt adds a method, a task and a language with two files each and a row; nothing of xlt is edited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_labelled_data

PLUGIN = Path(__file__).parent / "plugin"
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_plugin_is_installed_and_runs(overrides: list[str], world: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files behind
    subprocess.run(["cp", "-r", str(PLUGIN), str(source)], check=True)
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
        str(source),
    ]
    subprocess.run(install, check=True)
    write_labelled_data(tmp_path / "mirror" / "tiny" / "topics", configs=("tst_Latn",))
    (tmp_path / "qaa.txt").write_text((world / "text" / "mt.txt").read_text())
    dropped = ("lang=", "task.", "data.path", "paths.mirror")
    arguments = [text for text in overrides if not text.startswith(dropped)]
    arguments += [
        "hydra.searchpath=[pkg://xlt_plugin.conf]", "method=biases", "task=lengths", "lang=qaa", f"data.path={tmp_path}/qaa.txt",
        f"paths.languages={site}/xlt_plugin/languages.csv", f"paths.mirror={tmp_path}/mirror",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    record = json.loads(path.read_text())
    assert (record["method"], record["task"], record["lang"]) == ("biases", "lengths", "qaa")
    assert record["training"]["language_module"]["trainable_parameters"] == 16 + 2 * (7 * 16 + 32)
