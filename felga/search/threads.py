"""The threads that score: each uses one thread of torch, so that none waits for another.

A single piece of work is done there, too: two threads of torch that share small tensors wait for each other,
which takes milliseconds where the processor is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")


def for_each(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Call ``work`` with every item, in any order, from as many threads as torch has."""
    for _ in _pool().map(work, items):  # raises what a call raised
        pass


@cache
def _pool() -> ThreadPoolExecutor:
    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "felga-search", initializer=torch.set_num_threads, initargs=(1,))
    started = Barrier(count + 1)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(count)  # threads that begin later take the last number that was set
    return pool
