"""Any detector exported to ONNX whose outputs are known: ``onnx:FILE`` (:mod:`felga.proposals.onnx_outputs`).

Run by ONNX Runtime on the CPU. Class names are those of ``NAME.txt`` beside ``NAME.onnx``, one per line, else
those of the file's metadata (``names``, as Ultralytics writes it), else those of transformers'
``config.json``, else "class 7".
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as raised

from felga.errors import BadInputError
from felga.files import read_lines, read_regular
from felga.models.device import pick_device
from felga.models.weights import existing, first_line, sha256_of
from felga.proposals.onnx_graph import Arrays, Graph, Slot, literal
from felga.proposals.onnx_outputs import Family, recognised
from felga.proposals.regions import as_regions
from felga.types import DecodedImage, Region

VERSION = 1
"""Raised when the same settings yield other regions."""
LARGEST_FILE = 2**31 - 1  # bytes; what protobuf can hold
REASON = 300  # characters of what ONNX Runtime says
ERRORS = (
    raised.EPFail,
    raised.Fail,
    raised.InvalidArgument,
    raised.InvalidGraph,
    raised.InvalidProtobuf,
    raised.NoModel,
    raised.NotImplemented,
    raised.RuntimeException,
)


def onnx(argument: str, *, device: str = "auto") -> OnnxDetector:
    """The proposer ``onnx:FILE``.

    Args:
        argument: the file.
        device: checked, and not used: ONNX Runtime runs on the CPU.

    Raises:
        BadInputError: no argument.
        NotFoundError: no such file.
        MissingError: no such device.
    """
    if not argument:
        raise BadInputError("onnx needs a detector: onnx:FILE")
    pick_device(device)
    return OnnxDetector(argument)


class OnnxDetector:
    """The best boxes of a detector in ONNX, with their class names."""

    def __init__(self, source: str) -> None:
        self.name = f"onnx:{source}"
        self.file = existing(Path(source).expanduser())
        self._lock = threading.Lock()

    def settings(self) -> dict[str, Any]:
        """The sha256 of the file and of the class names beside it, and what is done to an image.

        Raises:
            BadInputError: as :meth:`propose`.
        """
        with self._lock:
            about, (_, labels) = self._family.settings(), self._names
        weights = sha256_of(self.file)
        return {"name": "onnx", "version": VERSION, "weights": weights, "labels": labels, **about}

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image the ``top`` best boxes of those that the graph yields; one run per image.

        Raises:
            BadInputError: the file is not ONNX, damaged, no detector that is known, or fails on an image; or
                the class names beside it are unreadable.
        """
        return [self._propose(image, top) for image in images]

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        with self._lock:
            found, (names, _) = self._family.detect(image.pixels), self._names
        labels = [names.get(number, f"class {number}") for number in found.labels.tolist()]
        return as_regions(image, found.boxes, found.scores, top, labels, frame=found.frame)

    @cached_property
    def _family(self) -> Family:
        return recognised(self._graph)

    @cached_property
    def _names(self) -> tuple[Mapping[int, str], str | None]:
        """The class names, and the sha256 of their file where they have one."""
        file = self.file.with_suffix(".txt")
        if not file.is_file():
            return names_in(self._graph.metadata.get("names", "")) or self._family.names, None
        lines, classes = read_lines(file, "class names"), self._family.classes
        if classes not in (None, len(lines)):
            raise BadInputError(
                f"{str(file)!r} has {len(lines)} lines: expected the names of the {classes} classes of "
                f"{self.file.name}, one per line"
            )
        return dict(enumerate(lines)), sha256_of(file)

    @cached_property
    def _graph(self) -> Graph:
        """The graph, read from memory: weights in other files, which its sha256 would miss, are refused."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, too
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            data = read_regular(self.file, LARGEST_FILE)
            with tempfile.TemporaryDirectory() as empty:
                options.add_session_config_entry(
                    "session.model_external_initializers_file_folder_path", empty
                )
                session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise BadInputError(f"{str(self.file)!r} cannot be read: {error.strerror}") from error
        except ERRORS as error:
            raise BadInputError(self._fault(error)) from error

        def run(feeds: Arrays) -> Arrays:
            try:
                found = session.run(None, feeds)
            except ERRORS as error:
                raise BadInputError(f"{str(self.file)!r} fails on an image: {_reason(error)}") from error
            arrays = {slot.name: value for slot, value in zip(outputs, found, strict=True)}
            if not all(isinstance(value, np.ndarray) and value.dtype.kind in "fiu" for value in found):
                raise graph.unknown()
            return arrays

        inputs, outputs = (
            tuple(Slot(one.name, one.type, tuple(one.shape)) for one in slots)
            for slots in (session.get_inputs(), session.get_outputs())
        )
        graph = Graph(self.file, inputs, outputs, session.get_modelmeta().custom_metadata_map, run)
        return graph

    def _fault(self, error: Exception) -> str:
        reason = _reason(error)
        if "external data" in reason.lower():
            return (
                f"{str(self.file)!r} keeps its weights in other files, which felga does not read: save it in "
                'one with the package onnx: onnx.save(onnx.load("FILE"), "NEW")'
            )
        return f"{str(self.file)!r} is damaged, or no ONNX file that ONNX Runtime runs: {reason}"


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its codes."""
    reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))
    return reason if len(reason) <= REASON else f"{reason[:REASON]}..."


def names_in(text: str) -> dict[int, str]:
    """Class names written as a list, or as an object from numbers to names; empty if they are neither.

    >>> names_in("{0: 'boat', 1: 'dog'}")
    {0: 'boat', 1: 'dog'}
    """
    value = literal(text)
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    return {
        int(number): str(name).encode("utf-8", "replace").decode()
        for number, name in pairs
        if str(number).isdecimal()
    }
