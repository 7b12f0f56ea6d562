"""``felga index --engine ray``: owners are encoded by the workers of a Ray cluster.

The process that started the run scans, plans, holds the lock, and alone appends: each block once and in
order, whoever encoded it and however often. So the index is that of the local engine. Workers are plain
actors, as models are loaded once for each; Ray Data would not add anything, since the store takes one append
at a time.
"""

from __future__ import annotations

import os
import platform
import socket
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from felga.corpus.items import Corpus, ImageItem, TextItem
from felga.errors import BadIndexError, BadInputError, FelgaError, MissingError, NotFoundError
from felga.files import shown
from felga.indexing.encode import Encoded, Engine, LocalEngine, sha256_of_item
from felga.indexing.options import Options, Report
from felga.indexing.parts import Parts
from felga.store.manifest import Contract, differences, summary

TRIES = 3
"""Workers that may die on a block, or one after the other while they start."""
AHEAD = 4  # blocks that each worker may be ahead of the next one to be appended: memory stays bounded
SAMPLES = 8  # images that are tried for one that workers must be able to read
KEPT = "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"  # what --offline sets


@contextmanager
def ray_engine(address: str | None = None) -> Iterator[Engine]:
    """The engine for :func:`felga.index`, while Ray is connected: one worker for each GPU of the cluster, or
    if it has none (or with ``device="cpu"``) for each CPU.

    The corpus must be readable by the same path on every machine, and felga and the weights installed there.

    Args:
        address: of the cluster, as of ``ray.init``; None: that of ``$RAY_ADDRESS``, the one that runs on
            this machine, or a new one on this machine alone. Not used if Ray is connected already.

    Raises:
        MissingError: Ray is not installed, or no cluster answers.
    """
    ray = _ray()
    connect = not ray.is_initialized()
    if connect:
        _connect(ray, address)
    made: list[RayEngine] = []

    def make(corpus: Corpus, parts: Parts, report: Report) -> RayEngine:
        made.append(RayEngine(ray, corpus, parts, report))
        return made[-1]

    try:
        yield make
    finally:
        for engine in made:
            engine.close()
        if connect:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # felga tells nobody that it runs
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MissingError(
            "the engine ray needs the package 'ray', which is not installed: pip install 'felga[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    where = address or os.environ.get("RAY_ADDRESS") or "this machine"
    host, _, port = where.rpartition(":")
    try:
        if port.isdigit() and "://" not in where:  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "lance is not fork-safe"
            )  # Ray starts programs: no use of Lance
            ray.init(address, logging_level="warning")
    except (OSError, ValueError, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MissingError(f"Ray cannot be reached at {where}: {reason}") from error


@dataclass(slots=True)
class Block:
    """``commit_every`` owners, encoded and appended together.

    Attributes:
        number: of its place in the order.
        deaths: of workers that encoded it.
    """

    kind: Literal["images", "texts"]
    number: int
    items: Sequence[Any]
    deaths: int = 0


class RayEngine:
    """A :class:`felga.indexing.encode.Encoding` by workers; one that dies is replaced, and its block given
    to another."""

    def __init__(self, ray: Any, corpus: Corpus, parts: Parts, report: Report) -> None:
        self._ray, self._corpus, self._parts, self._report = ray, corpus, parts, report
        self._most, resources = _workers(ray.cluster_resources(), parts.options.device)
        self._remote = ray.remote(**resources, max_restarts=0)(Worker)
        self._setting: Any = None
        self._sample: tuple[ImageItem, str] | None = None
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Block | None]] = {}  # the call -> the worker; None: it starts
        self._stillborn = 0  # since the last call that succeeded

    def images(self, items: Sequence[ImageItem]) -> Iterator[Encoded]:
        """As of :class:`felga.indexing.encode.Encoding`."""
        tried = ((item, sha256_of_item(self._corpus, item)) for item in items[:SAMPLES])
        self._sample = next((pair for pair in tried if pair[1]), None)
        return self._in_order("images", items)

    def texts(self, items: Sequence[TextItem]) -> Iterator[Encoded]:
        """As of :class:`felga.indexing.encode.Encoding`."""
        return self._in_order("texts", items)

    def close(self) -> None:
        """End the workers, whatever they do."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker)
        self._idle, self._busy = [], {}

    def _in_order(self, kind: Literal["images", "texts"], items: Sequence[Any]) -> Iterator[Encoded]:
        every = self._parts.options.commit_every
        blocks = deque(
            Block(kind, number, items[start : start + every])
            for number, start in enumerate(range(0, len(items), every))
        )
        due, last, encoded = 0, len(blocks), dict[int, pa.Table]()
        while due < last:
            while len(self._idle) + len(self._busy) < min(self._most, last - due):
                self._start()
            while self._idle and blocks and blocks[0].number < due + AHEAD * self._most:
                worker, block = self._idle.pop(), blocks.popleft()
                self._busy[worker.encode.remote(block)] = worker, block
            block, rows = self._next_done()
            if rows is not None:
                encoded[block.number] = rows
            elif block is not None:
                blocks.appendleft(block)
            while due in encoded:
                rows = encoded.pop(due)
                due += 1
                yield rows.num_rows, rows

    def _start(self) -> None:
        if self._setting is None:
            options = self._parts.options, self._parts.contract()
            kept = {name: os.environ[name] for name in KEPT if name in os.environ}
            self._setting = _shared(self._ray, self._corpus, (*options, self._sample, kept))
        worker = self._remote.remote(self._setting)
        self._busy[worker.start.remote()] = worker, None

    def _next_done(self) -> tuple[Any, pa.Table | None]:
        """Wait for a call: the block with its rows, or without them where its worker died."""
        (call,), _ = self._ray.wait(list(self._busy), num_returns=1)
        worker, block = self._busy.pop(call)
        errors = self._ray.exceptions
        try:
            found = self._ray.get(call)
        except errors.RayTaskError as error:
            self._ray.kill(worker)
            if isinstance(error.cause, FelgaError):
                raise error.cause from error
            raise  # a bug: its text has the worker's traceback
        except (errors.RayActorError, errors.ObjectLostError, errors.OutOfMemoryError) as error:
            self._ray.kill(worker)  # it may only be cut off
            self._count_death(block, error)
            return block, None
        self._stillborn = 0
        self._idle.append(worker)
        if block is None:
            return None, None
        rows, seconds = found
        self._report.add(seconds)
        return block, rows

    def _count_death(self, block: Block | None, error: Exception) -> None:
        """Give up once a block, or starting, has cost too many workers.

        Raises:
            MissingError: it has; with what Ray knows of the last one's end.
        """
        why = str(error).strip().splitlines()[-1].partition(". ")[0]
        if block is None:
            self._stillborn += 1
            if self._stillborn >= TRIES:
                raise MissingError(
                    f"{TRIES} workers of Ray died while they loaded models ({why}): every machine needs "
                    "felga[ray], and memory for a copy of the models per worker"
                ) from error
            return
        block.deaths += 1
        if block.deaths >= TRIES:
            first, final = (_id(block.items[at]) for at in (0, -1))
            raise MissingError(
                f"{TRIES} workers of Ray died over the {block.kind} {shown(first)} to {shown(final)} "
                f"({why}): is their memory enough, or must one of these go? What came before is kept"
            ) from error


class Worker:
    """An actor: a local engine that is given one block at a time."""

    def __init__(
        self,
        setting: tuple[Corpus, Options, Contract, tuple[ImageItem, str] | None, Mapping[str, str]],
    ) -> None:
        """``setting``: the corpus; what to make parts of; an image and its sha256; environment variables."""
        self._corpus, self._options, self._contract, self._sample, kept = setting
        os.environ.update(kept)

    def start(self) -> None:
        """Make the parts, and check that they and the corpus are those of the run.

        Raises:
            BadIndexError: its parts would make other vectors.
            NotFoundError: it does not see the corpus: that is no reason to quarantine every image.
        """
        import cv2
        import torch

        torch.set_num_threads(1)  # there is a worker for each core
        cv2.setNumThreads(1)
        self._parts = Parts.make(self._options)
        if differ := differences(asdict(self._parts.contract()), asdict(self._contract)):
            raise BadIndexError(
                f"the worker on {platform.node()} has other models ({summary(differ)}): install the same "
                "felga and weights on every machine"
            )
        if self._sample is not None:
            item, sha256 = self._sample
            if sha256_of_item(self._corpus, item) != sha256:
                raise NotFoundError(
                    f"the worker on {platform.node()} cannot read {shown(item.path)} of "
                    f"{shown(self._corpus.root)}, or finds another file there: every machine needs the "
                    "corpus at the same path"
                )

    def encode(self, block: Block) -> tuple[pa.Table, dict[str, float]]:
        """The rows of a block, and what took how many seconds."""
        report = Report(Path())
        local = LocalEngine(self._corpus, self._parts, report, threads=1)
        encode = local.images if block.kind == "images" else local.texts
        (rows,) = [rows for _, rows in encode(block.items) if rows is not None]
        return rows, report.seconds


def _workers(resources: Mapping[str, float], device: str) -> tuple[int, dict[str, int]]:
    """How many workers a cluster has room for, and what each takes of it."""
    gpus = int(resources.get("GPU", 0))
    if device == "cpu" or (device == "auto" and not gpus):
        return max(1, int(resources.get("CPU", 0))), {"num_cpus": 1, "num_gpus": 0}
    if not gpus:
        raise MissingError(f"--device {device} needs a GPU, and this Ray cluster has none: use --device cpu")
    return gpus, {"num_cpus": 1, "num_gpus": 1}


def _shared(ray: Any, corpus: Corpus, more: tuple[Any, ...]) -> Any:
    """What every worker is made with, sent once."""
    try:
        return ray.put((corpus, *more))
    except TypeError as error:  # what Ray makes of anything that cannot be pickled
        raise BadInputError(
            f"the corpus {corpus.kind!r} cannot be sent to workers, as it cannot be pickled: use "
            "--engine local"
        ) from error


def _id(item: ImageItem | TextItem) -> str:
    return item.image_id if isinstance(item, ImageItem) else item.text_id
