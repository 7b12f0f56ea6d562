"""DETReg: class-agnostic boxes of a self-supervised Deformable DETR (Bar et al. 2022), by objectness.

``detreg:FILE`` reads a checkpoint written by the authors' code; its keys are renamed for transformers'
Deformable DETR, which is pure PyTorch. ``detreg:FOLDER`` and ``detreg:OWNER/NAME`` read a Deformable DETR in
transformers' format. ``#SHORT/LONG`` after any of them resizes images otherwise than the authors' inference:
``detreg:FILE#480/600`` as in their pre-training.
"""

from __future__ import annotations

import argparse
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torchvision.transforms.v2 import functional as F

from felga.errors import BadInputError
from felga.models.device import pick_device
from felga.models.weights import (
    first_line,
    load_exactly,
    load_pretrained,
    model_folder,
    read_checkpoint,
    sha256_of,
    sha256_of_folder,
    state_of,
)
from felga.proposals.regions import as_regions
from felga.types import DecodedImage, Region

State = dict[str, torch.Tensor]
Objectness = Literal["label 1", "best class"]

VERSION = 2
"""Raised when the same settings yield other regions."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
SHORT_LONG = (800, 1333)
"""Shorter side and limit of the longer side: those of the authors' ``--eval`` and ``--viz``."""
SMALLEST = 32  # the backbone's stride

# Keys of the authors' code -> keys of transformers; a key that no rule matches keeps its name.
RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.0\.body\.", "model.backbone.model."),
        (r"^input_proj\.", "model.input_proj."),
        (r"^query_embed\.weight$", "model.query_position_embeddings.weight"),
        (r"^transformer\.(level_embed|reference_points)", r"model.\1"),
        (r"^transformer\.(encoder|decoder)\.layers\.", r"model.\1.layers."),
        (r"(encoder\.layers\.\d+)\.norm1\.", r"\1.self_attn_layer_norm."),
        (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.final_layer_norm."),
        (r"(decoder\.layers\.\d+)\.norm1\.", r"\1.encoder_attn_layer_norm."),
        (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
        (r"(decoder\.layers\.\d+)\.norm3\.", r"\1.final_layer_norm."),
        (r"(decoder\.layers\.\d+)\.cross_attn\.", r"\1.encoder_attn."),
        (r"(decoder\.layers\.\d+)\.self_attn\.out_proj\.", r"\1.self_attn.o_proj."),
        (r"(coder\.layers\.\d+)\.linear([12])\.", r"\1.mlp.fc\2."),
    )
]


class Converted(NamedTuple):
    """A checkpoint of the authors' code under transformers' keys.

    Attributes:
        state: for ``DeformableDetrForObjectDetection``.
        embedding: the pre-training head, which felga does not use; empty after finetuning.
    """

    state: State
    embedding: State


def convert(state: Mapping[str, torch.Tensor]) -> Converted:
    """Rename the keys of the authors' checkpoint; self-attention's joint in_proj is split into q, k and v.

    Args:
        state: its ``model`` entry, with or without the ``module.`` prefix of data-parallel training.
    """
    new: State = {}
    embedding: State = {}
    for old, value in state.items():
        key = old.removeprefix("module.")
        if key.startswith("feature_embed."):
            embedding[key] = value
            continue
        for pattern, replacement in RULES:
            key = pattern.sub(replacement, key)
        if joint := re.fullmatch(r"(.*self_attn)\.in_proj_(weight|bias)", key):
            for name, part in zip("qkv", value.chunk(3), strict=True):
                new[f"{joint[1]}.{name}_proj.{joint[2]}"] = part
        else:
            new[key] = value
    return Converted(new, embedding)


def detreg(argument: str, *, device: str = "auto") -> Detreg:
    """The proposer ``detreg:WEIGHTS``.

    Args:
        argument: a checkpoint of the authors' code, a folder in transformers' format, or a hub's OWNER/NAME;
            and ``#SHORT/LONG``, the shorter side and the limit of the longer side that images are resized to.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BadInputError: no argument, or sides that are no sizes.
        NotFoundError: no such file or folder.
        MissingError: the model is not cached and the hub cannot be reached, or no such device.
    """
    if not argument:
        raise BadInputError("detreg needs weights: detreg:FILE, detreg:FOLDER or detreg:OWNER/NAME")
    weights, mark, size = argument.rpartition("#")
    if not mark or Path(argument).expanduser().exists():
        return Detreg(argument, pick_device(device))
    return Detreg(weights, pick_device(device), _sides(size))


def _sides(size: str) -> tuple[int, int]:
    short, _, long = size.partition("/")
    if not (short.isdecimal() and long.isdecimal() and SMALLEST <= int(short) <= int(long)):
        raise BadInputError(
            f"detreg's size is #SHORT/LONG, such as #480/600, from {SMALLEST} pixels on: got #{size}"
        )
    return int(short), int(long)


class Detreg:
    """The best boxes of a Deformable DETR by objectness; as in the paper, without non-maximum suppression.

    The score is the sigmoid of label 1 in a pre-trained checkpoint (self-supervision has no other label), and
    of the best class in a finetuned one, which is recognized by its lack of the object embedding head. The
    authors' ``--viz`` ranks by the softmax over all labels instead; with trained weights the two orders
    differ little, because the other labels are far below.
    """

    def __init__(self, weights: str, device: torch.device, short_long: tuple[int, int] = SHORT_LONG) -> None:
        size = "" if short_long == SHORT_LONG else f"#{short_long[0]}/{short_long[1]}"
        self.name = f"detreg:{weights}{size}"
        self.device = device
        self.short_long = short_long
        file = Path(weights).expanduser()
        self._is_file = file.is_file() or file.suffix in (".pth", ".pt", ".safetensors")
        self.path = file if self._is_file else model_folder(weights, self.name)
        self._sha256 = sha256_of(self.path) if self._is_file else sha256_of_folder(self.path)
        self._lock = threading.Lock()

    def settings(self) -> dict[str, Any]:
        """The sha256 of the weights, how objectness is read, and the sides that images are resized to.

        Raises:
            BadInputError: the checkpoint is truncated or of another architecture.
        """
        with self._lock:
            _, objectness = self._model
        return {
            "name": "detreg",
            "version": VERSION,
            "weights": self._sha256,
            "objectness": objectness,
            "short_long": list(self.short_long),
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image its ``top`` best boxes; one forward pass per image.

        Raises:
            BadInputError: the checkpoint is truncated or of another architecture.
        """
        return [self._propose(image, top) for image in images]

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        with self._lock, torch.inference_mode():
            model, objectness = self._model
            pixels = self._pixels(image)
            mask = torch.ones(pixels.shape[:1] + pixels.shape[2:], dtype=torch.long, device=self.device)
            output = model(pixel_values=pixels, pixel_mask=mask)
            chances = output.logits[0].float().sigmoid()  # (queries, labels)
            scores = chances[:, 1] if objectness == "label 1" else chances.max(1).values
            x, y, width, height = output.pred_boxes[0].float().unbind(1)  # shares of the image
            corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
        return as_regions(image, corners.cpu().numpy(), scores.cpu().numpy(), top, frame=(1, 1))

    def _pixels(self, image: DecodedImage) -> torch.Tensor:
        height, width = image.pixels.shape[:2]
        size = [max(SMALLEST, side) for side in resized(height, width, *self.short_long)]
        tensor = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1).to(self.device)
        tensor = F.resize(tensor, size, antialias=True).float().div_(255)
        return F.normalize(tensor, list(MEAN), list(STD))[None]  # type: ignore[no-any-return]

    @cached_property
    def _model(self) -> tuple[Any, Objectness]:
        from transformers import AutoConfig, DeformableDetrForObjectDetection

        if self._is_file:
            return self._from_file()
        config = AutoConfig.from_pretrained(self.path, local_files_only=True)
        if config.model_type != "deformable_detr":
            raise BadInputError(
                f"{str(self.path)!r} holds a {config.model_type!r} model: detreg needs 'deformable_detr'"
            )
        architecture = DeformableDetrForObjectDetection
        return load_pretrained(architecture, self.path, torch.float32, self.device), "best class"

    def _from_file(self) -> tuple[Any, Objectness]:
        from transformers import DeformableDetrForObjectDetection

        checkpoint = read_checkpoint(self.path, allowed=[argparse.Namespace])
        old = state_of(checkpoint, self.path)
        options = checkpoint.get("args")
        options = vars(options) if isinstance(options, argparse.Namespace) else {}
        source = repr(str(self.path))
        config = architecture(old, options, source)
        try:
            new, embedding = convert(old)
            model = DeformableDetrForObjectDetection(config)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:  # an unknown backbone, odd sizes
            raise BadInputError(f"{source} is not a Deformable DETR: {first_line(error)}") from error
        load_exactly(model, new, source=source, wanted="Deformable DETR")
        objectness: Objectness = "label 1" if embedding else "best class"
        return model.requires_grad_(False).to(self.device).eval(), objectness


def resized(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """The size (height, width) at which DETReg sees an image: as the authors round it.

    The shorter side becomes ``short``, or less where the longer one would exceed ``long``; the longer side is
    truncated, not rounded.
    """
    smaller, larger = min(height, width), max(height, width)
    if larger / smaller * short > long:
        short = round(long * smaller / larger)
    longer = int(short * larger / smaller)
    return (short, longer) if height <= width else (longer, short)


def architecture(state: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: str) -> Any:
    """The configuration of a checkpoint of the authors' code, from its shapes and its saved options.

    Args:
        options: the options that the checkpoint was trained with; without ``backbone``, ``nheads`` and
            ``dilation`` those of DETReg's releases are assumed.
        source: names the checkpoint in errors.

    Raises:
        BadInputError: not a Deformable DETR, a variant that DETReg does not use (two stages, box refinement),
            or options that are no backbone or number of heads.
    """
    from transformers import DeformableDetrConfig

    shapes = {key.removeprefix("module."): tuple(value.shape) for key, value in state.items()}
    if any(key.startswith("transformer.decoder.bbox_embed.") for key in shapes):
        raise BadInputError(
            f"{source} is a Deformable DETR with box refinement or two stages, which DETReg does not have"
        )
    backbone, heads = _options(options, source)

    def layers(part: str) -> int:
        return len({m[1] for k in shapes if (m := re.match(rf"transformer\.{part}\.layers\.(\d+)\.", k))})

    try:
        queries, twice = shapes["query_embed.weight"]
        levels, _ = shapes["transformer.level_embed"]
        points = {
            part: shapes[f"transformer.{part}.layers.0.{attention}.attention_weights.bias"][0]
            // (heads * levels)
            for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn"))
        }
        return DeformableDetrConfig(
            num_labels=shapes["class_embed.0.weight"][0],
            num_queries=queries,
            d_model=twice // 2,
            num_feature_levels=levels,
            encoder_layers=layers("encoder"),
            decoder_layers=layers("decoder"),
            encoder_ffn_dim=shapes["transformer.encoder.layers.0.linear1.bias"][0],
            decoder_ffn_dim=shapes["transformer.decoder.layers.0.linear1.bias"][0],
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_n_points=points["encoder"],
            decoder_n_points=points["decoder"],
            backbone=backbone,
            dilation=bool(options.get("dilation", False)),
            use_pretrained_backbone=False,
            disable_custom_kernels=True,
        )
    except KeyError as error:
        raise BadInputError(f"{source} is not a checkpoint of Deformable DETR: it lacks {error}") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise BadInputError(
            f"{source} is not a checkpoint of Deformable DETR: {first_line(error)}"
        ) from error


def _options(options: Mapping[str, Any], source: str) -> tuple[str, int]:
    """Backbone and attention heads of a checkpoint's options.

    Raises:
        BadInputError: a backbone that is not a plain name (timm would fetch ``hf-hub:OWNER/NAME`` from the
            hub), or heads that are not a number.
    """
    backbone, heads = options.get("backbone", "resnet50"), options.get("nheads", 8)
    if not (isinstance(backbone, str) and re.fullmatch(r"\w+", backbone)):
        raise BadInputError(f"{source} has the backbone {backbone!r}: expected a name such as resnet50")
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise BadInputError(f"{source} has {heads!r} attention heads: expected a positive integer")
    return backbone, heads
