"""What weights are on this machine, and for which names: each family of parts looks for its own."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from felga.errors import FelgaError
from felga.files import shown
from felga.models.caches import located, snapshots
from felga.models.weights import sha256_of, weight_files


@dataclass(frozen=True, slots=True)
class Weights:
    """A weight file.

    Attributes:
        names: of the encoders and proposers that read it.
        source: the repository or cache that it was fetched into, or ``package``.
        size: in bytes.
        sha256: of its content, in hex.
    """

    names: tuple[str, ...]
    source: str
    path: str
    size: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Json values."""
        return {**asdict(self), "names": list(self.names)}


def cached_models(family: str, types: Container[str]) -> Iterator[tuple[str, Path]]:
    """The models of these transformers types in the hub's cache, each with its weight files.

    Yields:
        ``family:OWNER/NAME`` and a file.
    """
    for repository, snapshot in snapshots():
        try:
            config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
            files = weight_files(snapshot)
        except (OSError, ValueError, FelgaError):  # no model of transformers, or only a part of one
            continue
        if isinstance(config, dict) and config.get("model_type") in types:
            yield from ((f"{family}:{repository}", file) for file in files)


def listed(found: Iterable[tuple[str, Path]]) -> list[Weights]:
    """Each weight file once, with all names that use it; every file is read for its sha256.

    Args:
        found: names and files, as the families of the registry find them.
    """
    names: dict[Path, list[str]] = {}
    for name, path in found:
        names.setdefault(path, []).append(name)
    return [_weights(path, tuple(dict.fromkeys(users))) for path, users in names.items()]


def _weights(path: Path, names: tuple[str, ...]) -> Weights:
    file = located(path)
    source = "package" if file is None else file.repository or f"{file.cache}'s cache"
    return Weights(names, source, shown(path), path.stat().st_size, sha256_of(path))
