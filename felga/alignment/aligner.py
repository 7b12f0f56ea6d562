"""AlignCap's trained middle between a frozen image network and a frozen decoder (Sun, Zhang, Ortiz).

Only an abstract is public. It names a Latent Feature Refinement Module, which "converts coarse vocabulary
tagging into image-conditioned fine-grained representations", and a Semantic Space Alignment module, which
"aligns multimodal inputs with a frozen LLM". **All formulas, widths and inputs here are our reading, none is
the authors'.** For a region with the 7 x 7 map F, and tags with MiniLM's vectors E:

* tagging: ``x = mean(F) W_x``, and the logit of a tag is ``a cos(x, E) + b``;
* Latent Feature Refinement: the m likeliest tags look at the map,
  ``c_i = LayerNorm(E_i + CrossAttention(E_i; F W_x))``;
* Semantic Space Alignment: ``m = MLP([x; mean of c; sine of the box])``, the mean weighted by the scores of
  the tags. It is compared with MiniLM's vectors of phrases, and (m, c_1 .. c_m) is the decoder's prefix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.models.efficientnet import CHANNELS
from felga.models.minilm import DIM

TOP = 8
"""m, the tags that are refined."""
HEADS, WAVES, HIDDEN = 4, 8, 768
DROPOUT = 0.2
SLOPE, BIAS = 20.0, -3 * math.log(99)  # of ObjEmbed's code, where training starts


Read = tuple[Tensor, Tensor]
"""Keys and values of cells: (b, heads, 49, 384 / heads) each."""


class Aligned(NamedTuple):
    """What a network says of b regions.

    Attributes:
        x: (b, 384), in the tags' space.
        logits: (b, W) of the tags.
        top: (b, m) the likeliest tags, best first.
        refined: (b, m, 384), c_i of these.
        pooled: (b, 384), the weighted mean of c_i.
        m: (b, 384), in the decoder's space.
    """

    x: Tensor
    logits: Tensor
    top: Tensor
    refined: Tensor
    pooled: Tensor
    m: Tensor

    @property
    def prefix(self) -> Tensor:
        """(b, 1 + m, 384), what a decoder reads."""
        return torch.cat([self.m[:, None], self.refined], 1)


class Aligner(nn.Module):
    """Attributes:
    tags: (W, 384) unit vectors of the tags.
    center, spread: (1280,) mean and standard deviation of the features that it was trained on.
    """

    tags: Tensor
    center: Tensor
    spread: Tensor

    def __init__(self, tags: Tensor, center: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("tags", tags, persistent=False)
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)
        self.dropout = nn.Dropout(DROPOUT)
        self.project = nn.Linear(CHANNELS, DIM)
        self.log_slope = nn.Parameter(torch.tensor(math.log(SLOPE)))
        self.bias = nn.Parameter(torch.tensor(BIAS))
        self.query, self.key_value, self.mix = (nn.Linear(DIM, n * DIM) for n in (1, 2, 1))
        self.norm = nn.LayerNorm(DIM)
        self.joint = nn.Sequential(
            nn.LayerNorm(2 * DIM + 8 * WAVES),
            nn.Linear(2 * DIM + 8 * WAVES, HIDDEN),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, DIM),
        )

    def forward(self, cells: Tensor, places: Tensor) -> Aligned:
        """
        Args:
            cells: (b, 49, 1280) of :func:`felga.alignment.region_cells.region_cells`.
            places: (b, 4) of :func:`felga.alignment.region_cells.places`.
        """
        states = self.states(cells)
        return self.align(states, self.read(states), places)

    def align(self, states: Tensor, read: Read, places: Tensor) -> Aligned:
        """Of what :meth:`states` (b, 49, 384) and :meth:`read` returned."""
        x = states.mean(1)
        logits = self.tag_logits(x)
        scores, top = logits.topk(min(TOP, len(self.tags)), 1)
        refined = self.refine(self.tags[top], read)
        weights = scores.detach().sigmoid()[..., None]
        pooled = (weights * refined).sum(1) / weights.sum(1)
        m = self.joint(torch.cat([x, pooled, sines(places)], 1))
        return Aligned(x, logits, top, refined, pooled, m)

    def states(self, features: Tensor) -> Tensor:
        """Features of cells (b, 49, 1280), or their means (b, 1280), -> (b, 49, 384) or (b, 384): ``F W_x``.

        In training some channels are dropped, the same ones in all cells of a region.
        """
        shape = (len(features), *[1] * (features.ndim - 2), CHANNELS)
        scale = self.dropout(torch.ones(shape, device=features.device)) / self.spread
        projected: Tensor = self.project((features.float() - self.center) * scale)
        return projected

    def tag_logits(self, x: Tensor) -> Tensor:
        """(b, 384) -> (b, W): ``a cos(x, E) + b``, with a and b learned."""
        return self.log_slope.exp() * F.normalize(x, dim=-1) @ self.tags.T + self.bias

    def read(self, states: Tensor) -> Read:
        """Keys and values of cells (b, 49, 384)."""
        keys, values = self.key_value(states).chunk(2, -1)
        return _heads(keys), _heads(values)

    def refine(self, queries: Tensor, read: Read) -> Tensor:
        """Tags (b, q, 384) look at the cells that were :meth:`read`: (b, q, 384)."""
        seen = F.scaled_dot_product_attention(_heads(self.query(queries)), *read)
        refined: Tensor = self.norm(queries + self.mix(seen.transpose(1, 2).flatten(2)))
        return refined


def _heads(states: Tensor) -> Tensor:
    """(b, n, 384) -> (b, heads, n, 384 / heads)."""
    return states.view(*states.shape[:2], HEADS, -1).transpose(1, 2)


def sines(places: Tensor) -> Tensor:
    """(b, 4) shares -> (b, 64): sine and cosine of each at eight frequencies."""
    angles = places[..., None] * math.pi * 2.0 ** torch.arange(WAVES, device=places.device)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
