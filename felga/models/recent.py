"""Vectors of the texts that were asked for last, in memory. Imports no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from felga.types import Vectors


class Recent:
    """The vectors of at most ``capacity`` texts; the one used least recently goes first. Thread-safe."""

    def __init__(self, capacity: int, dim: int) -> None:
        self._capacity, self._dim = capacity, dim
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Vectors] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def vectors(self, texts: Sequence[str], embed: Callable[[list[str]], Vectors]) -> Vectors:
        """(n, dim) float32 of texts.

        Args:
            embed: gives (m, dim) of the distinct texts that are not kept. A vector must not depend on the
                others of its call: what is kept depends on what was asked before.
        """
        distinct = dict.fromkeys(texts)
        with self._lock:
            found = {text: self._kept[text] for text in distinct if text in self._kept}
        missing = [text for text in distinct if text not in found]
        if missing:
            # Copies, for a row that is kept would keep the whole array.
            found |= {text: row.copy() for text, row in zip(missing, embed(missing), strict=True)}
        with self._lock:
            for text in distinct:
                self._kept[text] = found[text]
                self._kept.move_to_end(text)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return np.array([found[text] for text in texts], np.float32).reshape(len(texts), self._dim)
