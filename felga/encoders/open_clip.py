"""CLIP encoders through open_clip: a hub tag, a local folder or a checkpoint file, frozen.

``clip:ARCH/TAG`` (weights from the hub or its cache), ``clip:ARCH/FILE``, ``clip:local-dir:FOLDER`` (as
open_clip saves it: ``open_clip_config.json`` beside the weights) and ``clip:hf-hub:OWNER/NAME``.
Preprocessing and tokenizer are those of the model's own configuration. Radford et al. 2021; Ilharco et al.,
OpenCLIP, 2021.
"""

from __future__ import annotations

import difflib
import json
import os
import threading
from copy import deepcopy
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import open_clip
import torch
from open_clip.factory import HF_HUB_PREFIX
from open_clip.pretrained import download_pretrained_from_url, get_pretrained_cfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from felga.encoders.crops import Preprocessing, encode_batches, encode_crops
from felga.encoders.one_pass import STRIDE, encode_one_pass
from felga.errors import BadInputError, MissingError, NotFoundError
from felga.models.device import pick_device
from felga.models.weights import (
    first_line,
    hub_file,
    load_exactly,
    read_checkpoint,
    require_network,
    sha256_of,
    state_of,
)
from felga.types import Boxes, DecodedImage, Vectors

Tower = Literal["visual", "text"]

LOCAL_DIR_PREFIX = "local-dir:"
CONFIG = "open_clip_config.json"
# The names that open_clip writes, best first.
CHECKPOINTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
    "pytorch_model.bin",
)
# The tower that is not wanted is built this small; it is never run.
STUNTED: dict[Tower, dict[str, Any]] = {
    "visual": {"image_size": 32, "patch_size": 32, "layers": 1, "width": 64, "head_width": 64},
    "text": {"context_length": 4, "vocab_size": 8, "layers": 1, "width": 64, "heads": 1},
}


def clip(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Clip:
    """The encoder ``clip:WEIGHTS``.

    Args:
        weights: ``ARCH/TAG``, ``ARCH/FILE``, ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``. A file is
            looked up as given, then from the root: ``ViT-B-32/models/b32.pt`` finds ``/models/b32.pt`` too.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; half precision on a GPU.
        batch_size: crops or texts in one forward pass.
        pooling: ``crop`` (None): a region is a forward pass of its own; ``roi``: one pass an image, for
            CLIP's ResNets, whose attention pools the region's features (RegionCLIP).

    Raises:
        BadInputError: unknown architecture or tag, or ``pooling`` is ``roi`` and it is no ResNet of CLIP.
        NotFoundError: the folder or its configuration is not there.
        MissingError: the hub cannot be reached and its cache lacks the model, or no such device.
    """
    if pooling not in (None, "crop", "roi"):
        raise BadInputError(f"clip has no pooling {pooling!r}; wanted crop or roi")
    if batch_size < 1:
        raise BadInputError(f"a batch of {batch_size} holds nothing; 1 at least")
    return Clip(weights, device=pick_device(device), batch_size=batch_size, pooling=pooling or "crop")


def working_side(side: int) -> int:
    """The longer side of an image in one pass: what conse has for 224 pixels, 384, in proportion."""
    return round(side * 12 / 7 / STRIDE) * STRIDE


class Clip:
    """A frozen CLIP. A tower is built and read from the checkpoint when it is first used.

    Attributes:
        name: ``clip:`` and the weights as they were asked for.
        dim: of the joint space.
    """

    def __init__(self, weights: str, *, device: torch.device, batch_size: int, pooling: str = "crop") -> None:
        self.name = f"clip:{weights}"
        self.device = device
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.batch_size = batch_size
        self._towers: dict[Tower, torch.nn.Module] = {}
        self._lock = threading.Lock()
        if weights.startswith(LOCAL_DIR_PREFIX):
            self._from_folder(Path(weights.removeprefix(LOCAL_DIR_PREFIX)).expanduser())
        elif weights.startswith(HF_HUB_PREFIX):
            self._from_hub(weights.removeprefix(HF_HUB_PREFIX))
        else:
            self._from_name(weights)
        self.dim = int(self._config["embed_dim"])
        self.preprocessing = self._read_preprocessing()
        self.pooling = pooling
        if pooling == "roi" and not isinstance(self._config["vision_cfg"].get("layers"), list):
            raise BadInputError(f"{self.name} has no feature map to pool regions from; use --pooling crop")

    def identity(self) -> dict[str, Any]:
        """Name, sha256 of the weight file, preprocessing. The precision is left out: vectors of half and of
        full precision compare, and an index made on a GPU is searched on a CPU."""
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": sha256_of(self.checkpoint),
            "preprocessing": self.preprocessing.settings(),
            "pooling": self.pooling,
        }

    def encode_regions(self, images: list[DecodedImage], boxes: list[Boxes]) -> list[Vectors]:
        """Unit vectors of crops: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, dim) float32.

        Raises:
            BadInputError: the checkpoint is truncated or of another architecture, or a box is not finite.
            NotFoundError: the checkpoint file is gone. MissingError: the hub cannot be reached.
        """
        if self.pooling == "roi":
            visual = self._tower("visual").visual
            return encode_one_pass(
                images,
                boxes,
                preprocessing=self.preprocessing,
                longer_side=working_side(self.preprocessing.size[0]),
                bins=self.preprocessing.size[0] // STRIDE,  # what its attention has positions for
                batch_size=self.batch_size,
                device=self.device,
                dtype=self.dtype,
                dim=self.dim,
                trunk=lambda x: cast(
                    torch.Tensor,
                    visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(x))))),
                ),
                head=lambda bins: cast(torch.Tensor, visual.attnpool(bins)),
            )
        return encode_crops(
            images,
            boxes,
            preprocessing=self.preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            dim=self.dim,
            forward=lambda batch: cast(torch.Tensor, self._tower("visual").encode_image(batch)),
        )

    def encode_texts(self, texts: list[str]) -> Vectors:
        """Unit vectors of texts: (n, dim) float32; a text longer than the model's context is cut off.

        Raises:
            As :meth:`encode_regions`.
        """

        def forward(batch: list[str]) -> torch.Tensor:
            tokens = self._tokenizer(batch).to(self.device)  # (b, context)
            return cast(torch.Tensor, self._tower("text").encode_text(tokens))

        return encode_batches(texts, batch_size=self.batch_size, dim=self.dim, forward=forward)

    # Where the configuration and the weights are.

    def _from_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotFoundError(f"{self.name}: there is no folder {str(folder)!r}")
        saved = _read_config(folder / CONFIG)
        self._architecture = f"{LOCAL_DIR_PREFIX}{folder}"
        self._config, self._preprocess = saved["model_cfg"], saved.get("preprocess_cfg", {})
        found = next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)
        if found is None:
            raise NotFoundError(f"{str(folder)!r} holds no weights: none of {', '.join(CHECKPOINTS)}")
        self._source: Path | dict[str, Any] = found

    def _from_hub(self, repository: str) -> None:
        saved = _read_config(hub_file(repository, [CONFIG], self.name))
        self._architecture = f"{HF_HUB_PREFIX}{repository}"
        self._config, self._preprocess = saved["model_cfg"], saved.get("preprocess_cfg", {})
        self._source = {"hf_hub": f"{repository}/"}

    def _from_name(self, weights: str) -> None:
        parts = weights.split("/")
        known = open_clip.list_models()
        # ViT-B/32 is how the paper writes what open_clip calls ViT-B-32
        cuts = [i for i in range(1, min(len(parts), 4) + 1) if "-".join(parts[:i]) in known]
        if not cuts:
            names = {name.lower(): name for name in known}
            near = difflib.get_close_matches(parts[0].lower(), names, 1)
            hint = f"did you mean {names[near[0]]!r}?" if near else "open_clip.list_models() tells them"
            raise BadInputError(f"open_clip knows no architecture {parts[0]!r}; {hint}")
        self._architecture = "-".join(parts[: cuts[0]])
        rest = "/".join(parts[cuts[0] :])
        self._config = open_clip.get_model_config(self._architecture)
        tags = open_clip.list_pretrained_tags_by_model(self._architecture)
        if tag := get_pretrained_cfg(self._architecture, rest):
            self._preprocess, self._source = tag, tag
            if tag.get("quick_gelu", False):  # or the vectors are quietly wrong, as for ViT-B-32/openai
                self._config["quick_gelu"] = True
            elif self._config.get("quick_gelu", False):
                raise BadInputError(
                    f"{rest!r} was not trained with the QuickGELU of {self._architecture!r}: "
                    f"use {self._architecture.removesuffix('-quickgelu')}/{rest}"
                )
            return
        self._preprocess = {}
        file = Path(rest).expanduser()
        looks_like_file = "/" in rest or file.suffix in (".pt", ".pth", ".bin", ".safetensors")
        if rest and not file.is_file() and Path("/", rest).is_file():
            file = Path("/", rest)
        if not rest or not (file.is_file() or looks_like_file):
            near = difflib.get_close_matches(rest, tags, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"tags: {', '.join(tags) or 'none'}"
            raise BadInputError(f"{rest!r} is neither weights of {self._architecture} nor a file; {hint}")
        if not file.is_file():
            raise NotFoundError(f"no weight file {str(file)!r} for {self.name}")
        self._source = file

    @cached_property
    def checkpoint(self) -> Path:
        """The weight file; downloaded when it is first asked for.

        Raises:
            MissingError: neither the hub nor its cache has it to give.
        """
        if isinstance(self._source, Path):
            return self._source
        return _tag_file(self.name, self._source)

    def _read_preprocessing(self) -> Preprocessing:
        wanted = merge_preprocess_dict(asdict(PreprocessCfg()), self._preprocess)
        size = self._config["vision_cfg"].get("image_size", wanted["size"])
        height, width = (size, size) if isinstance(size, int) else size
        return Preprocessing(
            size=(height, width),
            resize=wanted["resize_mode"],
            mean=tuple(wanted["mean"]),
            std=tuple(wanted["std"]),
            interpolation="bilinear" if wanted["interpolation"] == "bilinear" else "bicubic",
            fill=wanted["fill_color"],
        )

    # The model.

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            return open_clip.get_tokenizer(self._architecture)
        except (OSError, ImportError) as error:
            raise MissingError(
                f"the tokenizer of {self.name} cannot be had here: {first_line(error)}"
            ) from error

    def _tower(self, tower: Tower) -> Any:
        with self._lock:
            if tower not in self._towers:
                self._towers[tower] = self._load(tower)
            return self._towers[tower]

    def _load(self, tower: Tower) -> torch.nn.Module:
        state = state_of(read_checkpoint(self.checkpoint), self.checkpoint)
        config = deepcopy(self._config)
        separable = "multimodal_cfg" not in config and any(key.startswith("visual.") for key in state)
        if separable:
            config["text_cfg" if tower == "visual" else "vision_cfg"] = dict(
                STUNTED["text" if tower == "visual" else "visual"]
            )
        model = self._build(config)
        state = open_clip.convert.convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = open_clip.model.convert_to_custom_text_state_dict(state)
        for key in [k for k in state if k.endswith("position_ids")]:  # a constant that old files hold
            del state[key]
        for key in ("logit_scale", "logit_bias"):  # of the loss; scalar or (1,)
            state.pop(key, None)
        if separable:
            own = model.state_dict()
            other = {k: v for k, v in own.items() if k.startswith("visual.") != (tower == "visual")}
            mine = {k: v for k, v in state.items() if k.startswith("visual.") == (tower == "visual")}
            state = {**other, **mine}
        load_exactly(
            model,
            state,
            source=repr(str(self.checkpoint)),
            wanted=self._architecture,
            may_lack="logit_scale|logit_bias",
        )
        if separable and tower == "text":
            del model.visual
        return model.requires_grad_(False).to(self.device).eval()

    def _build(self, config: dict[str, Any]) -> torch.nn.Module:
        vision, text = config["vision_cfg"], config["text_cfg"]
        timm = "timm_model_name" in vision
        if timm:
            vision["timm_model_pretrained"] = False
        if "hf_model_name" in text:
            text["hf_model_pretrained"] = False
        custom = config.pop("custom_text", False) or "hf_model_name" in self._config["text_cfg"]
        kind = open_clip.CLIP
        if custom:
            kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
        cast_to = None if self.dtype == torch.float32 else self.dtype
        try:
            model = cast(torch.nn.Module, kind(**config, cast_dtype=cast_to))
        except (OSError, ImportError) as error:  # a text tower of the hub wants its configuration from there
            raise MissingError(f"{self.name} cannot be built here: {first_line(error)}") from error
        if cast_to is not None and timm:
            model.to(dtype=cast_to)
        elif cast_to is not None:
            open_clip.model.convert_weights_to_lp(model, dtype=cast_to)
        return model


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"there is no {CONFIG} in {str(path.parent)!r}")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError(f"{str(path)!r} is no json: {error}") from error
    model = saved.get("model_cfg") if isinstance(saved, dict) else None
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        raise BadInputError(
            f"{str(path)!r} tells no model: 'model_cfg' lacks embed_dim, vision_cfg or text_cfg"
        )
    return cast(dict[str, Any], saved)


def _tag_file(name: str, tag: dict[str, Any]) -> Path:
    """The weights of a tag of open_clip: from the hub, or for a few tags from a plain url."""
    wanted = f"the weight file of {name}"
    if repository := tag.get("hf_hub"):
        owner, _, file = repository.rpartition("/")
        file = file or "open_clip_pytorch_model.bin"
        safe = ["open_clip_model.safetensors"] if file == "open_clip_pytorch_model.bin" else []
        return hub_file(owner, [*safe, str(Path(file).with_suffix(".safetensors")), file], wanted)
    cached = Path("~/.cache/clip").expanduser() / os.path.basename(tag["url"])
    if not cached.is_file():
        require_network(tag["url"], wanted)
    try:
        return Path(download_pretrained_from_url(tag["url"]))
    except (OSError, RuntimeError) as error:
        raise MissingError(f"{wanted} cannot be had: {first_line(error)}") from error
