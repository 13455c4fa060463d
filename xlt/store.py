"""Artifacts on disk: each is the result of one step, found by the fingerprint of everything that determined it.

    <store>/<kind>/<label>-<fingerprint>/   the step's files and artifact.json, the manifest
    <store>/.work/<fingerprint>/            a build under way: files/ and checkpoint/
    <store>/.locks/                         one lock a fingerprint
    <store>/.damaged/                       what failed its checksums, kept until it is pruned

A build writes into `.work`, its files get checksums, everything is flushed to the disk, and one rename puts it into its
place: a folder under `<kind>/` is whole or not there. Whoever builds holds the lock of the fingerprint; others wait.
The lock belongs to the process, so a killed builder frees it, and the next one finds its checkpoint in `.work`.

Fingerprints hash a *payload* of plain data; manifests keep it, so that a miss can be explained by what differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xlt.errors import UserError

MANIFEST = "artifact.json"
_UNLIKE = 8  # differences from which on another artifact explains nothing
_DIGITS = 16  # of a fingerprint in folder names


def fingerprint(payload: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `payload`, in which every input stands for itself by its own fingerprint.

    Raises:
        TypeError, ValueError: the payload holds something without a stable form in JSON (NaN included).
    """
    own = {key: value for key, value in payload.items() if key != "inputs"}
    own["inputs"] = {name: fingerprint(inner) for name, inner in payload.get("inputs", {}).items()}
    text = json.dumps(own, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What distinguishes two payloads, a line a field: `method.reduction_factor 16 → 8`."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        path = f"{prefix}{key}".removeprefix("fields.").replace(".fields.", ".").replace("inputs.", "")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{path}.")
        elif isinstance(before, Mapping) or isinstance(after, Mapping):
            lines.append(f"{path} {'removed' if after is None else 'added'}")
        else:
            lines.append(f"{path} {_short(before)} → {_short(after)}")
    return lines


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and its manifest.

    The manifest holds `kind`, `label`, `fingerprint`, `payload`, `files` (bytes and SHA-256 of each), `provenance`
    (when, where, how long, with what) and `summary` (what the step reports of its result).
    """

    folder: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.manifest["summary"]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())


@dataclass(frozen=True)
class Work:
    """Where a build writes: `folder` becomes the artifact, `checkpoint` survives a killed build."""

    folder: Path
    checkpoint: Path


class Store:
    """The artifacts under one folder.

    Args:
        ready_made: a second folder of artifacts, only ever read: what it holds is found as if it lay in the first.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = print, ready_made: Path | None = None) -> None:
        self.root = root.absolute()
        self._ready_made = [ready_made] if ready_made else []
        self._say = say
        self._verified: set[Path] = set()
        self._named: set[Path] = set()  # damaged ready-made artifacts of which the user was told
        self._manifests: dict[Path, dict[str, Any]] = {}
        self._by_fingerprint: dict[str, dict[str, Path]] = {}  # of kinds in which something was looked for in vain

    # ---- looking up

    def place(self, kind: str, label: str, payload_fingerprint: str) -> Path:
        """The folder in which an artifact lies when it is finished."""
        return self.root / kind / f"{label[:160]}-{payload_fingerprint[:_DIGITS]}"

    def folder_of(self, kind: str, label: str, payload_fingerprint: str) -> Path:
        """Where the artifact lies: in its place, under another label (of a model that was renamed, say), or ready-made."""
        place = self.place(kind, label, payload_fingerprint)
        if place.is_dir():
            return place
        if kind not in self._by_fingerprint:
            found = [path for root in (*self._ready_made, self.root) for path in (root / kind).glob("*-*")]
            self._by_fingerprint[kind] = {path.name.rpartition("-")[2]: path for path in found}
        other = self._by_fingerprint[kind].get(payload_fingerprint[:_DIGITS])
        return other if other is not None and other.is_dir() else place

    def peek(self, kind: str, label: str, payload_fingerprint: str) -> Artifact | None:
        """The finished artifact, by its manifest and the sizes of its files alone."""
        folder = self.folder_of(kind, label, payload_fingerprint)
        manifest = self._read_manifest(folder)
        if manifest is None or manifest["fingerprint"] != payload_fingerprint:
            return None
        for name, entry in manifest["files"].items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                return None
        return Artifact(folder, manifest)

    def get(self, kind: str, label: str, payload_fingerprint: str) -> Artifact | None:
        """The finished artifact after its checksums have been compared; a damaged one is named and set aside."""
        self._by_fingerprint.pop(kind, None)
        folder = self.folder_of(kind, label, payload_fingerprint)
        if not folder.is_dir():
            return None
        self._manifests.pop(folder, None)
        artifact = self.peek(kind, label, payload_fingerprint)
        if artifact is not None and folder in self._verified:
            return artifact
        damaged = self._damaged_files(folder, payload_fingerprint)
        if not damaged:
            self._verified.add(folder)
            return artifact
        if self.root not in folder.parents:
            if folder not in self._named:
                self._say(f"{kind} {folder} is damaged ({', '.join(damaged)}): making it anew")
            self._named.add(folder)
            return None
        aside = self.root / ".damaged" / f"{folder.name}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(aside)
        self._verified.discard(folder)
        self._say(f"{kind} {folder.name} is damaged ({', '.join(damaged)}): set aside in {aside}, making it anew")
        return None

    def explain_miss(self, kind: str, payload: Mapping[str, Any]) -> str:
        """Why no artifact of `kind` has this payload: what differs from the one that comes nearest."""
        nearest: list[str] | None = None
        for artifact in [*self._listed(kind, *self._ready_made), *self.list(kind)]:
            lines = differences(artifact.manifest["payload"], payload)
            if not lines:
                return "the one in the store is damaged"
            if nearest is None or _distance(lines) < _distance(nearest):
                nearest = lines
        if nearest is None or _distance(nearest) > _UNLIKE:
            return "first of its kind"
        # What an input differs in, it differs in for whoever else has that input.
        nearest = [line for line in nearest if not any(line.endswith(f".{other}") for other in nearest)]
        return ", ".join(nearest[:3]) + (f" and {len(nearest) - 3} more" if len(nearest) > 3 else "")

    def list(self, kind: str | None = None) -> Iterator[Artifact]:
        """The finished artifacts, of one kind or of all, ready-made ones aside."""
        return self._listed(kind, self.root)

    def _listed(self, kind: str | None, *roots: Path) -> Iterator[Artifact]:
        for folder in sorted(path for root in roots for path in root.glob(f"{kind or '[!.]*'}/*")):
            manifest = self._read_manifest(folder)
            if manifest is not None:
                yield Artifact(folder, manifest)

    # ---- building

    @contextmanager
    def lock(self, payload_fingerprint: str, what: str) -> Iterator[None]:
        """Hold the right to build one artifact; waits, and says so, while another process has it."""
        lock = self._lock_of(payload_fingerprint)
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            self._say(f"waiting for another process that makes {what}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def build(self, kind: str, label: str, payload: Mapping[str, Any]) -> Iterator[tuple[Work, dict[str, Any]]]:
        """Build an artifact under its lock: fill `work.folder`, and the second value with `provenance` and `summary`.

        Leaving the block without an exception commits the artifact; with one, only the checkpoint stays.
        """
        digest = fingerprint(payload)
        base = self.root / ".work" / digest[:_DIGITS]
        work = Work(base / "files", base / "checkpoint")
        for leftover in (work.folder, base / "replaced"):
            shutil.rmtree(leftover, ignore_errors=True)
        for unfinished in work.checkpoint.rglob(".*"):  # a kill in the middle of a checkpoint leaves as much as it had written
            unfinished.unlink()
        work.folder.mkdir(parents=True)
        notes: dict[str, Any] = {"provenance": {}, "summary": {}}
        try:
            yield work, notes
            manifest = {
                "kind": kind, "label": label, "fingerprint": digest, "payload": payload,
                "files": _checksums(work.folder), **notes,
            }  # fmt: skip
            write_durably(work.folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
            _flush(work.folder)
        except BaseException:
            shutil.rmtree(work.folder, ignore_errors=True)
            if not work.checkpoint.exists():
                shutil.rmtree(base, ignore_errors=True)
            raise
        folder = self.place(kind, label, digest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():  # reuse=force
            folder.rename(base / "replaced")
        work.folder.rename(folder)
        _flush_directory(folder.parent)
        shutil.rmtree(base, ignore_errors=True)
        self._manifests.pop(folder, None)
        self._verified.add(folder)

    def check_writable(self, bytes_needed: int = 64 << 20) -> None:
        """Refuse to start where nothing could be kept.

        Raises:
            UserError: less than `bytes_needed` is free.
            OSError: the folder cannot be made or written to.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        probe = self.root / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(self.root).free
        if free < bytes_needed:
            raise UserError(
                f"The disk of {self.root} has {free / 1e6:.0f} MB free and this run needs about {bytes_needed / 1e6:.0f} MB. "
                "Free some space (`python scripts/store.py prune`) or point paths.outputs at another disk."
            )

    # ---- removing

    def prune(self, keep: set[str]) -> list[tuple[Path, int]]:
        """Remove artifacts whose fingerprint is not in `keep`, damaged ones and the remains of builds that no process
        is working on. Returns the folders removed with their bytes."""
        removed = []
        self._manifests.clear()  # other processes may have built since
        for folder in sorted(self.root.glob(f"[!.]*/*-{'[0-9a-f]' * _DIGITS}")):
            manifest = self._read_manifest(folder)
            if manifest is None or manifest["fingerprint"] not in keep:
                removed.append((folder, _bytes(folder)))
                doomed = self.root / ".damaged" / f"{folder.name}-{time.time_ns()}"
                doomed.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(doomed)  # at once, so that no reader meets a half-removed one
                shutil.rmtree(doomed, ignore_errors=True)
        for folder in sorted((self.root / ".damaged").glob("*")):
            removed.append((folder, _bytes(folder)))
            shutil.rmtree(folder, ignore_errors=True)
        for folder in sorted((self.root / ".work").glob("*")):
            lock = self._lock_of(folder.name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue  # a build under way
            removed.append((folder, _bytes(folder)))
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()  # its file stays: whoever is waiting would hold a lock on a file that nobody else finds
        return removed

    # ---- inside

    def _lock_of(self, payload_fingerprint: str) -> FileLock:
        path = self.root / ".locks" / f"{payload_fingerprint[:_DIGITS]}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def _read_manifest(self, folder: Path) -> dict[str, Any] | None:
        if folder not in self._manifests:
            try:
                manifest = json.loads((folder / MANIFEST).read_bytes())
                complete = {"kind", "label", "fingerprint", "payload", "files", "summary", "provenance"} <= manifest.keys()
                if not complete or fingerprint(manifest["payload"]) != manifest["fingerprint"]:
                    return None
            except (OSError, ValueError, TypeError, AttributeError):
                return None
            self._manifests[folder] = manifest
        return self._manifests[folder]

    def _damaged_files(self, folder: Path, payload_fingerprint: str) -> list[str]:
        manifest = self._read_manifest(folder)
        if manifest is None or manifest["fingerprint"] != payload_fingerprint:
            return [MANIFEST]
        actual = _checksums(folder)
        return [name for name, entry in manifest["files"].items() if actual.get(name) != entry]


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it has its old content or the new, never a mixture."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)  # on a full disk above all
        raise
    _flush_directory(path.parent)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in files}


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_directory(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_directory(folder)


def _flush_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _distance(lines: list[str]) -> int:
    """How far apart two payloads are: a whole step more or less counts as several fields."""
    return sum(5 if line.endswith((" added", " removed")) else 1 for line in lines)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:21]}…"
