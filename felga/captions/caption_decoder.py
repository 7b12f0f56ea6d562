"""A small decoder that reads a prefix of vectors and writes words: MIC21Summarizer's (Eq. 4-9).

The prefix is whatever is to be told: the visual tokens of an image, or any other vectors of the same width.
The words' vectors are frozen, before the decoder and after it (Eq. 4, 9); it learns its layers and positions.

Two choices are not the paper's:

* **The mask.** Eq. 7 prints 0 where the prefix meets the words: the prefix then sees all words, and from the
  second layer on each word reads its successors there. Under teacher forcing the answer leaks. With
  ``mask="prefix"`` the prefix sees itself, and a word the prefix and its own past; ``mask="printed"`` is the
  paper's.
* **The scale.** Eq. 6 divides by the square root of d, with 8 heads. Each head's product has d / 8 terms, so
  here it is the square root of d / 8, as in Vaswani et al. (2017); the queries can learn the constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.errors import BadInputError

Mask = Literal["prefix", "printed"]
Pair = tuple[Tensor, Tensor]
"""Keys and values: (rows, heads, tokens, width / heads) each."""
START, END, UNKNOWN = 0, 1, 2
"""The first rows of every table of words."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a decoder is made of, beside the table of words.

    Attributes:
        layers, heads: the paper has 3 and 8.
        inner: width of the feed-forward layers.
        longest: words of a caption at most, the start included.
        mask: see above.
        dropout: of the layers and of the positions.
    """

    layers: int = 3
    heads: int = 8
    inner: int = 512
    longest: int = 32
    mask: Mask = "prefix"
    dropout: float = 0.1

    def to_json(self) -> dict[str, Any]:
        """Json values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Shape:
        """Of :meth:`to_json`.

        Raises:
            TypeError: other names.
        """
        return cls(**values)


class CaptionDecoder(nn.Module):
    """Words from a prefix of vectors.

    Attributes:
        table: (words, width) float32, the frozen vectors; rows :data:`START`, :data:`END` and
            :data:`UNKNOWN` come first. Not among the weights.
        shape: see :class:`Shape`.
    """

    table: Tensor

    def __init__(self, table: Tensor, shape: Shape) -> None:
        """
        Raises:
            BadInputError: the width of the table cannot be shared among the heads.
        """
        super().__init__()
        width = table.shape[1]
        if width % shape.heads:
            raise BadInputError(f"vectors of {width} numbers cannot be shared among {shape.heads} heads")
        self.shape = shape
        self.register_buffer("table", table.float(), persistent=False)
        self.positions = nn.Parameter(0.02 * torch.randn(shape.longest, width))
        self.layers = nn.ModuleList(Layer(width, shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(shape.dropout)

    @property
    def width(self) -> int:
        """Of the prefix and of the words' vectors."""
        return self.table.shape[1]

    def forward(self, prefix: Tensor, words: Tensor, owners: Tensor) -> Tensor:
        """Logits (n, t, words of the table) of each word's successor; arguments of :meth:`states`."""
        return self.scores(self.states(prefix, words, owners))

    def states(self, prefix: Tensor, words: Tensor, owners: Tensor) -> Tensor:
        """Teacher forcing: all words of a caption in one pass (Eq. 12).

        Args:
            prefix: (b, p, width).
            words: (n, t) int64 rows of the table, from :data:`START`; padded with :data:`END`.
            owners: (n,) int64: whose words these are, a row of ``prefix``. With ``mask="prefix"`` a prefix is
                read once, however many captions it has.

        Returns:
            (n, t, width), which :meth:`scores` turns into the logits of each word's successor.
        """
        if self.shape.mask == "printed":
            return self._printed(prefix[owners], words)
        length = words.shape[1]
        seen = torch.ones(length, prefix.shape[1] + length, dtype=torch.bool, device=words.device)
        seen = seen.tril(prefix.shape[1])
        states = self.embed(words)
        for layer, (keys, values) in zip(self.layers, self.read(prefix), strict=True):
            states, _ = layer(states, (keys[owners], values[owners]), seen)
        return states

    def read(self, prefix: Tensor) -> list[Pair]:
        """Keys and values of a prefix (b, p, width) in every layer; they do not depend on the words."""
        read = []
        for layer in self.layers:
            prefix, own = layer(prefix, None, None)
            read.append(own)
        return read

    def embed(self, words: Tensor, first: int = 0) -> Tensor:
        """(n, t) rows of the table -> (n, t, width); ``first`` is the position of the first of them."""
        placed: Tensor = self.table[words] + self.positions[first : first + words.shape[1]]
        dropped: Tensor = self.dropout(placed)
        return dropped

    def scores(self, states: Tensor) -> Tensor:
        """(..., width) -> (..., words): the products with the frozen vectors (Eq. 9)."""
        return F.linear(self.norm(states), self.table)

    def _printed(self, prefix: Tensor, words: Tensor) -> Tensor:
        """With the mask of Eq. 7-8; padding is hidden from the prefix."""
        size, length = prefix.shape[1], words.shape[1]
        seen = torch.ones(len(words), 1, size + length, size + length, dtype=torch.bool, device=words.device)
        seen[:, :, size:] = seen[0, 0, size:].tril(size)
        seen[:, 0, :size, size:] = (words != END)[:, None, :]
        states = torch.cat([prefix, self.embed(words)], 1)
        for layer in self.layers:
            states, _ = layer(states, None, seen)
        return states[:, size:]


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each normed before and added after."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.heads, self.rate = shape.heads, shape.dropout
        self.norm, self.joint = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.inner_norm, self.inner = nn.LayerNorm(width), nn.Linear(width, shape.inner)
        self.outer = nn.Linear(shape.inner, width)

    def forward(self, states: Tensor, before: Pair | None, seen: Tensor | None) -> tuple[Tensor, Pair]:
        """
        Args:
            states: (n, t, width).
            before: keys and values that stand before those of ``states``.
            seen: (t, keys) or (n, 1, t, keys), True where a state may look; None: everywhere.

        Returns:
            The new states, and their own keys and values.
        """
        rows, tokens, width = states.shape
        joint = self.joint(self.norm(states)).view(rows, tokens, 3, self.heads, -1)
        query, key, value = joint.permute(2, 0, 3, 1, 4)  # (n, heads, t, width / heads)
        keys, values = key, value
        if before is not None:
            keys, values = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        mixed = F.scaled_dot_product_attention(query, keys, values, seen)
        mixed = self.mix(mixed.transpose(1, 2).reshape(rows, tokens, width))
        states = states + self._dropped(mixed)
        inner = F.gelu(self.inner(self.inner_norm(states)))
        return states + self._dropped(self.outer(inner)), (key, value)

    def _dropped(self, states: Tensor) -> Tensor:
        return F.dropout(states, self.rate, self.training)
