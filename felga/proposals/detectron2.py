"""Boxes of a Detectron2 model of one's own, with Detectron2 or without it (mayaku).

``detectron2:CONFIG@WEIGHTS``: CONFIG is a yaml file or a name of Detectron2's model zoo, such as
``COCO-Detection/rpn_R_50_FPN_1x.yaml``; WEIGHTS is a ``.pth`` or ``.safetensors`` file. A model with a box
head gives its instances, with the names of its own classes as labels; a network of proposals gives those.
``detectron2:CONFIG@WEIGHTS#rpn`` takes the proposals in any case. Names of classes: those that Detectron2
knows for the datasets of the config, else the lines of ``classes.txt`` beside the weights, else numbers.

``mayaku:CONFIG@WEIGHTS`` runs a Faster or Mask R-CNN of Detectron2 (ResNet with FPN) through mayaku, which is
on PyPI, where Detectron2 cannot be built.

The model zoo's own weights are pickles, which felga never loads. Where you trust one, make it tensors once::

    import pickle, torch
    arrays = pickle.load(open("model_final.pkl", "rb"), encoding="latin1")["model"]
    torch.save({"model": {key: torch.tensor(value) for key, value in arrays.items()}}, "model.pth")
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision.ops import nms

from felga.errors import BadInputError, MissingError
from felga.models.device import pick_device
from felga.models.weights import existing, first_line, load_exactly, read_checkpoint, sha256_of, state_of
from felga.proposals.boxfile import as_regions
from felga.proposals.torchvision import stretched
from felga.types import DecodedImage, Region

Source = Literal["instances", "rpn"]

INSTALL = (
    "pip install 'setuptools<81' && "
    "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
)
INSTALL_MAYAKU = "pip install mayaku"
OVERLAP = 0.5
"""Class-agnostic suppression of instances: two classes on one object are one region."""
CONSTANTS = r"cell_anchors\.\d+|pixel_mean|pixel_std|\.num_batches_tracked"
"""Buffers that older checkpoints hold and newer ones do not."""


def detectron2(argument: str, *, device: str = "auto") -> Detectron2:
    """The proposer ``detectron2:CONFIG@WEIGHTS`` or ``detectron2:CONFIG@WEIGHTS#rpn``.

    Raises:
        MissingError: Detectron2 is not installed (says the line), or no such device.
        BadInputError: not of this form, the weights are a pickle, or the config is of no known model.
        NotFoundError: no such config or weights.
    """
    try:
        import detectron2 as package  # noqa: F401
    except ModuleNotFoundError as error:
        told = f"{INSTALL}; or use mayaku:CONFIG@WEIGHTS ({INSTALL_MAYAKU})"
        raise MissingError(f"detectron2:{argument} needs Detectron2, which is not on PyPI: {told}") from error
    config, weights, source = _parse("detectron2", argument)
    return Detectron2(argument, config, weights, source, pick_device(device))


def mayaku(argument: str, *, device: str = "auto") -> Mayaku:
    """The proposer ``mayaku:CONFIG@WEIGHTS``, a Detectron2 checkpoint without Detectron2.

    Raises:
        As :func:`detectron2`; CONFIG is the whole ``config.yaml`` that a training writes, without ``_BASE_``.
    """
    try:
        import mayaku as package  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingError(f"mayaku:{argument} needs mayaku: {INSTALL_MAYAKU}") from error
    config, weights, source = _parse("mayaku", argument)
    if source == "rpn":
        raise BadInputError("mayaku gives instances alone; '#rpn' wants detectron2")
    return Mayaku(argument, existing(Path(config).expanduser()), weights, pick_device(device))


def _parse(family: str, argument: str) -> tuple[str, Path, Source | None]:
    body, mark, source = argument.partition("#")
    config, at, weights = body.rpartition("@")
    if not at or not config or not weights or (mark and source not in ("rpn", "instances")):
        raise BadInputError(
            f"{family} wants CONFIG@WEIGHTS, with #rpn or #instances at its end if need be; got {argument!r}"
        )
    path = Path(weights).expanduser()
    if path.suffix == ".pkl":
        told = "make it a .pth as felga.proposals.detectron2 tells"
        raise BadInputError(f"{weights!r} is a pickle, which felga never loads: {told}")
    chosen: dict[str, Source] = {"rpn": "rpn", "instances": "instances"}
    return config, existing(path), chosen.get(source)


def class_names(weights: Path, count: int, known: Sequence[str] = ()) -> list[str]:
    """The names of a detector's classes: ``known`` if it fits, else ``classes.txt`` beside the weights.

    Raises:
        BadInputError: that file has another number of lines.
    """
    if len(known) == count:
        return list(known)
    path = weights.parent / "classes.txt"
    if not path.is_file():
        return [str(i) for i in range(count)]
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) != count:
        raise BadInputError(f"{str(path)!r} names {len(lines)} classes; the model has {count}")
    return lines


class Detectron2:
    """The best boxes of a Detectron2 model; one pass an image."""

    def __init__(
        self, argument: str, config: str, weights: Path, source: Source | None, device: torch.device
    ) -> None:
        self.name = f"detectron2:{argument}"
        self.weights = weights
        self.device = device
        self._lock = threading.Lock()
        self._config = self._read_config(config)
        heads = self._config.MODEL.META_ARCHITECTURE != "ProposalNetwork"
        self.source: Source = source or ("instances" if heads else "rpn")
        if self.source == "instances" and not heads:
            raise BadInputError(f"{config} is a network of proposals and has no instances; use '#rpn'")

    def settings(self) -> dict[str, Any]:
        """Weights by sha256, the whole config likewise, and which boxes are taken."""
        config = self._config.clone()
        config.MODEL.DEVICE = ""
        return {
            "name": "detectron2",
            "weights": sha256_of(self.weights),
            "config": hashlib.sha256(config.dump().encode()).hexdigest(),
            "boxes": self.source,
            "overlap": OVERLAP if self.source == "instances" else None,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image its ``top`` best boxes.

        Raises:
            BadInputError: the checkpoint is truncated, a pickle or of another architecture.
        """
        return [self._of(image, top) for image in images]

    def _of(self, image: DecodedImage, top: int) -> list[Region]:
        pixels = stretched(image.pixels)
        with self._lock, torch.inference_mode():
            model, resize, names = self._model
            if self._config.INPUT.FORMAT == "BGR":
                pixels = np.ascontiguousarray(pixels[:, :, ::-1])
            pixels = resize.get_transform(pixels).apply_image(pixels)
            tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
            labels = None
            if self._config.MODEL.META_ARCHITECTURE == "ProposalNetwork":
                # its forward() knows no other way, and gives boxes in the size that it is told
                found = model([{"image": tensor, "height": tensor.shape[1], "width": tensor.shape[2]}])
                proposals = found[0]["proposals"]
                boxes, scores = proposals.proposal_boxes.tensor, proposals.objectness_logits
            else:
                images = model.preprocess_image([{"image": tensor}])
                features = model.backbone(images.tensor)
                proposals, _ = model.proposal_generator(images, features, None)
                if self.source == "rpn":
                    boxes, scores = proposals[0].proposal_boxes.tensor, proposals[0].objectness_logits
                else:
                    (instances,), _ = model.roi_heads(images, features, proposals, None)
                    boxes, scores = instances.pred_boxes.tensor, instances.scores
                    kept = nms(boxes, scores, OVERLAP)
                    boxes, scores = boxes[kept], scores[kept]
                    labels = [names[i] for i in instances.pred_classes[kept].tolist()]
        scale = np.array([image.width / tensor.shape[2], image.height / tensor.shape[1]] * 2, np.float32)
        return as_regions(image, boxes.cpu().numpy() * scale, scores.cpu().numpy(), top, labels)

    def _read_config(self, name: str) -> Any:
        import detectron2 as package
        from detectron2.config import get_cfg

        path = Path(name).expanduser()
        if not path.is_file():  # read in place: detectron2.model_zoo wants an old setuptools
            zoo = Path(package.__file__ or "").parent / "model_zoo" / "configs"
            path = zoo / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
            if not path.is_file():
                path = existing(Path(name).expanduser())
        config = get_cfg()
        config.set_new_allowed(True)  # options of one's own training code, which no model here reads
        try:
            config.merge_from_file(str(path), allow_unsafe=False)
        except Exception as error:  # yaml, yacs and asserts of Detectron2 each raise their own
            raise BadInputError(f"{str(path)!r} is no config of Detectron2: {first_line(error)}") from error
        config.MODEL.DEVICE = str(self.device)
        config.MODEL.WEIGHTS = ""
        return config

    @cached_property
    def _model(self) -> tuple[Any, Any, list[str]]:
        from detectron2.data import MetadataCatalog
        from detectron2.data import transforms as T
        from detectron2.modeling import build_model

        state = state_of(read_checkpoint(self.weights), self.weights)
        config = self._config
        try:
            model = build_model(config.clone())
        except KeyError as error:  # its registries, for an architecture of someone's own code
            raise BadInputError(f"{self.name} wants code that is not here: {first_line(error)}") from error
        wanted = config.MODEL.META_ARCHITECTURE
        load_exactly(model, state, source=repr(str(self.weights)), wanted=wanted, may_lack=CONSTANTS)
        model.requires_grad_(False).eval()
        if self.source == "instances":
            model.roi_heads.mask_on = model.roi_heads.keypoint_on = False  # boxes are all that is read
        side, limit = config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST
        known: Sequence[str] = ()
        for dataset in (*config.DATASETS.TEST, *config.DATASETS.TRAIN):
            known = known or MetadataCatalog.get(dataset).get("thing_classes", ())
        names = class_names(self.weights, int(config.MODEL.ROI_HEADS.NUM_CLASSES), known)
        return model, T.ResizeShortestEdge([side, side], limit), names


class Mayaku:
    """The best instances of a Detectron2 checkpoint, run by mayaku; one pass an image."""

    def __init__(self, argument: str, config: Path, weights: Path, device: torch.device) -> None:
        self.name = f"mayaku:{argument}"
        self.config = config
        self.weights = weights
        self.device = device
        self._lock = threading.Lock()

    def settings(self) -> dict[str, Any]:
        """Weights and config by sha256."""
        return {
            "name": "mayaku",
            "weights": sha256_of(self.weights),
            "config": sha256_of(self.config),
            "overlap": OVERLAP,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image its ``top`` best instances.

        Raises:
            BadInputError: the checkpoint is truncated or of an architecture that mayaku does not know.
        """
        return [self._of(image, top) for image in images]

    def _of(self, image: DecodedImage, top: int) -> list[Region]:
        pixels = stretched(image.pixels)
        with self._lock, torch.inference_mode():
            predictor = self._predictor
            found = predictor(pixels)
            boxes, scores = found.pred_boxes.tensor, found.scores
            kept = nms(boxes, scores, OVERLAP)
            labels = [predictor.class_names[i] for i in found.pred_classes[kept].tolist()]
        scale = [image.width / pixels.shape[1], image.height / pixels.shape[0]] * 2
        inside = boxes[kept].cpu().numpy() * np.array(scale, np.float32)
        return as_regions(image, inside, scores[kept].cpu().numpy(), top, labels)

    @cached_property
    def _predictor(self) -> Any:
        from mayaku import from_pretrained
        from mayaku.d2 import convert_d2, load_d2_config

        state = state_of(read_checkpoint(self.weights), self.weights)
        with tempfile.TemporaryDirectory() as folder:
            plain, converted = Path(folder, "weights.pth"), Path(folder, "model.pth")
            torch.save({"model": state}, plain)
            try:
                count = int(load_d2_config(self.config)["MODEL"]["ROI_HEADS"]["NUM_CLASSES"])
                names = class_names(self.weights, count)
                convert_d2(plain, d2_config=self.config, output=converted, class_names=names)
                predictor = from_pretrained(converted, device=str(self.device))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                told = f"mayaku does not run {str(self.weights)!r} with {str(self.config)!r}"
                raise BadInputError(f"{told}: {first_line(error)}") from error
        predictor.model.requires_grad_(False)
        return predictor
