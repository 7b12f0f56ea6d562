"""Threads of a run: an ordered, bounded parallel map, and the cores that it shares with libraries."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def workers() -> int:
    """Threads that work at the same time: one per core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def shared_cores() -> Iterator[None]:
    """One thread per worker for torch and OpenCV: more threads than cores would stall.

    So results do not depend on the number of cores either. The settings are process-wide, and restored
    afterwards.
    """
    import cv2
    import torch

    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)


def ahead(work: Callable[[S], T], items: Iterator[S], threads: int) -> Iterator[T]:
    """An ordered, bounded parallel ``map``: a few items ahead, so that memory stays bounded.

    For :func:`shared_cores`; workers do not inherit torch's number of threads, which is each thread's own.
    """
    import torch

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def groups(items: Sequence[S], chunk: int, size: int) -> Iterator[Sequence[S]]:
    """Groups of ``size`` that never cross a multiple of ``chunk``, so chunk boundaries do not depend on
    where a run resumes."""
    for start in range(0, len(items), chunk):
        part = items[start : start + chunk]
        for first in range(0, len(part), size):
            yield part[first : first + size]
