"""Region proposers that learn nothing: selective search, graph segments with EdgeBoxes, a grid.

All from OpenCV's ximgproc, at a small working size: for ten regions a small image is both faster and
better, since small segments never come to the front. Each gives more candidates than are wanted; what is
tiny, nearly everything, or a sliver is left out, then near duplicates (IoU over 0.5) of better ones.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError
from felga.types import DecodedImage, Region

_Boxes: TypeAlias = npt.NDArray[np.float64]
"""(n, 4) ``x1, y1, x2, y2`` as shares of the image's width and height, best first."""

LEAST, MOST = 0.02, 0.9  # share of the image's area
SLIVER = 5.0  # longer side over shorter
DUPLICATE = 0.5  # intersection over union
_SORTING = threading.Lock()  # selective search draws from the C library's one rand()


class Unsupervised:
    """A candidate generator with the filters that all of them share."""

    def __init__(self, name: str, side: int, candidates: Callable[[npt.NDArray[np.uint8]], _Boxes]) -> None:
        self.name = name
        self._side = side
        self._candidates = candidates

    def settings(self) -> Mapping[str, Any]:
        """Working size and filters."""
        return {
            "name": self.name,
            "side": self._side,
            "area": [LEAST, MOST],
            "sliver": SLIVER,
            "duplicate": DUPLICATE,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """At most ``top`` regions of each image, best first; the score is one over the rank."""
        return [self._of(image, top) for image in images]

    def _of(self, image: DecodedImage, top: int) -> list[Region]:
        height, width = image.pixels.shape[:2]
        scale = min(1.0, self._side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if min(size) < 8:  # nothing to segment
            return []
        small = cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA)
        shares = self._candidates(np.ascontiguousarray(small[:, :, ::-1]))  # OpenCV wants BGR
        size_of = np.array([image.width, image.height] * 2, np.float64)
        kept = _distinct(shares[_sound(shares * size_of, image)], top)
        return [
            Region((float(x1), float(y1), float(x2), float(y2)), 1 / (rank + 1))
            for rank, (x1, y1, x2, y2) in enumerate(kept * size_of)
        ]


def _sound(boxes: _Boxes, image: DecodedImage) -> npt.NDArray[np.bool_]:
    """Which boxes are neither tiny, nor nearly everything, nor slivers."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / (image.width * image.height)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.maximum(width / height, height / width)
    return (share >= LEAST) & (share <= MOST) & (ratio <= SLIVER)


def _distinct(boxes: _Boxes, top: int) -> _Boxes:
    """The first ``top`` boxes that overlap no better one by more than half (greedy, in order)."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in range(len(boxes)):
        if len(kept) == top:
            break
        others = boxes[kept]
        corner = np.minimum(boxes[i, 2:], others[:, 2:]) - np.maximum(boxes[i, :2], others[:, :2])
        shared = np.clip(corner, 0, None).prod(1)
        if (shared <= DUPLICATE * (area[i] + area[kept] - shared)).all():
            kept.append(i)
    return boxes[kept]


def _shares(rectangles: npt.ArrayLike, image: npt.NDArray[np.uint8]) -> _Boxes:
    """OpenCV's ``x, y, w, h`` pixels as shares of the image."""
    xywh = np.asarray(rectangles, np.float64).reshape(-1, 4)
    height, width = image.shape[:2]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    shares: _Boxes = corners / np.array([width, height, width, height])
    return shares


def _selective_search(image: npt.NDArray[np.uint8]) -> _Boxes:
    """Groups of superpixels (Uijlings et al. 2013, the fast setting), the coarsest groups rather first.

    The order is drawn at random, weighted by the level of the group: the seed makes it repeatable, and
    the lock keeps other threads of felga from drawing in between.
    """
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    search.switchToSelectiveSearchFast()
    with _SORTING:
        _seed(0)
        found = search.process()
    return _shares(found, image)


def _seed(value: int) -> None:
    """Seed the C library's ``rand``, which OpenCV's selective search draws its order from."""
    ctypes.CDLL(None).srand(value)


def _graph_segments(image: npt.NDArray[np.uint8]) -> _Boxes:
    """Bounding boxes of graph segments (Felzenszwalb and Huttenlocher 2004) at three scales, large first."""
    found = []
    for k in (800, 300, 100):
        labels = cv2.ximgproc.segmentation.createGraphSegmentation(0.8, k, 50).processImage(image)
        found.append(_bounds(labels))
    boxes = np.concatenate(found)
    return _shares(boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")], image)


def _bounds(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """``x, y, w, h`` of each label's pixels, (labels, 4)."""
    order = np.argsort(labels.ravel(), kind="stable")
    starts = np.flatnonzero(np.diff(labels.ravel()[order], prepend=-1))
    y, x = np.divmod(order, labels.shape[1])
    low = np.stack([np.minimum.reduceat(x, starts), np.minimum.reduceat(y, starts)], 1)
    high = np.stack([np.maximum.reduceat(x, starts), np.maximum.reduceat(y, starts)], 1) + 1
    return np.concatenate([low, high - low], 1)


def _edge_boxes(image: npt.NDArray[np.uint8]) -> _Boxes:
    """EdgeBoxes (Zitnick and Dollár 2014) over Sobel edges: the trained edge detector is in no package."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    edges = np.hypot(dx, dy)
    edges /= max(float(edges.max()), 1e-6)
    orientation = np.mod(np.arctan2(dy, dx), np.pi).astype(np.float32)
    edges = _thin(edges, dx, dy)
    finder = cv2.ximgproc.createEdgeBoxes()
    finder.setMaxBoxes(200)
    rectangles, _ = finder.getBoundingBoxes(edges.astype(np.float32), orientation)
    return _shares(np.asarray(rectangles), image)


def _thin(edges: npt.NDArray[Any], dx: npt.NDArray[Any], dy: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Edges that are no maximum across themselves set to zero."""
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


def _interleaved(image: npt.NDArray[np.uint8]) -> _Boxes:
    """Graph segments and EdgeBoxes, one of each in turn."""
    first, second = _graph_segments(image), _edge_boxes(image)
    both = min(len(first), len(second))
    woven = np.stack([first[:both], second[:both]], 1).reshape(-1, 4)
    return np.concatenate([woven, first[both:], second[both:]])


def _grid(image: npt.NDArray[np.uint8]) -> _Boxes:
    """Ten fixed boxes: the middle, then halves, then quarters of the image."""
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


def _plain(name: str, argument: str) -> None:
    if argument:
        raise BadInputError(f"{name} takes no argument, found {argument!r}; say --regions {name}")


def selective_search(argument: str, *, device: str) -> Unsupervised:
    """Factory of the registry; runs on the CPU whatever the device."""
    _plain("selective-search", argument)
    return Unsupervised("selective-search", 96, _selective_search)


def graphseg_edgeboxes(argument: str, *, device: str) -> Unsupervised:
    """Factory of the registry; runs on the CPU whatever the device."""
    _plain("graphseg+edgeboxes", argument)
    return Unsupervised("graphseg+edgeboxes", 96, _interleaved)


def grid(argument: str, *, device: str) -> Unsupervised:
    """Factory of the registry."""
    _plain("grid", argument)
    return Unsupervised("grid", 64, _grid)
