"""A hub on this machine: serves folders as the Hugging Face Hub serves repositories, for tests of what is done online.

It speaks as much of the hub's protocol as huggingface_hub and datasets use to look up, list and download public files.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class LocalHub(BaseHTTPRequestHandler):
    """Repositories are `<root>/<models or datasets>/<org>/<name>`; every one is at `COMMIT`, gated ones are refused."""

    protocol_version = "HTTP/1.1"
    root: Path
    gated: frozenset[str] = frozenset()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            self._describe(parts[1], "/".join(parts[2:4]), parts[4:], posted)
            return
        kind = "datasets" if parts[0] == "datasets" else "models"
        rest = parts[1:] if parts[0] == "datasets" else parts
        name, inside = "/".join(rest[:2]), "/".join(rest[4:])
        file = self.root / kind / name / inside
        if self._refused(kind, name):
            return
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        first, last = 0, len(content) - 1
        if wanted := self.headers.get("Range"):
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first, last = int(low), int(high) if high else last
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206 if wanted else 200, content[first : last + 1], headers, body)

    def _describe(self, kind: str, name: str, rest: list[str], posted: bytes) -> None:
        if self._refused(kind, name):
            return
        folder = self.root / kind / name
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if rest[:1] in ([], ["revision"]):
            siblings = [{"rfilename": file} for file in files]
            content = {"id": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
        elif rest[0] == "refs":
            content = {
                "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}],
                "tags": [],
                "converts": [],
            }
        elif rest[0] == "tree":
            below = "/".join(rest[2:])
            content = _entries(folder, below, recursive="recursive=true" in self.path.lower())
        elif rest[0] == "paths-info":
            wanted = json.loads(posted)["paths"]
            content = [_entry(folder, path) for path in wanted if (folder / path).exists()]
        else:
            self._send(404, b"", {})
            return
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json", "X-Repo-Commit": COMMIT})

    def _refused(self, kind: str, name: str) -> bool:
        if name in self.gated:
            self._send(403, b"Access to this repository is restricted", {"X-Error-Code": "GatedRepo"})
            return True
        if not (self.root / kind / name).is_dir():
            self._send(404, b"Repository not found", {"X-Error-Code": "RepoNotFound"})
            return True
        return False

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def _entry(folder: Path, path: str) -> dict[str, object]:
    file = folder / path
    if file.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
    return {"type": "file", "oid": hashlib.sha1(file.read_bytes()).hexdigest(), "size": file.stat().st_size, "path": path}


def _entries(folder: Path, below: str, recursive: bool) -> list[dict[str, object]]:
    start = folder / below
    found = start.rglob("*") if recursive else start.glob("*")
    return [_entry(folder, path.relative_to(folder).as_posix()) for path in sorted(found)]


@contextmanager
def serve(root: Path, gated: frozenset[str] = frozenset()) -> Iterator[str]:
    """Run the hub on a free port of the loopback interface; its address."""
    handler = type("Handler", (LocalHub,), {"root": root, "gated": gated})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
