"""What was computed of an image, kept for as long as the decoded image lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from felga.types import DecodedImage

T = TypeVar("T")


class PerImage(Generic[T]):
    """One value per decoded image. Thread-safe; two threads that ask for the same one may both compute it.

    Args:
        most: values of the last so many images; None: of all that live.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._values: dict[int, T] = {}

    def of(self, image: DecodedImage, compute: Callable[[DecodedImage], T]) -> T:
        """The value of an image, computed when it is asked for first."""
        key = id(image)
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = compute(image)
            weakref.finalize(image, self._values.pop, key, None)
            if self._most is not None:
                for oldest in list(self._values)[: -self._most]:
                    self._values.pop(oldest, None)
        return found

    def __len__(self) -> int:
        """Images with a value."""
        return len(self._values)
