"""Tiny random detectors exported to ONNX: heads as YOLOX's and YOLOv8's, and RT-DETR of transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

STRIDES = (8, 16, 32)


class Head(nn.Module):
    """One convolution per stride: (b, 3, h, w) -> (b, cells, channels) for each, and the cells themselves."""

    def __init__(self, channels: int, seed: int, scale: float) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.levels = nn.ModuleList(nn.Conv2d(3, channels, stride, stride) for stride in STRIDES)
        for level, stride in zip(self.levels, STRIDES, strict=True):
            nn.init.normal_(level.weight, std=scale / stride)
            nn.init.normal_(level.bias)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found, cells, strides = [], [], []
        for level, stride in zip(self.levels, STRIDES, strict=True):
            maps = level(images)
            height, width = int(maps.shape[2]), int(maps.shape[3])
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            cells.append(torch.stack([x, y], 2).reshape(-1, 2))
            strides.append(torch.full((height * width, 1), stride))
            found.append(maps.flatten(2).transpose(1, 2))
        return torch.cat(found, 1), torch.cat(cells), torch.cat(strides)


class Yolox(nn.Module):
    """YOLOX's head in evaluation: objectness and classes are shares, boxes only if ``decoded``."""

    def __init__(self, classes: int, decoded: bool, seed: int = 0) -> None:
        super().__init__()
        self.head, self.decoded = Head(5 + classes, seed, 1 / 255), decoded

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found, cells, strides = self.head(images)
        centers, sides, scores = found[..., :2], found[..., 2:4], found[..., 4:].sigmoid()
        if self.decoded:
            centers, sides = (centers + cells) * strides, sides.exp() * strides
        return torch.cat([centers, sides, scores], -1)


class Yolov8(nn.Module):
    """YOLOv8's output: boxes in pixels and a share for each class, channels first."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.head = Head(4 + classes, seed, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found, cells, strides = self.head(images)
        centers, sides = (found[..., :2] + cells + 0.5) * strides, found[..., 2:4].exp() * strides
        return torch.cat([centers, sides, found[..., 4:].sigmoid()], -1).transpose(1, 2)


class Half(nn.Module):
    """A head of float16 outside and float32 inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.float()).half()


class RtDetr(nn.Module):
    """A detector of transformers behind the inputs and outputs of RT-DETR's own export."""

    def __init__(self, model: nn.Module, queries: int = 15) -> None:
        super().__init__()
        self.model, self.queries = model, queries

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(images)
        x, y, width, height = output.pred_boxes.unbind(-1)
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        boxes = torch.stack(corners, -1) * sizes.repeat(1, 2).unsqueeze(1)
        classes = output.logits.shape[-1]
        scores, index = output.logits.sigmoid().flatten(1).topk(self.queries)
        rows = (index // classes).unsqueeze(-1).repeat(1, 1, 4)
        return index % classes, boxes.gather(1, rows), scores


class Outputs(nn.Module):
    """A detector of transformers that returns what optimum exports."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(*inputs)
        return output.logits, output.pred_boxes


def export(
    model: nn.Module,
    file: Path,
    inputs: tuple[Any, ...],
    names: list[str],
    outputs: list[str],
    free: Any = None,
) -> Path:
    """Write a model as ONNX; ``free``: input -> {axis: name} of sides that are not fixed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is called old
        torch.onnx.export(
            model.eval(),
            inputs,
            str(file),
            input_names=names,
            output_names=outputs,
            opset_version=17,
            dynamic_axes=free,
            dynamo=False,
        )
    return file


def yolo(model: nn.Module, file: Path, width: int = 96, height: int = 64, free: Any = None) -> Path:
    """Export a head for images of one size."""
    images = torch.zeros(1, 3, height, width)
    images = images.half() if isinstance(model, Half) else images
    return export(model, file, (images,), ["images"], ["output"], free)


def described(file: Path, **metadata: str) -> Path:
    """Write metadata into a file."""
    import onnx

    model = onnx.load(str(file))
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(file))
    return file


def rt_detr(folder: Path, file: Path, side: int = 64) -> Path:
    """Export a detector that transformers saved, as RT-DETR's authors export theirs."""
    import transformers as t

    model = RtDetr(t.AutoModelForObjectDetection.from_pretrained(folder).eval())
    inputs = torch.rand(1, 3, side, side), torch.tensor([[side, side]])
    return export(model, file, inputs, ["images", "orig_target_sizes"], ["labels", "boxes", "scores"])


def optimum(folder: Path, file: Path, height: int = 64, width: int = 64, mask: bool = False) -> Path:
    """Export a detector that transformers saved, as optimum does; sides are free."""
    import transformers as t

    model = Outputs(t.AutoModelForObjectDetection.from_pretrained(folder).eval())
    names = ["pixel_values", "pixel_mask"][: 1 + mask]
    inputs = torch.rand(1, 3, height, width), torch.ones(1, height, width, dtype=torch.int64)
    free = (
        {"pixel_values": {2: "height", 3: "width"}, "pixel_mask": {1: "height", 2: "width"}} if mask else None
    )
    return export(model, file, inputs[: 1 + mask], names, ["logits", "pred_boxes"], free)
