"""What detectors exported to ONNX take and yield, told apart by the inputs and outputs of their graphs.

* YOLOX (github.com/Megvii-BaseDetection/YOLOX, tools/export_onnx.py and demo/ONNXRuntime): one output
  (1, N, 5 + classes) with or without ``--decode_in_inference``.
* YOLOv8 and its successors, without NMS inside: one output (1, 4 + classes, N).
* RT-DETR (github.com/lyuwenyu/RT-DETR, tools/export_onnx.py), D-FINE, DEIM: ``images`` and
  ``orig_target_sizes`` become ``labels``, ``boxes`` and ``scores``.
* transformers' detectors, as optimum exports them: ``logits`` and ``pred_boxes``, with ``config.json`` and
  ``preprocessor_config.json`` beside the file or, as on the hub, one folder above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from PIL import Image

from felga.boxes import distinct
from felga.errors import BadInputError
from felga.models.weights import sha256_of
from felga.proposals.hf import (
    check_type,
    class_names,
    config_of,
    preprocessing_of,
    processor_of,
    read_config,
)
from felga.proposals.onnx_graph import DTYPES, Array, Graph, Slot
from felga.proposals.regions import stretched
from felga.types import Floats, Pixels, Rows

STRIDES = ((8, 16, 32), (8, 16, 32, 64))
GREY = 114  # around an image that does not fill the input
NMS = 0.65
"""IoU above which the worse of two boxes is dropped, of whatever class; YOLOX's own at testing."""
CANDIDATES = 1000  # best boxes before NMS
LARGEST_LOG = 6.0
"""Sides that are larger than this in the median are pixels, others logarithms in units of the stride: as a
logarithm, a side of 6 would be 12,900 pixels in the coarsest grid, and no object there is 6 pixels large."""


class Detections(NamedTuple):
    """What a detector found in an image.

    Attributes:
        boxes: (n, 4) ``x1, y1, x2, y2`` in a frame of the size ``frame``.
        scores, labels: (n,).
    """

    boxes: Floats
    scores: Floats
    labels: Rows
    frame: tuple[float, float]


class Family(Protocol):
    """Detectors that take and yield the same."""

    @property
    def names(self) -> Mapping[int, str]:
        """Names of classes that come with the file."""
        ...

    @property
    def classes(self) -> int | None:
        """How many classes there are; None: the graph does not tell."""
        ...

    def settings(self) -> dict[str, Any]:
        """What decides the boxes besides the graph, as json values."""
        ...

    def detect(self, pixels: Pixels) -> Detections:
        """Of one image, best first or not."""
        ...


def recognised(graph: Graph) -> Family:
    """The family of a graph.

    Raises:
        BadInputError: it is of none, or what the family needs beside it is missing.
    """
    inputs = {slot.name: slot for slot in graph.inputs}
    outputs = {slot.name for slot in graph.outputs}
    if outputs >= {"logits", "pred_boxes"}:
        return Transformers(graph)
    if outputs == {"labels", "boxes", "scores"} and set(inputs) == {"images", "orig_target_sizes"}:
        return RtDetr(graph, *graph.sides(inputs["images"]))
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise graph.unknown()
    width, height = graph.sides(graph.inputs[0])
    blank = np.full((height, width, 3), GREY, np.uint8)
    output = graph.run({graph.inputs[0].name: _planes(blank, graph.inputs[0])})[graph.outputs[0].name]
    if output.ndim != 3 or len(output) != 1:
        raise graph.unknown()
    for strides in STRIDES:
        count = sum((height // stride) * (width // stride) for stride in strides)
        rows, columns = output.shape[1:]
        if rows == count and columns > 5 and columns != count:
            return Yolox(graph, width, height, strides, output[0])
        if columns == count and rows > 4 and rows != count:
            return Yolov8(graph, width, height, output[0])
    raise graph.unknown()


class Yolox:
    """YOLOX: a letterbox from the upper left corner, BGR from 0 to 255; a box scores objectness times class.

    Models of before version 0.1.1rc0 ("legacy"), which normalize, are not told apart, and find little.
    """

    names: Mapping[int, str] = {}

    def __init__(
        self, graph: Graph, width: int, height: int, strides: tuple[int, ...], of_blank: Array
    ) -> None:
        """
        Args:
            of_blank: (N, 5 + classes), what it yields for a grey image.
        """
        self._graph, self._size = graph, (width, height)
        shapes = [(height // stride, width // stride) for stride in strides]
        cells = [np.stack(np.meshgrid(np.arange(w), np.arange(h)), 2).reshape(-1, 2) for h, w in shapes]
        self._cells = np.concatenate(cells).astype(np.float64)
        self._strides = np.repeat(strides, [len(own) for own in cells])[:, None].astype(np.float64)
        coarsest = of_blank[-len(cells[-1]) :, 2:4]
        self._decoded = bool(np.median(coarsest) > LARGEST_LOG)
        self.classes: int | None = of_blank.shape[1] - 5

    def settings(self) -> dict[str, Any]:
        """The size of the input, and whether boxes come decoded."""
        return {"family": "yolox", "input": list(self._size), "decoded": self._decoded, "nms": NMS}

    def detect(self, pixels: Pixels) -> Detections:
        """Of one image, at most :data:`CANDIDATES`."""
        canvas, ratio, _ = _letterbox(pixels, self._size, centered=False)
        (slot,), (output,) = self._graph.inputs, self._graph.outputs
        found = self._graph.run({slot.name: _planes(canvas[..., ::-1], slot)})[output.name]
        if found.shape != (1, len(self._cells), 5 + (self.classes or 0)):
            raise self._graph.unknown()
        rows = found[0].astype(np.float64)
        centers, sides = rows[:, :2], rows[:, 2:4]
        if not self._decoded:
            with np.errstate(over="ignore"):  # an infinite box is dropped
                centers, sides = (centers + self._cells) * self._strides, np.exp(sides) * self._strides
        return _best(centers / ratio, sides / ratio, rows[:, 4:5] * rows[:, 5:], pixels)


class Yolov8:
    """YOLOv8 and its successors: a centered letterbox, RGB from 0 to 1; boxes in pixels of the input."""

    names: Mapping[int, str] = {}

    def __init__(self, graph: Graph, width: int, height: int, of_blank: Array) -> None:
        """
        Args:
            of_blank: (4 + classes, N), what it yields for a grey image.
        """
        task = graph.metadata.get("task", "detect")
        if task != "detect":
            raise BadInputError(
                f"{str(graph.file)!r} was exported for {task!r}: expected a detector of boxes"
            )
        self._graph, self._size, self._shape = graph, (width, height), of_blank.shape
        self.classes: int | None = len(of_blank) - 4

    def settings(self) -> dict[str, Any]:
        """The size of the input."""
        return {"family": "yolov8", "input": list(self._size), "nms": NMS}

    def detect(self, pixels: Pixels) -> Detections:
        """Of one image, at most :data:`CANDIDATES`."""
        canvas, ratio, corner = _letterbox(pixels, self._size, centered=True)
        (slot,), (output,) = self._graph.inputs, self._graph.outputs
        found = self._graph.run({slot.name: _planes(canvas, slot, 255)})[output.name]
        if found.shape != (1, *self._shape):
            raise self._graph.unknown()
        rows = found[0].T.astype(np.float64)
        return _best((rows[:, :2] - corner) / ratio, rows[:, 2:4] / ratio, rows[:, 4:], pixels)


class RtDetr:
    """RT-DETR with its postprocessor inside: a stretched image, RGB from 0 to 1."""

    names: Mapping[int, str] = {}
    classes: int | None = None

    def __init__(self, graph: Graph, width: int, height: int) -> None:
        self._graph, self._size = graph, (width, height)
        self._slots = {slot.name: slot for slot in graph.inputs}
        if self._slots["orig_target_sizes"].type not in DTYPES:
            raise graph.unknown()

    def settings(self) -> dict[str, Any]:
        """The size of the input."""
        return {"family": "rt-detr", "input": list(self._size)}

    def detect(self, pixels: Pixels) -> Detections:
        """Of one image, as many as the graph yields."""
        resized = Image.fromarray(pixels).resize(self._size, Image.Resampling.BILINEAR)
        sizes = self._slots["orig_target_sizes"]
        feeds = {
            "images": _planes(np.asarray(resized), self._slots["images"], 255),
            # the input itself, mostly square: some exports want height and width
            sizes.name: np.array([self._size], DTYPES[sizes.type]),
        }
        found = self._graph.run(feeds)
        labels, boxes, scores = (found[name] for name in ("labels", "boxes", "scores"))
        count = boxes.shape[1] if boxes.ndim == 3 else -1
        if boxes.shape != (1, count, 4) or labels.shape != (1, count) or scores.shape != (1, count):
            raise self._graph.unknown()
        corners, values = boxes[0].astype(np.float64), scores[0].astype(np.float64)
        return Detections(corners, values, labels[0].astype(np.int64), self._size)


class Transformers:
    """A detector of transformers: what its own image processor does before and after the network."""

    classes: int | None = None

    def __init__(self, graph: Graph) -> None:
        self._graph, wanted = graph, ("config.json", "preprocessor_config.json")
        folders = (graph.file.absolute().parent, graph.file.absolute().parent.parent)
        found = [folder for folder in folders if all((folder / name).is_file() for name in wanted)]
        if not found:
            raise BadInputError(
                f"{str(graph.file)!r} yields logits and pred_boxes, which its image processor must read: put "
                f"{' and '.join(wanted)} of the model beside it"
            )
        raw = read_config(found[0] / "config.json")
        check_type(raw, str(found[0]))
        config = config_of(raw, found[0])
        self._config, self._processor = found[0] / "config.json", processor_of(found[0], config)
        self.names: Mapping[int, str] = class_names(config)

    def settings(self) -> dict[str, Any]:
        """The sha256 of the configuration, and what is done to an image."""
        preprocessing = preprocessing_of(self._processor)
        return {
            "family": "transformers",
            "config": sha256_of(self._config),
            "preprocessing": preprocessing,
        }

    def detect(self, pixels: Pixels) -> Detections:
        """Of one image, as many as the processor yields without a threshold."""
        given = self._processor(stretched(pixels), return_tensors="pt", input_data_format="channels_last")
        feeds = {}
        for slot in self._graph.inputs:
            if slot.name not in given or slot.type not in DTYPES or len(slot.shape) != given[slot.name].ndim:
                raise self._graph.unknown()
            value = given[slot.name].numpy().astype(DTYPES[slot.type])
            if any(isinstance(a, int) and a != b for a, b in zip(slot.shape, value.shape, strict=True)):
                raise BadInputError(
                    f"{str(self._graph.file)!r} takes {slot.name} {slot.shape}, and its image processor "
                    f"makes {value.shape}: export it with free height and width, or change "
                    "preprocessor_config.json"
                )
            feeds[slot.name] = value
        found = self._graph.run(feeds)
        logits, boxes = found["logits"], found["pred_boxes"]
        if logits.ndim != 3 or boxes.shape != (1, logits.shape[1], 4) or len(logits) != 1:
            raise self._graph.unknown()
        output = SimpleNamespace(
            logits=torch.from_numpy(logits.astype(np.float32)),
            pred_boxes=torch.from_numpy(boxes.astype(np.float32)),
        )
        height, width = pixels.shape[:2]
        (result,) = self._processor.post_process_object_detection(
            output, threshold=0.0, target_sizes=[(height, width)]
        )
        corners, values, labels = (result[name].numpy() for name in ("boxes", "scores", "labels"))
        return Detections(
            corners.astype(np.float64), values.astype(np.float64), labels.astype(np.int64), (width, height)
        )


def _letterbox(pixels: Pixels, size: tuple[int, int], *, centered: bool) -> tuple[Pixels, float, Floats]:
    """An image inside a grey one of ``size``, its scale, and where its upper left corner lies."""
    height, width = pixels.shape[:2]
    ratio = min(size[1] / height, size[0] / width)
    whole = round if centered else int
    inner = max(1, whole(width * ratio)), max(1, whole(height * ratio))
    left, top = (
        (round((outer - side) / 2 - 0.1) if centered else 0) for outer, side in zip(size, inner, strict=True)
    )
    canvas = np.full((size[1], size[0], 3), GREY, np.uint8)
    resized = cv2.resize(pixels, inner, interpolation=cv2.INTER_LINEAR)
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    return canvas, ratio, np.array([left, top], np.float64)


def _planes(pixels: Pixels, slot: Slot, divisor: int = 1) -> Array:
    """(1, 3, h, w) of the type of an input."""
    planes = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(divisor)
    return np.ascontiguousarray(planes, DTYPES[slot.type])


def _best(centers: Floats, sides: Floats, scores: Floats, pixels: Pixels) -> Detections:
    """The best boxes after NMS over all classes, best first.

    Args:
        centers, sides: (n, 2) in pixels of the image.
        scores: (n, classes).
    """
    labels = scores.argmax(1)
    values = scores[np.arange(len(scores)), labels]
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    usable = np.flatnonzero(np.isfinite(boxes).all(1) & np.isfinite(values))
    order = usable[np.argsort(-values[usable], kind="stable")[:CANDIDATES]]
    kept = order[distinct(boxes[order], CANDIDATES, NMS)]
    height, width = pixels.shape[:2]
    return Detections(boxes[kept], values[kept], labels[kept], (width, height))
