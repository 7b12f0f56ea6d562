"""A model hub on this machine, as far as the hub's client asks one: repositories are folders."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")  # kept apart from the others, under their sha256


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves ``root/OWNER/NAME``; a repository's commit is the hash of its files."""

    protocol_version = "HTTP/1.1"
    root: Path

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._describe(self.root / parts[2] / parts[3], parts[4:], body)
        elif len(parts) == 5 and parts[2] == "resolve":
            self._file(self.root / parts[0] / parts[1], parts[4], body)
        else:
            self._send(404, b"", {}, body)

    def _describe(self, folder: Path, rest: list[str], body: bool) -> None:
        if not folder.is_dir():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
            return
        files = sorted(path for path in folder.iterdir())
        if rest[:1] == ["tree"]:
            answer = [_entry(path) for path in files]
        else:
            siblings = [{"rfilename": path.name} for path in files]
            answer = {"id": "/".join(folder.parts[-2:]), "sha": commit_of(folder), "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, folder: Path, name: str, body: bool) -> None:
        path = folder / name
        if not path.is_file():
            code = "EntryNotFound" if folder.is_dir() else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code}, body)
            return
        headers = {"X-Repo-Commit": commit_of(folder), "ETag": f'"{blob_of(path)}"'}
        self._send(200, path.read_bytes(), headers, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def blob_of(path: Path) -> str:
    """What the hub calls the content of a file: the sha256 of a large one, else git's hash."""
    data = path.read_bytes()
    if path.suffix in LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def commit_of(folder: Path) -> str:
    """40 hex digits."""
    names = [f"{path.name} {blob_of(path)}" for path in sorted(folder.iterdir())]
    return hashlib.sha1("\n".join(names).encode()).hexdigest()


def _entry(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": path.name, "size": size, "oid": blob_of(path)[:40]}
    if path.suffix in LARGE:
        entry["lfs"] = {"oid": blob_of(path), "size": size, "pointerSize": 130}
    return entry


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The URL of a hub of the repositories below ``root``."""
    handler = type("Handler", (Hub,), {"root": root})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
