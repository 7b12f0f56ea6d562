"""Any object detector of transformers: RT-DETR, D-FINE, DETR, Conditional and Deformable DETR, YOLOS, others.

``hf:OWNER/NAME`` of the hub, such as ``hf:PekingU/rtdetr_r50vd``, or ``hf:FOLDER`` in transformers' format.
Boxes, scores and labels are those of the model's own image processor; a detector's classes become labels.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from felga.errors import BadInputError
from felga.models.device import pick_device
from felga.models.listing import cached_models
from felga.models.weights import (
    existing,
    first_line,
    hub_file,
    load_pretrained,
    model_folder,
    sha256_of,
    sha256_of_folder,
    weight_files,
)
from felga.proposals.regions import as_regions, stretched
from felga.types import DecodedImage, Region

VERSION = 1
"""Raised when the same settings yield other regions."""
PREPROCESSING = (
    "do_resize",
    "size",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "pad_size",
)
RESNET50 = ("detr", "conditional_detr", "deformable_detr", "table-transformer", "dab-detr")
"""Models whose backbone, where the configuration names none, is timm's resnet50."""


def hf(argument: str, *, device: str = "auto") -> Detector:
    """The proposer ``hf:OWNER/NAME`` or ``hf:FOLDER``.

    Args:
        argument: a detector of the hub, or a folder in transformers' format.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BadInputError: no argument, or a model that is no object detector or has no safetensors.
        NotFoundError: no such folder, or one without weights.
        MissingError: the model is not cached and the hub cannot be reached, or no such device.
    """
    if not argument:
        raise BadInputError("hf needs a detector: hf:OWNER/NAME of the hub or hf:FOLDER")
    return Detector(argument, pick_device(device))


def found() -> Iterator[tuple[str, Path]]:
    """The names of detectors whose weights are in the hub's cache, each with its weight files."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as KNOWN

    for name, file in cached_models("hf", KNOWN):
        if file.suffix == ".safetensors":
            yield name, file


class Detector:
    """The best boxes of a detector that transformers knows, with their class names."""

    def __init__(self, source: str, device: torch.device) -> None:
        self.name = f"hf:{source}"
        self.device = device
        self._lock = threading.Lock()
        if not Path(source).expanduser().is_dir() and re.fullmatch(r"\w[\w.-]*/[\w.-]+", source):
            # before its weights, which may be large and of something else
            check_type(
                read_config(hub_file(source, ["config.json"], f"the configuration of {self.name}")), source
            )
        self.folder = model_folder(source, self.name)
        self._raw = read_config(existing(self.folder / "config.json"))
        check_type(self._raw, source)
        if any(file.suffix != ".safetensors" for file in weight_files(self.folder)):
            raise BadInputError(
                f"{source!r} has no safetensors, only a pickle, which hf does not read: save it again with "
                "transformers' save_pretrained"
            )

    def settings(self) -> dict[str, Any]:
        """The sha256 of weights and configuration, and what is done to an image before the network.

        Raises:
            BadInputError: the image processor is missing or unknown to transformers.
        """
        with self._lock:
            preprocessing = preprocessing_of(self._processor)
        return {
            "name": "hf",
            "version": VERSION,
            "weights": sha256_of_folder(self.folder),
            "config": sha256_of(self.folder / "config.json"),
            "preprocessing": preprocessing,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image the ``top`` best boxes of those that the model yields; one forward pass per image.

        Raises:
            BadInputError: the weights are truncated or of another model, or the image processor is unknown.
        """
        return [self._propose(image, top) for image in images]

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        with self._lock, torch.inference_mode():
            processor, model = self._processor, self._model
            inputs = processor(
                stretched(image.pixels), return_tensors="pt", input_data_format="channels_last"
            )
            output = model(**inputs.to(self.device))
            (found,) = processor.post_process_object_detection(
                output, threshold=0.0, target_sizes=[(image.height, image.width)]
            )
        names = class_names(model.config)
        labels = [names.get(number) for number in found["labels"].tolist()]
        boxes, scores = (found[key].float().cpu().numpy() for key in ("boxes", "scores"))
        return as_regions(image, boxes, scores, top, labels)

    @cached_property
    def _config(self) -> Any:
        return config_of(self._raw, self.folder)

    @cached_property
    def _processor(self) -> Any:
        return processor_of(self.folder, self._config)

    @cached_property
    def _model(self) -> Any:
        from transformers import MODEL_FOR_OBJECT_DETECTION_MAPPING

        kind = MODEL_FOR_OBJECT_DETECTION_MAPPING[type(self._config)]
        return load_pretrained(kind, self.folder, torch.float32, self.device, self._config)


def read_config(path: Path) -> dict[str, Any]:
    """The content of a ``config.json``.

    Raises:
        BadInputError: it is not a json object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{str(path)!r} is not json: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{str(path)!r} is not a json object: got {type(content).__name__}")
    return content


def check_type(config: dict[str, Any], source: str) -> None:
    """Check that transformers knows the model as an object detector.

    Raises:
        BadInputError: it does not; also for zero-shot detectors, and detectors of lines of text, which have
            neither classes nor a score per box at threshold 0.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as KNOWN

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in KNOWN or model_type.startswith("pp_ocr"):
        raise BadInputError(
            f"{source!r} is no object detector: its model type is {model_type!r}, and hf takes those such as "
            "'rt_detr', 'detr', 'yolos' or 'd_fine' that transformers knows, and no zero-shot ones"
        )


def config_of(raw: dict[str, Any], folder: Path) -> Any:
    """transformers' configuration of a detector, from the content of its ``config.json``.

    Raises:
        BadInputError: it is not one of transformers, or :func:`without_hub` refuses it.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    source = repr(str(folder))
    options = without_hub(raw, source)
    try:
        return CONFIG_MAPPING[options["model_type"]].from_dict(options)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = first_line(error)
        raise BadInputError(f"the configuration in {source} is not one of transformers: {reason}") from error


def processor_of(folder: Path, config: Any) -> Any:
    """The image processor of a detector.

    Raises:
        BadInputError: it is missing, unknown to transformers, or of another task.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError) as error:
        raise BadInputError(
            f"{str(folder)!r} has no image processor that transformers knows: {first_line(error)}"
        ) from error
    if not hasattr(processor, "post_process_object_detection"):
        name = type(processor).__name__
        raise BadInputError(f"the image processor in {str(folder)!r}, {name}, yields no boxes")
    return processor


def preprocessing_of(processor: Any) -> dict[str, Any]:
    """What an image processor does to an image, as json values."""
    options = json.loads(processor.to_json_string())
    chosen = {key: options[key] for key in PREPROCESSING if options.get(key) is not None}
    return {"processor": type(processor).__name__, **chosen}


def class_names(config: Any) -> dict[int, str]:
    """The names of classes as valid Unicode: json may hold lone surrogates."""
    return {number: str(name).encode("utf-8", "replace").decode() for number, name in config.id2label.items()}


def without_hub(config: dict[str, Any], source: str) -> dict[str, Any]:
    """A configuration from which transformers builds the network without asking the hub for anything.

    A backbone that is only named would be looked up on the hub, and attention kernels can be the code of a
    repository there: the first is written out as timm's, the second are left out.

    Raises:
        BadInputError: the backbone is not a plain name of timm, or not described.
    """
    options: dict[str, Any] = _plain(config, source)
    model_type, usual = options["model_type"], options["model_type"] in RESNET50
    backbone = options.get("backbone") or ("resnet50" if usual else None)
    if backbone is None or options.get("backbone_config") is not None:
        return options
    if not options.get("use_timm_backbone", True):
        raise BadInputError(
            f"the {model_type!r} model in {source} names the backbone {backbone!r} without describing it: "
            "save it again with transformers 5, which writes backbone_config"
        )
    extra = options.pop("backbone_kwargs", None) or {}
    if not isinstance(extra, dict):
        raise BadInputError(f"the backbone_kwargs in {source} are {extra!r}: expected an object")
    if extra or not usual:
        options.pop("backbone", None)
        options["backbone_config"] = {"model_type": "timm_backbone", "backbone": backbone, **extra}
    return options


def _plain(value: Any, source: str) -> Any:
    if isinstance(value, list):
        return [_plain(part, source) for part in value]
    if not isinstance(value, dict):
        return value
    for key in ("backbone", "architecture"):
        name = value.get(key)
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[\w.]+", name)):
            raise BadInputError(f"{source} has the {key} {name!r}: expected a name such as resnet50")
    return {key: _plain(part, source) for key, part in value.items() if not key.endswith("_implementation")}
