"""A trunk in ONNX Runtime: the same maps up to rounding, in half of eager torch's time on a CPU.

It is written from the loaded module in every process and compared with it before use. A file in a cache would
save a tenth of a second, and could be stale, damaged, or verified on another processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx.helper
import onnx.numpy_helper
import torch
from torch import Tensor, nn

Run: TypeAlias = Callable[[Tensor], list[Tensor]]
"""(1, 3, h, w) float32 to maps, which other threads may run at the same time."""
TOLERANCE = 1e-4
"""The largest difference from eager torch, as a part of a map's largest value; measured on images: 2e-5."""


IR_VERSION, OPSET = 8, 17  # of ONNX 1.12: everything since 2022 reads it


class UnusableError(Exception):
    """ONNX Runtime is missing, or does not yield eager torch's maps."""


def verified(module: nn.Module, strides: Sequence[int], eager: Callable[[Tensor], list[Tensor]]) -> Run:
    """The trunk of a module in ONNX Runtime, on one thread, so that its maps do not depend on their number.

    Args:
        module: of :func:`felga.models.efficientnet.load_network`, float32 on the CPU.
        strides: of the maps, before the last one.
        eager: the same maps by torch, (1, 3, h, w) to one (1, c, h / s, w / s) per stride and the last.

    Raises:
        UnusableError: with the reason.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UnusableError(f"onnxruntime cannot be imported ({error}): pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False  # it is kept for every size of image
    options.log_severity_level = 4  # errors are raised, too
    session = onnxruntime.InferenceSession(
        graph(module, strides), options, providers=["CPUExecutionProvider"]
    )

    def run(inputs: Tensor) -> list[Tensor]:
        found = session.run(None, {"pixels": inputs.contiguous().numpy()})
        return [torch.from_numpy(one) for one in found]

    probe = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 96, 64)).astype(np.float32))
    for found, wanted in zip(run(probe), eager(probe), strict=True):
        if not (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max():
            raise UnusableError("onnxruntime yields other maps than torch on this machine")
    return run


def graph(module: nn.Module, strides: Sequence[int]) -> bytes:
    """The trunk as an ONNX model: ``pixels`` (1, 3, h, w), normalized, to the maps."""
    net: Any = module
    build = _Graph()
    x = build.conv("pixels", net._conv_stem, clip=True)
    levels: dict[int, tuple[str, int]] = {}
    stride = 2  # of the stem
    for block in net._blocks:
        inputs, x = x, build.conv(x, block._expand_conv, clip=True) if hasattr(block, "_expand_conv") else x
        x = build.conv(x, block._depthwise_conv, clip=True)
        x = build.conv(x, block._project_conv, clip=False)
        if (
            block.id_skip
            and block._block_args.stride == 1
            and block._project_conv.out_channels == (block._block_args.input_filters)
        ):  # as in the block's own forward, where strides are a list in first blocks
            x = build.add(x, inputs)
        stride *= block._depthwise_conv.stride[0]
        levels[stride] = x, block._project_conv.out_channels
    last = build.conv(x, net._conv_head, clip=True), net._conv_head.out_channels
    outputs = [
        _slot(name, [1, channels, f"{name}_h", f"{name}_w"])
        for name, channels in [*(levels[wanted] for wanted in strides), last]
    ]
    pixels = _slot("pixels", [1, 3, "h", "w"])
    model: Any = onnx.helper.make_model(
        onnx.helper.make_graph(build.nodes, "trunk", [pixels], outputs, build.weights),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    written: bytes = model.SerializeToString()
    return written


def _slot(name: str, shape: Sequence[int | str]) -> Any:
    """An input or output of float32; a side with a name is free."""
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))


class _Graph:
    """Nodes and weights so far; every method returns the name of a new value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        for name, value in (("zero", 0), ("six", 6)):
            self._weight(name, np.array(value, np.float32))

    def conv(self, x: str, conv: nn.Conv2d, clip: bool) -> str:
        """A convolution with its batch norm folded, and ReLU6 if ``clip``."""
        assert conv.bias is not None, "batch norms are folded"
        down, across = (int(one) for one in conv.padding)
        pads = [down, across, down, across]  # top, left, bottom, right
        if isinstance(pad := getattr(conv, "static_padding", None), nn.ZeroPad2d):
            left, right, top, bottom = pad.padding
            pads = [top, left, bottom, right]
        name = f"conv{len(self.nodes)}"
        self._weight(f"{name}_weight", conv.weight.detach().contiguous().numpy())
        self._weight(f"{name}_bias", conv.bias.detach().numpy())
        self.nodes.append(
            onnx.helper.make_node(
                "Conv", [x, f"{name}_weight", f"{name}_bias"], [name],
                group=conv.groups, pads=pads, strides=list(conv.stride),
            )
        )  # fmt: skip
        return self._add("Clip", [name, "zero", "six"]) if clip else name

    def add(self, x: str, y: str) -> str:
        """A sum."""
        return self._add("Add", [x, y])

    def _add(self, kind: str, inputs: Sequence[str]) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name]))
        return name

    def _weight(self, name: str, array: npt.NDArray[np.float32]) -> None:
        self.weights.append(onnx.numpy_helper.from_array(array, name))
