"""What an index is built with, and what a run reports."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from felga.corpus.items import MAX_MEGAPIXELS
from felga.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Options:
    """What an index is built with.

    Attributes:
        encoder, regions, keywords: names in the registry.
        top_regions, top_keywords: at most this many fragments per owner (FELGA, 4.2: ten each).
        whole: the whole image is an additional region, the whole text an additional keyword.
        quality: predict for every region how well it fits an object; False: as its proposer says, if it does.
        device, batch_size, pooling: passed to the encoder.
        commit_every: owners per commit; a killed run loses at most that many.
        max_megapixels: larger images are quarantined undecoded.
    """

    encoder: str = "conse"
    regions: str = "learned"
    keywords: str = "keybert"
    top_regions: int = 10
    top_keywords: int = 10
    whole: bool = True
    quality: bool = True
    device: str = "auto"
    batch_size: int = 32
    pooling: str | None = None
    commit_every: int = 64
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        for name in ("top_keywords", "batch_size", "commit_every"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.top_regions < 0 or (self.top_regions == 0 and not self.whole):
            raise BadInputError(
                f"an image needs a region: top_regions is {self.top_regions} and whole is {self.whole}"
            )
        if not (math.isfinite(self.max_megapixels) and self.max_megapixels > 0):
            raise BadInputError(f"max_megapixels must be a positive number, got {self.max_megapixels}")


@dataclass(slots=True)
class Counts:
    """What a sync did to one table, in owners; ``fragments`` counts all that the table holds."""

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    fragments: int = 0


@dataclass(slots=True)
class Report:
    """The outcome of :func:`felga.index`.

    Attributes:
        examples: of a dry run, ``images`` and ``texts`` -> ``added``, ``changed``, ... -> the first few ids.
        seconds: ``decode``, ``proposals``, ``encoding``, ``keywords``, ``store`` (working time, summed over
            threads and workers) and ``total`` (wall time).
    """

    folder: Path
    images: Counts = field(default_factory=Counts)
    texts: Counts = field(default_factory=Counts)
    examples: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the duration of the block to ``seconds[part]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({part: time.perf_counter() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add what was timed elsewhere to ``seconds``."""
        with self._lock:
            for part, own in seconds.items():
                self.seconds[part] = self.seconds.get(part, 0.0) + own
