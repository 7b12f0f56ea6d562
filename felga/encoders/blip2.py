"""BLIP-2 through transformers: the unimodal embeddings of its image-text-contrastive space, frozen.

``blip2:FOLDER`` or ``blip2:OWNER/NAME`` of the hub, such as ``blip2:Salesforce/blip2-itm-vit-g``. A text is
the projected [CLS] of the Q-Former without any image. An image is Q = 32 projected query tokens, and the
paper scores it by the token that fits the text best (Li et al. 2023, 3.1, image-text contrastive learning).

Which token that is, only the query tells; an index is made before it, with one vector a region. felga keeps
the mean of the region's Q unit tokens, scaled to length 1: its cosine with a text is the mean of the tokens'
cosines with it, times a factor of the region alone. This is an approximation; what it costs is not measured.
:meth:`Blip2.encode_region_tokens` gives all Q tokens, for the exact score of the regions that were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from transformers import Blip2TextModelWithProjection, Blip2VisionModelWithProjection

from felga.encoders.blip import Blip, Tower
from felga.encoders.crops import encode_crops
from felga.types import Boxes, DecodedImage, Vectors


def blip2(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Blip2:
    """The encoder ``blip2:WEIGHTS``; arguments and errors are those of :func:`felga.encoders.blip.blip`."""
    return Blip2(weights, device=device, batch_size=batch_size, pooling=pooling)


class Blip2VisionTower(Blip2VisionModelWithProjection):  # type: ignore[misc]
    """The vision half of ``Blip2ForImageTextRetrieval``, key for key."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r".*"]  # the other tower's


class Blip2TextTower(Blip2TextModelWithProjection):  # type: ignore[misc]
    """The text half of ``Blip2ForImageTextRetrieval``, key for key."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r".*"]


class Blip2(Blip):
    """A frozen BLIP-2; a region is the mean of its query tokens (see the module's text)."""

    family = "blip2"
    model_type = "blip-2"
    towers: ClassVar[dict[Tower, type[Any]]] = {"visual": Blip2VisionTower, "text": Blip2TextTower}

    def identity(self) -> dict[str, Any]:
        """As of BLIP, and how a region's query tokens become one vector."""
        return {**super().identity(), "query_tokens": "mean"}

    def encode_region_tokens(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """All query tokens of regions: ``boxes[i]`` (n_i, 4) -> (n_i, Q, dim) float32, each of length 1.

        The paper's score of a region for a text is ``(tokens @ text).max(-1)``.
        """
        count = int(self.config.num_query_tokens)
        flat = encode_crops(
            images,
            boxes,
            preprocessing=self.preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            dim=self.dim,
            forward=lambda batch: self._tokens(batch).flatten(0, 1),  # (b * Q, dim)
            rows=count,
        )
        return [np.reshape(own, (-1, count, self.dim)) for own in flat]

    def _tokens(self, batch: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self._tower("visual")(pixel_values=batch).image_embeds)  # (b, Q, dim)

    def _embed_pixels(self, batch: torch.Tensor) -> torch.Tensor:
        return self._tokens(batch).float().mean(1)

    def _embed_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found = self._tower("text")(input_ids=ids, attention_mask=mask)
        return cast(torch.Tensor, found.text_embeds[:, 0])

    @property
    def _context(self) -> int:
        return int(self.config.qformer_config.max_position_embeddings)
