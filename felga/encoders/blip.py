"""BLIP through transformers: the unimodal embeddings of its image-text-contrastive space, frozen.

``blip:FOLDER`` or ``blip:OWNER/NAME`` of the hub, such as ``blip:Salesforce/blip-itm-base-coco``. A region is
the projected [CLS] of the image transformer over its crop, a text the projected [CLS] of the text transformer
without any image: what BLIP's contrastive loss compares (Li et al. 2022, 3.2).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, BlipConfig, BlipTextModel, BlipVisionModel
from transformers.models.blip.modeling_blip import BlipPreTrainedModel

from felga.encoders.crops import Preprocessing, encode_batches, encode_crops
from felga.errors import BadInputError
from felga.models.device import pick_device
from felga.models.weights import first_line, load_pretrained, model_folder, sha256_of_folder, weight_files
from felga.types import Boxes, DecodedImage, Vectors

Tower = Literal["visual", "text"]

MAX_WORDS = 50


def blip(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Blip:
    """The encoder ``blip:WEIGHTS``.

    Args:
        weights: a folder of transformers' form, or ``OWNER/NAME`` of the hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; half precision on a GPU.
        batch_size: crops or texts in one forward pass.
        pooling: ``crop`` or None; a region is a forward pass of its own.

    Raises:
        BadInputError: the folder holds another model, or ``pooling`` is ``roi``.
        NotFoundError: no such folder, or no weights in it.
        MissingError: the hub cannot be reached and its cache lacks the model, or no such device.
    """
    return Blip(weights, device=device, batch_size=batch_size, pooling=pooling)


class BlipVisionTower(BlipPreTrainedModel):  # type: ignore[misc]
    """The vision half of ``BlipForImageTextRetrieval``, key for key."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r".*"]  # the other tower's

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config)
        self.vision_proj = nn.Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
        self.post_init()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, dim)."""
        hidden = self.vision_model(pixel_values=pixels).last_hidden_state  # (b, patches + 1, hidden)
        return cast(torch.Tensor, self.vision_proj(hidden[:, 0]))


class BlipTextTower(BlipPreTrainedModel):  # type: ignore[misc]
    """The text half of ``BlipForImageTextRetrieval``, key for key."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r".*"]

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.text_proj = nn.Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(b, tokens) twice -> (b, dim)."""
        found = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
        return cast(torch.Tensor, self.text_proj(found.last_hidden_state[:, 0]))


class Blip:
    """A frozen BLIP. A tower is read from the checkpoint when it is first used.

    Attributes:
        name: ``blip:`` and the weights as they were asked for.
        dim: of the joint space.
        folder: where the model lies.
    """

    family: ClassVar[str] = "blip"
    model_type: ClassVar[str] = "blip"
    towers: ClassVar[dict[Tower, type[Any]]] = {"visual": BlipVisionTower, "text": BlipTextTower}

    def __init__(self, weights: str, *, device: str, batch_size: int, pooling: str | None) -> None:
        if pooling not in (None, "crop"):
            told = f"pooling {pooling!r} is not to be had, use 'crop'"
            raise BadInputError(f"{self.family} encodes a region by its crop; {told}")
        if batch_size < 1:
            raise BadInputError(f"a batch of {batch_size} holds nothing; 1 at least")
        if not weights:
            raise BadInputError(f"{self.family} wants a folder or a hub name: {self.family}:OWNER/NAME")
        self.name = f"{self.family}:{weights}"
        self.device = pick_device(device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.batch_size = batch_size
        self.folder = model_folder(weights, self.name)
        self.config = self._read_config()
        self.dim = int(self.config.image_text_hidden_size)
        self.preprocessing = read_preprocessing(self.folder)
        self._loaded: dict[Tower, nn.Module] = {}
        self._lock = threading.Lock()
        weight_files(self.folder)

    def identity(self) -> dict[str, Any]:
        """Name, sha256 of the weights, preprocessing of crops and texts. The precision is left out: vectors
        of half and of full precision compare."""
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": sha256_of_folder(self.folder),
            "preprocessing": self.preprocessing.settings(),
            "texts": f"plain words, {MAX_WORDS} at most",
            "pooling": "crop",
        }

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of crops: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, dim) float32.

        Raises:
            BadInputError: the weights are truncated or of another model, or a box is not finite.
        """
        return encode_crops(
            images,
            boxes,
            preprocessing=self.preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            dim=self.dim,
            forward=self._embed_pixels,
        )

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts: (n, dim) float32.

        Raises:
            BadInputError: as :meth:`encode_regions`.
        """

        def forward(batch: list[str]) -> torch.Tensor:
            tokens = self._tokenizer(
                [plain_words(text) for text in batch],
                padding=True,
                truncation=True,
                max_length=self._context,
                return_tensors="pt",
            ).to(self.device)
            return self._embed_tokens(tokens["input_ids"], tokens["attention_mask"])

        return encode_batches(texts, batch_size=self.batch_size, dim=self.dim, forward=forward)

    def _embed_pixels(self, batch: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self._tower("visual")(batch))

    def _embed_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self._tower("text")(ids, mask))

    @property
    def _context(self) -> int:
        return int(self.config.text_config.max_position_embeddings)

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BadInputError(f"{str(self.folder)!r} holds no tokenizer: {first_line(error)}") from error

    def _read_config(self) -> Any:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BadInputError(f"{str(self.folder)!r} holds no model: {first_line(error)}") from error
        if config.model_type != self.model_type:
            raise BadInputError(
                f"{str(self.folder)!r} holds a model of type {config.model_type!r}; "
                f"{self.family} wants {self.model_type!r}"
            )
        return config

    def _tower(self, tower: Tower) -> nn.Module:
        with self._lock:
            if tower not in self._loaded:
                self._loaded[tower] = load_pretrained(
                    self.towers[tower], self.folder, self.dtype, self.device
                )
            return self._loaded[tower]


def plain_words(text: str) -> str:
    """Lower case, no sentence signs, 50 words at most: so were the captions that BLIP was trained on."""
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", text.lower()).split()[:MAX_WORDS])


def read_preprocessing(folder: Path) -> Preprocessing:
    """The image processor of a folder of transformers' form.

    Raises:
        BadInputError: it has none, or one that wants no resize to a fixed size.
    """
    try:
        wanted = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{str(folder)!r} holds no image processor: {first_line(error)}") from error
    size = dict(wanted.size)
    mean, std = (tuple(map(float, values)) for values in (wanted.image_mean, wanted.image_std))
    interpolation = {2: "bilinear", 3: "bicubic"}.get(int(wanted.resample), "")  # PIL's numbers
    if not interpolation or not {"height", "width"} <= size.keys():
        raise BadInputError(f"{str(folder)!r} wants images of {size}, resampled by {wanted.resample}")
    return Preprocessing(
        size=(int(size["height"]), int(size["width"])),
        resize="squash",
        mean=cast(tuple[float, float, float], mean),
        std=cast(tuple[float, float, float], std),
        interpolation=cast(Literal["bicubic", "bilinear"], interpolation),
    )
