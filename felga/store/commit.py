"""Writing an index: one writer, files beside files, and last a manifest that replaces the old one.

No file that a manifest names is ever written in place. A replaced manifest is kept in ``retired/`` as a
hard link: readers hold a shared lock on it, so the files that only it needs are removed once it has been
replaced for an hour and nobody has it open.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from felga.errors import BadInputError, BusyError, FelgaError
from felga.files import sha256_file, shown, write_whole
from felga.store.manifest import (
    NAME,
    ApproximateEntry,
    Contract,
    CorpusEntry,
    Errors,
    FenetEntry,
    FileEntry,
    Manifest,
    TableEntry,
    check_features,
    read_manifest,
)
from felga.store.owner_table import OwnerTable
from felga.store.pieces import build_pieces
from felga.store.stored import file_entries
from felga.types import Embedding, Frozen
from felga.version import __version__

try:
    import fcntl
except ModuleNotFoundError:  # Windows: only time protects readers there
    fcntl = None  # type: ignore[assignment]

KEEP_RETIRED = 3600.0  # seconds; a reader may have read the manifest and not locked it yet
RETIRED = "retired"
LOCK = ".lock"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of an index; the folder must exist.

    Raises:
        BusyError: another process is writing it.
    """
    path = folder / LOCK
    if path.is_symlink():
        raise BadInputError(f"{shown(path)} is a link: remove it, the lock of an index is a plain file")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another process is writing {shown(folder)}: wait until it is done") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class Fenet:
    """A FENet to be committed: its manifest entry, and what it does to raw vectors."""

    entry: FenetEntry
    embedding: Embedding


def install_fenet(folder: Path, checkpoint: Path, contract: Contract, device: str, source: str) -> Fenet:
    """Copy a checkpoint into an index, named by its content.

    Args:
        source: where it came from, for the manifest.

    Raises:
        BadIndexError: it was trained with another encoder than the index was built with, or takes features
            that the index does not have.
        BadInputError, NotFoundError: it is damaged, not a checkpoint, or missing.
    """
    from felga.fenet.checkpoint import load_fenet

    encoder = contract.encoder
    fenet = load_fenet(checkpoint, encoder=encoder["name"], identity=encoder, device=device)
    check_features(fenet.feature_dim, contract, shown(checkpoint))
    sha256 = sha256_file(checkpoint)
    path = folder / f"fenet-{sha256[:32]}.safetensors"
    if not path.is_file() or path.is_symlink() or sha256_file(path) != sha256:
        write_whole(path, checkpoint.read_bytes())
    return Fenet(FenetEntry(path.name, sha256, fenet.out, source), fenet)


def commit(
    folder: Path,
    contract: Contract,
    corpus: CorpusEntry,
    images: OwnerTable,
    texts: OwnerTable,
    errors: Errors,
    fenet: Fenet | None,
    *,
    encoder: str,
    before: Manifest | None,
    broken: Mapping[str, str],
) -> Manifest:
    """Make the tables the state of the index; nothing is written where nothing changed.

    The approximate search of before goes on being used if it knows a file of the new state.

    Args:
        encoder: the name under which it was made.
        before: the manifest to be replaced.
        broken: files of it that are damaged (:func:`felga.store.stored.damaged`), hence not reused.
    """
    known = {name: e for name, e in before.files.items() if name not in broken} if before else {}
    entry = fenet.entry if fenet else None
    dim = entry.dim if entry else int(contract.encoder["dim"])
    files = [folder / entry.file] if entry else []
    tables: dict[str, TableEntry] = {}
    for name, stem, table in (("images", "regions", images), ("texts", "keywords", texts)):
        old: TableEntry | None = getattr(before, name, None)
        unchanged = (
            old is not None
            and before is not None
            and before.fenet == entry
            and old.version == table.version
            and all(piece in known for piece in old.pieces)
        )
        tables[name] = old if old and unchanged else _table_entry(folder, stem, table, fenet, dim, known)
        files += [*table.files(), *(folder / piece for piece in tables[name].pieces)]
    codes = _codes_of(before, known, tables["images"])
    files += [folder / codes.file] if codes else []
    manifest = Manifest(
        contract=contract,
        encoder=encoder,
        corpus=corpus,
        fenet=entry,
        dim=dim,
        images=tables["images"],
        texts=tables["texts"],
        approximate=codes,
        files=file_entries(folder, files, known),
        errors=errors,
        felga=__version__,
    )
    if manifest != before:
        if before is not None:
            _retire(folder)
        manifest.write(folder)
    _clean(folder, manifest, images, texts)
    return manifest


def _codes_of(
    before: Manifest | None, known: Mapping[str, FileEntry], images: TableEntry
) -> ApproximateEntry | None:
    """The approximate search of before, if it is intact and knows a file of the new state."""
    codes = before.approximate if before else None
    return codes if codes and codes.file in known and {*codes.pieces} & {*images.pieces} else None


def commit_approximate(
    folder: Path, before: Manifest, entry: ApproximateEntry | None, images: OwnerTable, texts: OwnerTable
) -> Manifest:
    """Make an approximate search, whose file is written already, part of the index; None: it has none.

    Args:
        images, texts: the tables of ``before``.
    """
    if entry == before.approximate:
        return before
    old = before.approximate.file if before.approximate else None
    files = {name: of for name, of in before.files.items() if name != old}
    if entry is not None:
        files |= file_entries(folder, [folder / entry.file], {})
    manifest = replace(before, approximate=entry, files=dict(sorted(files.items())))
    _retire(folder)
    manifest.write(folder)
    _clean(folder, manifest, images, texts)
    return manifest


def _table_entry(
    folder: Path, stem: str, table: OwnerTable, fenet: Fenet | None, dim: int, known: Mapping[str, FileEntry]
) -> TableEntry:
    """The entry of a table, after writing those of its FAISS files that are not ``known``."""
    embedding = fenet.embedding if fenet else Frozen()
    pieces, counts = build_pieces(
        folder,
        stem,
        table,
        dim=dim,
        embed=embedding.regions if stem == "regions" else lambda vectors, _: embedding.keywords(vectors),
        mark=fenet.entry.sha256 if fenet else "raw",
        intact=known,
    )
    return TableEntry(table.version, len(table), sum(counts), table.digest(), pieces, counts)


def _retire(folder: Path) -> None:
    """Keep the manifest that is about to be replaced, under the time of its replacement."""
    (folder / RETIRED).mkdir(exist_ok=True)
    kept = folder / RETIRED / f"{time.time_ns()}.json"
    try:
        os.link(folder / NAME, kept)  # the same inode: readers' locks stay visible
    except OSError:  # a file system without hard links: then only time protects readers
        shutil.copyfile(folder / NAME, kept)


def _clean(folder: Path, manifest: Manifest, images: OwnerTable, texts: OwnerTable) -> None:
    """Remove what neither the manifest nor a retired one that may be in use needs."""
    states = [manifest]
    for path in (folder / RETIRED).glob("*.json"):
        if _needed(path):
            with suppress(FelgaError):
                states.append(read_manifest(path.parent, path.name))
        else:
            path.unlink()
    with suppress(OSError):
        (folder / RETIRED).rmdir()  # if empty
    needed = {name for state in states for name in state.files}
    for pattern in (
        "regions-*.faiss",
        "keywords-*.faiss",
        "approximate-*.faiss",
        "fenet-*.safetensors",
        "*.part",
    ):
        for path in folder.glob(pattern):
            if path.name not in needed:
                path.unlink()
    images.forget_all_but({state.images.version for state in states})
    texts.forget_all_but({state.texts.version for state in states})


def _needed(path: Path) -> bool:
    """Whether a reader may still need the state of a retired manifest."""
    replaced = int(path.stem) / 1e9 if path.stem.isdigit() else 0.0
    return time.time() - replaced < KEEP_RETIRED or is_open(path)


def is_open(manifest: Path) -> bool:
    """Whether a reader has the state of a manifest open (:class:`felga.store.stored.Lease`)."""
    if fcntl is None:
        return False
    with manifest.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False
