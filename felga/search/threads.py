"""The threads that score: each uses one thread of torch, so that none waits for another.

A single piece of work is done there, too: two threads of torch that share small tensors wait for each other,
which takes milliseconds where the processor is busy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def for_each(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Call ``work`` with every item, in any order, from as many threads as torch has.

    Where torch is not in use, as in a command that asks a small index one question, one thread does all: it
    is done before torch would be imported.
    """
    if "torch" not in sys.modules:
        for item in items:
            work(item)
        return
    for _ in _pool().map(work, items):  # raises what a call raised
        pass


@cache
def _pool() -> ThreadPoolExecutor:
    import torch

    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "felga-search", initializer=torch.set_num_threads, initargs=(1,))
    started = Barrier(count + 1)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(count)  # threads that begin later take the last number that was set
    return pool
