"""Captions of images: visual tokens, a decoder, and the file that both are kept in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from felga.captions.caption_decoder import CaptionDecoder, Shape
from felga.captions.generation import Generated, generate
from felga.captions.visual_tokens import Projection, visual_settings, visual_tokens
from felga.captions.word_pieces import Source, WordPieces
from felga.errors import BadInputError
from felga.files import shown
from felga.models.arrays import Arrays, read_arrays, write_arrays
from felga.models.device import pick_device
from felga.types import DecodedImage
from felga.version import __version__

KIND = "captioner"
ROWS = 16  # images decoded at a time


class Caption(NamedTuple):
    """A generated caption, and its mean log probability per word."""

    text: str
    score: float


class CaptionNet(nn.Module):
    """What is trained: the projection of visual tokens, and the decoder."""

    def __init__(self, words: WordPieces, shape: Shape) -> None:
        super().__init__()
        self.decoder = CaptionDecoder(words.table, shape)
        self.projection = Projection(self.decoder.width, shape.dropout)

    def states(self, tokens: Tensor, words: Tensor, owners: Tensor) -> Tensor:
        """:meth:`CaptionDecoder.states` of visual tokens (b, 36, 1280) instead of a prefix."""
        return self.decoder.states(self.projection(tokens), words, owners)


class Captioner:
    """A trained decoder, ready to write. Thread-safe.

    Attributes:
        net: in evaluation mode; words: of its decoder; about: how it was trained, json values.
    """

    def __init__(
        self, net: CaptionNet, words: WordPieces, about: Mapping[str, Any], device: torch.device
    ) -> None:
        self.net, self.words, self.about, self.device = net.to(device).eval(), words, about, device

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", words: Path | None = None) -> Captioner:
        """
        Args:
            words: the folder of the words' vectors, if it has moved.

        Raises:
            NotFoundError: no such file.
            BadInputError: not a captioner, or of another network than felga's.
            MissingError: the words' vectors are missing, or others.
        """
        arrays, about = read_arrays(path, KIND)
        try:
            if about["visual"] != visual_settings():
                raise BadInputError(f"{shown(path)} reads another network than felga's: train it again")
            pieces = WordPieces(Source.from_json(about["words"], words), arrays.pop("ids").tolist())
            net = CaptionNet(pieces, Shape.from_json(about["shape"]))
            net.load_state_dict({name: torch.from_numpy(value).float() for name, value in arrays.items()})
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise BadInputError(
                f"{shown(path)} is not a captioner of felga ({reason}): train it again"
            ) from error
        return cls(net, pieces, about, pick_device(device))

    def captions(self, images: Sequence[DecodedImage], beam: int = 1) -> list[Caption]:
        """A caption of each image; ``beam`` as of :func:`felga.captions.generation.generate`."""
        return self.of_tokens(np.stack([visual_tokens(image, self.device) for image in images]), beam)

    def of_tokens(self, tokens: Any, beam: int = 1) -> list[Caption]:
        """Of visual tokens (n, 36, 1280) float16, as :meth:`captions`."""
        found: list[Generated] = []
        for start in range(0, len(tokens), ROWS):
            batch = torch.from_numpy(np.array(tokens[start : start + ROWS])).to(self.device)
            with torch.inference_mode():
                found += generate(self.net.decoder, self.net.projection(batch), beam)
        return [Caption(self.words.text(one.words), one.score) for one in found]


def write_captioner(
    path: Path, arrays: Arrays, words: WordPieces, shape: Shape, about: Mapping[str, Any]
) -> None:
    """Write a :class:`CaptionNet` in half precision, the ids of its words, and how it was trained."""
    halves = {name: value.astype(np.float16) for name, value in arrays.items()}
    settings = {"visual": visual_settings(), "words": words.source.to_json(), "shape": shape.to_json()}
    write_arrays(path, KIND, {**halves, "ids": words.ids}, {**about, **settings, "felga": __version__})
