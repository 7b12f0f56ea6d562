"""What indexing a corpus would take, told from a real run over some of it in a temporary folder."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from felga.corpus.items import Corpus, ImageItem, Listing, checked_listing
from felga.errors import BadInputError
from felga.files import shown
from felga.indexing.job import index
from felga.indexing.options import Options, Report
from felga.indexing.parts import Parts
from felga.search.approximate import factory_for
from felga.store.manifest import Manifest, read_manifest
from felga.store.pieces import FULL
from felga.types import Progress

PROBED = 100
"""Images, and texts, that are indexed to tell what all of them take; spread over the whole corpus."""
FEW = 8  # of a run that tells what does not grow with the corpus
OWNER_BYTES = 200  # of memory for each image or text in a first run (bench/owners_memory.py)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What indexing a whole corpus would take, of images and texts that are as those probed.

    Attributes:
        images, texts: in the corpus.
        probed_images, probed_texts: of them, indexed for this.
        unreadable: of the probed images.
        regions, keywords: fragments that the index would hold.
        seconds: ``images``, ``texts``, ``rest`` (start, checks and commit) and ``total``; without building an
            approximate search.
        disk_bytes: of the index; while it is written, up to twice as much.
        memory_bytes: largest resident set.
        approximate: the FAISS factory that ``--index auto`` would build; None: exact search.
    """

    images: int
    texts: int
    probed_images: int
    probed_texts: int
    unreadable: int
    regions: int
    keywords: int
    seconds: dict[str, float]
    disk_bytes: int
    memory_bytes: int
    approximate: str | None


def forecast_job(
    corpus: Corpus,
    options: Options,
    *,
    fenet: str | Path = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> Forecast:
    """Index some of a corpus for real, and say what all of it would take. Nothing of it is kept.

    Args:
        fenet: as of :func:`felga.index`.

    Raises:
        BadInputError, MissingError: as of :func:`felga.index`.
    """
    start = time.perf_counter()
    listing = checked_listing(corpus.scan())
    scanning = time.perf_counter() - start
    if not (listing.images or listing.texts):
        raise BadInputError(f"{shown(corpus.root)} holds no image and no text: name a folder that does")
    parts = Parts.make(options)
    few, many = _sample(corpus, listing, FEW), _sample(corpus, listing, PROBED)
    with tempfile.TemporaryDirectory(prefix="felga-plan-") as folder:
        runs = [
            _run(sample, Path(folder, str(n)), options, parts, fenet, progress if sample is many else _quiet)
            for n, sample in enumerate((few, few, many))  # the first one also loads what the parts need
        ]
    cold, warm, full = runs
    sizes = len(listing.images), len(listing.texts)
    images = full.seconds("images") * sizes[0] / max(1, len(many.listing.images))
    texts = full.seconds("texts") * sizes[1] / max(1, len(many.listing.texts))
    rest = _grown(warm.tail, full.tail, len(few), len(many), sum(sizes))
    rest += scanning + max(0.0, cold.total - warm.total)
    regions = _scaled(full.report.images.fragments, sizes[0], len(many.listing.images))
    fragments = regions, _scaled(full.report.texts.fragments, sizes[1], len(many.listing.texts))
    dim = full.manifest.dim
    factory = factory_for(fragments[0], dim)
    return Forecast(
        *sizes,
        len(many.listing.images),
        len(many.listing.texts),
        full.report.images.quarantined,
        *fragments,
        {
            name: round(value, 1)
            for name, value in (
                ("images", images),
                ("texts", texts),
                ("rest", rest),
                ("total", images + texts + rest),
            )
        },
        _disk(warm, full, few, many, sizes) + _codes(factory, fragments[0], dim),
        _peak() + OWNER_BYTES * sum(sizes) + 2 * dim * min(FULL, max(fragments)),
        factory,
    )


class Sample:
    """Some images and texts of a corpus, spread over all of it."""

    def __init__(self, corpus: Corpus, listing: Listing) -> None:
        self._corpus, self.listing = corpus, listing
        self.kind, self.root = corpus.kind, corpus.root

    def __len__(self) -> int:
        return len(self.listing.images) + len(self.listing.texts)

    def settings(self) -> Mapping[str, Any]:
        """Those of the corpus."""
        return self._corpus.settings()

    def scan(self) -> Listing:
        """The sample."""
        return self.listing

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image; raises what the corpus raises."""
        return self._corpus.read(item)


@dataclass(slots=True)
class _Run:
    """One run, and the time at which each of its stages began and ended."""

    total: float = 0.0
    report: Report = field(default_factory=lambda: Report(Path()))
    manifest: Manifest = field(default=None)  # type: ignore[assignment]
    times: dict[str, tuple[float, float]] = field(default_factory=dict)

    def note(self, stage: str) -> None:
        now = time.perf_counter()
        self.times[stage] = self.times.get(stage, (now, now))[0], now

    def seconds(self, stage: str) -> float:
        start, stop = self.times.get(stage, (0.0, 0.0))
        return stop - start

    @property
    def tail(self) -> float:
        """Seconds beside the stages."""
        return self.total - self.seconds("images") - self.seconds("texts")

    def disk(self, which: tuple[str, str]) -> int:
        """Bytes of the files whose names start so."""
        return sum(file.size for name, file in self.manifest.files.items() if name.startswith(which))


def _run(
    sample: Sample, out: Path, options: Options, parts: Parts, fenet: str | Path, progress: Progress
) -> _Run:
    run = _Run()

    def show(stage: str, done: int, total: int) -> None:
        run.note(stage)
        progress(stage, done, total)

    start = time.perf_counter()
    run.report = index(sample, out, options, fenet=fenet, index="flat", parts=parts, progress=show)
    run.total = time.perf_counter() - start
    run.manifest = read_manifest(out)
    return run


def _quiet(stage: str, done: int, total: int) -> None:
    return None


def _sample(corpus: Corpus, listing: Listing, count: int) -> Sample:
    return Sample(corpus, Listing(_spread(listing.images, count), _spread(listing.texts, count), []))


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spaced."""
    count = min(count, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def _disk(warm: _Run, full: _Run, few: Sample, many: Sample, sizes: tuple[int, int]) -> int:
    """Bytes of the whole index: what grows with images, what grows with texts, and the rest."""
    tables = ("images.lance", "regions-"), ("texts.lance", "keywords-")
    grown = 0.0
    for which, kind, size in zip(tables, ("images", "texts"), sizes, strict=True):
        less, more = (len(getattr(sample.listing, kind)) for sample in (few, many))
        grown += _grown(warm.disk(which), full.disk(which), less, more, size)
    rest = sum(file.size for file in full.manifest.files.values())
    return round(grown + rest - sum(full.disk(which) for which in tables))


def _grown(less: float, more: float, few: int, many: int, size: int) -> float:
    """A quantity at ``size``, from that at two smaller sizes; never less than at the larger one."""
    if many == few:
        return more * size / max(1, many)
    return more + max(0.0, (more - less) / (many - few)) * (size - many)


def _scaled(count: int, size: int, probed: int) -> int:
    return round(count * size / max(1, probed))


def _codes(factory: str | None, fragments: int, dim: int) -> int:
    """Bytes of an approximate search: 4 bits for 4 dimensions, a number for each fragment, and the lists."""
    if factory is None:
        return 0
    lists = int(factory.removeprefix("IVF").partition(",")[0])
    return fragments * (dim // 8 + 8) + 4 * lists * dim


def _peak() -> int:
    """Largest resident set of this process so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
