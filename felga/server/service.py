"""What the routes share: the engine, its queue, threads for work on images, and the numbers of /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from felga.server.batching import Batcher
from felga.server.following import EVERY, Following

T = TypeVar("T")
ENCODED_AT_ONCE = 2  # query images
DRAWN_AT_ONCE = 2  # thumbnails
UPLOADS_AT_ONCE = 8  # held in memory
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Service:
    """An index, served. Use it as a context manager, or :meth:`close` it."""

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        root: str | Path | None = None,
        every: float = EVERY,
        find: Callable[[], Path] | None = None,
    ) -> None:
        """As :class:`felga.server.following.Following`."""
        self.following = Following(folder, device=device, root=root, every=every, find=find)
        self.metrics = Metrics(self.following)
        self.batcher = Batcher(self.following, self.metrics.batch.observe)
        self.uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._encoding = ThreadPoolExecutor(ENCODED_AT_ONCE, "felga-image")
        self._drawing = ThreadPoolExecutor(DRAWN_AT_ONCE, "felga-drawing")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish what was begun, and release the index."""
        self.batcher.close()
        self._encoding.shutdown(cancel_futures=True)
        self._drawing.shutdown(cancel_futures=True)
        self.following.close()

    async def encoding(self, work: Callable[[], T]) -> T:
        """Run what encodes an image, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._encoding, work)

    async def drawing(self, work: Callable[[], T]) -> T:
        """Run what draws an image, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._drawing, work)


class Metrics:
    """The numbers of ``/metrics``, of one service."""

    def __init__(self, following: Following) -> None:
        self._registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter("felga_requests", "Requests answered.", labels, registry=self._registry)
        self.seconds = Histogram(
            "felga_request_seconds", "Time to answer.", ("path",), buckets=SECONDS, registry=self._registry
        )
        self.batch = Histogram(
            "felga_batch_queries", "Queries answered together.", buckets=SIZES, registry=self._registry
        )
        for name, text, value in (
            ("felga_index_state", "States of the index opened so far.", lambda: following.current.number),
            ("felga_index_stale", "1: an update cannot be opened.", lambda: following.problem is not None),
            ("felga_index_images", "Images.", lambda: following.current.engine.manifest.images.owners),
            ("felga_index_texts", "Texts.", lambda: following.current.engine.manifest.texts.owners),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Note an answered request."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)
