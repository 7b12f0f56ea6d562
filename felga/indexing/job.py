"""The offline job: bring an index in line with a corpus. Resumable, bounded in memory, one writer.

Work is appended to the store in whole chunks of owners, in sorted order; readers see none of it until the
manifest is renamed into place. A job that is killed has lost at most one chunk: the next one finds what is
already there and goes on, with the same chunks, so that the outcome is the same to the bit.

Memory: at most ``(workers + 2) * group`` decoded images (each at most 2,048 pixels long: 12.6 MB), the
vectors of one chunk, and one piece of a FAISS file (``PIECE``). Beside them grow
the names, sizes and hashes of the corpus, some 500 bytes an owner.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock, Timeout

import felga
from felga.corpus.decode import UnreadableImage, read_image
from felga.corpus.items import BadItem, Corpus, ImageItem, TextItem
from felga.errors import BadIndexError, BadInputError, BusyError, NotFoundError
from felga.files import sha256_file, to_json, write_whole
from felga.registry import make_encoder, make_keywords, make_regions
from felga.search.flat import write_index
from felga.store.manifest import NAME, Manifest, TableEntry, describe, differences, read_manifest
from felga.store.tables import (
    KEEP_OLD,
    ImageRow,
    Owners,
    TextRow,
    image_schema,
    image_table,
    text_schema,
    text_table,
)
from felga.types import (
    DecodedImage,
    Encoder,
    KeywordProposer,
    Progress,
    Region,
    RegionProposer,
    Transform,
)

BUILDING = "building.json"  # the contract of a first run that is not finished
GROUP = 8  # images that are decoded and encoded together; more where the batches are larger
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What an index is made with.

    Attributes:
        encoder, regions, keywords: names of the registry.
        top_regions, top_keywords: fragments of an owner, at most (FELGA, 4.2: ten each).
        whole: the whole image is one region more.
        device, batch_size, pooling: of the encoder.
        commit_every: owners in a chunk; a killed job loses at most one.
        max_megapixels: larger images are quarantined undecoded.
    """

    encoder: str = "conse"
    regions: str = "graphseg+edgeboxes"
    keywords: str = "keybert"
    top_regions: int = 10
    top_keywords: int = 10
    whole: bool = True
    device: str = "auto"
    batch_size: int = 32
    pooling: str | None = None
    commit_every: int = 64
    max_megapixels: float = 178.0

    def __post_init__(self) -> None:
        for name in ("top_keywords", "batch_size", "commit_every"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, wanted at least 1")
        if self.top_regions < 0 or (self.top_regions == 0 and not self.whole):
            raise BadInputError("an image needs a region: top_regions is 0 and the whole image is left out")


@dataclass(slots=True)
class Counts:
    """What a sync did to one table."""

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    fragments: int = 0


@dataclass(slots=True)
class Report:
    """What a run of :func:`index` did.

    Attributes:
        seconds: ``decode``, ``proposals``, ``encoding``, ``keywords``, ``store`` (working time, summed over
            threads) and ``total`` (of the clock).
    """

    folder: Path
    images: Counts = field(default_factory=Counts)
    texts: Counts = field(default_factory=Counts)
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to ``seconds[part]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def index(
    corpus: Corpus,
    out: Path,
    options: Options | None = None,
    *,
    fenet: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Bring the index in ``out`` in line with ``corpus``: add, change, rename and remove what differs.

    Args:
        fenet: a checkpoint to put on the index; None keeps the one that is there.
        progress: called with ``images`` or ``texts``, how many are done, and of how many.

    Raises:
        BusyError: another process writes this index.
        BadIndexError: the index was made with other options, or is damaged.
        BadInputError: the corpus is empty, or shares nothing with the index.
    """
    options = options or Options()
    report = Report(out)
    with report.timed("total"), _sole_writer(out), _shared_cores():
        encoder = make_encoder(
            options.encoder, device=options.device, batch_size=options.batch_size, pooling=options.pooling
        )
        regions = make_regions(options.regions, device=options.device)
        keywords = make_keywords(options.keywords, device=options.device)
        contract = {
            "encoder": dict(encoder.identity()),
            "regions": {**regions.settings(), "top": options.top_regions, "whole": options.whole},
            "keywords": {**keywords.settings(), "top": options.top_keywords},
        }
        before = _open_contract(out, contract)
        listing = corpus.scan()
        if not (listing.images or listing.texts):
            raise BadInputError(f"{corpus.root} holds no image and no text: name a folder that does")
        images = Owners.create(out / "images.lance", image_schema(encoder.dim))
        texts = Owners.create(out / "texts.lance", text_schema(encoder.dim))
        _sync_images(corpus, listing.images, images, encoder, regions, options, report, progress)
        _sync_texts(listing.texts, texts, encoder, keywords, options, report, progress)
        with report.timed("store"):
            corpus_entry = {"kind": corpus.kind, "root": str(corpus.root), **corpus.settings()}
            _finish(out, contract, corpus_entry, images, texts, listing.bad, report, before, fenet)
    return report


def apply_fenet(out: Path, checkpoint: Path | None) -> Manifest:
    """Put a FENet checkpoint on an index, or take it off (None); the raw vectors stay.

    Raises:
        BadIndexError: the checkpoint was trained with another encoder than the index was made with.
    """
    with _sole_writer(out):
        before = read_manifest(out)
        images = Owners(out / "images.lance", before.images.version)
        texts = Owners(out / "texts.lance", before.texts.version)
        entry, transform, dim = _load_fenet(out, checkpoint, before.contract["encoder"])
        return _commit(
            out, before.contract, before.corpus, images, texts, before.errors, entry, transform, dim
        )


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadInputError(f"{out} is a file: name a folder for the index") from error
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another process writes {out}: wait until it is done") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _shared_cores() -> Iterator[None]:
    """Half of the cores decode and propose, the others encode; threads that outnumber cores stall."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(max(1, torch_threads - _workers()))
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)


def _workers() -> int:
    return max(1, len(os.sched_getaffinity(0)) // 2) if hasattr(os, "sched_getaffinity") else 1


def _open_contract(out: Path, contract: Mapping[str, Any]) -> Manifest | None:
    """The manifest that is there, if any, once it is sure that this run may add to the index."""
    building = out / BUILDING
    try:
        before = read_manifest(out)
        made_with = before.contract
    except NotFoundError:
        before = None
        if not building.exists():
            if others := sorted(path.name for path in out.iterdir() if not path.name.startswith(".")):
                raise BadInputError(
                    f"{out} holds {others[0]!r} and no index: name an empty or a new folder"
                ) from None
            write_whole(building, to_json(contract).encode())
        try:
            made_with = json.loads(building.read_bytes())
        except ValueError as error:
            raise BadIndexError(f"{building} is damaged: remove the folder and index again") from error
    if differ := differences(made_with, json.loads(to_json(contract))):
        state = "was made with other options" if before else "holds an unfinished index of other options"
        raise BadIndexError(f"{out} {state} ({'; '.join(differ)}): use the same ones, or another --out")
    return before


def _sync_images(
    corpus: Corpus,
    listed: Sequence[ImageItem],
    images: Owners,
    encoder: Encoder,
    regions: RegionProposer,
    options: Options,
    report: Report,
    progress: Progress,
) -> None:
    counts = report.images
    known = _known(images, ["image_id", "path", "size", "mtime_ns", "sha256", "error"], "image_id")
    _check_overlap(known, [item.image_id for item in listed], corpus)
    here = {item.image_id for item in listed}
    gone = {key: row for key, row in known.items() if key not in here}
    by_content = {(row["size"], row["sha256"]): row for row in gone.values() if row["sha256"]}
    sizes = {size for size, _ in by_content}
    todo: list[ImageItem] = []
    drop: list[int] = []
    rewrite: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for item in listed:
        row = known.get(item.image_id)
        place = {"path": os.fsencode(item.path), "size": item.size, "mtime_ns": item.mtime_ns}
        if row is None:
            twin = None
            if item.size in sizes and (sha256 := _sha256(corpus.root / item.path)):
                twin = by_content.pop((item.size, sha256), None)
            if twin is None:
                counts.added += 1
                todo.append(item)
            else:
                counts.renamed += 1
                del gone[twin["image_id"]]
                rewrite.append((twin, {"image_id": item.image_id, **place}))
        elif row["error"] is not None:  # a quarantined image may be readable by now
            if _reason(corpus, item, options) == row["error"]:
                counts.unchanged += 1
            else:
                counts.changed += 1
                drop.append(row["_rowid"])
                todo.append(item)
        elif all(row[name] == value for name, value in place.items()):
            counts.unchanged += 1
        elif row["size"] == item.size and _sha256(corpus.root / item.path) == row["sha256"]:
            counts.unchanged += 1
            rewrite.append((row, place))
        else:
            counts.changed += 1
            drop.append(row["_rowid"])
            todo.append(item)
    counts.removed = len(gone)
    with report.timed("store"):
        _rewrite(images, rewrite)
        images.delete([*drop, *(row["_rowid"] for row in gone.values())])
    progress("images", len(listed) - len(todo), len(listed))

    def prepare(group: Sequence[ImageItem]) -> list[tuple[ImageRow, DecodedImage | None, list[Region]]]:
        return [_prepare(corpus, item, regions, options, report) for item in group]

    size = min(32, max(GROUP, options.batch_size // (options.top_regions + 1)))
    done = len(listed) - len(todo)
    chunk: list[ImageRow] = []
    for group in _ahead(prepare, _cut(todo, options.commit_every, size)):
        with report.timed("encoding"):
            chunk += _encode(group, encoder)
        done += len(group)
        if len(chunk) >= options.commit_every or done == len(listed):
            with report.timed("store"):
                images.append(image_table(chunk, encoder.dim))
            chunk = []
        progress("images", done, len(listed))


def _prepare(
    corpus: Corpus, item: ImageItem, regions: RegionProposer, options: Options, report: Report
) -> tuple[ImageRow, DecodedImage | None, list[Region]]:
    """Decode an image and propose its regions; a bad one has its reason in ``error``."""
    path = corpus.root / item.path
    row = ImageRow(item.image_id, os.fsencode(item.path), item.size, item.mtime_ns, _sha256(path))
    try:
        with report.timed("decode"):
            image = read_image(path, item.image_id, max_megapixels=options.max_megapixels)
    except UnreadableImage as error:
        return _changed(row, error=str(error)), None, []
    with report.timed("proposals"):
        found = regions.propose([image], options.top_regions)[0] if options.top_regions else []
    if options.whole or not found:  # an image too small to part is itself its only fragment
        found = [Region(image.whole, 1.0, whole=True), *found]
    return _changed(row, width=image.width, height=image.height), image, found


def _encode(
    group: Sequence[tuple[ImageRow, DecodedImage | None, list[Region]]], encoder: Encoder
) -> list[ImageRow]:
    readable = [(image, found) for _, image, found in group if image is not None]
    vectors = iter(
        encoder.encode_regions(
            [image for image, _ in readable],
            [np.array([region.box for region in found], np.float32) for _, found in readable],
        )
    )
    return [
        row if image is None else _changed(row, regions=found, vectors=next(vectors))
        for row, image, found in group
    ]


def _sync_texts(
    listed: Sequence[TextItem],
    texts: Owners,
    encoder: Encoder,
    keywords: KeywordProposer,
    options: Options,
    report: Report,
    progress: Progress,
) -> None:
    counts = report.texts
    known = _known(texts, ["text_id", "image_id", "text"], "text_id")
    here = {item.text_id for item in listed}
    gone = {key: row for key, row in known.items() if key not in here}
    by_content = {row["text"]: row for row in gone.values()}
    todo: list[TextItem] = []
    drop: list[int] = []
    rewrite: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for item in listed:
        row = known.get(item.text_id)
        if row is None and (twin := by_content.pop(item.text, None)) is not None:
            counts.renamed += 1
            del gone[twin["text_id"]]
            rewrite.append((twin, {"text_id": item.text_id, "image_id": item.image_id}))
        elif row is None:
            counts.added += 1
            todo.append(item)
        elif row["text"] != item.text:
            counts.changed += 1
            drop.append(row["_rowid"])
            todo.append(item)
        else:
            counts.unchanged += 1
            if row["image_id"] != item.image_id:
                rewrite.append((row, {"image_id": item.image_id}))
    counts.removed = len(gone)
    with report.timed("store"):
        _rewrite(texts, rewrite)
        texts.delete([*drop, *(row["_rowid"] for row in gone.values())])
    done = len(listed) - len(todo)
    progress("texts", done, len(listed))
    for group in _cut(todo, options.commit_every, options.commit_every):
        with report.timed("keywords"):
            found = keywords.propose([item.text for item in group], options.top_keywords)
            distinct = sorted({keyword.text for one in found for keyword in one})
            place = {word: i for i, word in enumerate(distinct)}
            vectors = encoder.encode_texts(distinct)
        rows = [
            TextRow(item.text_id, item.image_id, item.text, one, vectors[[place[k.text] for k in one]])
            for item, one in zip(group, found, strict=True)
        ]
        with report.timed("store"):
            texts.append(text_table(rows, encoder.dim))
        done += len(group)
        progress("texts", done, len(listed))


def _finish(
    out: Path,
    contract: Mapping[str, Any],
    corpus: Mapping[str, Any],
    images: Owners,
    texts: Owners,
    bad: Sequence[BadItem],
    report: Report,
    before: Manifest | None,
    checkpoint: Path | None,
) -> None:
    """Join the pieces, build the FAISS files, and make it all the state of the index."""
    images.merge()
    texts.merge()
    lines = [asdict(item) for item in bad]
    for batch in images.batches(["image_id", "path", "error"], 8192):
        lines += [
            {
                "kind": "image",
                "item_id": row["image_id"],
                "path": _shown(row["path"]),
                "reason": row["error"],
            }
            for row in batch.to_pylist()
            if row["error"] is not None
        ]
    lines.sort(key=lambda line: (line["kind"], line["item_id"]))
    errors = {
        "images": sum(line["kind"] == "image" for line in lines),
        "texts": sum(line["kind"] == "text" for line in lines),
    }
    if checkpoint is None and before is not None and before.fenet is not None:
        checkpoint = out / before.fenet["file"]
    entry, transform, dim = _load_fenet(out, checkpoint, contract["encoder"])
    write_whole(out / "errors.jsonl", "".join(to_json(line) + "\n" for line in lines).encode())
    manifest = _commit(out, contract, corpus, images, texts, errors, entry, transform, dim)
    (out / BUILDING).unlink(missing_ok=True)
    for table in (images, texts):
        table.forget(KEEP_OLD if before is not None else timedelta(0))
    report.images.quarantined, report.texts.quarantined = errors["images"], errors["texts"]
    report.images.fragments, report.texts.fragments = manifest.images.fragments, manifest.texts.fragments


def _commit(
    out: Path,
    contract: Mapping[str, Any],
    corpus: Mapping[str, Any],
    images: Owners,
    texts: Owners,
    errors: Mapping[str, int],
    fenet: Mapping[str, Any] | None,
    transform: Transform,
    dim: int,
) -> Manifest:
    """Write the FAISS files and then, by rename, the manifest; then remove FAISS files of older states."""
    mark = f"-{fenet['sha256'][:8]}" if fenet else ""
    tables: dict[str, TableEntry] = {}
    files = [out / fenet["file"]] if fenet else []
    for name, stem, table in (("images", "regions", images), ("texts", "keywords", texts)):
        counts = np.diff(table.offsets())
        names = write_index(map(transform, table.vectors()), dim, out, f"{stem}-{table.version}{mark}")
        tables[name] = TableEntry(
            table.version,
            len(counts),
            int(counts.sum()),
            int(counts.max(initial=0)),
            table.digest(),
            tuple(names),
        )
        files += [*table.files(), *(out / one for one in names)]
    manifest = Manifest(
        contract=contract,
        corpus=corpus,
        fenet=fenet,
        dim=dim,
        files=describe(out, files),
        errors=errors,
        felga=felga.__version__,
        images=tables["images"],
        texts=tables["texts"],
    )
    manifest.write(out)
    kept = {path.name for path in files} | {NAME}
    for path in [*out.glob("*.faiss"), *out.glob("fenet-*.safetensors")]:
        if path.name not in kept:
            path.unlink()  # a reader that has it mapped keeps it until it is closed
    return manifest


def _load_fenet(
    out: Path, checkpoint: Path | None, encoder: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, Transform, int]:
    """The manifest's entry of a checkpoint (copied into the index), what it does, and to which dim."""
    if checkpoint is None:
        return None, lambda vectors: vectors, int(encoder["dim"])
    from felga.fenet.checkpoint import load_fenet

    fenet = load_fenet(checkpoint, encoder=encoder["name"], identity=encoder)
    sha256 = sha256_file(checkpoint)
    name = f"fenet-{sha256[:8]}.safetensors"
    if not (out / name).exists():
        write_whole(out / name, checkpoint.read_bytes())
    return {"file": name, "sha256": sha256, "dim": fenet.out}, fenet.apply, fenet.out


def _known(table: Owners, columns: Sequence[str], key: str) -> dict[str, dict[str, Any]]:
    """Rows by id. A run that was killed while it moved rows left both: the later one counts."""
    rows = table.read(columns, row_ids=True).to_pylist()
    known: dict[str, dict[str, Any]] = {}
    doubled = []
    for position, row in enumerate(rows):
        if row[key] in known:
            doubled.append(known[row[key]]["_rowid"])
        known[row[key]] = {**row, "position": position}
    if doubled:
        table.delete(doubled)
        return _known(table, columns, key)
    return known


def _check_overlap(known: Mapping[str, Any], listed: Sequence[str], corpus: Corpus) -> None:
    if known and not any(image_id in known for image_id in listed):
        raise BadInputError(
            f"nothing of {corpus.root} is in this index, which would lose all its {len(known)} images: "
            "is the corpus mounted, or did you want another --out?"
        )


def _rewrite(table: Owners, changes: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Give rows other values in some columns; their fragments and vectors are kept, not made again."""
    if not changes:
        return
    whole = table.rows([row["position"] for row, _ in changes])
    for name in sorted({name for _, new in changes for name in new}):
        kind = whole.schema.field(name).type
        values = [new.get(name, row.get(name)) for row, new in changes]
        whole = whole.set_column(whole.schema.get_field_index(name), name, pa.array(values, kind))
    table.append(whole)
    table.delete([row["_rowid"] for row, _ in changes])


def _cut(items: Sequence[T], chunk: int, size: int) -> Iterator[Sequence[T]]:
    """Groups of ``size`` that never cross a multiple of ``chunk``: chunks do not hang on where they start."""
    for start in range(0, len(items), chunk):
        part = items[start : start + chunk]
        for first in range(0, len(part), size):
            yield part[first : first + size]


S = TypeVar("S")


def _ahead(work: Callable[[S], T], items: Iterator[S]) -> Iterator[T]:
    """``map`` in order, some items ahead in other threads: the images in memory stay bounded."""
    workers = _workers()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _reason(corpus: Corpus, item: ImageItem, options: Options) -> str | None:
    """Why an image cannot be read, or None."""
    try:
        read_image(corpus.root / item.path, item.image_id, max_megapixels=options.max_megapixels)
    except UnreadableImage as error:
        return str(error)
    return None


def _sha256(path: Path) -> str:
    """Of a file's bytes; empty where it cannot be read (then decoding says why)."""
    try:
        return sha256_file(path)
    except OSError:
        return ""


def _changed(row: ImageRow, **values: Any) -> ImageRow:
    return replace(row, **values)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
