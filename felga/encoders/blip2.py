"""BLIP-2 through transformers: the unimodal embeddings of its image-text contrastive space, frozen.

``blip2:FOLDER`` or ``blip2:OWNER/NAME`` of the hub, such as ``blip2:Salesforce/blip2-itm-vit-g``. A text is
the projected [CLS] of the Q-Former without an image. An image is Q = 32 projected query tokens, and the paper
scores it by the token that matches the text best (Li et al. 2023, 3.1, image-text contrastive learning).

Which token that is depends on the query, but an index holds one vector per region and precedes all queries.
felga stores the mean of the region's Q tokens, scaled to length 1: its cosine with a text is the mean of the
tokens' products with it, times a factor of the region alone. What this approximation costs is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from transformers import Blip2TextModelWithProjection, Blip2VisionModelWithProjection

from felga.encoders.blip import Blip
from felga.encoders.towers import Tower
from felga.models.listing import cached_models
from felga.types import Encoder


def blip2(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Encoder:
    """The encoder ``blip2:WEIGHTS``; arguments and errors are those of :func:`felga.encoders.blip.blip`."""
    return Blip2(weights, device=device, batch_size=batch_size, pooling=pooling)


def found() -> Iterator[tuple[str, Path]]:
    """The names of BLIP-2s whose weights are in the hub's cache, each with its weight files."""
    yield from cached_models("blip2", [Blip2.model_type])


class Blip2VisionTower(Blip2VisionModelWithProjection):  # type: ignore[misc]
    """The vision half of ``Blip2ForImageTextRetrieval``, key for key."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r".*"]  # the other tower's


class Blip2TextTower(Blip2TextModelWithProjection):  # type: ignore[misc]
    """The text half of ``Blip2ForImageTextRetrieval``, key for key."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r".*"]


class Blip2(Blip):
    """A frozen BLIP-2; a region is the mean of its query tokens (see the module)."""

    family = "blip2"
    model_type = "blip-2"
    towers: ClassVar[dict[Tower, type[Any]]] = {"visual": Blip2VisionTower, "text": Blip2TextTower}

    def identity(self) -> dict[str, Any]:
        """As of BLIP, and how a region's query tokens become one vector."""
        return {**super().identity(), "query_tokens": "mean"}

    def _embed_pixels(self, batch: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self._tower("visual")(pixel_values=batch).image_embeds  # (b, Q, dim)
        return tokens.float().mean(1)

    def _embed_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = self._tower("text")(input_ids=ids, attention_mask=mask)
        return cast(torch.Tensor, output.text_embeds[:, 0])

    @property
    def _context(self) -> int:
        return int(self.config.qformer_config.max_position_embeddings)
