"""The manifest is the contract of an index: what made it, which files it consists of, what they hold.

It is written last, by rename; a folder without one is not an index (yet). It carries its own sha256, and
every field is checked for type and range when it is read: a manifest may come from a stranger. The format
is documented field by field in ``indexes/README.md``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from felga.errors import BadIndexError, NotFoundError
from felga.files import read_regular, to_json, write_whole

FORMAT, FORMAT_VERSION = "felga-index", 6
NAME = "manifest.json"
PACKAGED = "packaged"  # the source of a FENet that comes with felga
LARGEST = 2**30  # bytes; a manifest grows by some 200 bytes per file of the index
_FILE = re.compile(
    r"(images|texts)\.lance/[\w.-]+(/[\w.-]+)*|(regions|keywords|approximate)-[0-9a-f]+\.faiss|fenet-[0-9a-f]+\.safetensors"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One table of the store and the FAISS files built from it.

    Attributes:
        version: of the Lance table.
        owners, fragments: number of rows, and of regions or keywords in them.
        digest: :meth:`felga.store.owner_table.OwnerTable.digest`.
        pieces: FAISS files, in the order of the fragments.
        counts: fragments in each of them.
    """

    version: int
    owners: int
    fragments: int
    digest: str
    pieces: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """What one index cannot mix.

    Attributes:
        encoder: :meth:`felga.types.Encoder.identity`; has at least ``name`` and ``dim``.
        regions, keywords: ``proposer`` (its settings, with a ``name``), ``top``, and ``whole`` (whether the
            whole image or text is one more); for regions also ``features`` (their length, None without) and
            ``quality`` (the settings of its predictor, None where regions have the quality that their
            proposer gave).
    """

    encoder: Mapping[str, Any]
    regions: Mapping[str, Any]
    keywords: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CorpusEntry:
    """Where images and texts came from.

    Attributes:
        kind: of :class:`felga.corpus.items.Corpus`.
        root: paths in the store are relative to it.
        settings: what decided the listing.
    """

    kind: str
    root: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FenetEntry:
    """The FENet of an index.

    Attributes:
        file, sha256: its file, and the sha256 of that.
        dim: length of its vectors.
        source: where it came from: :data:`PACKAGED`, or the name of a checkpoint.
    """

    file: str
    sha256: str
    dim: int
    source: str


@dataclass(frozen=True, slots=True)
class ApproximateEntry:
    """The approximate search of the regions.

    Attributes:
        file: its codes (:mod:`felga.search.approximate`).
        asked: ``auto``, or a factory.
        factory: of FAISS, that they were made by.
        pieces, counts: the FAISS files that they were made of, which may since have been replaced, and the
            fragments in each.
        effort, fetch: :class:`felga.search.approximate.Depth`.
        min_recall: the recall that was asked for.
        recall: share of the ten best images of ``queries`` words that it found when it was made.
    """

    file: str
    asked: str
    factory: str
    pieces: tuple[str, ...]
    counts: tuple[int, ...]
    effort: int
    fetch: int
    min_recall: float
    recall: float
    queries: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and sha256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Errors:
    """How many images and texts were quarantined; ``errors.jsonl`` lists the reasons."""

    images: int
    texts: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        dim: of the vectors in the FAISS files: the encoder's, or the FENet's.
        approximate: None: regions are searched exactly.
        files: path inside the index -> size and sha256.
        felga: version that wrote it.
        encoder: the name under which the encoder was made, and can be again; it may contain the path of its
            weights, so it is no part of the contract, which names them by sha256.
    """

    contract: Contract
    encoder: str
    corpus: CorpusEntry
    fenet: FenetEntry | None
    dim: int
    images: TableEntry
    texts: TableEntry
    approximate: ApproximateEntry | None
    files: Mapping[str, FileEntry]
    errors: Errors
    felga: str
    format: str = field(default=FORMAT)
    format_version: int = field(default=FORMAT_VERSION)

    def to_json(self) -> dict[str, Any]:
        """Json values, signed with their own sha256."""
        return signed(asdict(self))

    def write(self, folder: Path) -> None:
        """Make this the state of the index."""
        write_whole(folder / NAME, to_json(self.to_json(), indent=1).encode())


def signed(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with ``sha256``, the digest of everything else in it."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(to_json(rest).encode()).hexdigest()}


def read_manifest(folder: Path, name: str = NAME) -> Manifest:
    """The manifest of an index; ``name`` is that of a retired one.

    Raises:
        NotFoundError: no such folder, or no index in it.
        BadIndexError: not a manifest, damaged, or of a format that this felga does not read.
    """
    path = folder / name
    try:
        data = read_regular(path, LARGEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "holds no finished index" if folder.is_dir() else "does not exist"
        raise NotFoundError(f"{folder} {what}: run `felga index CORPUS --out {folder}`") from error
    except OSError as error:
        raise BadIndexError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_manifest(data, path)


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """:func:`read_manifest` of bytes already read; ``path`` is named in errors."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadIndexError(
            f"{path} is not readable as json ({error}): index again into a new folder"
        ) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadIndexError(f"{path} is not the manifest of a felga index: name the folder of one")
    if data.get("format_version") != FORMAT_VERSION:
        raise BadIndexError(
            f"{path} has format version {str(data.get('format_version'))[:20]}, this felga reads "
            f"{FORMAT_VERSION}: index the corpus again into a new folder, or install the felga that wrote it"
        )
    if data != signed(data):
        raise BadIndexError(f"{path} was changed or damaged: its sha256 does not match; index again")
    data.pop("sha256")
    try:
        manifest: Manifest = _parsed(Manifest, data, "the manifest")
        _check(manifest)
    except (ValueError, RecursionError) as error:
        raise BadIndexError(f"{path} is not a valid manifest ({error}): index again") from error
    return manifest


def _parsed(kind: Any, value: Any, where: str) -> Any:
    """``value`` from json as the type ``kind``; ValueError names the field that does not fit."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(hints):
            raise ValueError(f"{where} has missing or unknown fields")
        return kind(**{name: _parsed(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})  # type: ignore[operator]
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _parsed(typing.get_args(kind)[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_parsed(typing.get_args(kind)[0], one, where) for one in value)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        inner = typing.get_args(kind)[1]
        return value if inner is Any else {key: _parsed(inner, one, where) for key, one in value.items()}
    if kind is int and type(value) is int and 0 <= value < 2**63:
        return value
    if kind is float and type(value) in (int, float) and 0 <= value <= 1:  # all of them are shares
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    raise ValueError(f"{where} has the wrong type or is out of range")


def _check(manifest: Manifest) -> None:
    """Names that stay inside the index, counts that agree, and every file that the index needs.

    Raises:
        ValueError: says which does not hold.
    """
    for part, top in (("encoder", False), ("regions", True), ("keywords", True)):
        about = getattr(manifest.contract, part)
        if top and (type(about.get("top")) is not int or not isinstance(about.get("whole"), bool)):
            raise ValueError(f"contract.{part} lacks `top` or `whole`")
        named = about.get("proposer") if top else about
        if not isinstance(named, dict) or not isinstance(named.get("name"), str):
            raise ValueError(f"contract.{part} lacks a name")
    regions = manifest.contract.regions
    if set(regions) != {"proposer", "top", "whole", "features", "quality"}:
        raise ValueError("contract.regions has missing or unknown fields")
    if set(manifest.contract.keywords) != {"proposer", "top", "whole"}:
        raise ValueError("contract.keywords has missing or unknown fields")
    features, quality = regions["features"], regions["quality"]
    if features is not None and (type(features) is not int or not 0 < features < 2**20):
        raise ValueError("contract.regions.features is out of range")
    if quality is not None and not isinstance(quality, dict):
        raise ValueError("contract.regions.quality is neither null nor settings")
    dim = manifest.contract.encoder.get("dim")
    if type(dim) is not int or not 0 < dim < 2**20 or not 0 < manifest.dim < 2**20:
        raise ValueError("dim is out of range")
    if manifest.dim != (manifest.fenet.dim if manifest.fenet else dim):
        raise ValueError("dim is neither the encoder's nor the FENet's")
    for name, entry in manifest.files.items():
        if not _FILE.fullmatch(name) or ".." in name.split("/"):
            raise ValueError(f"{name[:80]!r} is not a file of an index")
        if not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"the sha256 of {name} is malformed")
    for table, stem, lance in (
        (manifest.images, "regions-", "images.lance/"),
        (manifest.texts, "keywords-", "texts.lance/"),
    ):
        if len(table.pieces) != len(table.counts) or sum(table.counts) != table.fragments:
            raise ValueError("the FAISS files do not add up to the fragments")
        if any(not name.startswith(stem) or name not in manifest.files for name in table.pieces):
            raise ValueError("a FAISS file is not among the files")
        if not any(name.startswith(lance) for name in manifest.files):
            raise ValueError(f"no file of {lance} is listed")
    if (codes := manifest.approximate) is not None and (
        not codes.file.startswith("approximate-")
        or codes.file not in manifest.files
        or len(codes.pieces) != len(codes.counts)
        or not sum(codes.counts)
        or not codes.fetch
    ):
        raise ValueError("the approximate search is not among the files, or of no fragments")
    if manifest.fenet is not None and (
        manifest.fenet.file not in manifest.files
        or manifest.files[manifest.fenet.file].sha256 != manifest.fenet.sha256
    ):
        raise ValueError("the FENet is not among the files")


def check_features(taken: int | None, contract: Contract, fenet: str) -> None:
    """Refuse a FENet that takes features of a length (None: none) that the index does not have.

    Raises:
        BadIndexError: it does.
    """
    stored = contract.regions["features"]
    if taken is not None and taken != stored:
        raise BadIndexError(
            f"{fenet} was trained with {taken} features per region and the index has {stored or 'none'}: "
            "index again with an encoder that has them, or train a FENet on this index"
        )


def differences(actual: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two contracts differ: ``regions.top is 10, expected 5``; hashes are shortened."""
    out = []
    for key in sorted({*actual, *expected}):
        a, b = actual.get(key), expected.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key} is {_short(a)}, expected {_short(b)}")
    return out


def summary(differ: list[str], most: int = 4) -> str:
    """Differences in one sentence: the first few, and how many more there are."""
    more = f"; and {len(differ) - most} more" if len(differ) > most else ""
    return "; ".join(differ[:most]) + more


def _short(value: Any) -> str:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value[:12]
    return repr(value)
