"""Small vectors kept across processes, so that a query seen before needs no model. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from felga.files import read_regular
from felga.types import Vectors

LARGEST = 2**24
"""Bytes of the largest entry."""
SHARDS = "0123456789abcdef"


class VectorCache:
    """Arrays of float32 by key, one file each; safe for any number of threads and processes.

    It lives in ``$FELGA_CACHE``, else ``$XDG_CACHE_HOME/felga``, else ``~/.cache/felga``, and may be deleted
    at any time. A missing, damaged or unreadable entry, or a folder that cannot be written, is a miss and
    never an error. Keys are stored as their sha256 only.

    Attributes:
        folder: where the entries are; it is created by the first :meth:`put`.
        capacity: bytes; beyond it the entries used least recently are removed.
    """

    def __init__(self, folder: Path | None = None, *, capacity: int = 2**26) -> None:
        self.folder = (cache_folder() if folder is None else folder) / "vectors"
        self.capacity = capacity

    def get(self, keys: Sequence[str]) -> list[Vectors | None]:
        """The array of each key, None where there is none; arrays are writable copies."""
        return [self._read(_digest(key)) for key in keys]

    def put(self, keys: Sequence[str], vectors: Sequence[Vectors] | Vectors) -> None:
        """Keep ``vectors[i]``, an array of any shape, under ``keys[i]``.

        Raises:
            ValueError: not as many vectors as keys.
        """
        shards: dict[Path, int] = defaultdict(int)
        for key, vector in zip(keys, vectors, strict=True):
            digest = _digest(key)
            shards[self._path(digest).parent] += self._write(digest, np.asarray(vector))
        for shard, written in shards.items():
            if written:
                self._evict(shard)

    def _path(self, digest: str) -> Path:
        return self.folder / digest[0] / digest

    def _read(self, digest: str) -> Vectors | None:
        path = self._path(digest)
        try:
            content = read_regular(path, LARGEST)
            checksum, payload = content[:32], content[32:]
            if hashlib.sha256(payload).digest() != checksum:
                return None
            head, _, data = payload.partition(b"\n")
            header = json.loads(head)
            if header["key"] != digest:  # renamed by someone
                return None
            vector: Vectors = np.frombuffer(data, "<f4").reshape(header["shape"]).astype(np.float32)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            os.utime(path)  # used just now
        except OSError:
            return vector  # a read-only folder still serves
        return vector

    def _write(self, digest: str, vector: Vectors) -> int:
        """Bytes written; 0 if the entry is too large or the folder refuses it."""
        head = json.dumps({"key": digest, "shape": list(vector.shape)}).encode()
        payload = head + b"\n" + vector.astype("<f4").tobytes()
        content = hashlib.sha256(payload).digest() + payload
        if len(content) > min(LARGEST, self.capacity // len(SHARDS)):
            return 0
        path = self._path(digest)
        part = path.with_name(f"{digest}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.unlink(missing_ok=True)  # of a killed process with the same id
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)  # not synced: the checksum notices an entry that a crash cut short
            os.replace(part, path)
        except OSError:
            _remove(part)
            return 0
        return len(content)

    def _evict(self, shard: Path) -> None:
        """Remove the entries of a shard used least recently until it keeps to its part of the capacity."""
        entries = []
        try:
            with os.scandir(shard) as files:
                for file in files:
                    try:
                        stat = file.stat(follow_symlinks=False)
                    except OSError:  # another process removed it
                        continue
                    entries.append((stat.st_mtime_ns, stat.st_size, file.path))
        except OSError:
            return
        room = self.capacity // len(SHARDS)
        excess = sum(size for _, size, _ in entries) - room
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            _remove(Path(path))
            excess -= size


def cache_folder() -> Path:
    """felga's folder for what it can compute again."""
    if named := os.environ.get("FELGA_CACHE"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # relative ones are ignored, as the XDG specification says
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base, "felga").absolute()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
