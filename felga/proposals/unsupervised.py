"""Region proposers that learn nothing: selective search, graph segments with EdgeBoxes, a fixed grid.

The first two run OpenCV's ximgproc at a small working size: for ten regions a small image is both faster
and better, since small segments never rank high. Each generates more candidates than needed; tiny, nearly
image-sized and elongated boxes are dropped, then near duplicates (IoU over 0.5) of better boxes.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from felga.boxes import distinct
from felga.errors import BadInputError, MissingError
from felga.proposals.regions import as_regions
from felga.types import DecodedImage, Pixels, Region

_Boxes: TypeAlias = npt.NDArray[np.float64]
"""(n, 4) ``x1, y1, x2, y2`` as shares of the image's width and height, best first."""

VERSION = 1
"""Raised when the same settings yield other regions."""

LEAST, MOST = 0.02, 0.9  # share of the image's area
SLIVER = 5.0  # longer side over shorter side
DUPLICATE = 0.5  # intersection over union
SIGMA, SCALES, MIN_SIZE = 0.8, (800, 300, 100), 50  # graph segmentation: smoothing, k, pixels of a segment
BLUR, MAX_BOXES = 1.0, 200  # EdgeBoxes: sigma of the Gaussian before Sobel, boxes requested
_RAND_LOCK = threading.Lock()  # selective search draws from the C library's process-wide rand()


class Unsupervised:
    """A candidate generator followed by the filters that all of them share.

    Args:
        side: the longer side, in pixels, of the image that candidates are generated from.
        candidates: BGR image (h, w, 3) -> boxes.
        parameters: what else determines the candidates, for :meth:`settings`.
    """

    def __init__(
        self, name: str, side: int, candidates: Callable[[Pixels], _Boxes], parameters: Mapping[str, Any]
    ) -> None:
        self.name = name
        self._side = side
        self._candidates = candidates
        self._parameters = dict(parameters)

    def settings(self) -> Mapping[str, Any]:
        """Working size, parameters of the generator, filters."""
        return {
            "name": self.name,
            "version": VERSION,
            "side": self._side,
            "area": [LEAST, MOST],
            "sliver": SLIVER,
            "duplicate": DUPLICATE,
            **self._parameters,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image at most ``top`` regions, best first; the score is 1 / rank."""
        return [self._propose(image, top) for image in images]

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        height, width = image.pixels.shape[:2]
        scale = min(1.0, self._side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if min(size) < 8:  # too small to segment
            return []
        small = cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA)
        shares = self._candidates(np.ascontiguousarray(small[:, :, ::-1]))  # OpenCV expects BGR
        shares = shares[_plausible(shares, image)]
        kept = shares[distinct(shares, top, DUPLICATE)]
        return as_regions(image, kept, 1 / np.arange(1, len(kept) + 1), top, frame=(1, 1))


def _plausible(shares: _Boxes, image: DecodedImage) -> npt.NDArray[np.bool_]:
    """Which boxes are neither tiny, nor nearly the whole image, nor slivers."""
    boxes: _Boxes = shares * np.array([image.width, image.height] * 2, np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / (image.width * image.height)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.maximum(width / height, height / width)
    return (share >= LEAST) & (share <= MOST) & (ratio <= SLIVER)


def _shares(rectangles: npt.ArrayLike, image: Pixels) -> _Boxes:
    """OpenCV's ``x, y, w, h`` pixels as shares of the image."""
    xywh = np.asarray(rectangles, np.float64).reshape(-1, 4)
    height, width = image.shape[:2]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    shares: _Boxes = corners / np.array([width, height, width, height])
    return shares


def _selective_search(image: Pixels) -> _Boxes:
    """Groups of superpixels (Uijlings et al. 2013, fast setting), coarse groups tending to come first.

    The order is random, weighted by the level of the group: the seed makes it repeatable, and the lock
    keeps felga's other threads from drawing numbers in between.
    """
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    search.switchToSelectiveSearchFast()
    with _RAND_LOCK:
        _seed(0)
        rectangles = search.process()
    return _shares(rectangles, image)


def _seed(value: int) -> None:
    """Seed the C library's ``rand``, the source of randomness in OpenCV's selective search.

    ``rand`` belongs to the whole process: code outside felga that uses it sees its sequence restarted.
    """
    ctypes.CDLL(None).srand(value)


def _graph_segments(image: Pixels) -> _Boxes:
    """Bounding boxes of graph segments (Felzenszwalb and Huttenlocher 2004) at three scales, large first."""
    segmentation = cv2.ximgproc.segmentation.createGraphSegmentation
    boxes = np.concatenate([_bounds(segmentation(SIGMA, k, MIN_SIZE).processImage(image)) for k in SCALES])
    return _shares(boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")], image)


def _bounds(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """``x, y, w, h`` of each label's pixels, (labels, 4)."""
    order = np.argsort(labels.ravel(), kind="stable")
    starts = np.flatnonzero(np.diff(labels.ravel()[order], prepend=-1))
    y, x = np.divmod(order, labels.shape[1])
    low = np.stack([np.minimum.reduceat(x, starts), np.minimum.reduceat(y, starts)], 1)
    high = np.stack([np.maximum.reduceat(x, starts), np.maximum.reduceat(y, starts)], 1) + 1
    return np.concatenate([low, high - low], 1)


def _edge_boxes(image: Pixels) -> _Boxes:
    """EdgeBoxes (Zitnick and Dollár 2014) over Sobel edges: no package ships the trained edge detector."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    grey = cv2.GaussianBlur(grey, (0, 0), BLUR)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    edges = np.hypot(dx, dy)
    edges /= max(float(edges.max()), 1e-6)
    orientation = np.mod(np.arctan2(dy, dx), np.pi).astype(np.float32)
    edges = _thin(edges, dx, dy)
    finder = cv2.ximgproc.createEdgeBoxes()
    finder.setMaxBoxes(MAX_BOXES)
    rectangles, _ = finder.getBoundingBoxes(edges.astype(np.float32), orientation)
    return _shares(np.asarray(rectangles), image)


def _thin(edges: npt.NDArray[Any], dx: npt.NDArray[Any], dy: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Non-maximum suppression: edges that are not a maximum across their direction become zero."""
    padded = np.pad(edges, 1)
    height, width = edges.shape
    out = np.zeros_like(edges)
    sector = np.mod(np.round(np.arctan2(dy, dx) / (np.pi / 4)), 4)
    for value, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        behind = padded[1 - y : 1 - y + height, 1 - x : 1 - x + width]
        peak = (sector == value) & (edges >= ahead) & (edges >= behind)
        out[peak] = edges[peak]
    return out


def _interleaved(image: Pixels) -> _Boxes:
    """Graph segments and EdgeBoxes alternately."""
    first, second = _graph_segments(image), _edge_boxes(image)
    both = min(len(first), len(second))
    woven = np.stack([first[:both], second[:both]], 1).reshape(-1, 4)
    return np.concatenate([woven, first[both:], second[both:]])


def _grid(image: Pixels) -> _Boxes:
    """Ten fixed boxes: the center, then halves, then quarters of the image."""
    return np.array(
        [
            (0.2, 0.2, 0.8, 0.8),
            (0.0, 0.0, 0.5, 1.0),
            (0.5, 0.0, 1.0, 1.0),
            (0.0, 0.0, 1.0, 0.5),
            (0.0, 0.5, 1.0, 1.0),
            (0.25, 0.0, 0.75, 1.0),
            (0.0, 0.0, 0.5, 0.5),
            (0.5, 0.0, 1.0, 0.5),
            (0.0, 0.5, 0.5, 1.0),
            (0.5, 0.5, 1.0, 1.0),
        ]
    )


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise BadInputError(f"{name} takes no argument, got {argument!r}: use --regions {name}")


def selective_search(argument: str, *, device: str = "auto") -> Unsupervised:
    """The proposer ``selective-search``; runs on the CPU whatever the device.

    Raises:
        BadInputError: an argument was given.
        MissingError: on Windows, where felga cannot seed the ``rand`` that OpenCV draws from.
    """
    _no_argument("selective-search", argument)
    if sys.platform == "win32":
        raise MissingError("selective-search is not repeatable on Windows: use --regions graphseg+edgeboxes")
    return Unsupervised("selective-search", 96, _selective_search, {"mode": "fast", "seed": 0})


def graphseg_edgeboxes(argument: str, *, device: str = "auto") -> Unsupervised:
    """The proposer ``graphseg+edgeboxes``; runs on the CPU whatever the device.

    Raises:
        BadInputError: an argument was given.
    """
    _no_argument("graphseg+edgeboxes", argument)
    parameters = {
        "graphseg": {"sigma": SIGMA, "k": list(SCALES), "min_size": MIN_SIZE},
        "edgeboxes": {"blur": BLUR, "max_boxes": MAX_BOXES},
    }
    return Unsupervised("graphseg+edgeboxes", 96, _interleaved, parameters)


def grid(argument: str, *, device: str = "auto") -> Unsupervised:
    """The proposer ``grid``.

    Raises:
        BadInputError: an argument was given.
    """
    _no_argument("grid", argument)
    return Unsupervised("grid", 64, _grid, {})
