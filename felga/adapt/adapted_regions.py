"""The region proposer ``adapted:FILE``: a frozen proposer's boxes, with classes of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from felga.adapt.adapted_head import AdaptedHead
from felga.adapt.collected import PROPOSALS
from felga.boxes import distinct
from felga.types import DecodedImage, Region

OVERLAP = 0.5  # IoU of two regions of the same class, above which the worse one is dropped
LEAST = 0.05  # a class of a smaller probability is no label, as in Detectron2
VERSION = 1
"""Raised when the same file yields other regions."""


def adapted(argument: str, *, device: str = "auto") -> AdaptedRegions:
    """The proposer ``adapted:FILE``.

    Raises:
        As of :class:`AdaptedHead`.
    """
    return AdaptedRegions(AdaptedHead(argument, "regions", device))


class AdaptedRegions:
    """Boxes of a frozen proposer, labelled with their likeliest class.

    A region's score is the probability of that class times the score that the proposer gave the box.
    """

    def __init__(self, head: AdaptedHead) -> None:
        self._head = head

    @property
    def name(self) -> str:
        """``adapted:FILE``."""
        return self._head.name

    def settings(self) -> dict[str, Any]:
        """The head, and what is done with its probabilities."""
        own = {"proposals": PROPOSALS, "overlap": OVERLAP, "least": LEAST}
        return {"name": "adapted", "version": VERSION, **self._head.settings(), **own}

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image at most ``top`` regions, 100 at most, best first; after NMS within each class.

        Raises:
            BadInputError, MissingError: the file or the frozen network's weights are damaged or missing.
        """
        return [self._propose(image)[:top] for image in images]

    def _propose(self, image: DecodedImage) -> list[Region]:
        proposed = self._head.roi.propose(image, PROPOSALS)
        if not proposed:
            return []
        boxes = np.array([region.box for region in proposed], np.float32)
        chances = self._head.probabilities(image, boxes)[:, :-1]  # (n, C)
        best, chance = chances.argmax(1), chances.max(1)
        scores = chance * np.array([region.score for region in proposed])
        order = np.argsort(-scores, kind="stable")
        kept = []
        for c in np.unique(best):
            rows = order[best[order] == c]
            kept.append(rows[distinct(boxes[rows], len(rows), OVERLAP)])
        rows = np.concatenate(kept)
        return [
            replace(
                proposed[row],
                score=float(scores[row]),
                label=self._head.classes[best[row]] if chance[row] >= LEAST else None,
            )
            for row in rows[np.lexsort((rows, -scores[rows]))].tolist()
        ]
