"""CLIP through open_clip: a hub tag, a local folder or a checkpoint file, frozen.

``clip:ARCH/TAG`` (weights from the hub or its cache), ``clip:ARCH/FILE``, ``clip:local-dir:FOLDER`` (as
open_clip saves it: ``open_clip_config.json`` beside the weights) and ``clip:hf-hub:OWNER/NAME``; ``clip``
alone is :data:`DEFAULT`.
Preprocessing and tokenizer are those of the model's own configuration. Radford et al. 2021; Ilharco et al.,
OpenCLIP, 2021.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import open_clip
import torch

from felga.encoders.crops import Preprocessing
from felga.encoders.inputs import check_options
from felga.encoders.one_pass import OnePass
from felga.encoders.open_clip_model import build_tokenizer, build_tower, preprocess_settings
from felga.encoders.towers import Tower, TwoTowers
from felga.errors import BadInputError, MissingError, NotFoundError, did_you_mean
from felga.files import read_regular, to_json
from felga.models.caches import cache_folders, note, snapshots
from felga.models.device import pick_device
from felga.models.efficientnet import STRIDE
from felga.models.weights import (
    first_line,
    hub_file,
    offline,
    read_checkpoint,
    require_network,
    sha256_of,
    state_of,
)
from felga.types import Boxes, DecodedImage, Encoder, Vectors

DEFAULT = "ViT-B-32-256/datacomp_s34b_b86k"  # docs/encoders.md says why
LOCAL_DIR_PREFIX = "local-dir:"
HF_HUB_PREFIX = "hf-hub:"
CONFIG = "open_clip_config.json"
# The names that open_clip writes, in order of preference.
CHECKPOINTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
    "pytorch_model.bin",
)
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def clip(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Encoder:
    """The encoder ``clip:WEIGHTS``.

    Args:
        weights: ``ARCH/TAG``, ``ARCH/FILE``, ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``; empty for
            :data:`DEFAULT`. A relative FILE that does not exist is tried from the root:
            ``ViT-B-32/models/b32.pt`` finds ``/models/b32.pt``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; half precision on a GPU.
        batch_size: crops or texts per forward pass.
        pooling: ``crop`` (default): one forward pass per region; ``roi``: one per image, for CLIP's ResNets,
            whose attention pools the features of the region (RegionCLIP).

    Raises:
        BadInputError: unknown architecture or tag, or ``pooling="roi"`` for anything but a ResNet of CLIP.
        NotFoundError: the folder, its configuration or the file does not exist.
        MissingError: a hub model is neither cached nor downloadable, or no such device.
    """
    return Clip(weights or DEFAULT, device=device, batch_size=batch_size, pooling=pooling)


def working_side(side: int) -> int:
    """The longer side of an image in one pass: in proportion to conse's 384 for 224 pixels."""
    return round(side * 12 / 7 / STRIDE) * STRIDE


class Clip(TwoTowers):
    """A frozen CLIP.

    Attributes:
        pooling: ``crop`` or ``roi``.
    """

    def __init__(self, weights: str, *, device: str, batch_size: int, pooling: str | None = None) -> None:
        self.pooling = check_options("clip", batch_size=batch_size, pooling=pooling, known=("crop", "roi"))
        super().__init__(f"clip:{weights}", device=pick_device(device), batch_size=batch_size)
        self._folder: Path | None = None  # of the model with its tokenizer, if there is one
        if weights.startswith(LOCAL_DIR_PREFIX):
            self._from_folder(Path(weights.removeprefix(LOCAL_DIR_PREFIX)).expanduser())
        elif weights.startswith(HF_HUB_PREFIX):
            self._from_hub(weights.removeprefix(HF_HUB_PREFIX))
        else:
            self._from_name(weights)
        self.preprocessing = self._read_preprocessing()
        if self.pooling == "roi" and not isinstance(self._config["vision_cfg"].get("layers"), list):
            raise BadInputError(f"{self.name} has no feature map to pool regions from; use --pooling crop")

    @property
    def dim(self) -> int:
        """Of the joint space."""
        return int(self._config["embed_dim"])

    def identity(self) -> dict[str, Any]:
        """As of :class:`TwoTowers`, with the sha256 of open_clip's ``model_cfg``."""
        config = hashlib.sha256(to_json(self._config).encode()).hexdigest()
        roi = {"preprocessing": self._one_pass.settings()} if self.pooling == "roi" else {}
        return {**super().identity(), "config": config, "pooling": self.pooling, **roi}

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """As of :class:`TwoTowers`; with ``pooling="roi"``, vectors of regions seen in their context."""
        if self.pooling == "crop":
            return super().encode_regions(images, boxes)
        visual = self._tower("visual").visual

        def trunk(inputs: torch.Tensor) -> torch.Tensor:
            for layer in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                inputs = layer(inputs)
            return inputs

        return self._one_pass.encode(
            images, boxes, trunk=trunk, head=lambda bins: cast(torch.Tensor, visual.attnpool(bins))
        )

    @property
    def _one_pass(self) -> OnePass:
        side = self.preprocessing.size[0]
        return OnePass(
            self.preprocessing,
            working_side(side),
            side // STRIDE,  # as many positions as the attention was trained with
            2,
            self.batch_size,
            self.device,
            self.dtype,
            self.dim,
        )

    def _embed_pixels(self, batch: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self._tower("visual").encode_image(batch))

    def _embed_texts(self, batch: list[str]) -> torch.Tensor:
        tokens = self._text_tokenizer(batch).to(self.device)  # (b, context)
        return cast(torch.Tensor, self._tower("text").encode_text(tokens))

    # Where the configuration and the weights are.

    def _from_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotFoundError(f"{self.name}: there is no folder {str(folder)!r}")
        saved = _read_config(folder / CONFIG)
        self._model = "clip"
        self._folder = folder
        self._config, self._preprocess = saved["model_cfg"], saved.get("preprocess_cfg", {})
        file = next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)
        if file is None:
            raise NotFoundError(
                f"{str(folder)!r} contains no weights: expected one of {', '.join(CHECKPOINTS)}"
            )
        self._source: Path | dict[str, Any] = file

    def _from_hub(self, repository: str) -> None:
        saved = _read_config(hub_file(repository, [CONFIG], f"the configuration of {self.name}"))
        self._model = f"clip:{HF_HUB_PREFIX}{repository}"
        self._config, self._preprocess = saved["model_cfg"], saved.get("preprocess_cfg", {})
        self._source = {"hf_hub": f"{repository}/"}

    def _from_name(self, weights: str) -> None:
        parts = weights.split("/")
        known = open_clip.list_models()
        # The paper writes ViT-B/32 for what open_clip calls ViT-B-32.
        cuts = [i for i in range(1, min(len(parts), 4) + 1) if "-".join(parts[:i]) in known]
        if not cuts:
            raise BadInputError(
                f"open_clip has no architecture {parts[0]!r}; {did_you_mean(parts[0], known)}"
            )
        architecture, rest = "-".join(parts[: cuts[0]]), "/".join(parts[cuts[0] :])
        self._config = open_clip.get_model_config(architecture)
        if tag := open_clip.get_pretrained_cfg(architecture, rest):
            self._model = f"clip:{architecture}/{rest}"
            self._preprocess, self._source = tag, tag
            if tag.get("quick_gelu", False):  # or the vectors are silently wrong, as for ViT-B-32/openai
                self._config["quick_gelu"] = True
            elif self._config.get("quick_gelu", False):
                raise BadInputError(
                    f"{rest!r} was not trained with the QuickGELU of {architecture!r}: use "
                    f"{architecture.removesuffix('-quickgelu')}/{rest}"
                )
            return
        self._model, self._preprocess = f"clip:{architecture}", {}
        file = Path(rest).expanduser()
        if rest and not file.is_file() and Path("/", rest).is_file():
            file = Path("/", rest)
        if not rest or not (file.is_file() or "/" in rest or file.suffix in SUFFIXES):
            tags = open_clip.list_pretrained_tags_by_model(architecture)
            raise BadInputError(
                f"{rest!r} is neither a tag of {architecture} nor a file; {did_you_mean(rest, tags)}"
            )
        if not file.is_file():
            raise NotFoundError(f"there is no weight file {str(file)!r} for {self.name}")
        if f"{architecture}-quickgelu" in known:  # a file does not say which activation it was trained with
            warnings.warn(
                f"{self.name}: weights of OpenAI and of its imitators need {architecture}-quickgelu/FILE, or "
                "their vectors are quietly wrong",
                stacklevel=2,
            )
        self._source = file

    @cached_property
    def checkpoint(self) -> Path:
        """The weight file, downloaded on first use.

        Raises:
            MissingError: it is neither cached nor downloadable.
        """
        if isinstance(self._source, Path):
            return self._source
        with self._lock, offline(self._offline):
            return _tag_file(f"the weight file of {self.name}", self._source)

    def _read_preprocessing(self) -> Preprocessing:
        settings = preprocess_settings(self._preprocess)
        size = self._config["vision_cfg"].get("image_size", settings["size"])
        height, width = (size, size) if isinstance(size, int) else size
        return Preprocessing(
            size=(height, width),
            resize=settings["resize_mode"],
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
            interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
            fill=settings["fill_color"],
        )

    def _family_name(self) -> str:
        return self._model

    def _sha256(self) -> str:
        return sha256_of(self.checkpoint)

    def _load_tokenizer(self) -> Any:
        return build_tokenizer(self._config, self._folder, self.name)

    def _load(self, tower: Tower) -> torch.nn.Module:
        state = state_of(read_checkpoint(self.checkpoint), self.checkpoint)
        source = repr(str(self.checkpoint))
        model = build_tower(tower, self._config, state, self.dtype, name=self._model, source=source)
        return model.to(self.device)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"there is no {CONFIG} in {str(path.parent)!r}")
    try:
        saved = json.loads(read_regular(path, 2**24).decode())
    except (ValueError, OSError, RecursionError) as error:
        raise BadInputError(f"{str(path)!r} is not readable as json: {first_line(error)}") from error
    model = saved.get("model_cfg") if isinstance(saved, dict) else None
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        raise BadInputError(f"{str(path)!r} lacks embed_dim, vision_cfg or text_cfg in its 'model_cfg'")
    return cast(dict[str, Any], saved)


def _tag_file(wanted: str, tag: dict[str, Any]) -> Path:
    """The weights of an open_clip tag: from the hub, or for a few tags from a plain url."""
    if repository := tag.get("hf_hub"):
        owner, _, file = repository.rpartition("/")
        file = file or "open_clip_pytorch_model.bin"
        safe = ["open_clip_model.safetensors"] if file == "open_clip_pytorch_model.bin" else []
        return hub_file(owner, [*safe, str(Path(file).with_suffix(".safetensors")), file], wanted)
    cached = cache_folders()["open_clip"] / os.path.basename(tag["url"])
    if not cached.is_file():
        require_network(tag["url"], wanted)
    try:
        file = Path(open_clip.download_pretrained_from_url(tag["url"]))
    except (OSError, RuntimeError) as error:
        raise MissingError(f"cannot download {wanted}: {first_line(error)}") from error
    note(file)
    return file


def found() -> Iterator[tuple[str, Path]]:
    """The names whose weights are in a cache, each with its weight file."""
    for architecture, name in open_clip.list_pretrained():
        tag = open_clip.get_pretrained_cfg(architecture, name)
        if architecture.endswith("-quickgelu") and not tag.get("quick_gelu", False):
            continue  # refused
        if (file := _cached_file(tag)) is not None:
            yield f"clip:{architecture}/{name}", file
    for repository, snapshot in snapshots():
        if (snapshot / CONFIG).is_file():
            files = (snapshot / known for known in CHECKPOINTS)
            if (file := next(filter(Path.is_file, files), None)) is not None:
                yield f"clip:{HF_HUB_PREFIX}{repository}", file


def _cached_file(tag: dict[str, Any]) -> Path | None:
    if not tag.get("hf_hub"):
        file = cache_folders()["open_clip"] / os.path.basename(tag["url"])
        return file if file.is_file() else None
    try:
        with offline():
            return _tag_file("its weight file", tag)
    except MissingError:  # not in the cache
        return None
