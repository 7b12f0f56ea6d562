"""A fake of Detectron2 for machines without it: the calls that felga makes, their arguments and results.

A call that Detectron2 would refuse fails here too; where Detectron2 is installed, the tests use it instead.
"""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

RPN = "COCO-Detection/rpn_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
DEFAULTS = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "DEVICE": "cuda",
        "WEIGHTS": "",
        "ROI_HEADS": {"NUM_CLASSES": 80, "SCORE_THRESH_TEST": 0.05},
    },
    "INPUT": {"FORMAT": "BGR", "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333},
    "DATASETS": {"TRAIN": (), "TEST": ()},
}


class CfgNode(dict):
    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__({k: CfgNode(v) if isinstance(v, dict) else v for k, v in values.items()})
        object.__setattr__(self, "new_allowed", False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def set_new_allowed(self, allowed: bool) -> None:
        object.__setattr__(self, "new_allowed", allowed)
        for value in self.values():
            if isinstance(value, CfgNode):
                value.set_new_allowed(allowed)

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        assert not allow_unsafe
        assert isinstance(cfg_filename, str)
        loaded = yaml.safe_load(Path(cfg_filename).read_text())
        assert isinstance(loaded, dict), "config is no mapping"
        if base := loaded.pop("_BASE_", None):
            self.merge_from_file(base, allow_unsafe)
        self._merge(loaded)

    def _merge(self, loaded: dict[str, Any]) -> None:
        for key, value in loaded.items():
            if key not in self and not self.new_allowed:
                raise KeyError(f"Non-existent config key: {key}")
            if isinstance(value, dict) and key in self:
                self[key]._merge(value)
            else:
                self[key] = CfgNode(value) if isinstance(value, dict) else value

    def clone(self) -> CfgNode:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: Any) -> CfgNode:
        return CfgNode({k: copy.deepcopy(v) for k, v in self.items()})

    def dump(self) -> str:
        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            return list(value) if isinstance(value, tuple) else value

        return yaml.safe_dump(plain(self))


class Boxes:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class ImageList:
    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor, self.image_sizes = tensor, image_sizes


class Generator(nn.Module):
    """A grid of boxes, scored by a convolution of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, images: ImageList, features: dict[str, torch.Tensor], gt_instances: Any) -> Any:
        assert gt_instances is None
        ((height, width),) = images.image_sizes
        pooled = nn.functional.adaptive_avg_pool2d(self.conv(features["p2"]), (4, 5))[0, 0].flatten()
        y, x = torch.meshgrid(torch.arange(4) / 4 * height, torch.arange(5) / 5 * width, indexing="ij")
        boxes = torch.stack([x, y, x + width / 3, y + height / 3], -1).reshape(-1, 4)
        scores, order = pooled.sort(descending=True, stable=True)
        instances = types.SimpleNamespace(proposal_boxes=Boxes(boxes[order]), objectness_logits=scores)
        return [instances], {}


class Heads(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.mask_on = self.keypoint_on = True
        self.cls_score = nn.Linear(1, classes + 1)

    def forward(self, images: ImageList, features: Any, proposals: Any, targets: Any) -> Any:
        assert targets is None
        assert not self.mask_on
        assert not self.keypoint_on
        scores = self.cls_score(proposals[0].objectness_logits[:, None]).softmax(-1)[:, :-1]
        best, classes = scores.max(1)
        order = best.argsort(descending=True, stable=True)
        boxes = Boxes(proposals[0].proposal_boxes.tensor[order])
        instances = types.SimpleNamespace(pred_boxes=boxes, scores=best[order], pred_classes=classes[order])
        return [instances], {}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 110.0), persistent=False)
        self.stem = nn.Conv2d(3, 3, 1)
        self.proposal_generator = Generator()

    def backbone(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        assert tensor.dtype == torch.float32
        return {"p2": self.stem(tensor)}

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        ((image),) = [x["image"] for x in batched_inputs]
        assert image.ndim == 3
        assert image.shape[0] == 3
        return ImageList((image - self.pixel_mean)[None] / 50, [tuple(image.shape[1:])])


class ProposalNetwork(Network):
    preprocess_image = property()  # type: ignore[assignment]  # Detectron2's class has none

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        images = Network.preprocess_image(self, batched_inputs)
        proposals, _ = self.proposal_generator(images, self.backbone(images.tensor), None)
        ((height, width),) = images.image_sizes
        assert (batched_inputs[0]["height"], batched_inputs[0]["width"]) == (height, width)
        return [{"proposals": proposals[0]}]


class GeneralizedRCNN(Network):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.roi_heads = Heads(classes)


def build_model(cfg: CfgNode) -> nn.Module:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in ("ProposalNetwork", "GeneralizedRCNN"):
        raise KeyError(f"No object named {architecture!r} found in 'META_ARCH' registry!")
    rpn = architecture == "ProposalNetwork"
    model = ProposalNetwork() if rpn else GeneralizedRCNN(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    return model.to(cfg.MODEL.DEVICE)


class ResizeShortestEdge:
    def __init__(self, short_edge_length: list[int], max_size: int) -> None:
        assert len(short_edge_length) == 2
        self.short, self.long = short_edge_length[0], max_size

    def get_transform(self, image: np.ndarray) -> ResizeShortestEdge:
        return self

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        height, width = image.shape[:2]
        scale = min(self.short / min(height, width), self.long / max(height, width))
        return np.asarray(
            Image.fromarray(image).resize((int(width * scale + 0.5), int(height * scale + 0.5)))
        )


class Metadata(dict):
    pass


class Catalog(dict):
    def get(self, name: str) -> Metadata:  # type: ignore[override]
        return self.setdefault(name, Metadata())


def modules(folder: Path) -> dict[str, types.ModuleType]:
    """The entries of ``sys.modules`` for Detectron2; its configs are written to ``folder``."""
    for name, architecture in ((RPN, "ProposalNetwork"), (MASK, "GeneralizedRCNN")):
        path = folder / "model_zoo" / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"MODEL": {"META_ARCHITECTURE": architecture}}))
    fakes = {
        name: types.ModuleType(name)
        for name in (
            "detectron2",
            "detectron2.config",
            "detectron2.data",
            "detectron2.data.transforms",
            "detectron2.modeling",
        )
    }
    fakes["detectron2"].__file__ = str(folder / "__init__.py")
    fakes["detectron2.config"].get_cfg = lambda: CfgNode(copy.deepcopy(DEFAULTS))  # type: ignore[attr-defined]
    fakes["detectron2.data"].MetadataCatalog = Catalog()  # type: ignore[attr-defined]
    fakes["detectron2.data"].transforms = fakes["detectron2.data.transforms"]  # type: ignore[attr-defined]
    fakes["detectron2.data.transforms"].ResizeShortestEdge = ResizeShortestEdge  # type: ignore[attr-defined]
    fakes["detectron2.modeling"].build_model = build_model  # type: ignore[attr-defined]
    return fakes


def install(folder: Path) -> None:
    sys.modules.update(modules(folder))


def uninstall() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
        del sys.modules[name]
