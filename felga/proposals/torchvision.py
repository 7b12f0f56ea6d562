"""The region proposal network of a torchvision Faster or Mask R-CNN, and how felga reads weights.

``torchvision:MODEL`` takes torchvision's own weights (COCO) from the cache of torch.hub or the network,
``torchvision:MODEL/TAG`` those of another tag, ``torchvision:MODEL/FILE`` a checkpoint of one's own, with any
number of classes; MODEL is such as ``fasterrcnn_resnet50_fpn`` or ``maskrcnn_resnet50_fpn_v2``. This is the
detector that installs without trouble.

The functions from :func:`pick_device` to :func:`load_pretrained` serve every model that felga loads: devices,
hashes, the hub, and checkpoints that are read without running what is inside.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import pickle
import re
import socket
import threading
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import torch
from torchvision.models import WeightsEnum, detection, get_model, get_model_weights, list_models
from torchvision.models.detection.rpn import concat_box_prediction_layers

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.proposals.given import as_regions
from felga.types import Picture, Pixels, Region


def pick_device(device: str) -> torch.device:
    """The torch device behind ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BadInputError: no such name. MissingError: a GPU was asked for and there is none of that number.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    family, _, number = device.partition(":")
    if family != "cuda" or not (number.isdigit() or device == "cuda"):
        raise BadInputError(f"there is no device {device!r}; known: auto, cpu, cuda, cuda:N")
    if int(number or 0) >= torch.cuda.device_count():
        raise MissingError(f"the device {device!r} is not here: torch sees {torch.cuda.device_count()} GPUs")
    return torch.device(device)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """The hash of a weight file; remembered until its size or time changes."""
    stat = existing(path).stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


def existing(path: Path) -> Path:
    """``path``, which is a file.

    Raises:
        NotFoundError: it is not there, or it is a folder.
    """
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "it is not there"
        raise NotFoundError(f"no weight file {str(path)!r}: {found}")
    return path


def require_network(url: str, wanted: str) -> None:
    """Tell at once that ``url`` cannot be reached; the hub's client would try for a minute.

    Raises:
        MissingError: felga is offline (``HF_HUB_OFFLINE``), or the host does not answer.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise MissingError(f"{wanted} is not on this machine, and felga is offline")
    if urllib.request.getproxies():  # only the proxy knows
        return
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=5).close()
    except OSError as error:
        raise MissingError(
            f"{wanted} is not on this machine, and {parts.hostname} cannot be reached"
        ) from error


def hub_file(repository: str, names: Sequence[str], wanted: str) -> Path:
    """The first of ``names`` that the hub's cache holds, else the first that the hub has.

    Raises:
        MissingError: neither has one, or the hub cannot be reached; ``wanted`` says what for.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except HFValidationError as error:
            raise BadInputError(f"{repository!r} is no name of a hub repository") from error
        except OSError:  # LocalEntryNotFoundError, or a cache that is not there
            continue
    require_network(constants.ENDPOINT, wanted)
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise MissingError(f"{wanted} cannot be had from the hub: {first_line(error)}") from error
    raise MissingError(f"{wanted} is not on the hub: {repository} holds none of {', '.join(names)}")


def model_folder(source: str, wanted: str) -> Path:
    """A folder of transformers' form: ``source`` itself, or the hub repository of that name, its cache first.

    Raises:
        NotFoundError: a folder that is not there.
        MissingError: the hub has no such model, or cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise NotFoundError(
            f"there is no folder {source!r} for {wanted}, and it names no OWNER/NAME of the hub"
        )
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        cached = Path(snapshot_download(source, local_files_only=True))
        weight_files(cached)
    except HFValidationError as error:
        raise BadInputError(f"{source!r} is no name of a hub repository") from error
    except (OSError, NotFoundError):  # not in the cache, or without its weights
        require_network(constants.ENDPOINT, f"the model of {wanted}")
    else:
        return cached
    try:
        files = HfApi().list_repo_files(source)
        weights = "*.safetensors*" if any(".safetensors" in file for file in files) else "*.bin*"
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.txt", weights]))
    except (HfHubHTTPError, OSError) as error:
        raise MissingError(
            f"the model of {wanted} cannot be had from the hub: {first_line(error)}"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder of transformers' form: one, or the shards that its index names.

    Raises:
        NotFoundError: it has none, or lacks a shard. BadInputError: the index is no json.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise BadInputError(f"{str(index)!r} names no weight files") from error
            return [existing(folder / shard) for shard in shards]
    raise NotFoundError(f"{str(folder)!r} holds no weights: neither model.safetensors nor pytorch_model.bin")


def sha256_of_folder(folder: Path) -> str:
    """The hash of a folder's weights: of its one file, or of its shards' hashes, one a line."""
    hashes = [sha256_of(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def load_pretrained(
    kind: type[Any], folder: Path, dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    """A model of transformers from a folder of its form, frozen; every weight of it must be there.

    Raises:
        BadInputError: the weights are truncated, hold a pickle, lack a key or have another shape.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_log

    bars = transformers_log.is_progress_bar_enabled()
    transformers_log.disable_progress_bar()
    log = logging.getLogger("transformers.modeling_utils")
    level = log.level
    log.setLevel(logging.ERROR)  # it reports at length what the checks below tell in a sentence
    try:
        model, info = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, weights_only=True
        )
    except (RuntimeError, OSError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise BadInputError(
            f"the weights in {str(folder)!r} are truncated or of another model: {first_line(error)}"
        ) from error
    finally:
        log.setLevel(level)
        if bars:
            transformers_log.enable_progress_bar()
    for trouble in ("missing_keys", "mismatched_keys"):
        if wrong := sorted(map(str, info[trouble])):
            told = trouble.replace("_", " ")
            raise BadInputError(f"the weights in {str(folder)!r} are of another model: {told} {wrong[0]}")
    return cast(torch.nn.Module, model.requires_grad_(False).to(device).eval())


def first_line(error: BaseException) -> str:
    """The first line of a library's message, which may run over many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def read_checkpoint(path: Path, allowed: Sequence[type] = ()) -> Any:
    """What a ``.safetensors`` or torch file holds, on the CPU; code inside of it is never run.

    Args:
        allowed: plain classes that a torch file may hold besides tensors and builtin containers.

    Raises:
        NotFoundError: no such file. BadInputError: truncated, no checkpoint, or a pickle of other objects.
    """
    existing(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{str(path)!r} is truncated or no safetensors file: {error}") from error
    archive = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if archive and isinstance(error, pickle.UnpicklingError | RuntimeError):
            wanted = "tensors alone are read, never code: save its state_dict as .safetensors"
            raise BadInputError(f"{str(path)!r} holds other things than tensors; {wanted}") from error
        raise BadInputError(f"{str(path)!r} is truncated or no checkpoint of torch") from error


def state_of(checkpoint: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint: bare, or under ``state_dict``, ``model`` or ``model_state_dict``;
    the ``module.`` of data-parallel training is dropped.

    Raises:
        BadInputError: there is none.
    """
    state = checkpoint
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not any(isinstance(v, torch.Tensor) for v in state.values()):
        raise BadInputError(f"{str(path)!r} holds no tensors by name")
    return {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}


def load_exactly(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    source: str,
    wanted: str,
    may_lack: str = "",
) -> None:
    """Load ``state`` into ``model``: every key there, in its shape, and none besides.

    Args:
        source, wanted: the words for both in the error, such as a path and ``ViT-B-32``.
        may_lack: a pattern of the ends of keys that may be missing on either side.

    Raises:
        BadInputError: the state is of another architecture; names the first key that tells.
    """
    own = model.state_dict()
    free = re.compile(rf".*({may_lack})" if may_lack else r"(?!)")
    for key, value in own.items():
        if key not in state:
            if free.fullmatch(key):
                continue
            raise BadInputError(f"{source} is no checkpoint of {wanted}: it lacks {key!r}")
        if state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} there and {tuple(value.shape)} wanted"
            raise BadInputError(f"{source} is no checkpoint of {wanted}: {key!r} is {shapes}")
    for key in state:
        if key not in own and not free.fullmatch(key):
            raise BadInputError(f"{source} is no checkpoint of {wanted}: {key!r} has no place in it")
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


WITHOUT_EPS = (
    detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
)
"""Trained with batch norms that add nothing to the variance; torchvision sets this behind these two tags."""


def torchvision(argument: str, *, device: str = "auto") -> Rpn:
    """The proposer ``torchvision:MODEL``, ``torchvision:MODEL/TAG`` or ``torchvision:MODEL/FILE``.

    Args:
        argument: a file is looked up as given, then from the root.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BadInputError: no model with a region proposal network of that name, or no such tag.
        NotFoundError: no such file. MissingError: no such device.
    """
    return Rpn(argument, pick_device(device))


class Rpn:
    """The best boxes of a region proposal network, with its own suppression of overlaps (IoU 0.7)."""

    def __init__(self, argument: str, device: torch.device) -> None:
        self.name = f"torchvision:{argument}"
        self.device = device
        self._lock = threading.Lock()
        self.architecture, _, rest = argument.partition("/")
        known = [name for name in list_models(detection) if "rcnn" in name and "keypoint" not in name]
        if self.architecture not in known:
            near = difflib.get_close_matches(self.architecture, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise BadInputError(f"torchvision has no region proposals of {self.architecture!r}; {hint}")
        tags = get_model_weights(self.architecture)
        if rest in ("", *tags.__members__):
            self._source: Path | WeightsEnum = tags[rest or "DEFAULT"]
            return
        self._source = Path(rest).expanduser()
        if not self._source.is_file() and Path("/", rest).is_file():
            self._source = Path("/", rest)
        if "/" not in rest and not self._source.suffix:
            told = f"tags: {', '.join(tags.__members__)}"
            raise BadInputError(f"{rest!r} is neither weights of {self.architecture} nor a file; {told}")
        existing(self._source)

    def settings(self) -> dict[str, Any]:
        """The architecture, and its weights by sha256."""
        weights = sha256_of(self.checkpoint)
        return {"name": "torchvision", "architecture": self.architecture, "weights": weights}

    def propose(self, pictures: Sequence[Picture], top: int) -> list[list[Region]]:
        """For each picture the ``top`` best boxes of the network, at most its own 1,000; one pass a picture.

        Raises:
            BadInputError: the checkpoint is truncated or of another architecture.
            MissingError: the weights are not cached and cannot be downloaded.
        """
        return [self._of(picture, top) for picture in pictures]

    @cached_property
    def checkpoint(self) -> Path:
        """The weight file; downloaded when it is first asked for, checked against the hash in its name."""
        if isinstance(self._source, Path):
            return self._source
        url = str(self._source.url)
        cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        if not cached.is_file():
            wanted = f"the weights of {self.name}"
            require_network(url, wanted)
            cached.parent.mkdir(parents=True, exist_ok=True)
            prefix = cached.stem.rpartition("-")[2]
            try:
                torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix, progress=False)
            except (OSError, RuntimeError) as error:
                raise MissingError(f"{wanted} cannot be had: {first_line(error)}") from error
        return cached

    @cached_property
    def _model(self) -> Any:
        state = state_of(read_checkpoint(self.checkpoint), self.checkpoint)
        classes = state.get("roi_heads.box_predictor.cls_score.bias")
        count = len(classes) if classes is not None else 91
        model = get_model(self.architecture, weights=None, weights_backbone=None, num_classes=count)
        load_exactly(
            model,
            state,
            source=repr(str(self.checkpoint)),
            wanted=self.architecture,
            may_lack=r"\.num_batches_tracked",  # the frozen norms of most checkpoints count none
        )
        if self._source in WITHOUT_EPS:
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 0.0
        return model.requires_grad_(False).to(self.device).eval()

    def _of(self, picture: Picture, top: int) -> list[Region]:
        image = torch.from_numpy(stretched(picture.pixels)).permute(2, 0, 1)
        with self._lock, torch.inference_mode():
            model = self._model
            batch, _ = model.transform([image.to(self.device).float().div_(255)])
            features = list(model.backbone(batch.tensors).values())
            rpn = model.rpn  # its forward() keeps the scores to itself
            scores, deltas = rpn.head(features)
            anchors = rpn.anchor_generator(batch, features)
            counts = [int(np.prod(s[0].shape)) for s in scores]
            flat_scores, flat_deltas = concat_box_prediction_layers(scores, deltas)
            decoded = rpn.box_coder.decode(flat_deltas, anchors).view(1, -1, 4)
            boxes, chances = rpn.filter_proposals(decoded, flat_scores, batch.image_sizes, counts)
        height, width = batch.image_sizes[0]
        scale = np.array([picture.width / width, picture.height / height] * 2, np.float32)
        return as_regions(picture, boxes[0].cpu().numpy() * scale, chances[0].cpu().numpy(), top)


def stretched(pixels: Pixels) -> Pixels:
    """A copy of ``pixels``, a strip beyond 32:1 stretched to that: a detector would scale it to nothing."""
    height, width = pixels.shape[:2]
    down, right = max(1, -(-width // (32 * height))), max(1, -(-height // (32 * width)))
    return np.ascontiguousarray(pixels.repeat(down, 0).repeat(right, 1)).copy()
