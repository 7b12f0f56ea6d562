"""Threads of a run: an ordered, bounded parallel map, and cores shared between its two halves."""

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
    """Threads that decode and propose: half of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


@contextmanager
def shared_cores() -> Iterator[None]:
    """Half of the cores decode and propose, the others encode; more threads than cores would stall.

    The settings are process-wide, and restored afterwards.
    """
    import cv2
    import torch

    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(max(1, torch_threads - workers()))
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)


def ahead(work: Callable[[S], T], items: Iterator[S], threads: int) -> Iterator[T]:
    """An ordered, bounded parallel ``map``: a few items ahead, so that memory stays bounded."""
    with ThreadPoolExecutor(threads) as pool:
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
