"""Writes a convolutional network as ONNX: its protocol buffers, without a package for them.

ONNX is a schema of protocol buffers (onnx/onnx.proto); of it felga writes nodes, weights and free sides. The
exporters of torch need further packages, or are about to be removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IR_VERSION, OPSET = 8, 17  # of ONNX 1.12: everything since 2022 reads it
FLOAT = 1
"""TensorProto.DataType"""


def node(
    kind: str, inputs: Sequence[str], output: str, attributes: dict[str, int | Sequence[int]] | None = None
) -> bytes:
    """A NodeProto with one output; integers and lists of integers as attributes."""
    fields = [_text(1, name) for name in inputs] + [_text(2, output), _text(4, kind)]
    for name, value in (attributes or {}).items():
        whole = isinstance(value, int)
        values = [_number(3, value)] if isinstance(value, int) else [_number(8, one) for one in value]
        fields.append(_bytes(5, _text(1, name) + b"".join(values) + _number(20, 2 if whole else 7)))
    return b"".join(fields)


def weight(name: str, array: npt.NDArray[np.float32]) -> bytes:
    """A TensorProto of float32."""
    sizes = b"".join(_number(1, size) for size in array.shape)
    return sizes + _number(2, FLOAT) + _text(8, name) + _bytes(9, array.astype("<f4").tobytes())


def slot(name: str, sides: Sequence[int | str]) -> bytes:
    """A ValueInfoProto: an input or output of float32; a side with a name is free."""
    dims = [_bytes(1, _number(1, side) if isinstance(side, int) else _text(2, side)) for side in sides]
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, FLOAT) + _bytes(2, b"".join(dims))))


def model(
    nodes: Sequence[bytes], weights: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    """A ModelProto of what the functions above wrote."""
    parts = ((1, nodes), (5, weights), (11, inputs), (12, outputs))
    graph = _text(2, "felga") + b"".join(_bytes(number, one) for number, many in parts for one in many)
    return _number(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, _number(2, OPSET))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    """A field that is not negative."""
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
