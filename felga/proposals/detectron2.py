"""Boxes of your Detectron2 model, run by Detectron2 or, without it, by mayaku.

``detectron2:CONFIG@WEIGHTS``: CONFIG is a yaml file or a name in Detectron2's model zoo, such as
``COCO-Detection/rpn_R_50_FPN_1x.yaml``; WEIGHTS is a ``.pth`` or ``.safetensors`` file. A model with a box
head yields its instances, labelled with its class names; a bare proposal network yields its proposals.
``detectron2:CONFIG@WEIGHTS#rpn`` takes the proposals of either. Class names are those that Detectron2 knows
for the datasets of the config, else the lines of ``classes.txt`` next to the weights, else numbers.

``mayaku:CONFIG@WEIGHTS`` runs a Faster or Mask R-CNN of Detectron2 (ResNet with FPN) through mayaku, which is
on PyPI, for machines where Detectron2 cannot be built.

The model zoo's weights are pickles, which felga never loads. If you trust one, convert it to tensors once::

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
from felga.proposals.regions import as_regions, stretched
from felga.types import DecodedImage, Region

Source = Literal["instances", "rpn"]

VERSION = 1
"""Raised when the same settings yield other regions."""
INSTALL = (
    "pip install 'setuptools<81' && "
    "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
)
INSTALL_MAYAKU = "pip install mayaku"
OVERLAP = 0.5
"""IoU of the class-agnostic non-maximum suppression: two classes on one object are one region."""
CONSTANTS = r"cell_anchors\.\d+|pixel_mean|pixel_std|\.num_batches_tracked"
"""Buffers that only older checkpoints hold."""


def detectron2(argument: str, *, device: str = "auto") -> Detectron2:
    """The proposer ``detectron2:CONFIG@WEIGHTS`` or ``detectron2:CONFIG@WEIGHTS#rpn``.

    Raises:
        MissingError: Detectron2 is not installed, with the command that installs it; or no such device.
        BadInputError: not of this form, pickled weights, or not a Detectron2 config.
        NotFoundError: no such config or weights.
    """
    try:
        import detectron2 as package  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingError(
            f"detectron2:{argument} needs Detectron2, which is not on PyPI: {INSTALL}; "
            f"or use mayaku:CONFIG@WEIGHTS ({INSTALL_MAYAKU})"
        ) from error
    config, weights, source = _parse("detectron2", argument)
    return Detectron2(argument, config, weights, source, pick_device(device))


def mayaku(argument: str, *, device: str = "auto") -> Mayaku:
    """The proposer ``mayaku:CONFIG@WEIGHTS``, a Detectron2 checkpoint without Detectron2.

    Raises:
        As :func:`detectron2`. CONFIG is the complete ``config.yaml`` written by training, without ``_BASE_``.
    """
    try:
        import mayaku as package  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingError(f"mayaku:{argument} needs mayaku: {INSTALL_MAYAKU}") from error
    config, weights, source = _parse("mayaku", argument)
    if source == "rpn":
        raise BadInputError("mayaku yields instances only: use detectron2 for '#rpn'")
    return Mayaku(argument, existing(Path(config).expanduser()), weights, pick_device(device))


def _parse(family: str, argument: str) -> tuple[str, Path, Source | None]:
    body, mark, source = argument.partition("#")
    config, at, weights = body.rpartition("@")
    if not at or not config or not weights or (mark and source not in ("rpn", "instances")):
        raise BadInputError(
            f"{family} needs CONFIG@WEIGHTS, optionally followed by #rpn or #instances, got {argument!r}"
        )
    path = Path(weights).expanduser()
    if path.suffix == ".pkl":
        raise BadInputError(
            f"{weights!r} is a pickle, which felga never loads: convert it to .pth, see the docstring of "
            f"felga.proposals.detectron2"
        )
    chosen: dict[str, Source] = {"rpn": "rpn", "instances": "instances"}
    return config, existing(path), chosen.get(source)


def class_names(weights: Path, count: int, known: Sequence[str] = ()) -> list[str]:
    """The ``count`` class names of a detector: ``known`` if it has as many, else ``classes.txt`` next to the
    weights, one per line, else numbers.

    Raises:
        BadInputError: the file has another number of lines, or is not UTF-8.
    """
    if len(known) == count:
        return list(known)
    path = weights.parent / "classes.txt"
    if not path.is_file():
        return [str(i) for i in range(count)]
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{str(path)!r} is not UTF-8: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != count:
        raise BadInputError(f"{str(path)!r} names {len(names)} classes; the model has {count}")
    return names


class Detectron2:
    """The best boxes of a Detectron2 model; one forward pass per image."""

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
            raise BadInputError(f"{config} is a proposal network and has no instances: use '#rpn'")

    def settings(self) -> dict[str, Any]:
        """The sha256 of the weights and of the whole config, and which boxes are taken."""
        config = self._config.clone()
        config.MODEL.DEVICE = ""
        return {
            "name": "detectron2",
            "version": VERSION,
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
        return [self._propose(image, top) for image in images]

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        pixels = stretched(image.pixels)
        with self._lock, torch.inference_mode():
            model, resize, names = self._model
            if self._config.INPUT.FORMAT == "BGR":
                pixels = np.ascontiguousarray(pixels[:, :, ::-1])
            pixels = resize.get_transform(pixels).apply_image(pixels)
            tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
            labels = None
            if self._config.MODEL.META_ARCHITECTURE == "ProposalNetwork":
                # only forward() yields proposals, in a frame of the given height and width
                output = model([{"image": tensor, "height": tensor.shape[1], "width": tensor.shape[2]}])
                proposals = output[0]["proposals"]
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
        frame = tensor.shape[2], tensor.shape[1]
        return as_regions(image, boxes.cpu().numpy(), scores.cpu().numpy(), top, labels, frame=frame)

    def _read_config(self, name: str) -> Any:
        import detectron2 as package
        from detectron2.config import get_cfg

        path = Path(name).expanduser()
        if not path.is_file():  # read directly: detectron2.model_zoo needs an old setuptools
            zoo = Path(package.__file__ or "").parent / "model_zoo" / "configs"
            path = zoo / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
            if not path.is_file():
                path = existing(Path(name).expanduser())
        config = get_cfg()
        config.set_new_allowed(True)  # options of your own training code, which no model here reads
        try:
            config.merge_from_file(str(path), allow_unsafe=False)
        except Exception as error:  # yaml, yacs and Detectron2's asserts each raise something else
            raise BadInputError(f"{str(path)!r} is not a Detectron2 config: {first_line(error)}") from error
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
        except KeyError as error:  # from its registries, for an architecture defined elsewhere
            raise BadInputError(
                f"{self.name} needs code that Detectron2 does not have: {first_line(error)}"
            ) from error
        architecture = config.MODEL.META_ARCHITECTURE
        load_exactly(model, state, source=repr(str(self.weights)), wanted=architecture, may_lack=CONSTANTS)
        model.requires_grad_(False).eval()
        if self.source == "instances":
            model.roi_heads.mask_on = model.roi_heads.keypoint_on = False  # only boxes are used
        side, limit = config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST
        known: Sequence[str] = ()
        for dataset in (*config.DATASETS.TEST, *config.DATASETS.TRAIN):
            known = known or MetadataCatalog.get(dataset).get("thing_classes", ())
        names = class_names(self.weights, int(config.MODEL.ROI_HEADS.NUM_CLASSES), known)
        return model, T.ResizeShortestEdge([side, side], limit), names


class Mayaku:
    """The best instances of a Detectron2 checkpoint, run by mayaku; one forward pass per image."""

    def __init__(self, argument: str, config: Path, weights: Path, device: torch.device) -> None:
        self.name = f"mayaku:{argument}"
        self.config = config
        self.weights = weights
        self.device = device
        self._lock = threading.Lock()

    def settings(self) -> dict[str, Any]:
        """The sha256 of weights and config."""
        return {
            "name": "mayaku",
            "version": VERSION,
            "weights": sha256_of(self.weights),
            "config": sha256_of(self.config),
            "overlap": OVERLAP,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image its ``top`` best instances.

        Raises:
            BadInputError: the checkpoint is truncated or of an architecture that mayaku does not support.
        """
        return [self._propose(image, top) for image in images]

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        pixels = stretched(image.pixels)
        with self._lock, torch.inference_mode():
            predictor = self._predictor
            instances = predictor(pixels)
            boxes, scores = instances.pred_boxes.tensor, instances.scores
            kept = nms(boxes, scores, OVERLAP)
            labels = [predictor.class_names[i] for i in instances.pred_classes[kept].tolist()]
        boxes, scores = boxes[kept].cpu().numpy(), scores[kept].cpu().numpy()
        return as_regions(image, boxes, scores, top, labels, frame=(pixels.shape[1], pixels.shape[0]))

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
                raise BadInputError(
                    f"mayaku cannot run {str(self.weights)!r} with {str(self.config)!r}: {first_line(error)}"
                ) from error
        predictor.model.requires_grad_(False)
        return predictor
