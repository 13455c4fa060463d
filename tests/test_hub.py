"""What is done online: models and data sets come from a hub by id, in a revision that is remembered, and errors are told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from conftest import LABELS, write_labelled_data
from local_hub import COMMIT, serve

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def repositories(world: Path, tmp_path: Path) -> Path:
    """A hub's content: one model, one gated one, labelled data and text."""
    root = tmp_path / "hub"
    shutil.copytree(world / "models" / "bert", root / "models" / "org" / "tiny-bert")
    shutil.copytree(world / "models" / "bert", root / "models" / "org" / "gated")
    write_labelled_data(root / "datasets" / "org" / "topics")
    text = root / "datasets" / "org" / "crawl"
    text.mkdir(parents=True)
    lines = (world / "text" / "mt.txt").read_text().splitlines()
    (text / "mlt.jsonl").write_text("".join(json.dumps({"content": line}) + "\n" for line in lines))
    header = "---\nconfigs:\n- config_name: mlt-Latn\n  data_files:\n  - split: train\n    path: mlt.jsonl\n---\n"
    (text / "README.md").write_text(header)
    return root


def run(arguments: list[str], address: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process that knows no other hub and has an empty cache."""
    dropped = ("HF_HUB_OFFLINE", "HF_TOKEN", "XLT_MIRROR")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "run.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def from_hub(overrides: list[str]) -> list[str]:
    """The whole experiment by ids."""
    kept = [text for text in overrides if not text.startswith(("model.path", "data", "task.data.id", "paths.mirror"))]
    return [*kept, "model.path=org/tiny-bert", "data=glotcc", "data.id=org/crawl", "task.data.id=org/topics"]


@pytest.mark.slow
def test_from_the_hub_and_then_without_it(overrides: list[str], repositories: Path, tmp_path: Path) -> None:
    arguments = from_hub(overrides)
    with serve(repositories) as address:
        online = run(arguments, address, tmp_path / "home")
        assert online.returncode == 0, online.stderr
    (path,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    revisions = json.loads(path.read_text())["revisions"]
    assert {revision["revision"] for revision in revisions.values()} == {COMMIT}

    offline = run(arguments, "http://127.0.0.1:9", tmp_path / "home")  # nobody listens there
    assert offline.returncode == 0, offline.stderr
    assert "reusing evaluation" in offline.stderr
    offline = run([*arguments, "seed=1"], "http://127.0.0.1:9", tmp_path / "home")  # the model comes from the cache
    assert offline.returncode == 0, offline.stderr
    assert "making language_module" not in offline.stderr


@pytest.mark.slow
def test_the_hub_s_own_export_of_a_data_set(overrides: list[str], repositories: Path, tmp_path: Path) -> None:
    """Of one whose main branch is a loading script: a folder for each configuration, without a word on them in a README."""
    exported = repositories / "datasets" / "org" / "exported"
    for number, config in enumerate(("mlt_Latn", "yor_Latn")):
        for split, size in (("train", 8), ("validation", 8), ("test", 30 + number)):
            (exported / config / split).mkdir(parents=True)
            columns = {"index_id": list(range(size)), "text": ["ki ba du"] * size, "category": [i % 2 for i in range(size)]}
            features = datasets.Features(
                index_id=datasets.Value("int64"), text=datasets.Value("string"), category=datasets.ClassLabel(names=LABELS)
            )
            table = datasets.Dataset.from_dict(columns, features=features)
            table.to_parquet(exported / config / split / "0000.parquet")
    arguments = [text for text in from_hub(overrides) if not text.startswith("task.data.id")]
    arguments += ["method=none", "task.data.id=org/exported", "++task.data.parquet_export=true"]
    classes = f"+task.data.classes={{category: [{', '.join(LABELS)}]}}"
    with serve(repositories) as address:
        done = run([*arguments, classes], address, tmp_path / "home")
        assert done.returncode == 0, done.stderr
        turned = run([*arguments, classes.replace(", ".join(LABELS), ", ".join(LABELS[::-1]))], address, tmp_path / "home")
    assert turned.returncode == 2, turned.stderr
    assert "declares the classes kiki, bouba in the column category" in turned.stderr
    (path,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    record = json.loads(path.read_text())
    assert record["test_size"] == 30, "of Maltese alone"
    assert record["revisions"]["examples/topics-mt"] == {"id": "org/exported", "config": "mlt_Latn", "revision": COMMIT}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("model.path=org/gated", "is gated"),
        ("model.path=org/missing", "has no model org/missing"),
        ("task.data.id=org/missing", "has no dataset org/missing"),
        ("lang=yo", "no configuration yor-Latn"),
    ],
)
def test_what_the_hub_refuses_is_told(
    changed: str, expected: str, overrides: list[str], repositories: Path, tmp_path: Path
) -> None:
    key = changed.split("=", maxsplit=1)[0]
    arguments = [text for text in from_hub(overrides) if not text.startswith(f"{key}=")] + [changed]
    with serve(repositories, gated=frozenset({"org/gated"})) as address:
        refused = run(arguments, address, tmp_path / "home")
    assert refused.returncode == 2, refused.stderr
    assert expected in refused.stderr
    assert "Traceback" not in refused.stderr
