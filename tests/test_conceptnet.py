"""ConceptNet: its lines, the one pass for all languages, and the sentences that assertions become."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xlt.cli import compose
from xlt.corpora.base import LeftOut
from xlt.corpora.conceptnet import ConceptNet, load_predicates
from xlt.errors import UserError
from xlt.experiment import Experiment, open_store
from xlt.hub import Hub
from xlt.languages import load_languages
from xlt.runner import Session, runtime_of
from xlt.steps import assertions
from xlt.steps.assertions import Assertion, AssertionsStep, parse, read_assertions, read_counts
from xlt.steps.base import Workbench
from xlt.store import Artifact

LANGUAGES = load_languages()
DETAILS = '{"dataset": "/d/wiktionary/en", "weight": 1.0}'


def line(relation: str, start: str, end: str, details: str = DETAILS) -> str:
    return f"/a/[/r/{relation}/,{start}/,{end}/]\t/r/{relation}\t{start}\t{end}\t{details}\n"


SMALL = [
    line("IsA", "/c/mt/kelb/n", "/c/mt/annimal/n"),
    line("Synonym", "/c/mt/ras_il-għajn/n/wn/place", "/c/en/spring"),
    line("RelatedTo", "/c/yo/ajá", "/c/en/dog"),
    line("Antonym", "/c/mt/kbir", "/c/mt/żgħir", '{"weight": 0.5}'),
    line("IsA", "/c/mt/kelb/n", "/c/mt/kelb/v"),
    line("dbpedia/genre", "/c/mt/kelb", "/c/mt/annimal"),
    line("ExternalURL", "/c/mt/kelb", "http://dbpedia.org/resource/Dog"),
]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(None, tmp_path / "memory")


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes(gzip.compress("".join(lines).encode()))
    return path


def made(path: str | Path, hub: Hub, folder: Path) -> Artifact:
    """The artifact of a file, without a store."""
    folder.mkdir()
    bench = Workbench({}, folder, folder, SimpleNamespace(), {})  # type: ignore[arg-type]
    AssertionsStep.of(str(path), hub).build(bench)
    return Artifact(folder, {"summary": bench.summary})


def sentences(artifact: Artifact, code: str = "mt", **settings: Any) -> list[str | LeftOut]:
    return list(ConceptNet(**settings).documents(LANGUAGES.find(code), LANGUAGES, None, assertions=artifact))  # type: ignore[arg-type]


# ---- lines


def test_a_line_of_the_release() -> None:
    assert parse(line("IsA", "/c/mt/kelb/n", "/c/en/dog/n/wn/animal").encode()) == Assertion(
        "mt", "IsA", "/c/mt/kelb/n", "/c/en/dog/n/wn/animal", 1.0
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (line("ExternalURL", "/c/mt/kelb", "http://dbpedia.org/resource/Dog"), "link"),
        (line("ExternalURL", "/c/mt/kelb", "https://wordnet-rdf.princeton.edu/id/1"), "link"),
        (line("IsA", "/c/mt/kelb", "/c/en/dog", '{"weight": 1.0'), "malformed_json"),
        (line("IsA", "/c/mt/kelb", "/c/en/dog", '{"dataset": "x"}'), "malformed_json"),
        (line("IsA", "/c/mt/kelb", "/c/en/dog", "[]"), "malformed_json"),
        (line("IsA", "/c/mt/kelb", "/c/en/"), "malformed_line"),
        (line("IsA", "/c/mt", "/c/en/dog"), "malformed_line"),
        (line("IsA", "/c//kelb", "/c/en/dog"), "malformed_line"),
        ("/a/[]\tIsA\t/c/mt/kelb\t/c/en/dog\t{}\n", "malformed_line"),
        ("/a/[]\t/r/IsA\t/c/mt/kelb\t/c/en/dog\n", "malformed_line"),
        ("\n", "malformed_line"),
    ],
)
def test_a_line_that_holds_no_assertion_says_why(content: str, reason: str) -> None:
    assert parse(content.encode()) == reason


def test_invalid_bytes() -> None:
    assert parse(line("IsA", "/c/mt/kelb", "/c/en/dog").encode().replace(b"kelb", b"k\xfflb", 1)) == "invalid_utf8"


# ---- the pass


def test_languages_are_told_apart_by_the_start(tmp_path: Path, hub: Hub) -> None:
    artifact = made(write(tmp_path / "a.csv.gz", SMALL), hub, tmp_path / "out")
    assert [a.start for a in read_assertions(artifact.folder, "yo")] == ["/c/yo/ajá"]
    assert len(list(read_assertions(artifact.folder, "mt"))) == 5
    assert list(read_assertions(artifact.folder, "en")) == []
    counted = {"mt": {"Antonym": 1, "IsA": 2, "Synonym": 1, "dbpedia/genre": 1}, "yo": {"RelatedTo": 1}}
    assert read_counts(artifact.folder) == counted
    assert (artifact.summary["lines"], artifact.summary["kept"], artifact.summary["link"]) == (7, 6, 1)


def test_memory_is_bounded_and_order_kept(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for few rows, each language is written in several parts, of which none mixes two."""
    monkeypatch.setattr(assertions, "_ROWS_IN_MEMORY", 10)
    lines = [line("IsA", f"/c/{('mt', 'yo', 'mt')[i % 3]}/w{i}", "/c/en/x") for i in range(200)]
    longest = []
    write_rows = assertions._write
    monkeypatch.setattr(assertions, "_write", lambda writer, rows: longest.append(len(rows)) or write_rows(writer, rows))
    artifact = made(write(tmp_path / "a.csv.gz", lines), hub, tmp_path / "out")
    assert len(longest) > 10
    assert max(longest) <= 10
    for code, remainders in (("mt", (0, 2)), ("yo", (1,))):
        expected = [f"/c/{code}/w{i}" for i in range(200) if i % 3 in remainders]
        assert [a.start for a in read_assertions(artifact.folder, code)] == expected


def test_broken_lines_are_survived_and_counted(tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    content = "".join(SMALL[:2]).encode() + b"no assertion\n" + b"\xff\xfe\n" + line("IsA", "/c/mt/a", "/c/mt/b", "{").encode()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(content + SMALL[2].encode()))
    artifact = made(tmp_path / "a.csv.gz", hub, tmp_path / "out")
    assert artifact.summary == {
        "lines": 6, "kept": 3, "link": 0, "malformed_line": 1, "malformed_json": 1, "invalid_utf8": 1, "cut_off": False,
        "languages": 2,
    }  # fmt: skip
    assert "3 of 6 lines cannot be read" in caplog.text


def test_a_file_that_is_cut_off_is_used_as_far_as_it_goes(tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    many = [line("IsA", f"/c/mt/{i * 7919 % 10007}", f"/c/en/{i * 104729 % 10007}") for i in range(5000)]
    whole = write(tmp_path / "whole.csv.gz", many).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    artifact = made(tmp_path / "cut.csv.gz", hub, tmp_path / "out")
    kept = [a.start for a in read_assertions(artifact.folder, "mt")]
    assert 1000 < len(kept) < 4000
    assert kept == [text.split("\t")[2] for text in many[: len(kept)]]
    assert artifact.summary["cut_off"] is True
    assert "is cut off: what came before is used" in caplog.text


def test_a_file_of_something_else_is_refused(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip at all")
    with pytest.raises(UserError, match="fetch it again"):
        made(tmp_path / "a.csv.gz", hub, tmp_path / "a")
    with pytest.raises(UserError, match="no assertions in ConceptNet's format"):
        made(write(tmp_path / "b.csv.gz", ["a,b,c\n"] * 9), hub, tmp_path / "b")
    with pytest.raises(UserError, match=r"no such file.*a\.csv\.gz"):
        AssertionsStep.of(str(tmp_path / "A.csv.gz"), hub)


def test_an_address(tmp_path: Path, hub: Hub) -> None:
    """A file of the web gives the same; one whose transfer breaks off is not used, and one that is not there says what to do."""
    (tmp_path / "web").mkdir()
    whole = write(tmp_path / "web" / "a.csv.gz", SMALL * 500).read_bytes()
    (tmp_path / "web" / "cut.csv.gz").write_bytes(whole[:-20])
    handler = type("Silent", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path / "web")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        artifact = made(f"{address}/a.csv.gz", hub, tmp_path / "out")
        assert artifact.summary["kept"] == 3000
        with pytest.raises(UserError, match="was cut off"):
            made(f"{address}/cut.csv.gz", hub, tmp_path / "cut")
        with pytest.raises(UserError, match=r"cannot be reached \(.*404.*data.path=FILE"):
            made(f"{address}/none.csv.gz", hub, tmp_path / "none")
        server.shutdown()


# ---- sentences


def test_the_table_of_the_paper() -> None:
    table = load_predicates("english")
    assert len(table) == 33
    assert (table["IsA"], table["HasA"], table["LocatedNear"]) == ("is a type of", "belongs to", "is typically found near")


def test_sentences(tmp_path: Path, hub: Hub) -> None:
    artifact = made(write(tmp_path / "a.csv.gz", SMALL), hub, tmp_path / "out")
    assert sentences(artifact) == [
        "kelb is a type of annimal.",
        "ras il-għajn is a synonym of spring.",
        "kbir is the opposite of żgħir.",
        LeftOut("start is end"),
        LeftOut("relation dbpedia/genre"),
    ]
    assert sentences(artifact, "yo") == ["ajá is related to dog."]
    texts = [found for found in sentences(artifact, minimum_weight=1.0) if isinstance(found, str)]
    assert texts == ["kelb is a type of annimal.", "ras il-għajn is a synonym of spring."]
    assert LeftOut("weight") in sentences(artifact, minimum_weight=1.0)
    assert [found for found in sentences(artifact, relations=["Antonym"]) if isinstance(found, str)] == [
        "kbir is the opposite of żgħir."
    ]


def test_the_last_segment_as_in_the_paper_s_code(tmp_path: Path, hub: Hub) -> None:
    artifact = made(write(tmp_path / "a.csv.gz", SMALL), hub, tmp_path / "out")
    assert sentences(artifact, node_text="last_segment")[:2] == [LeftOut("start is end"), "place is a synonym of spring."]


def test_predicates_of_one_s_own(tmp_path: Path, hub: Hub) -> None:
    own = tmp_path / "maltese.yaml"
    own.write_text("IsA: huwa tip ta'\n", encoding="utf-8")
    artifact = made(write(tmp_path / "a.csv.gz", SMALL), hub, tmp_path / "out")
    assert sentences(artifact, predicates=str(own))[0] == "kelb huwa tip ta' annimal."
    with pytest.raises(UserError, match="no such table"):
        load_predicates("english2")
    own.write_text("- IsA\n")
    load_predicates.cache_clear()
    with pytest.raises(UserError, match="Relation: predicate"):
        load_predicates(str(own))


# ---- in a run


@pytest.fixture
def arguments(overrides: list[str], tmp_path: Path) -> list[str]:
    lines = [line("IsA", f"/c/{code}/ba_{i}/n", f"/c/{code}/ki_{i % 9}") for code in ("mt", "yo") for i in range(100)]
    file = write(tmp_path / "graph.csv.gz", [*lines, *SMALL])
    return [*(text for text in overrides if not text.startswith("data")), "data=conceptnet", f"data.path={file}"]


def test_languages_share_one_pass_and_the_card_counts(arguments: list[str]) -> None:
    experiment = Experiment.from_config(compose([*arguments, "lang=[mt,yo]"]))
    session = Session(open_store(experiment.settings), "auto", runtime_of(experiment, torch.device("cpu"), []))
    steps = [experiment.text(language) for language in experiment.targets]
    cards = [session.realise(step).summary for step in steps]
    assert len(list(session.store.list("assertions"))) == 1
    assert steps[0].sources["assertions"].fingerprint == steps[1].sources["assertions"].fingerprint
    assert cards[0]["left_out"] == {"start is end": 1, "relation dbpedia/genre": 1}
    assert cards[0]["documents_read"] == 105
    assert cards[0]["train"]["documents"] + cards[0]["validation"]["documents"] == 103
    assert cards[1]["sources"]["assertions"]["link"] == 1


def test_what_changes_the_sentences_changes_the_fingerprint(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("IsA: is a type of\n")

    def text(*others: str) -> Any:
        return Experiment.from_config(compose([*arguments, *others])).text(LANGUAGES.find("mt"))

    others = [
        "data.minimum_weight=2",
        "data.node_text=last_segment",
        "data.relations=[IsA]",
        f"data.predicates={tmp_path}/own.yaml",
    ]
    assert len({text(*other).fingerprint for other in ([], *([o] for o in others))}) == 5
    assert {text(other).sources["assertions"].fingerprint for other in others} == {text().sources["assertions"].fingerprint}


def test_mistakes_are_refused_at_once(arguments: list[str]) -> None:
    for wrong, message in (
        ("data.relations=[IsAn]", "Did you mean IsA"),
        ("data.predicates=klingon", "tables of the package are: english"),
        ("data.path=/none.csv.gz", "no such file"),
        ("data.node_text=all", "no choice"),
    ):
        with pytest.raises(UserError, match=message):
            _ = Experiment.from_config(compose([*arguments, wrong])).text(LANGUAGES.find("mt"))


def test_the_miniature_graph() -> None:
    experiment = Experiment.from_config(compose(["model=miniature", "data=mini_conceptnet", "task=mini_topic", "lang=qad"]))
    found = list(experiment.data.documents(experiment.targets[0], experiment.languages, experiment.hub))  # type: ignore[attr-defined]
    assert len(found) > 500
    assert all(isinstance(text, str) and text.endswith(".") for text in found)
    predicates = load_predicates("english").values()
    assert all(any(f" {predicate} " in text for predicate in predicates) for text in found)


# ---- real data


def test_the_real_sample(shared: Path, hub: Hub, tmp_path: Path) -> None:
    """4,795 lines of ConceptNet: counted by other means here, and the same sentences as by a naive reading."""
    path = shared / "mirror" / "conceptnet5" / "assertions-sample.csv.gz"
    artifact = made(path, hub, tmp_path / "out")
    rows = [text.split("\t") for text in gzip.decompress(path.read_bytes()).decode().splitlines()]
    internal = [row for row in rows if not row[3].startswith("http")]
    assert artifact.summary["lines"] == len(rows) == 4795
    assert artifact.summary["kept"] == len(internal) == 3603
    starts = Counter(row[2].split("/")[2] for row in internal)
    assert {code: sum(found.values()) for code, found in read_counts(artifact.folder).items()} == starts
    predicates = load_predicates("english")
    naive = [
        f"{start} {predicates[row[1][3:]]} {end}."
        for row in internal
        if row[2].startswith("/c/ug/") and row[1][3:] in predicates
        and (start := row[2].split("/")[3].replace("_", " ")) != (end := row[3].split("/")[3].replace("_", " "))
    ]  # fmt: skip
    found = [text for text in sentences(artifact, "ug") if isinstance(text, str)]
    assert found == naive
    assert len(found) == 2123
    assert json.loads(rows[0][4])["weight"] > 0
