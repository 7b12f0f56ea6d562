"""Doing a plan: images and texts become rows, appended to the store in whole chunks of owners."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import pyarrow as pa

from felga.corpus.decode import UnreadableImage, decode_image
from felga.corpus.items import Corpus, ImageItem, TextItem
from felga.indexing.options import Report
from felga.indexing.parts import Parts
from felga.indexing.plan import Plan
from felga.indexing.workers import ahead, groups, workers
from felga.models.device import pick_device
from felga.store.owner_table import OwnerTable
from felga.store.schema import ImageRow, TextRow, image_table, text_table
from felga.types import DecodedImage, Progress

Prepared: TypeAlias = tuple[ImageRow, DecodedImage | None]
"""An image with its regions, ready to be encoded; None where it cannot be read, or is encoded already."""
Encoded: TypeAlias = tuple[int, pa.Table | None]
"""How many more owners are encoded, and the rows of a chunk when it is complete."""
Item = TypeVar("Item")
GROUP = 8  # images decoded and encoded together; more if the encoder's batches are larger


class Encoding(Protocol):
    """Owners to rows of the store, in order: what the engines of ``felga index --engine`` do."""

    def images(self, items: Sequence[ImageItem]) -> Iterator[Encoded]:
        """The rows of images, a table for each ``commit_every``."""
        ...

    def texts(self, items: Sequence[TextItem]) -> Iterator[Encoded]:
        """The rows of texts, a table for each ``commit_every``."""
        ...


Engine: TypeAlias = Callable[[Corpus, Parts, Report], Encoding]
"""What encodes for a run; :class:`LocalEngine` is one."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Encodes in this process.

    Attributes:
        threads: decode and propose, beside the one that encodes.
    """

    corpus: Corpus
    parts: Parts
    report: Report
    threads: int = field(default_factory=workers)

    def images(self, items: Sequence[ImageItem]) -> Iterator[Encoded]:
        """As of :class:`Encoding`, after each group of images that share a forward pass."""
        parts, options, report = self.parts, self.parts.options, self.report
        on_gpu = pick_device(options.device).type == "cuda"

        def prepare(group: Sequence[ImageItem]) -> list[Prepared]:
            decoded = [_decoded(item, self.corpus, parts, report) for item in group]
            prepared = _proposed(decoded, parts, report)
            return prepared if on_gpu else _encoded(prepared, parts, report)

        size = min(32, max(GROUP, options.batch_size // (options.top_regions + 1)))
        chunk: list[ImageRow] = []
        left = len(items)
        for group in ahead(prepare, groups(items, options.commit_every, size), self.threads):
            if on_gpu:  # one batch at a time in its memory
                group = _encoded(group, parts, report)
            chunk += [row for row, _ in group]
            left -= len(group)
            rows = None
            if len(chunk) >= options.commit_every or not left:
                with report.timed("store"):
                    rows, chunk = image_table(chunk, parts.encoder.dim, parts.feature_dim), []
            yield len(group), rows

    def texts(self, items: Sequence[TextItem]) -> Iterator[Encoded]:
        """As of :class:`Encoding`."""
        parts, every = self.parts, self.parts.options.commit_every

        def prepare(group: Sequence[TextItem]) -> list[TextRow]:
            with self.report.timed("keywords"):
                found = parts.propose_keywords([item.text for item in group])
                vectors = parts.encode_keywords(found)
            return [
                TextRow(item.text_id, item.image_id, item.text, own, of_own)
                for item, own, of_own in zip(group, found, vectors, strict=True)
            ]

        for rows in ahead(prepare, groups(items, every, every), self.threads):
            with self.report.timed("store"):
                table = text_table(rows, parts.encoder.dim)
            yield len(rows), table


def carry_out(
    plan: Plan[Item],
    table: OwnerTable,
    encode: Callable[[Sequence[Item]], Iterator[Encoded]],
    stage: str,
    report: Report,
    progress: Progress,
) -> None:
    """Bring a table in line with a plan; each chunk that ``encode`` yields is appended once."""
    _prepare_table(plan, table, report)
    total = len(plan.encode) + plan.counts.unchanged + plan.counts.renamed
    done = total - len(plan.encode)
    progress(stage, done, total)
    for count, rows in encode(plan.encode):
        if rows is not None:
            with report.timed("store"):
                table.append(rows)
        done += count
        progress(stage, done, total)


def sha256_of_item(corpus: Corpus, item: ImageItem) -> str:
    """The sha256 of an image's bytes; empty where it cannot be read (decoding then gives the reason)."""
    try:
        return hashlib.sha256(corpus.read(item)).hexdigest()
    except UnreadableImage:
        return ""


def quarantine_reason(corpus: Corpus, item: ImageItem, max_megapixels: float) -> str | None:
    """Why an image cannot be indexed, or None."""
    try:
        decode_image(corpus.read(item), item.image_id, max_megapixels=max_megapixels)
    except UnreadableImage as error:
        return str(error)
    return None


def _prepare_table(plan: Plan[Any], table: OwnerTable, report: Report) -> None:
    with report.timed("store"):
        by_columns: dict[tuple[str, ...], list[int]] = {}
        for at, (_, _, values) in enumerate(plan.moves):
            by_columns.setdefault(tuple(values), []).append(at)
        for columns, rows in by_columns.items():
            moves = [plan.moves[at] for at in rows]
            table.rewrite(
                [position for position, _, _ in moves],
                [row_id for _, row_id, _ in moves],
                {name: [values[name] for _, _, values in moves] for name in columns},
            )
        table.delete(plan.remove)


def _decoded(
    item: ImageItem, corpus: Corpus, parts: Parts, report: Report
) -> tuple[ImageRow, DecodedImage | None]:
    """Decode an image; if it is unreadable the row has the reason in ``error``."""
    row = ImageRow(item.image_id, os.fsencode(item.path), item.size, item.mtime_ns, "")
    try:
        with report.timed("decode"):
            data = corpus.read(item)
            row = replace(row, sha256=hashlib.sha256(data).hexdigest())
            image = decode_image(data, item.image_id, max_megapixels=parts.options.max_megapixels)
    except UnreadableImage as error:
        return replace(row, error=str(error)), None
    return replace(row, width=image.width, height=image.height), image


def _proposed(
    group: Sequence[tuple[ImageRow, DecodedImage | None]], parts: Parts, report: Report
) -> list[Prepared]:
    """Propose the regions of all images of a group at once: they may share a forward pass."""
    with report.timed("proposals"):
        regions = iter(parts.propose([image for _, image in group if image is not None]))
    return [(row if image is None else replace(row, regions=next(regions)), image) for row, image in group]


def _encoded(group: Sequence[Prepared], parts: Parts, report: Report) -> list[Prepared]:
    """Rows with vectors and features, complete; the images are let go."""
    readable = [(row, image) for row, image in group if image is not None]
    with report.timed("encoding"):
        encoded = iter(
            parts.encode_regions([image for _, image in readable], [row.regions for row, _ in readable])
        )
    rows: list[Prepared] = []
    for row, image in group:
        if image is not None:
            vectors, features = next(encoded)
            row = replace(row, vectors=vectors, features=features)
        rows.append((row, None))
    return rows
