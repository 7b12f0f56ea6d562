"""BLIP through transformers: the unimodal embeddings of its image-text contrastive space, frozen.

``blip:FOLDER`` or ``blip:OWNER/NAME`` of the hub, such as ``blip:Salesforce/blip-itm-base-coco``. A region
is the projected [CLS] of the image transformer over its crop, a text the projected [CLS] of the text
transformer without an image: what BLIP's contrastive loss compares (Li et al. 2022, 3.2).

The ``blip-itm-*`` models of the hub are fine-tuned on COCO or Flickr30k. The BLIP of FELGA's paper is not
(4.2): it is the pre-trained ``model_base*.pth`` of the BLIP repository, which
``lavis:blip_feature_extractor/base`` loads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BlipConfig,
    BlipTextModel,
    BlipVisionModel,
)
from transformers.models.blip.modeling_blip import BlipPreTrainedModel

from felga.encoders.crops import Preprocessing
from felga.encoders.inputs import check_options
from felga.encoders.towers import Tower, TwoTowers
from felga.errors import BadInputError
from felga.models.device import pick_device
from felga.models.listing import cached_models
from felga.models.weights import first_line, load_pretrained, model_folder, sha256_of_folder, weight_files
from felga.types import Encoder

MAX_WORDS = 50


def blip(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Encoder:
    """The encoder ``blip:WEIGHTS``.

    Args:
        weights: a folder in transformers' format, or ``OWNER/NAME`` of the hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; half precision on a GPU.
        batch_size: crops or texts per forward pass.
        pooling: ``crop`` or None; each region is a forward pass.

    Raises:
        BadInputError: the folder contains another model, or ``pooling`` is ``roi``.
        NotFoundError: there is no such folder, or it has no weights.
        MissingError: a hub model is neither cached nor downloadable, or no such device.
    """
    return Blip(weights, device=device, batch_size=batch_size, pooling=pooling)


def found() -> Iterator[tuple[str, Path]]:
    """The names of BLIPs whose weights are in the hub's cache, each with its weight files."""
    yield from cached_models("blip", [Blip.model_type])


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
        output = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
        return cast(torch.Tensor, self.text_proj(output.last_hidden_state[:, 0]))


class Blip(TwoTowers):
    """A frozen BLIP.

    Attributes:
        folder: of the model.
    """

    family: ClassVar[str] = "blip"
    model_type: ClassVar[str] = "blip"
    towers: ClassVar[dict[Tower, type[Any]]] = {"visual": BlipVisionTower, "text": BlipTextTower}

    def __init__(self, weights: str, *, device: str, batch_size: int, pooling: str | None) -> None:
        check_options(self.family, batch_size=batch_size, pooling=pooling, known=("crop",))
        if not weights:
            raise BadInputError(
                f"{self.family} needs weights: {self.family}:FOLDER or {self.family}:OWNER/NAME of the hub"
            )
        super().__init__(f"{self.family}:{weights}", device=pick_device(device), batch_size=batch_size)
        self.folder = model_folder(weights, self.name)
        self._local = Path(weights).expanduser() == self.folder
        self.config = self._read_config()
        self.preprocessing = read_preprocessing(self.folder)
        weight_files(self.folder)

    @property
    def dim(self) -> int:
        """Of the joint space."""
        return int(self.config.image_text_hidden_size)

    def identity(self) -> dict[str, Any]:
        """As of :class:`TwoTowers`, with the preprocessing of texts."""
        return {**super().identity(), "texts": f"plain words, at most {MAX_WORDS}"}

    def _embed_pixels(self, batch: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self._tower("visual")(batch))

    def _embed_texts(self, batch: list[str]) -> torch.Tensor:
        tokens = self._text_tokenizer(
            [plain_words(text) for text in batch],
            padding=True,
            truncation=True,
            max_length=self._context,
            return_tensors="pt",
        ).to(self.device)
        return self._embed_tokens(tokens["input_ids"], tokens["attention_mask"])

    def _embed_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(b, tokens) twice -> (b, dim)."""
        return cast(torch.Tensor, self._tower("text")(ids, mask))

    @property
    def _context(self) -> int:
        return int(self.config.text_config.max_position_embeddings)

    def _family_name(self) -> str:
        return self.family if self._local else self.name

    def _sha256(self) -> str:
        return sha256_of_folder(self.folder)

    def _load(self, tower: Tower) -> nn.Module:
        return load_pretrained(self.towers[tower], self.folder, self.dtype, self.device)

    def _load_tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BadInputError(f"{str(self.folder)!r} has no tokenizer: {first_line(error)}") from error

    def _read_config(self) -> Any:
        try:
            config = AutoConfig.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BadInputError(f"{str(self.folder)!r} is not a model: {first_line(error)}") from error
        if config.model_type != self.model_type:
            raise BadInputError(
                f"{str(self.folder)!r} is a model of type {config.model_type!r}; {self.family} needs "
                f"{self.model_type!r}"
            )
        return config


def plain_words(text: str) -> str:
    """Lower case, without punctuation, at most 50 words: like the captions BLIP was trained on."""
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", text.lower()).split()[:MAX_WORDS])


def read_preprocessing(folder: Path) -> Preprocessing:
    """The image processor of a folder in transformers' format.

    Raises:
        BadInputError: there is none, or it does not resize to a fixed size.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{str(folder)!r} has no image processor: {first_line(error)}") from error
    size = dict(processor.size)
    mean, std = (tuple(map(float, values)) for values in (processor.image_mean, processor.image_std))
    interpolation = {2: "bilinear", 3: "bicubic"}.get(int(processor.resample), "")  # PIL's numbers
    if not interpolation or not {"height", "width"} <= size.keys():
        raise BadInputError(
            f"{str(folder)!r} resizes images to {size} with PIL's filter {processor.resample}; felga "
            "supports a fixed height and width, bilinear (2) or bicubic (3)"
        )
    return Preprocessing(
        size=(int(size["height"]), int(size["width"])),
        resize="squash",
        mean=cast(tuple[float, float, float], mean),
        std=cast(tuple[float, float, float], std),
        interpolation=cast(Literal["bicubic", "bilinear"], interpolation),
    )
