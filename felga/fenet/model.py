"""FENet: from frozen fragment vectors to fragment embeddings (FELGA, 3.2.4, Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from felga.errors import BadInputError
from felga.fenet.recipes import Recipe
from felga.models.arrays import Arrays

LAYERS = 3
"""Linear layers of the paper's FENet (4.5)."""


class FENet(nn.Module):
    """Eq. 8: one network for both regions and keywords; its output has length 1.

    ``layers`` linear layers with ReLU and dropout in between, as in the paper (4.5): 4096-4096-512. With
    ``residual`` the last layer starts at zero and its output is added to the input, so that training
    starts from the frozen vectors; the output then has the input's length.

    Args:
        dim: d, length of the frozen vectors.
        hidden: width of the hidden layers; unused with one layer.
        out: d', length of the output; with ``residual`` it must be ``dim``.
        layers: number of linear layers.
        dropout: share of hidden units dropped in training.
        residual: see above.
    """

    def __init__(
        self, dim: int, hidden: int, out: int, *, layers: int = LAYERS, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        if residual and out != dim:
            raise ValueError(f"out of a residual FENet must be its input's length {dim}, got {out}")
        self.dim, self.out, self.residual = dim, out, residual
        parts: list[nn.Module] = []
        width = dim
        for _ in range(layers - 1):
            parts += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden
        last = nn.Linear(width, out)
        if residual:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.net = nn.Sequential(*parts, last)

    def forward(self, vectors: Tensor) -> Tensor:
        """Frozen unit vectors (..., d) to fragment embeddings (..., d') of length 1."""
        moved = cast(Tensor, self.net(vectors)).to(vectors.dtype)  # (..., d'); bfloat16 under autocast
        return nn.functional.normalize(vectors + moved if self.residual else moved, dim=-1)

    @torch.inference_mode()
    def apply_to(self, vectors: Tensor, batch: int = 8192) -> Tensor:
        """:meth:`forward` in evaluation mode over (n, d), ``batch`` rows at a time: (n, d')."""
        was_training = self.training
        self.eval()
        try:
            if not len(vectors):
                return vectors.new_empty(0, self.out)
            return torch.cat([self(part) for part in torch.split(vectors, batch)])  # (n, d')
        finally:
            self.train(was_training)


def build(recipe: Recipe, dim: int) -> FENet:
    """The untrained network of a recipe for frozen vectors of length ``dim``."""
    return FENet(
        dim,
        recipe.hidden,
        recipe.length_of(dim),
        layers=recipe.layers,
        dropout=recipe.dropout,
        residual=recipe.residual,
    )


def network(recipe: Recipe, dim: int, arrays: Mapping[str, npt.NDArray[Any]]) -> FENet:
    """The network with trained weights, in evaluation mode; they share the memory of ``arrays``."""
    with torch.device("meta"):  # no weights are allocated or drawn
        net = build(recipe, dim)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, assign=True)
    return net.eval()


def arrays_of(net: FENet) -> Arrays:
    """A network's weights by name, copied to numpy."""
    return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def put_arrays(net: FENet, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copy weights of :func:`arrays_of` into a network.

    Raises:
        BadInputError: they are another network's.
    """
    try:
        net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    except (RuntimeError, TypeError) as error:
        raise BadInputError("the weights do not fit the network of the recipe") from error
