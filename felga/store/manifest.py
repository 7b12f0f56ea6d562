"""The manifest is the contract of an index: what made it, which versions and files it is, what they hold.

It is written last, by rename; a folder without one is no index (yet). The on-disk format is told field by
field in ``indexes/README.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from felga.errors import BadIndexError, NotFoundError
from felga.files import sha256_file, to_json, write_whole

FORMAT, FORMAT_VERSION = "felga-index", 1
NAME = "manifest.json"
HASHED_AT_OPEN = 64 * 2**20  # bytes; a larger file has its size compared, and `felga verify` hashes all


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One table of the store and the FAISS files made from it.

    Attributes:
        version: of the Lance table.
        owners, fragments: rows, and regions or keywords in them.
        most: fragments of the owner that has most.
        digest: :meth:`felga.store.tables.Owners.digest`.
        indexes: FAISS files, in the order of the fragments.
    """

    version: int
    owners: int
    fragments: int
    most: int
    digest: str
    indexes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` holds.

    Attributes:
        contract: encoder identity, proposers and their settings: what an index cannot mix.
        corpus: kind, root (paths in the store are relative to it) and options.
        fenet: None, or the checkpoint's file, sha256 and dim.
        dim: of the vectors in the FAISS files.
        images, texts: the tables.
        files: path inside the index -> size in bytes and sha256.
        errors: how many images and texts were quarantined; ``errors.jsonl`` says why.
        felga: version that wrote it.
    """

    contract: Mapping[str, Any]
    corpus: Mapping[str, Any]
    fenet: Mapping[str, Any] | None
    dim: int
    images: TableEntry
    texts: TableEntry
    files: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, int]
    felga: str
    format: str = field(default=FORMAT)
    format_version: int = field(default=FORMAT_VERSION)

    def write(self, folder: Path) -> None:
        """Make this the state of the index."""
        write_whole(folder / NAME, to_json(asdict(self), indent=1).encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index.

    Raises:
        NotFoundError: no such folder, or no index in it.
        BadIndexError: not a manifest, or of a format that this felga does not read.
    """
    path = folder / NAME
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        what = "holds no finished index" if folder.is_dir() else "is not there"
        raise NotFoundError(f"{folder} {what}: run `felga index CORPUS --out {folder}`") from error
    except (ValueError, OSError) as error:
        raise BadIndexError(f"{path} cannot be read as json ({error}): build the index again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadIndexError(f"{path} is not the manifest of a felga index: name the folder of one")
    if data.get("format_version") != FORMAT_VERSION:
        raise BadIndexError(
            f"{path} is of format version {data.get('format_version')}, this felga reads {FORMAT_VERSION}: "
            "install the felga that wrote it, or build the index again"
        )
    try:
        for name in ("images", "texts"):
            data[name] = TableEntry(**{**data[name], "indexes": tuple(data[name]["indexes"])})
        return Manifest(**data)
    except (KeyError, TypeError) as error:
        raise BadIndexError(f"{path} lacks or exceeds a field ({error}): build the index again") from error


def describe(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of files, by their path inside the index."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(paths)
    }


def damaged(folder: Path, manifest: Manifest, *, hash_up_to: int | None = None) -> list[str]:
    """What is wrong with the files of an index, a line each; larger ones than ``hash_up_to`` by size only."""
    found = []
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif (size := path.stat().st_size) != wanted["size"]:
            found.append(f"{name} has {size} bytes, wanted {wanted['size']}")
        elif (hash_up_to is None or size <= hash_up_to) and sha256_file(path) != wanted["sha256"]:
            found.append(f"{name} was changed: its sha256 is not the manifest's")
    return found


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two contracts differ: ``regions.top is 10, wanted 5``."""
    out = []
    for key in sorted({*found, *wanted}):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key} is {a!r}, wanted {b!r}")
    return out
