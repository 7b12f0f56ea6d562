"""The offline job: bring an index in line with a corpus. Resumable, bounded in memory, one writer.

Work is appended to the store in whole chunks of owners, in sorted order; readers see none of it until the
manifest is renamed into place. A killed run loses at most one chunk: the next one keeps what is already
there and continues with the same chunks, so that the outcome is the same to the bit.

Memory: at most ``workers * group`` decoded images (with a GPU two groups more), the vectors and features of
one chunk, and one piece of a FAISS file (:data:`felga.store.pieces.FULL`). A decoded image is at most 2,048
pixels long (12.6 MB), but a format that cannot be downscaled while decoding is held at full size first: up to
``max_megapixels`` times 3 to 12 bytes. In addition less than 200 bytes per owner as a whole, with the ids and
paths of files (bench/owners_memory.py), and of a text its words.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from felga.corpus.columns import CHUNK
from felga.corpus.items import BadItem, Corpus, ImageItem, Listing, TextItem, checked_listing
from felga.errors import BadIndexError, BadInputError, NotFoundError, StorageError
from felga.files import canonical, shown, storage_errors
from felga.indexing.approximation import approximate, check_asked
from felga.indexing.building import (
    BUILDING,
    check_same,
    check_target,
    make_folder,
    open_contract,
    write_errors,
)
from felga.indexing.encode import Engine, LocalEngine, carry_out, quarantine_reason, sha256_of_item
from felga.indexing.options import Options, Report
from felga.indexing.parts import Parts
from felga.indexing.plan import (
    DIGEST,
    Known,
    Plan,
    check_removals,
    image_rules,
    make_plan,
    text_digest,
    text_rules,
)
from felga.indexing.workers import shared_cores
from felga.registry import make_encoder
from felga.store.commit import Fenet, commit, install_fenet, sole_writer
from felga.store.manifest import (
    PACKAGED,
    Contract,
    CorpusEntry,
    Manifest,
    read_manifest,
)
from felga.store.owner_table import OwnerTable
from felga.store.schema import image_schema, text_schema
from felga.store.stored import IMAGES, TEXTS, NativeFolder, StoredIndex, damaged
from felga.types import Progress


def index(
    corpus: Corpus | str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    fenet: str | Path = "auto",
    index: str | None = None,
    min_recall: float | None = None,
    prune: bool = False,
    dry_run: bool = False,
    parts: Parts | None = None,
    engine: Engine = LocalEngine,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Bring the index in ``out`` in line with ``corpus``: add, change, rename and remove what differs.

    Args:
        corpus: a folder of images, or any :class:`felga.corpus.items.Corpus`.
        fenet: ``auto``: an index keeps the FENet that it has, a new one gets the one that comes with felga
            for its encoder, if there is one; ``none``: it gets none; anything else is a checkpoint.
        index: ``flat``: exact; ``auto``: approximate from 100,000 regions on
            (:mod:`felga.indexing.approximation`); or a factory of FAISS. None: as before; exact in a new one.
        min_recall: of the ten best images, the share that codes must find; None: as before, or 0.98.
        prune: go ahead even if most of the index would be removed.
        dry_run: only report what would be done; nothing is written.
        parts: an encoder and proposers that exist already, made with the same ``options``; None: made here.
        engine: encodes: here, or what :func:`felga.indexing.cluster.ray_engine` gives.
        progress: called with ``images``, ``texts`` or ``approximate``, how many are done, and of how many.

    Raises:
        BusyError: another process is writing this index.
        BadIndexError: the index was built with other options, or is damaged.
        BadInputError: the corpus is empty; most of the index would be removed, and ``prune`` is False; or
            codes do not reach ``min_recall``: then the index is ready and exact.
        StorageError: the disk is full, or the folder cannot be written; the old index is intact.
    """
    if isinstance(corpus, str | Path):
        from felga.corpus.folder import FolderCorpus

        corpus = FolderCorpus(corpus)
    out, options, report = Path(out), options or Options(), Report(Path(out))
    with report.timed("total"):
        parts = parts or Parts.make(options)
        contract = parts.contract()
        check_target(out)
        listing = checked_listing(corpus.scan())
        if not (listing.images or listing.texts):
            raise BadInputError(f"{shown(corpus.root)} holds no image and no text: name a folder that does")
        if dry_run:
            _dry_run(corpus, listing, out, contract, report, options)
            return report
        with storage_errors(out), sole_writer((folder := make_folder(out)).path):
            work = _begun(folder.path, contract, parts, fenet, (index, min_recall))
            _encode(corpus, listing, work, parts, engine, report, prune, progress)
            bad = listing.bad
            del listing  # it is as large as what follows
            _finish(corpus, bad, work, contract, parts, report, progress)
    return report


def apply_fenet(out: str | Path, checkpoint: str | Path | None, *, device: str = "auto") -> Manifest:
    """Put a FENet checkpoint on an index, or remove it (None); the raw vectors stay.

    Raises:
        NotFoundError: there is no index, or no checkpoint.
        BadIndexError: the index is damaged, or the checkpoint was trained with another encoder.
        BadInputError: the checkpoint is damaged.
    """
    folder = NativeFolder(Path(out))
    read_manifest(folder.path)  # before anything is written
    with storage_errors(Path(out)), sole_writer(folder.path):
        before = read_manifest(folder.path)
        broken = _broken(folder.path, before, tolerate="fenet-")
        images = OwnerTable(folder.path / IMAGES, before.images.version)
        texts = OwnerTable(folder.path / TEXTS, before.texts.version)
        fenet = None
        if checkpoint is not None:
            path = Path(checkpoint)
            fenet = install_fenet(folder.path, path, before.contract, device, shown(path.name))
        dim = fenet.entry.dim if fenet else int(before.contract.encoder["dim"])
        asked = check_asked(None, None, before, dim)
        commit(
            folder.path, before.contract, before.corpus, images, texts, before.errors, fenet,
            encoder=before.encoder, before=before, broken=broken,
        )  # fmt: skip
        pooling = before.contract.encoder.get("pooling")
        encoder = partial(make_encoder, before.encoder, device=device, pooling=pooling)
        return approximate(folder.path, encoder, *asked)


def _fenet(
    wanted: str | Path, folder: Path, contract: Contract, before: Manifest | None, device: str
) -> Fenet | None:
    """The FENet that an index gets, installed; ``wanted`` as of :func:`index`."""
    if str(wanted) == "none":
        return None
    if str(wanted) != "auto":
        return install_fenet(folder, Path(wanted), contract, device, shown(Path(wanted).name))
    if before is None:
        from felga.fenet.packaged import packaged

        shipped = packaged(contract.encoder)
        return install_fenet(folder, shipped, contract, device, PACKAGED) if shipped else None
    if before.fenet is None:
        return None
    return install_fenet(folder, folder / before.fenet.file, contract, device, before.fenet.source)


@dataclass(frozen=True, slots=True)
class _Work:
    """An index that is being written.

    Attributes:
        before: its manifest; None in a first run.
        broken: files of that which are made again.
        trusted: names of data files that are intact.
        installed: the FENet that it gets.
        asked: of the approximate search.
    """

    folder: Path
    before: Manifest | None
    broken: dict[str, str]
    trusted: set[str]
    installed: Fenet | None
    asked: tuple[str, float]
    images: OwnerTable
    texts: OwnerTable


def _begun(
    folder: Path,
    contract: Contract,
    parts: Parts,
    fenet: str | Path,
    asked: tuple[str | None, float | None],
) -> _Work:
    before = open_contract(folder, contract)
    broken = _broken(folder, before) if before else {}
    installed = _fenet(fenet, folder, contract, before, parts.options.device)
    wanted = check_asked(*asked, before, installed.entry.dim if installed else parts.encoder.dim)
    dim, trusted = parts.encoder.dim, _trusted(before)
    versions = (before.images.version, before.texts.version) if before else (None, None)
    images = _open_table(folder / IMAGES, image_schema(dim, parts.feature_dim), versions[0], trusted)
    texts = _open_table(folder / TEXTS, text_schema(dim), versions[1], trusted)
    return _Work(folder, before, broken, trusted, installed, wanted, images, texts)


def _encode(
    corpus: Corpus,
    listing: Listing,
    work: _Work,
    parts: Parts,
    engine: Engine,
    report: Report,
    prune: bool,
    progress: Progress,
) -> None:
    """Bring both tables in line with the listing."""
    image_plan, text_plan = _plans(corpus, listing, work.images, work.texts, parts.options, prune)
    encoding = engine(corpus, parts, report)
    with shared_cores():
        carry_out(image_plan, work.images, encoding.images, "images", report, progress)
        carry_out(text_plan, work.texts, encoding.texts, "texts", report, progress)
    report.images, report.texts = image_plan.counts, text_plan.counts


def _finish(
    corpus: Corpus,
    bad: Sequence[BadItem],
    work: _Work,
    contract: Contract,
    parts: Parts,
    report: Report,
    progress: Progress,
) -> None:
    """Make both tables the state of the index."""
    folder, images, texts = work.folder, work.images, work.texts
    with report.timed("store"):
        for table in (images, texts):
            table.compact()
            _check_written(table, work.trusted)
        errors = write_errors(folder, images, bad)
        entry = CorpusEntry(corpus.kind, os.fspath(corpus.root), canonical(dict(corpus.settings())))
        manifest = commit(
            folder, contract, entry, images, texts, errors, work.installed,
            encoder=parts.encoder.name, before=work.before, broken=work.broken,
        )  # fmt: skip
        (folder / BUILDING).unlink(missing_ok=True)
    report.images.quarantined, report.texts.quarantined = errors.images, errors.texts
    report.images.fragments, report.texts.fragments = manifest.images.fragments, manifest.texts.fragments
    with report.timed("approximate"):
        approximate(folder, lambda: parts.encoder, *work.asked, progress=progress)


def _open_table(path: Path, schema: pa.Schema, version: int | None, trusted: Collection[str]) -> OwnerTable:
    """A table at its newest version, without the damage that an unfinished run may have left behind.

    Args:
        version: of the manifest; None in a first run.
        trusted: names of data files that are intact.
    """
    try:
        table = OwnerTable.create(path, schema)
        table.delete(table.damaged_rows(trusted))  # these rows are encoded again
    except BadIndexError:  # not only rows are damaged: start over from the manifest
        if version is None:
            shutil.rmtree(path)
            return OwnerTable.create(path, schema)
        table = OwnerTable(path, version)
        table.restore()
    return table


def _check_written(table: OwnerTable, trusted: Collection[str]) -> None:
    try:
        damaged_rows = table.damaged_rows(trusted)
    except BadIndexError as error:
        raise StorageError(_UNREADABLE.format(table.path)) from error
    if damaged_rows:
        raise StorageError(_UNREADABLE.format(table.path))


_UNREADABLE = (
    "what was written to {} cannot be read back: check the disk and its limits; the index is as it was, "
    "run again"
)


def _plans(
    corpus: Corpus, listing: Listing, images: OwnerTable, texts: OwnerTable, options: Options, prune: bool
) -> tuple[Plan[ImageItem], Plan[TextItem]]:
    """What to do to both tables; refused if that would empty one by surprise, before anything is done."""
    rules = image_rules(
        sha256=lambda item: sha256_of_item(corpus, item),
        still_bad=lambda item, reason: quarantine_reason(corpus, item, options.max_megapixels) == reason,
    )
    known_images, known_texts = _known(images, "image_id"), _known(texts, "text_id")
    image_plan = make_plan(listing.images, known_images, rules)
    text_plan = make_plan(listing.texts, known_texts, text_rules())
    if not prune:
        check_removals("images", image_plan, known_images, shown(corpus.root))
        check_removals("texts", text_plan, known_texts, shown(corpus.root))
    return image_plan, text_plan


def _known(table: OwnerTable, key: str) -> Known:
    def read(column: str) -> pa.ChunkedArray:
        if column == "_rowid":
            return table.read([], row_ids=True).column(column)
        if column != DIGEST:
            return pa.chunked_array(
                [batch.column(column) for batch in table.batches([column], CHUNK)],
                table.schema.field(column).type,
            )
        digests = [
            pa.array([text_digest(text) for text in batch.column("text").to_pylist()], pa.binary(16))
            for batch in table.batches(["text"])
        ]
        return pa.chunked_array(digests, pa.binary(16))

    known = Known(read, key)
    if known.doubled:
        table.delete(known.doubled)
        return _known(table, key)
    return known


def _dry_run(
    corpus: Corpus, listing: Listing, out: Path, contract: Contract, report: Report, options: Options
) -> None:
    """Fill the report with what a run would do; of an unfinished run only what is committed counts."""
    try:
        opened = StoredIndex.open(out, hash_up_to=None)
    except NotFoundError:
        report.images.added, report.texts.added = len(listing.images), len(listing.texts)
        return
    with opened:
        check_same(opened.manifest.contract, contract, "was built with")
        image_plan, text_plan = _plans(corpus, listing, opened.images, opened.texts, options, prune=True)
    report.images, report.texts = image_plan.counts, text_plan.counts
    report.examples = {"images": image_plan.examples, "texts": text_plan.examples}


def _broken(folder: Path, before: Manifest, tolerate: str = "-") -> dict[str, str]:
    """Damaged files of the index that can be made again: FAISS files.

    Args:
        tolerate: prefix of other files that will be replaced anyway.

    Raises:
        BadIndexError: any other file is damaged.
    """
    broken = damaged(folder, before)
    fatal = [
        wrong
        for name, wrong in broken.items()
        if not name.endswith(".faiss") and not name.startswith(tolerate)
    ]
    if fatal:
        raise BadIndexError(f"the index is damaged ({'; '.join(fatal[:3])}): remove it and index again")
    return broken


def _trusted(before: Manifest | None) -> set[str]:
    """Names of data files that were just compared with the manifest."""
    return {name.rpartition("/")[2] for name in before.files if "/data/" in name} if before else set()
