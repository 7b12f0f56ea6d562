"""A graph in ONNX: its inputs, outputs and metadata, and how an image's sides follow from them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError

SIDE = 640  # of an input whose sides are free, and not in its metadata
LARGEST = 4096  # side of an input
LONGEST_LITERAL = 1_000_000  # characters of metadata
DTYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
EXPECTED = (
    "expected images (1, 3, height, width), and YOLOX's (1, N, 5 + classes), YOLOv8's (1, 4 + classes, N), "
    "RT-DETR's labels, boxes and scores from images and orig_target_sizes, or transformers' logits and "
    "pred_boxes"
)
Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]


class Slot(NamedTuple):
    """An input or output of a graph; sides that are free are names or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Graph(NamedTuple):
    """What a graph says of itself, and a function that runs it.

    Attributes:
        file: of the graph.
        metadata: what the exporter wrote into it.
    """

    file: Path
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    metadata: Mapping[str, str]
    run: Callable[[Arrays], Arrays]

    def unknown(self) -> BadInputError:
        """The error that this is no detector that felga knows."""
        takes, yields = (
            ", ".join(f"{slot.name} ({', '.join(map(str, slot.shape))})" for slot in slots)
            for slots in (self.inputs, self.outputs)
        )
        return BadInputError(
            f"{str(self.file)!r} is no detector that is known: it takes {takes or 'nothing'} and yields "
            f"{yields or 'nothing'}; {EXPECTED}"
        )

    def sides(self, images: Slot) -> tuple[int, int]:
        """Width and height of an input of images.

        Raises:
            BadInputError: it is none, or takes several images at once only, or too large ones.
        """
        if len(images.shape) != 4 or images.type not in DTYPES:
            raise self.unknown()
        batch, channels, *free = images.shape
        trained = literal(self.metadata.get("imgsz", ""))  # as Ultralytics writes it: height, width
        usual = (
            trained if isinstance(trained, list) and list(map(type, trained)) == [int, int] else [SIDE] * 2
        )
        height, width = (a if isinstance(a, int) else b for a, b in zip(free, usual, strict=True))
        if (isinstance(batch, int) and batch != 1) or (isinstance(channels, int) and channels != 3):
            raise self.unknown()
        if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
            raise BadInputError(
                f"{str(self.file)!r} takes images of {width}x{height} pixels: expected 1 to {LARGEST} each"
            )
        return width, height


def literal(text: str) -> Any:
    """The value of a literal of Python in metadata, None if it is none."""
    try:
        return ast.literal_eval(text) if len(text) <= LONGEST_LITERAL else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
