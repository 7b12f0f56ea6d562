"""Batches that fit into the memory of the device: one that does not is halved, and the rest stays halved."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

import torch

from felga.errors import MissingError

S = TypeVar("S")
T = TypeVar("T")


class Fitting:
    """Runs a network on batches; thread-safe.

    Attributes:
        size: items per batch; it shrinks when the memory of the device does not suffice.
    """

    def __init__(self, size: int) -> None:
        self.size = self._said = size

    def run(self, items: Iterable[S], work: Callable[[list[S]], T]) -> list[T]:
        """What ``work`` returns for each batch, in order; no more items are drawn than run next.

        Args:
            work: a result of an item must not depend on the others of its batch beyond rounding. It is asked
                again about the same items, fewer at a time, if it raises ``torch.OutOfMemoryError``.

        Raises:
            MissingError: the memory does not suffice for one item.
        """
        source = iter(items)
        done: list[T] = []
        waiting = list(islice(source, self.size))
        while waiting:
            batch = waiting[: self.size]
            try:
                done.append(work(batch))
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise out_of_memory(error) from error
                self.size = min(self.size, len(batch) // 2)
                fits = False
            else:
                fits = True
            if fits:
                self._say()
                waiting = waiting[len(batch) :] or list(islice(source, self.size))
            else:  # not above: while the error is handled, its traceback holds what the batch allocated
                gc.collect()
                torch.cuda.empty_cache()
        return done

    def _say(self) -> None:
        if self.size < self._said:
            self._said = self.size
            warnings.warn(
                f"the memory of the GPU is too small for the batch size: going on with {self.size}",
                stacklevel=3,
            )


def out_of_memory(error: BaseException) -> MissingError:
    """What to say where the memory of the device does not suffice even for a single item."""
    reason = str(error).split(". ")[0].rstrip(".") or "out of memory"
    return MissingError(
        f"the memory of the GPU does not suffice for a batch of one ({reason}): free some, or use "
        "--device cpu"
    )
