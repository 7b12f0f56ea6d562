"""What a captioner learns from: images with their captions as word pieces, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from felga.captions.caption_decoder import END, START
from felga.captions.visual_tokens import GRID
from felga.captions.word_pieces import WordPieces
from felga.corpus.annotations import MalformedRow, as_id, caption_rows
from felga.corpus.coco import read_coco
from felga.errors import BadInputError
from felga.files import shown
from felga.types import Rows

IGNORED = -100  # of cross entropy: no word is expected here
BUCKETS = 8  # batches whose images are sorted by length together


class Captioned(NamedTuple):
    """An image and the captions that people wrote for it."""

    image_id: str
    file_name: str
    captions: list[str]


def read_captions(path: Path) -> list[Captioned]:
    """The images of a COCO captions json that have a caption, ordered by id as numbers where they are.

    Raises:
        NotFoundError: no such file.
        BadInputError: not a COCO captions json, a malformed row, or no caption.
    """
    data = read_coco(path)
    found: dict[str, list[tuple[Any, str]]] = {}
    for row in caption_rows(data):
        if isinstance(row, MalformedRow):
            raise BadInputError(f"{shown(path)}: {row.where}: {row.reason}")
        if row.caption.strip():
            found.setdefault(row.image_id, []).append((row.order, row.caption))
    images = {str(as_id(row["id"])): str(row["file_name"]) for row in data["images"]}
    if not found.keys() & images.keys():
        raise BadInputError(f"{shown(path)} has no caption to learn from: name COCO's captions json")
    ids = sorted(found.keys() & images.keys(), key=lambda one: (len(one), one))
    return [Captioned(one, images[one], [caption for _, caption in sorted(found[one])]) for one in ids]


class Batch(NamedTuple):
    """Some images and all their captions.

    Attributes:
        tokens: (b, 36, 1280) float16.
        words: (n, t) int64, from the start, padded with the end.
        owners: (n,) int64, the image of each caption.
        targets: (n, t) int64, the word after each, the end last, then :data:`IGNORED`.
    """

    tokens: Tensor
    words: Tensor
    owners: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Batch:
        """On a device."""
        return Batch(*(one.to(device) for one in self))


class CaptionData:
    """Visual tokens of images, and their captions as rows of the table of words."""

    def __init__(
        self,
        tokens: npt.NDArray[np.float16],
        captions: Sequence[Sequence[str]],
        words: WordPieces,
        longest: int,
    ) -> None:
        """
        Args:
            tokens: (n, 36, 1280) float16.
            longest: words of a caption, the start included; the rest is not learned.
        """
        self._tokens = tokens
        self._captions = [[words.rows(text)[:longest] for text in own] for own in captions]
        self._longest = longest

    def shuffled(self, rows: Rows, size: int, seed: Sequence[int]) -> Iterator[Batch]:
        """Every image once, in an order that depends on the seed; half of them mirrored.

        A mirrored image is approximated by mirroring its grid of tokens.
        """
        random = np.random.default_rng(seed)
        order = random.permutation(rows)
        mirrored = set(random.permutation(rows)[: len(rows) // 2].tolist())
        step = BUCKETS * size
        batches: list[list[int]] = []
        for start in range(0, len(order), step):
            near = sorted(order[start : start + step].tolist(), key=self._length)
            batches += [near[at : at + size] for at in range(0, len(near), size)]
        for at in random.permutation(len(batches)):
            yield self._batch(batches[at], mirrored)

    def in_order(self, rows: Rows, size: int) -> Iterator[Batch]:
        """Every image once, as it is."""
        for start in range(0, len(rows), size):
            yield self._batch(rows[start : start + size].tolist(), set())

    def _length(self, row: int) -> int:
        return max(map(len, self._captions[row]))

    def _batch(self, rows: Sequence[int], mirrored: set[int]) -> Batch:
        tokens = torch.from_numpy(np.array(self._tokens[list(rows)]))
        for at, row in enumerate(rows):
            if row in mirrored:
                tokens[at] = tokens[at].view(GRID, GRID, -1).flip(1).reshape(GRID * GRID, -1)
        captions = [(at, own) for at, row in enumerate(rows) for own in self._captions[row]]
        length = min(self._longest, 1 + max(len(own) for _, own in captions))
        words = torch.full((len(captions), length), END)
        targets = torch.full((len(captions), length), IGNORED)
        for at, (_, own) in enumerate(captions):
            read = torch.tensor([START, *own, END])[: length + 1]
            words[at, : len(read) - 1], targets[at, : len(read) - 1] = read[:-1], read[1:]
        return Batch(tokens, words, torch.tensor([owner for owner, _ in captions]), targets)
