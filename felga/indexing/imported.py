"""An index of vectors that another program made: a whole image and a whole caption per row.

Such an index has one region per image and one keyword per text. It can be searched, and not be added to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from felga.corpus.decode import UnreadableImage, image_size, read_file, read_image
from felga.corpus.inside import exists
from felga.corpus.items import BadItem, path_fault, texts_of
from felga.errors import BadInputError
from felga.files import is_url, located, shown, storage_errors
from felga.indexing.building import (
    BUILDING,
    IMPORTED,
    check_target,
    make_folder,
    open_contract,
    write_errors,
)
from felga.indexing.parts import encoded_regions, identity_of, unit_vectors
from felga.search.segments import UNIT
from felga.store.clip_retrieval import Block, ClipRetrieval, Raw, Row
from felga.store.commit import commit, sole_writer
from felga.store.manifest import Contract, CorpusEntry, differences, summary
from felga.store.owner_table import OwnerTable
from felga.store.schema import ImageRow, TextRow, image_schema, image_table, text_schema, text_table
from felga.store.stored import IMAGES, TEXTS
from felga.types import Encoder, Flags, Keyword, Progress, Region, Vectors

KIND = "clip-retrieval"
SAMPLE = 8  # images, and captions, that are encoded here and compared
AGREE = 0.8  # median cosine with them: other software changes little, another encoder everything


@dataclass(slots=True)
class Imported:
    """The outcome of an import.

    Attributes:
        images, texts: in the index.
        quarantined: images and texts that are not; ``errors.jsonl`` says why.
        parts: rows of parts of images, which were left out.
        scaled: vectors that were not of length 1.
        absent: images whose file is not here or cannot be read: their size is unknown.
        compared: images and captions that were encoded here; their vectors agree.
    """

    folder: Path
    images: int = 0
    texts: int = 0
    quarantined: int = 0
    parts: int = 0
    scaled: int = 0
    absent: int = 0
    compared: int = 0


@dataclass(slots=True)
class _Job:
    encoder: Encoder
    root: str
    done: Imported
    images: OwnerTable
    texts: OwnerTable
    bad: list[BadItem] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


def import_vectors(
    folder: str | Path,
    encoder: Encoder,
    out: str | Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Imported:
    """Make an index of what clip-retrieval, or ``felga export``, wrote into ``folder``.

    Vectors are scaled to length 1. Captions without vectors are encoded. An image is its file, if that is
    here, and else its URL, if there is one; relative paths start from the current folder. Of an image whose
    file is not here nothing but the path is known: its width, height, box and size are 0.

    Args:
        encoder: the one that made the vectors; where images or captions are here, some are compared.
        out: a new folder; after an interruption the import starts over.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError: it holds something else, its files do not belong together, no row is of a whole image,
            its vectors are of another encoder or of a FENet; or ``out`` is no new folder.
        BusyError, StorageError: as of :func:`felga.index`.
    """
    out, source = Path(out), ClipRetrieval(Path(folder))
    identity = identity_of(encoder)
    _check_encoder(source, encoder, identity)
    root = _root(source)
    check_target(out)
    done = Imported(out, compared=_compared(source, encoder, root))
    how = {"proposer": {"name": IMPORTED}, "top": 0, "whole": True}
    contract = Contract(identity, {**how, "features": None, "quality": None}, how)
    with ExitStack() as stack:
        stack.enter_context(storage_errors(out))
        native = make_folder(out)
        stack.enter_context(sole_writer(native.path))
        tables = _tables(native.path, contract, encoder.dim, out)
        job = _Job(encoder, root, done, *tables)
        count = 0
        for block in source.blocks():
            _add(job, block)
            count += len(block.rows)
            progress("images", count, len(source))
        if not done.images:
            raise BadInputError(f"{shown(folder)} holds no vector of a whole image that could be imported")
        errors = write_errors(native.path, job.images, job.bad)
        done.quarantined = errors.images + errors.texts
        corpus = CorpusEntry(KIND, root, {"vectors": shown(source.folder.absolute())})
        commit(
            native.path, contract, corpus, *tables, errors, None,
            encoder=encoder.name, before=None, broken={},
        )  # fmt: skip
        (native.path / BUILDING).unlink(missing_ok=True)
    return done


def _check_encoder(source: ClipRetrieval, encoder: Encoder, identity: dict[str, object]) -> None:
    about = source.about
    if about is not None and about.get("fenet") is not None:
        raise BadInputError(
            f"{shown(source.folder)} holds vectors that went through a FENet: export an index without one "
            "(`felga fenet apply --remove`)"
        )
    if about is not None and (differ := differences(about["encoder"], identity)):
        raise BadInputError(
            f"{shown(source.folder)} was exported from an index of another encoder ({summary(differ)}): "
            "name that one"
        )
    if source.dim != encoder.dim:
        raise BadInputError(
            f"{shown(source.folder)} holds vectors of length {source.dim}, those of {encoder.name} have "
            f"{encoder.dim}: name the encoder that made them"
        )


def _tables(folder: Path, contract: Contract, dim: int, out: Path) -> tuple[OwnerTable, OwnerTable]:
    """Empty tables of a new index."""
    if open_contract(folder, contract) is not None:
        raise BadInputError(f"{shown(out)} is an index already: name a new folder")
    for name in (IMAGES, TEXTS):
        if (folder / name).exists():  # of an import that was interrupted
            shutil.rmtree(folder / name)
    images = OwnerTable.create(folder / IMAGES, image_schema(dim))
    return images, OwnerTable.create(folder / TEXTS, text_schema(dim))


def _root(source: ClipRetrieval) -> str:
    """The folder that holds all images, if all paths are absolute; else the current one."""
    common: str | None = None
    for block in source.blocks():
        for row in block.rows:
            if row.image_path is None or is_url(row.image_path):
                continue
            if not os.path.isabs(row.image_path):
                return os.getcwd()
            folder = os.path.dirname(row.image_path)
            common = folder if common is None else os.path.commonpath([common, folder])
    return common or os.getcwd()


def _compared(source: ClipRetrieval, encoder: Encoder, root: str) -> int:
    """Encode some of the first images and captions, and compare; how many there were.

    Raises:
        BadInputError: they differ: the vectors are of another encoder.
    """
    first = next(source.blocks(), None)
    if first is None:
        return 0
    own: list[Vectors] = []
    rows: list[int] = []
    for at, row in enumerate(first.rows):
        path = _path(row, root)
        if row.whole and path and not is_url(path) and len(rows) < SAMPLE:
            try:
                image = read_image(Path(root, path), shown(path))
            except UnreadableImage:
                continue
            ((vectors, _),) = encoded_regions(encoder, [image], [np.array([image.whole], np.float32)])
            own.append(vectors)
            rows.append(at)
    _check_agree("images", source, encoder, first.images[rows], own)
    count = len(rows)
    if first.texts is not None:
        rows = [at for at, row in enumerate(first.rows) if row.whole and row.caption][:SAMPLE]
        captions = [first.rows[at].caption or "" for at in rows]
        own = [unit_vectors(encoder.encode_texts(captions), len(rows), encoder)] if rows else []
        _check_agree("captions", source, encoder, first.texts[rows], own)
        count += len(rows)
    return count


def _check_agree(what: str, source: ClipRetrieval, encoder: Encoder, raw: Raw, own: list[Vectors]) -> None:
    given, sound = _unit(raw)
    if not sound.any():
        return
    cosine = float(np.median((given * np.concatenate(own)).sum(axis=1)[sound]))
    if cosine < AGREE:
        raise BadInputError(
            f"{shown(source.folder)} holds vectors of another encoder than {encoder.name}: {what} encoded "
            f"here have a cosine of {cosine:.2f} with theirs, expected nearly 1; name the one that made them"
        )


def _add(job: _Job, block: Block) -> None:
    """Append a block to both tables."""
    vectors, sound = _unit(block.images)
    lengths = np.linalg.norm(np.asarray(block.images, np.float32), axis=1)
    images: list[ImageRow] = []
    captions: list[tuple[str, str, int]] = []  # image, text, row of the block
    for at, row in enumerate(block.rows):
        if not row.whole:
            job.done.parts += 1
            continue
        where = f"{block.where}:{block.start + at + 1}"
        path = _path(row, job.root)
        if path is None or (fault := path_fault(path)):
            reason = "it has neither a path nor a URL" if path is None else f"its path {fault}"
            job.bad.append(BadItem("image", where, where, reason))
            continue
        image_id = shown(path)
        if image_id in job.seen:
            job.bad.append(
                BadItem("image", image_id, image_id, f"another row is of the same image ({where})")
            )
            continue
        job.seen.add(image_id)
        if not sound[at]:
            reason = f"its vector has no direction: it is 0, NaN or infinite ({where})"
            job.bad.append(BadItem("image", image_id, image_id, reason))
            continue
        job.done.scaled += bool(abs(lengths[at] - 1) > UNIT)
        images.append(_image(image_id, path, vectors[at : at + 1], job))
        captions += [(image_id, text.text, at) for text in texts_of([row.caption or ""], "", None, "joined")]
    if images:
        job.images.append(image_table(images, job.encoder.dim))
    job.done.images += len(images)
    texts = _texts(captions, block, job)
    if texts:
        job.texts.append(text_table(texts, job.encoder.dim))
    job.done.texts += len(texts)


def _texts(captions: list[tuple[str, str, int]], block: Block, job: _Job) -> list[TextRow]:
    """Captions with the vectors that came with them, or that the encoder gives them."""
    if not captions:
        return []
    if block.texts is None:
        words = [text for _, text, _ in captions]
        vectors = unit_vectors(job.encoder.encode_texts(words), len(words), job.encoder)
        sound = np.ones(len(words), bool)
    else:
        vectors, sound = _unit(block.texts[[at for _, _, at in captions]])
    rows = []
    for n, (image_id, text, _) in enumerate(captions):
        if sound[n]:
            whole = Keyword(text, 1.0, (0, len(text)), whole=True)
            rows.append(TextRow(image_id, image_id, text, [whole], vectors[n : n + 1]))
        else:
            reason = "its vector has no direction: it is 0, NaN or infinite"
            job.bad.append(BadItem("text", image_id, image_id, reason))
    return rows


def _image(image_id: str, path: str, vectors: Vectors, job: _Job) -> ImageRow:
    """An image with what can be known of its file."""
    place, data, size = Path(located(job.root, os.fsencode(path))), b"", (0, 0)
    mtime_ns, sha256 = 0, ""
    try:
        if is_url(path):
            raise UnreadableImage(path)
        data = read_file(place)
        size, sha256 = image_size(data, image_id), hashlib.sha256(data).hexdigest()
        mtime_ns = os.stat(place).st_mtime_ns if place.is_file() else 0  # 0: inside a shard
    except UnreadableImage:
        job.done.absent += 1
        data = b""
    whole = Region((0.0, 0.0, float(size[0]), float(size[1])), 1.0, whole=True)
    return ImageRow(
        image_id, os.fsencode(path), len(data), mtime_ns, sha256, *size, regions=[whole], vectors=vectors
    )


def _path(row: Row, root: str) -> str | None:
    """Where an image is, relative to the root if it is below it: its file, its URL, or where its file was."""
    path = row.image_path
    if path and not is_url(path) and not path_fault(path):
        relative = os.path.relpath(path, root) if os.path.isabs(path) else path
        path = path if relative.startswith("..") and os.path.isabs(path) else relative
        if row.url and not exists(os.path.join(root, path)):
            return row.url
    return path or row.url


def _unit(raw: Raw) -> tuple[Vectors, Flags]:
    """Vectors (n, dim) float32 scaled to length 1, and which of them have a direction; others are 0."""
    wide = np.asarray(raw, np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    sound = np.isfinite(lengths) & (lengths > 0)
    scaled = np.zeros(wide.shape, np.float32)
    scaled[sound] = wide[sound] / lengths[sound, None]
    return scaled, sound
