"""The store: fingerprints, whole artifacts or none, damage, locks between processes, pruning."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from xlt import store as store_module
from xlt.errors import UserError
from xlt.store import MANIFEST, Artifact, Store, differences, fingerprint, write_durably


def payload(size: int = 16, **text_fields: Any) -> dict[str, Any]:
    """A module made from a text."""
    text = {"kind": "text", "version": 1, "fields": {"lang": "mt", **text_fields}, "inputs": {}}
    method = {"method": {"name": "seq_bn", "reduction_factor": size}}
    return {"kind": "module", "version": 1, "fields": method, "inputs": {"text": text}}


PAYLOAD = payload()
KEY = ("module", "bert-mt", fingerprint(PAYLOAD))
WORK = KEY[2][:16]


@pytest.fixture
def said() -> list[str]:
    """What the store told the user."""
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", say=said.append)


def build(store: Store, content: bytes = b"weights", of: dict[str, Any] | None = None) -> Artifact:
    """An artifact of two files, one of them in a folder of its own."""
    with store.build("module", "bert-mt", of or PAYLOAD) as (work, notes):
        (work.folder / "head").mkdir()
        (work.folder / "module.bin").write_bytes(content)
        (work.folder / "head" / "head.bin").write_bytes(content[::-1])
        notes["summary"]["steps"] = 3
        notes["provenance"]["threads"] = 1
    artifact = store.get("module", "bert-mt", fingerprint(of or PAYLOAD))
    assert artifact is not None
    return artifact


def reopened(store: Store, said: list[str]) -> Store:
    """The same folder as another process sees it."""
    return Store(store.root, say=said.append)


def everything_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".locks" not in path.parts)


# ---- fingerprints


def test_the_order_of_keys_does_not_matter() -> None:
    assert fingerprint({"b": 1, "a": {"d": [1, 2], "c": None}}) == fingerprint({"a": {"c": None, "d": [1, 2]}, "b": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


def test_an_input_stands_for_itself_by_its_fingerprint() -> None:
    text = PAYLOAD["inputs"]["text"]
    assert fingerprint(PAYLOAD) == fingerprint({**PAYLOAD, "inputs": {"text": dict(reversed(text.items()))}})
    assert fingerprint(PAYLOAD) != fingerprint(payload(revision="other"))
    assert fingerprint(PAYLOAD) != fingerprint({**PAYLOAD, "inputs": {"other_role": text}})


def test_a_fingerprint_survives_the_way_through_a_file() -> None:
    odd = {"fields": {"rate": 1e-4, "tiny": 5e-324, "name": "Ħ", "flag": True, "nothing": None, "list": (1, 2)}}
    assert fingerprint(json.loads(json.dumps(odd))) == fingerprint(odd)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, Path("here"), b"bytes"])
def test_what_has_no_stable_form_has_no_fingerprint(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fingerprint({"fields": {"value": value}})
    with pytest.raises((TypeError, ValueError)):
        fingerprint({"inputs": {"text": {"fields": {"value": value}}}})


def test_differences_name_the_settings_that_changed() -> None:
    assert differences(PAYLOAD, payload(8)) == ["method.reduction_factor 16 → 8"]
    assert differences(PAYLOAD, payload(lang="yo")) == ["text.lang mt → yo"]
    assert differences(PAYLOAD, payload(cap=5)) == ["text.cap none → 5"]
    assert differences(PAYLOAD, {**PAYLOAD, "version": 2}) == ["version 1 → 2"]
    assert differences(PAYLOAD, payload()) == []


def test_differences_are_short() -> None:
    (line,) = differences({"fields": {"path": "a" * 100}}, {"fields": {"path": "b" * 100}})
    assert len(line) < 60


# ---- building and finding


def test_a_built_artifact_is_found(store: Store, said: list[str]) -> None:
    assert store.get(*KEY) is None
    assert store.peek(*KEY) is None
    artifact = build(store)
    assert artifact.folder == store.place(*KEY)
    assert (artifact.fingerprint, artifact.summary, artifact.size) == (KEY[2], {"steps": 3}, 14)
    assert artifact.manifest["payload"] == PAYLOAD
    assert set(artifact.manifest["files"]) == {"module.bin", "head/head.bin"}
    for look in (store.peek, store.get, reopened(store, said).peek, reopened(store, said).get):
        found = look(*KEY)
        assert found is not None
        assert (found.folder, found.manifest) == (artifact.folder, artifact.manifest)
    assert [found.fingerprint for found in store.list()] == [KEY[2]]
    assert list((store.root / ".work").iterdir()) == []
    assert said == []


def test_another_process_finds_it_after_it_was_missed(store: Store, said: list[str]) -> None:
    other = reopened(store, said)
    assert other.peek(*KEY) is None
    build(store)
    assert other.peek(*KEY) is not None


def test_nothing_is_found_before_the_build_is_over(store: Store, said: list[str]) -> None:
    with store.build("module", "bert-mt", PAYLOAD) as (work, _):
        (work.folder / "module.bin").write_bytes(b"weights")
        assert reopened(store, said).get(*KEY) is None
        assert list(reopened(store, said).list()) == []


def test_a_failed_build_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError, match="no luck"), store.build("module", "bert-mt", PAYLOAD) as (work, _):
        (work.folder / "module.bin").write_bytes(b"weights")
        raise RuntimeError("no luck")
    assert everything_in(store.root) == [".work"]


def test_a_failed_build_keeps_its_checkpoint_for_the_next(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.build("module", "bert-mt", PAYLOAD) as (work, _):
        (work.folder / "module.bin").write_bytes(b"weights")
        work.checkpoint.mkdir()
        (work.checkpoint / "state.pt").write_bytes(b"step 5")
        raise KeyboardInterrupt
    assert everything_in(store.root / ".work") == [WORK, f"{WORK}/checkpoint", f"{WORK}/checkpoint/state.pt"]
    with store.build("module", "bert-mt", PAYLOAD) as (work, _):
        assert (work.checkpoint / "state.pt").read_bytes() == b"step 5"
        (work.folder / "module.bin").write_bytes(b"weights")
    assert store.get(*KEY) is not None
    assert everything_in(store.root / ".work") == []


def test_a_build_whose_files_cannot_be_kept_leaves_nothing(store: Store) -> None:
    with pytest.raises(TypeError), store.build("module", "bert-mt", PAYLOAD) as (work, notes):
        (work.folder / "module.bin").write_bytes(b"weights")
        notes["summary"]["best"] = object()
    assert everything_in(store.root) == [".work"]


def test_the_leftovers_of_a_kill_are_cleared_but_for_the_checkpoint(store: Store) -> None:
    base = store.root / ".work" / WORK
    for name in ("files/old.bin", f"files/{MANIFEST}", "replaced/old.bin", "checkpoint/state.pt", "checkpoint/.state.pt.4711"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(b"old")
    with store.build("module", "bert-mt", PAYLOAD) as (work, _):
        assert everything_in(base) == ["checkpoint", "checkpoint/state.pt", "files"]
        (work.folder / "new.bin").write_bytes(b"new")
    assert everything_in(store.place(*KEY)) == [MANIFEST, "new.bin"]


def test_a_forced_build_replaces_the_whole_artifact(store: Store, said: list[str]) -> None:
    build(store)
    with store.build("module", "bert-mt", PAYLOAD) as (work, _):
        (work.folder / "other.bin").write_bytes(b"other")
        assert reopened(store, said).get(*KEY) is not None, "the old one stays until the new one is there"
    assert everything_in(store.place(*KEY)) == [MANIFEST, "other.bin"]
    assert reopened(store, said).get(*KEY) is not None
    assert list((store.root / ".work").iterdir()) == []


def test_a_forced_build_succeeds_after_one_that_was_killed_before_it_had_cleaned_up(store: Store) -> None:
    build(store)
    left = store.root / ".work" / WORK / "replaced"
    left.mkdir(parents=True)
    (left / "old.bin").write_bytes(b"old")
    assert (build(store, b"other").folder / "module.bin").read_bytes() == b"other"


# ---- why it is not there


def test_a_miss_is_explained_by_the_nearest_artifact(store: Store) -> None:
    assert store.explain_miss("module", PAYLOAD) == "first of its kind"
    build(store, of=payload(8, lang="yo", cap=1))
    build(store, of=payload(8))
    build(store, of=payload(4, lang="yo"))
    assert store.explain_miss("module", PAYLOAD) == "method.reduction_factor 8 → 16"
    assert store.explain_miss("text", PAYLOAD["inputs"]["text"]) == "first of its kind"


def test_a_miss_with_many_reasons_names_three(store: Store) -> None:
    build(store, of=payload(a=1, b=1, c=1, d=1, e=1))
    assert store.explain_miss("module", PAYLOAD) == "text.a 1 → none, text.b 1 → none, text.c 1 → none and 2 more"


# ---- damage


def _change(folder: Path) -> None:
    (folder / "module.bin").write_bytes(b"weighty")


def _truncate(folder: Path) -> None:
    os.truncate(folder / "head" / "head.bin", 3)


def _delete(folder: Path) -> None:
    (folder / "module.bin").unlink()


def _edit_payload(folder: Path) -> None:
    _edit_manifest(folder, lambda manifest: manifest["payload"].update(version=2))


def _edit_checksum(folder: Path) -> None:
    _edit_manifest(folder, lambda manifest: manifest["files"]["module.bin"].update(sha256="0" * 64))


def _cut_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 100)


def _edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


damages = pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_change, "module.bin"), (_truncate, "head/head.bin"), (_delete, "module.bin"), (_edit_payload, MANIFEST),
        (_edit_checksum, "module.bin"), (_cut_manifest, MANIFEST),
    ],
)  # fmt: skip


@damages
def test_a_damaged_artifact_is_named_and_set_aside(
    store: Store, said: list[str], damage: Callable[[Path], None], named: str
) -> None:
    folder = build(store).folder
    damage(folder)
    assert reopened(store, said).get(*KEY) is None
    (line,) = said
    assert f"damaged ({named})" in line
    assert folder.name in line
    assert not folder.exists()
    (aside,) = (store.root / ".damaged").iterdir()
    assert str(aside) in line
    build(store)
    assert reopened(store, said).get(*KEY) is not None
    assert len(said) == 1


def test_damage_that_changes_sizes_is_seen_at_a_glance(store: Store, said: list[str]) -> None:
    _truncate(build(store).folder)
    assert reopened(store, said).peek(*KEY) is None


def test_a_file_that_disappears_while_the_process_runs_is_noticed(store: Store, said: list[str]) -> None:
    _delete(build(store).folder)
    assert store.get(*KEY) is None
    assert "module.bin" in said[0]


# ---- a second, ready-made folder


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder with its content and when it was last written to."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    }


@contextmanager
def untouched(folder: Path) -> Iterator[Path]:
    """The folder, read-only; afterwards it has to be as it was."""
    before = state_of(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    assert state_of(folder) == before
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def make_ready(folder: Path, *payloads: dict[str, Any], content: bytes = b"ready") -> Path:
    """A folder with artifacts and nothing else, as a package brings it along."""
    maker = Store(folder / "maker")
    for of in payloads or (PAYLOAD,):
        build(maker, content, of)
    (maker.root / "module").rename(folder / "module")
    shutil.rmtree(maker.root)
    return folder


@pytest.fixture
def ready_made(tmp_path: Path) -> Iterator[Path]:
    """One artifact of which the store itself knows nothing."""
    (tmp_path / "ready").mkdir()
    with untouched(make_ready(tmp_path / "ready")) as folder:
        yield folder


def beside(ready_made: Path, tmp_path: Path, said: list[str]) -> Store:
    """The test's store with a ready-made folder beside it."""
    return Store(tmp_path / "store", said.append, ready_made)


def test_a_ready_made_artifact_is_found(ready_made: Path, tmp_path: Path, said: list[str]) -> None:
    """At a glance and in full, again and again, and under another label too; nothing is copied."""
    store = beside(ready_made, tmp_path, said)
    for look in (store.peek, store.get, store.peek, store.get, beside(ready_made, tmp_path, said).get):
        artifact = look(*KEY)
        assert artifact is not None
        assert artifact.folder == ready_made / "module" / f"bert-mt-{WORK}"
        assert (artifact.fingerprint, artifact.summary) == (KEY[2], {"steps": 3})
        assert (artifact.folder / "module.bin").read_bytes() == b"ready"
    assert store.get("module", "renamed", KEY[2]) is not None
    assert store.get("module", "bert-mt", fingerprint(payload(8))) is None
    assert store.get("text", "bert-mt", KEY[2]) is None
    assert not store.root.exists()
    assert said == []


def test_artifacts_lie_here_and_there(ready_made: Path, tmp_path: Path, said: list[str]) -> None:
    store = beside(ready_made, tmp_path, said)
    other = build(store, of=payload(8))
    assert other.folder.parent.parent == store.root
    assert store.get(*KEY) is not None
    assert beside(ready_made, tmp_path, said).peek("module", "bert-mt", other.fingerprint) is not None
    assert said == []


def test_what_the_store_itself_holds_comes_first(ready_made: Path, tmp_path: Path, said: list[str]) -> None:
    """That of a forced build, for one; under whatever label it lies."""
    store = beside(ready_made, tmp_path, said)
    assert store.get(*KEY) is not None
    with store.build("module", "renamed", PAYLOAD) as (work, _):
        (work.folder / "module.bin").write_bytes(b"made here")
    for reader in (store, beside(ready_made, tmp_path, said)):
        for look in (reader.get, reader.peek):
            for label in ("renamed", "bert-mt"):
                artifact = look("module", label, KEY[2])
                assert artifact is not None
                assert artifact.folder == store.place("module", "renamed", KEY[2])
    assert said == []


def test_a_ready_made_folder_that_is_not_there(tmp_path: Path, said: list[str]) -> None:
    store = beside(tmp_path / "nowhere", tmp_path, said)
    assert store.get(*KEY) is None
    assert store.peek(*KEY) is None
    assert store.explain_miss("module", PAYLOAD) == "first of its kind"
    build(store)
    assert store.get(*KEY) is not None
    assert not (tmp_path / "nowhere").exists()


@damages
def test_a_damaged_ready_made_artifact_is_named_and_made_anew(
    damage: Callable[[Path], None], named: str, tmp_path: Path, said: list[str]
) -> None:
    """In the store itself, whose own wins from then on; the damaged one stays where it is."""
    (tmp_path / "ready").mkdir()
    folder = make_ready(tmp_path / "ready") / "module" / f"bert-mt-{WORK}"
    damage(folder)
    with untouched(tmp_path / "ready") as ready_made:
        store = beside(ready_made, tmp_path, said)
        assert store.get(*KEY) is None
        (line,) = said
        assert f"damaged ({named})" in line
        assert str(folder) in line
        assert not (store.root / ".damaged").exists()
        artifact = build(store, b"made here")
        assert artifact.folder == store.place(*KEY)
        for reader in (store, beside(ready_made, tmp_path, said)):
            for look in (reader.get, reader.peek):
                found = look(*KEY)
                assert found is not None
                assert (found.folder / "module.bin").read_bytes() == b"made here"
        assert said == [line]


def test_a_damaged_ready_made_artifact_is_named_once(tmp_path: Path, said: list[str]) -> None:
    """Who builds looks twice: before and after it has the lock."""
    (tmp_path / "ready").mkdir()
    _change(make_ready(tmp_path / "ready") / "module" / f"bert-mt-{WORK}")
    with untouched(tmp_path / "ready") as ready_made:
        store = beside(ready_made, tmp_path, said)
        for _ in range(2):
            with store.lock(KEY[2], "module bert-mt"):
                assert store.get(*KEY) is None
        assert len(said) == 1


def test_a_miss_is_explained_by_what_is_ready_made(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "ready").mkdir()
    with untouched(make_ready(tmp_path / "ready", payload(8, lang="yo"), payload(4, cap=1))) as ready_made:
        store = beside(ready_made, tmp_path, said)
        assert store.explain_miss("module", payload(8)) == "text.lang yo → mt"
        assert store.explain_miss("module", payload(4, cap=2)) == "text.cap 1 → 2"
        build(store, of=payload(16, cap=2))
        assert store.explain_miss("module", payload(15, cap=2)) == "method.reduction_factor 16 → 15", "the nearer one is here"
        assert store.explain_miss("module", payload(5, cap=1)) == "method.reduction_factor 4 → 5", "the nearer one is there"
        assert store.explain_miss("text", PAYLOAD["inputs"]["text"]) == "first of its kind"


def test_a_miss_of_a_damaged_ready_made_artifact_is_explained(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "ready").mkdir()
    _truncate(make_ready(tmp_path / "ready") / "module" / f"bert-mt-{WORK}")
    with untouched(tmp_path / "ready") as ready_made:
        store = beside(ready_made, tmp_path, said)
        assert store.peek(*KEY) is None
        assert "damaged" in store.explain_miss("module", PAYLOAD)


def test_lists_and_prunings_do_not_reach_what_is_ready_made(ready_made: Path, tmp_path: Path, said: list[str]) -> None:
    store = beside(ready_made, tmp_path, said)
    assert list(store.list()) == list(store.list("module")) == []
    assert store.prune(set()) == []
    own = build(store, of=payload(8))
    copy = build(store)
    assert {artifact.folder for artifact in store.list("module")} == {own.folder, copy.folder}
    assert {folder for folder, _ in store.prune({own.fingerprint})} == {copy.folder}
    assert [artifact.fingerprint for artifact in store.list()] == [own.fingerprint]
    found = store.get(*KEY)
    assert found is not None
    assert ready_made in found.folder.parents, "the ready-made one is found again"


# ---- several processes

_BUILDER = """
import sys, time
from pathlib import Path
from xlt.store import Store

root, events = Path(sys.argv[1]), Path(sys.argv[2])
payload = {"kind": "module", "version": 1, "fields": {}, "inputs": {}}
from xlt.store import fingerprint
store = Store(root, say=lambda line: (events / "waiting").write_text(line))
with store.lock(fingerprint(payload), "module bert"):
    if store.get("module", "bert", fingerprint(payload)):
        print("found")
    else:
        with store.build("module", "bert", payload) as (work, notes):
            (work.folder / "module.bin").write_bytes(b"weights")
            (events / "building").touch()
            while not (events / "waiting").exists() and not (events / "go on").exists():
                time.sleep(0.01)
        print("built")
"""


def _start_builder(root: Path, events: Path) -> subprocess.Popen:
    events.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", _BUILDER, str(root), str(events)], stdout=subprocess.PIPE, text=True)


def _wait_for(event: Path, process: subprocess.Popen) -> None:
    while not event.exists():
        assert process.poll() is None, "the process ended before"


def test_of_two_processes_one_builds_and_the_other_waits_and_says_so(tmp_path: Path) -> None:
    events = tmp_path / "events"
    first = _start_builder(tmp_path / "store", events)
    _wait_for(events / "building", first)
    second = _start_builder(tmp_path / "store", events)  # the first goes on when the second has said that it waits
    assert [process.communicate()[0].strip() for process in (first, second)] == ["built", "found"]
    assert (events / "waiting").read_text() == "waiting for another process that makes module bert"


def test_a_killed_builder_frees_its_lock(tmp_path: Path) -> None:
    events = tmp_path / "events"
    first = _start_builder(tmp_path / "store", events)
    _wait_for(events / "building", first)
    first.kill()
    first.communicate()
    (events / "go on").touch()
    second = _start_builder(tmp_path / "store", events)
    assert second.communicate()[0].strip() == "built"
    assert not (events / "waiting").exists()


# ---- removing


def test_pruning_removes_all_but_what_is_kept(store: Store, said: list[str]) -> None:
    kept, doomed = build(store), build(store, of=payload(8))
    damaged = build(store, of=payload(4))
    _change(damaged.folder)
    assert reopened(store, said).get("module", "bert-mt", damaged.fingerprint) is None
    unreadable = build(store, of=payload(2))
    (unreadable.folder / MANIFEST).unlink()
    (aside,) = (store.root / ".damaged").iterdir()
    stale = store.root / ".work" / "0123456789abcdef"
    (stale / "checkpoint").mkdir(parents=True)
    (stale / "checkpoint" / "state.pt").write_bytes(b"12345")
    removed = dict(reopened(store, said).prune({kept.fingerprint, unreadable.fingerprint}))
    assert set(removed) == {doomed.folder, aside, unreadable.folder, stale}
    assert (removed[stale], removed[unreadable.folder]) == (5, 14)
    assert not any(folder.exists() for folder in removed)
    assert [artifact.fingerprint for artifact in reopened(store, said).list()] == [kept.fingerprint]
    assert reopened(store, said).get(*KEY) is not None


def test_pruning_leaves_files_of_others_alone(store: Store) -> None:
    build(store)
    (store.root / "revisions.json").write_text("{}")
    (store.root / "notes" / "mine").mkdir(parents=True)
    assert [path for path, _ in store.prune(set())] == [store.place(*KEY)]
    assert (store.root / "revisions.json").exists()
    assert (store.root / "notes" / "mine").exists()
    assert store.peek(*KEY) is None


def test_pruning_spares_what_another_process_is_building(tmp_path: Path) -> None:
    store, events = Store(tmp_path / "store"), tmp_path / "events"
    builder = _start_builder(store.root, events)
    _wait_for(events / "building", builder)
    assert store.prune(set()) == []
    (events / "go on").touch()
    assert builder.communicate()[0].strip() == "built"
    assert len(list(store.list())) == 1


def test_pruning_keeps_the_file_of_a_lock(store: Store) -> None:
    """Who waits for a lock has its file open: after its removal he and the next one would both hold "the" lock."""
    with store.lock(KEY[2], "module bert-mt"):
        pass
    (store.root / ".work" / WORK / "files").mkdir(parents=True)
    (lock,) = (store.root / ".locks").iterdir()
    before = lock.stat().st_ino
    assert [path.name for path, _ in store.prune(set())] == [WORK]
    assert lock.stat().st_ino == before


def test_an_artifact_can_be_pruned_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time what a pruning that was killed has left stands in the way."""
    build(store)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *arguments, **options: None)
        store.prune(set())
    build(store)
    store.prune(set())
    assert everything_in(store.root) == [".damaged", ".work", "module"]


# ---- writing


def test_a_full_disk_is_refused_before_anything_is_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5_000_000, 5_000_000))
    with pytest.raises(UserError, match="5 MB free and this run needs about 67 MB"):
        store.check_writable()
    store.check_writable(bytes_needed=4_000_000)
    assert everything_in(store.root) == []


def test_a_store_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Store(tmp_path / "file" / "store").check_writable()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert everything_in(tmp_path) == ["record.json"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "record.json"
    write_durably(path, b"old")

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (store_module.os, "fsync"), "rename": (Path, "rename")}[failing], fail)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert everything_in(tmp_path) == ["record.json"]


def test_a_reason_is_told_once_and_names_what_is_nearest(tmp_path: Path) -> None:
    """A score without a language module is not nearer than one whose module has another size."""

    def payload(reduction_factor: int | None) -> dict[str, object]:
        module = {
            "kind": "language_module",
            "version": 1,
            "fields": {"method": {"reduction_factor": reduction_factor}},
            "inputs": {},
        }
        inputs = {} if reduction_factor is None else {"language_module": module}
        task_module = {"kind": "task_module", "version": 1, "fields": {}, "inputs": inputs}
        return {"kind": "evaluation", "version": 1, "fields": {}, "inputs": {**inputs, "task_module": task_module}}

    store = Store(tmp_path)
    for stored in (None, 16):
        with store.build("evaluation", "label", payload(stored)) as (work, _):
            (work.folder / "file").write_text("")
    assert store.explain_miss("evaluation", payload(8)) == "language_module.method.reduction_factor 16 → 8"
