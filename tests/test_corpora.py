"""Sources of text: the user's files in every format, hub data sets through a mirror, and what a backbone of one's own reads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from xlt.cli import compose
from xlt.config import build
from xlt.corpora.base import Corpus, LeftOut
from xlt.corpora.hub_corpus import HubCorpus
from xlt.corpora.text_files import TextFiles
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.hub import Hub
from xlt.languages import load_languages
from xlt.random import Draw

LANGUAGES = load_languages()
MALTESE = LANGUAGES.find("mt")
DOCUMENTS = ["il-kelb", "il-qattus\nu l-ġurdien", "ħobż"]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """A hub without mirror that is never asked."""
    return Hub(None, tmp_path / "memory")


def read(path: object, hub: Hub, **settings: object) -> list[str]:
    """The documents of some files; in the place of those that are left out, why."""
    found = TextFiles(path=path, **settings).documents(MALTESE, LANGUAGES, hub)
    return [text.reason if isinstance(text, LeftOut) else text.rstrip("\n") for text in found]


def test_json_lines_and_parquet_keep_documents_whole(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    pyarrow.parquet.write_table(pyarrow.table({"body": DOCUMENTS, "other": [1, 2, 3]}), tmp_path / "b.parquet")
    assert read(str(tmp_path / "a.jsonl"), hub, column="body") == DOCUMENTS
    assert read(str(tmp_path / "b.parquet"), hub, column="body") == DOCUMENTS


def test_plain_text_has_a_document_a_line(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "a.txt").write_text("wieħed\ntnejn\n\ntlieta", encoding="utf-8")
    assert read(str(tmp_path / "a.txt"), hub) == ["wieħed", "tnejn", "", "tlieta"]


def test_invalid_bytes_are_survived(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "a.txt").write_bytes(b"tajjeb\n" + b"\xff\xfe hazin\n")
    assert read(str(tmp_path / "a.txt"), hub)[0] == "tajjeb"


def zstandard(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("zst", zstandard)])
def test_compressed_files(
    ending: str, compress: Callable[[bytes], bytes], tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """As their content is, also where files were compressed one after the other into one. Of damaged ones what can be read is
    kept, what cannot is reported, and the next file is read."""
    rows = "".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS).encode()
    (tmp_path / f"a.jsonl.{ending}").write_bytes(compress(rows))
    (tmp_path / f"b.txt.{ending}").write_bytes(compress("wieħed\n".encode()) + compress(b"\xff tnejn"))
    assert read(f"{tmp_path}/a.jsonl.{ending}", hub, column="body") == DOCUMENTS
    assert read(f"{tmp_path}/b.txt.{ending}", hub) == ["wieħed", "\ufffd tnejn"]
    assert read(str(tmp_path), hub, column="body") == [*DOCUMENTS, "wieħed", "\ufffd tnejn"]
    lines = [str(number * 7919 % 100_003) for number in range(100_000)]
    whole = compress("".join(f"{line}\n" for line in lines).encode())
    (tmp_path / f"c.txt.{ending}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"d.txt.{ending}").write_bytes(b"no such thing" * 100)
    (tmp_path / "e.txt").write_text("the end")
    for name in "ab":
        (tmp_path / f"{name}.{'jsonl' if name == 'a' else 'txt'}.{ending}").unlink()
    *kept, damaged, hopeless, end = read(str(tmp_path), hub)
    assert kept == lines[: len(kept)] and len(kept) > 1000
    assert damaged == hopeless == "the rest of a damaged file"
    assert end == "the end"
    for name in "cd":
        assert f"{name}.txt.{ending} is damaged or was cut off" in caplog.text


def test_a_damaged_parquet_file(tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """The second of three files, its pages overwritten: the others are read whole."""
    draw = Draw("pages")
    texts = ["".join(chr(97 + draw.below(26)) for _ in range(50)) for _ in range(3000)]
    for name in "abc":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / f"{name}.parquet", row_group_size=1000)
    content = bytearray((tmp_path / "b.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b"\xff" * 2000
    (tmp_path / "b.parquet").write_bytes(content)
    found = read(str(tmp_path), hub)
    assert found.count("the rest of a damaged file") == 1
    at = found.index("the rest of a damaged file")
    assert found[:3000] == texts and found[at + 1 :] == texts
    assert found[3000:at] == texts[: at - 3000]
    assert "b.parquet is damaged" in caplog.text


def test_malformed_json_is_counted(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "tw\n\n{"text": null}\n{"text": "three"}\n')
    assert read(str(tmp_path / "a.jsonl"), hub) == ["one", "malformed JSON", "", "three"]


def test_files_of_other_kinds_are_refused(tmp_path: Path, hub: Hub) -> None:
    for name, kind in (("a.md", ".md"), ("a.tar.gz", ".tar.gz"), ("a", "files without an ending")):
        (tmp_path / name).write_text("x" * 2000)
        with pytest.raises(UserError, match=rf"text is read from .*\.txt\.gz.*, not from {kind}\."):
            read(f"{tmp_path}/{name}", hub)


def test_folders_lists_and_the_language_in_the_path(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "mt").mkdir()
    (tmp_path / "mt" / "b.txt").write_text("second")
    (tmp_path / "mt" / "a.txt").write_text("first")
    (tmp_path / "more.txt").write_text("third")
    (tmp_path / "mt" / "notes.md").write_text("not text for training")
    assert read(f"{tmp_path}/@lang", hub) == ["first", "second"]
    assert read([f"{tmp_path}/mt", f"{tmp_path}/more.txt"], hub) == ["first", "second", "third"]


def test_identity_is_content_not_place(tmp_path: Path, hub: Hub) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text("x" * 2000)
    first, second = (TextFiles(path=f"{tmp_path}/{name}/text.txt").revision(MALTESE, LANGUAGES, hub) for name in "ab")
    assert first == second
    (tmp_path / "b" / "text.txt").write_text("y" * 2000)
    assert TextFiles(path=f"{tmp_path}/b/text.txt").revision(MALTESE, LANGUAGES, hub) != first


def test_hub_corpus_from_a_mirror(tmp_path: Path) -> None:
    folder = tmp_path / "mirror" / "org" / "crawl"
    (folder / "data").mkdir(parents=True)
    rows = [{"content": text, "warnings": ["short"] if text == "ħobż" else []} for text in DOCUMENTS]
    (folder / "data" / "mlt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = "---\nconfigs:\n- config_name: mlt-Latn\n  data_files:\n  - split: train\n    path: data/mlt.jsonl\n---\n"
    (folder / "README.md").write_text(header)
    hub = Hub(tmp_path / "mirror", tmp_path / "memory")
    corpus = HubCorpus(id="org/crawl")
    assert list(corpus.documents(MALTESE, LANGUAGES, hub)) == DOCUMENTS
    filtered = HubCorpus(id="org/crawl", drop_column="warnings")
    assert list(filtered.documents(MALTESE, LANGUAGES, hub)) == [*DOCUMENTS[:2], LeftOut("warnings")]
    assert set(corpus.revision(MALTESE, LANGUAGES, hub)) == {"id", "config", "content"}
    with pytest.raises(UserError, match=r"yor-Latn.*mlt-Latn"):
        corpus.revision(LANGUAGES.find("yo"), LANGUAGES, hub)


def test_wikipedia_s_dated_dumps(tmp_path: Path) -> None:
    """The choice `wikipedia` reads the dump's date and the language's code as one name."""
    folder = tmp_path / "mirror" / "wikimedia" / "wikipedia"
    (folder / "data").mkdir(parents=True)
    rows = [{"id": "1", "url": "", "title": "Malta", "text": text} for text in DOCUMENTS]
    (folder / "data" / "mt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = "---\nconfigs:\n- config_name: 20231101.mt\n  data_files:\n  - split: train\n    path: data/mt.jsonl\n---\n"
    (folder / "README.md").write_text(header)
    hub = Hub(tmp_path / "mirror", tmp_path / "memory")
    corpus = build(compose(["lang=mt", "data=wikipedia"]).data, "data", Corpus)
    assert list(corpus.documents(MALTESE, LANGUAGES, hub)) == DOCUMENTS
    other = build(compose(["lang=mt", "data=wikipedia", "data.config=20220301.@lang"]).data, "data", Corpus)
    with pytest.raises(UserError, match=r"no configuration 20220301\.mt.*20231101\.mt"):
        other.revision(MALTESE, LANGUAGES, hub)


def test_hub_commit_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that was resolved once identifies the data from then on, also without network."""
    from types import SimpleNamespace

    import huggingface_hub

    commit = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda self, name, **options: SimpleNamespace(sha=commit))
    assert Hub(None, tmp_path).source("org/data", "dataset").revision == commit
    monkeypatch.undo()
    assert Hub(None, tmp_path, online=False).source("org/data", "dataset").revision == commit
    assert Hub(None, tmp_path, online=False).source("org/other", "dataset").revision is None
    assert Hub(None, tmp_path).source("org/other", "dataset", revision=commit).revision == commit


# ---- the text of a backbone from scratch


@pytest.fixture
def scratch(overrides: list[str]) -> list[str]:
    """An experiment whose backbone is pretrained on the run's text."""
    kept = [text for text in overrides if not text.startswith("model")]
    return [*kept, "model=scratch", "model.languages=[en,yo]"]


@pytest.fixture
def own_text(world: Path) -> list[str]:
    """Settings that give that backbone a source of its own, which holds the same."""
    values = {"_target_": "xlt.corpora.text_files.TextFiles", "name": "own", "path": f"{world}/text/@lang.txt"}
    return [f"+model.data.{name}={value}" for name, value in values.items()]


def experiment(overrides: list[str], *others: str) -> Experiment:
    """With other values for some settings; another choice of a group takes the settings inside it along."""
    keys = [text.partition("=")[0] for text in others]
    kept = [text for text in overrides if not any(f"{text.partition('=')[0]}.".startswith(f"{key}.") for key in keys)]
    return Experiment.from_config(compose([*kept, *others]))


def backbone_of(overrides: list[str], *others: str) -> str:
    """The fingerprint of the backbone that an experiment draws."""
    return experiment(overrides, *others).backbone().fingerprint


def test_a_backbone_reads_the_run_s_text(scratch: list[str]) -> None:
    """Another source is another backbone; the seed of the language module has nothing to do with it."""
    before = backbone_of(scratch)
    assert backbone_of(scratch, "language.seed=5") == before
    assert backbone_of(scratch, "seed=5", "lang=yo") == before
    assert backbone_of(scratch, "data.max_bytes=1000000") != before
    assert backbone_of(scratch, "model.seed=5") != before


def test_a_backbone_with_text_of_its_own(scratch: list[str], own_text: list[str], tmp_path: Path) -> None:
    """Neither the run's source nor the language module's seed changes it."""
    arguments = [*scratch, *own_text]
    before = backbone_of(arguments)
    assert backbone_of(arguments, "language.seed=5") == before
    assert backbone_of(arguments, "data.max_bytes=1000000") == before
    (tmp_path / "other.txt").write_text("".join(f"another text {number}\n" for number in range(100)))
    assert backbone_of(arguments, f"data.path={tmp_path}/other.txt") == before
    assert backbone_of(arguments, "data=miniature", "lang=qaa") == before
    assert backbone_of(arguments, "+model.data.max_bytes=1000000") != before
    assert backbone_of(arguments, f"+model.data.path={tmp_path}/other.txt") != before
    assert backbone_of(arguments, "model.seed=5") != before
    assert backbone_of(scratch) == before, "the same text by another way"


@pytest.mark.parametrize("source", ["the run's", "its own"])
def test_the_model_s_seed_splits_a_backbone_s_texts(source: str, scratch: list[str], own_text: list[str]) -> None:
    arguments = [*scratch, *own_text] if source == "its own" else scratch
    drawn = experiment(arguments, "language.seed=5", "model.seed=3", "lang=yo")
    texts = [step for step in drawn.backbone().ancestors().values() if step.kind == "text"]
    assert {(step.language.key, step.seed) for step in texts} == {("en", 3), ("yo", 3)}
    assert drawn.text(drawn.targets[0]).seed == 5


def test_a_text_that_backbone_and_module_read_is_made_once(scratch: list[str], own_text: list[str]) -> None:
    """Where seeds and sources are the same."""
    for arguments in (scratch, [*scratch, *own_text]):
        drawn = experiment(arguments, "lang=yo")
        assert drawn.text(drawn.targets[0]).fingerprint in drawn.backbone().ancestors()


def test_the_miniature_backbone_reads_the_miniature_world(overrides: list[str]) -> None:
    """Whatever the run is about."""
    before = backbone_of(overrides, "model=miniature")
    assert backbone_of(overrides, "model=miniature", "language.seed=5", "seed=3", "lang=yo") == before
    assert backbone_of(overrides, "model=miniature", "data=miniature", "data.max_bytes=5000", "lang=qad") == before
    assert backbone_of(overrides, "model=miniature", "world.languages.qad.own_laws=9") == before, "it does not read qad"
    assert backbone_of(overrides, "model=miniature", "world.languages.qaa.own_laws=9") != before
    assert backbone_of(overrides, "model=miniature", "world.seed=1") != before
