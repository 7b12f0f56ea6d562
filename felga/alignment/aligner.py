"""AlignCap's trained middle between a frozen image network and a frozen decoder (Sun, Zhang, Ortiz).

Only an abstract is public. It names a Latent Feature Refinement Module, which "converts coarse vocabulary
tagging into image-conditioned fine-grained representations", and a Semantic Space Alignment module, which
"aligns multimodal inputs with a frozen LLM". **All formulas, widths and inputs here are our reading, none is
the authors'.** For a region with the 7 x 7 map F, of which 512 principal components are read, and tags with
MiniLM's vectors E:

* tagging: ``x = mean(F) W_x``, and the logit of a tag is ``a cos(x, E) + b``;
* Latent Feature Refinement: the m likeliest tags look at the map,
  ``c_i = LayerNorm(E_i + CrossAttention(E_i; F W_x))``;
* Semantic Space Alignment: ``m = mean(F) W_m + MLP([x; mean of c; sine of the box])``, the mean of c weighted
  by the tags' scores. It is compared with MiniLM's vectors of phrases; the decoder reads (m, c_1 .. c_m).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.models.minilm import DIM

TOP = 4
"""m, the tags that are refined."""
COMPONENTS = 512  # of the 1,280 channels
HEADS, WIDTH = 4, 128  # of the attention
WAVES, HIDDEN = 8, 768
DROPOUT = 0.2
FLOOR = 1e-4  # of a variance, as a share of the largest
SLOPE, BIAS = 20.0, -3 * math.log(99)  # of ObjEmbed's code, where training starts


Read = tuple[Tensor, Tensor]
"""Keys and values of cells: (b, heads, 49, 128 / heads) each."""


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
    """What is trained between the two frozen networks.

    Attributes:
        tags: (W, 384) unit vectors of the tags.
        center, basis: (1280,) and (1280, 512), as of :func:`principal`.
    """

    tags: Tensor
    center: Tensor
    basis: Tensor

    def __init__(self, tags: Tensor, center: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("tags", tags, persistent=False)
        self.register_buffer("center", center)
        self.register_buffer("basis", basis)
        self.dropout = nn.Dropout(DROPOUT)
        self.project = nn.Linear(COMPONENTS, DIM)
        self.log_slope = nn.Parameter(torch.tensor(math.log(SLOPE)))
        self.bias = nn.Parameter(torch.tensor(BIAS))
        self.query, self.key_value = nn.Linear(DIM, WIDTH), nn.Linear(DIM, 2 * WIDTH)
        self.mix = nn.Linear(WIDTH, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.direct = nn.Linear(COMPONENTS, DIM)
        last = nn.Linear(HIDDEN, DIM)
        nn.init.zeros_(last.weight)  # training starts at mean(F) W_m
        nn.init.zeros_(last.bias)
        self.joint = nn.Sequential(
            nn.LayerNorm(2 * DIM + 8 * WAVES),
            nn.Linear(2 * DIM + 8 * WAVES, HIDDEN),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            last,
        )

    def forward(self, cells: Tensor, places: Tensor) -> Aligned:
        """
        Args:
            cells: (b, 49, 1280) of :func:`felga.alignment.region_cells.region_cells`.
            places: (b, 4) of :func:`felga.alignment.region_cells.places`.
        """
        reduced = self.reduce(cells)
        states = self.states(reduced)
        return self.align(reduced.mean(1), states, self.read(states), places)

    def align(self, mean: Tensor, states: Tensor, read: Read, places: Tensor) -> Aligned:
        """Of reduced cells: their mean (b, 512), :meth:`states` (b, 49, 384), and what was :meth:`read`."""
        x = states.mean(1)
        logits = self.tag_logits(x)
        scores, top = logits.topk(min(TOP, len(self.tags)), 1)
        refined = self.refine(self.tags[top], read)
        weights = scores.detach().sigmoid()[..., None]
        pooled = (weights * refined).sum(1) / weights.sum(1)
        m = self.direct(mean) + self.joint(torch.cat([x, pooled, sines(places)], 1))
        return Aligned(x, logits, top, refined, pooled, m)

    def reduce(self, features: Tensor) -> Tensor:
        """Features (..., 1280) of cells, or their means, -> the principal components (..., 512)."""
        reduced: Tensor = (features.float() - self.center) @ self.basis
        return reduced

    def states(self, reduced: Tensor) -> Tensor:
        """Cells (b, 49, 512) of :meth:`reduce`, or means (b, 512), -> (b, 49, 384) or (b, 384): ``F W_x``.

        In training some components are dropped, the same ones in all cells of a region.
        """
        kept = torch.ones(len(reduced), *[1] * (reduced.ndim - 2), COMPONENTS, device=reduced.device)
        projected: Tensor = self.project(reduced * self.dropout(kept))
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
    """(b, n, 128) -> (b, heads, n, 128 / heads)."""
    return states.view(*states.shape[:2], HEADS, -1).transpose(1, 2)


@torch.no_grad()
def principal(means: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (1280,) and the first 512 principal components (1280, 512), of variance 1, of (N, 1280)."""
    center = means.mean(0)
    covariance = ((means - center).T @ (means - center)).double() / len(means)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values[-COMPONENTS:].flip(0), vectors[:, -COMPONENTS:].flip(1)
    return center, (vectors / (values + FLOOR * values[0]).sqrt()).float()


def sines(places: Tensor) -> Tensor:
    """(b, 4) shares -> (b, 64): sine and cosine of each at eight frequencies."""
    angles = places[..., None] * math.pi * 2.0 ** torch.arange(WAVES, device=places.device)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
