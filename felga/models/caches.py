"""Where fetched weights lie, and which of them a part reads.

Three caches, shared with other programs: the hub's (``HF_HOME``), torch.hub's (``TORCH_HOME``:
torchvision, LAVIS), open_clip's for urls. In the hub's, ``models--OWNER--NAME/snapshots/COMMIT/FILE`` is a
link to ``blobs/HASH`` (a large file's sha256, or git's hash of a small one), and ``refs/main`` holds the
commit that a name alone means (huggingface_hub, "Understand caching").

:func:`reading` is per thread or task.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, TypeAlias

Cache: TypeAlias = Literal["hub", "torch", "open_clip"]
TEXTS = ("*.json", "*.txt", "*.model")
"""Configurations and vocabularies."""
_READ: ContextVar[list[Path] | None] = ContextVar("felga_read", default=None)


@dataclass(frozen=True, slots=True, order=True)
class CachedFile:
    """A file in a cache, wherever that cache is on this machine.

    Attributes:
        repository, commit: of the hub; "" in the other caches.
        path: inside the snapshot or the cache, with ``/``.
    """

    cache: Cache
    repository: str
    commit: str
    path: str

    @property
    def place(self) -> Path:
        """Where it is on this machine, or would be."""
        if self.cache == "hub":
            return repository_folder(self.repository) / "snapshots" / self.commit / self.path
        return cache_folders()[self.cache] / self.path

    def __str__(self) -> str:
        return f"{self.repository or self.cache}: {self.path}"


def cache_folders() -> dict[Cache, Path]:
    """The folder of each cache, whether it exists or not."""
    import torch
    from huggingface_hub import constants

    return {
        "hub": Path(constants.HF_HUB_CACHE).expanduser(),
        "torch": Path(torch.hub.get_dir(), "checkpoints"),
        "open_clip": Path("~/.cache/clip").expanduser(),
    }


def repository_folder(repository: str) -> Path:
    """Where the hub's cache keeps a model repository."""
    return cache_folders()["hub"] / "--".join(["models", *repository.split("/")])


def snapshots() -> Iterator[tuple[str, Path]]:
    """The model repositories in the hub's cache, by name, each with the snapshot that its name means."""
    for folder in sorted(cache_folders()["hub"].glob("models--*")):
        main = folder / "refs" / "main"
        if main.is_file() and (snapshot := folder / "snapshots" / main.read_text().strip()).is_dir():
            yield folder.name.removeprefix("models--").replace("--", "/"), snapshot


@contextmanager
def reading() -> Iterator[list[Path]]:
    """Collects the files of the caches from which parts made and used inside read; some come twice."""
    files: list[Path] = []
    token = _READ.set(files)
    try:
        yield files
    finally:
        _READ.reset(token)


def note(*files: Path) -> None:
    """Tell :func:`reading` that a part reads these files of a cache: every loader does."""
    if (read := _READ.get()) is not None:
        read.extend(files)


def note_folder(folder: Path, patterns: Sequence[str]) -> None:
    """:func:`note` for the files of a snapshot that match, as the hub's client matches."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    note(*(f for f in files if any(fnmatch(f.relative_to(folder).as_posix(), p) for p in patterns)))


def located(path: Path) -> CachedFile | None:
    """What a file on this machine is in its cache; None if it is in none."""
    path = path.parent.resolve() / path.name  # not the file: a link is how the hub's cache names it
    for cache, root in cache_folders().items():
        if not path.is_relative_to(root.resolve()):
            continue
        parts = path.relative_to(root.resolve()).parts
        if cache != "hub":
            return CachedFile(cache, "", "", "/".join(parts))
        if len(parts) > 3 and parts[0].startswith("models--") and parts[1] == "snapshots":
            repository = parts[0].removeprefix("models--").replace("--", "/")
            return CachedFile("hub", repository, parts[2], "/".join(parts[3:]))
    return None


def contents() -> set[Path]:
    """Every file in the caches, links resolved."""
    files = (path for folder in cache_folders().values() for path in folder.rglob("*"))
    return {path.resolve() for path in files if path.is_file()}


def link_name(path: Path) -> str:
    """What the hub calls the content of a file of its cache; "" if the file is no link."""
    return os.path.basename(os.readlink(path)) if path.is_symlink() else ""
