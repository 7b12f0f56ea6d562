"""FENet: from frozen fragments to fragment embeddings (FELGA, 3.2.4, Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from felga.errors import BadInputError
from felga.fenet.closed_form import ClosedForm, joined
from felga.fenet.recipes import Recipe
from felga.models.arrays import Arrays
from felga.types import RegionFeatures, Vectors

LAYERS = 3
"""Linear layers of the paper's FENet (4.5)."""


class FENet(nn.Module):
    """Eq. 8: a network for both regions and keywords, or locked: for regions alone. Its output has length 1.

    ``layers`` linear layers with ReLU and dropout in between, as in the paper (4.5): 4096-4096-512. With
    ``residual`` the last layer starts at zero and its output is added to the first ``out`` entries of the
    input, so that training starts from the frozen vectors; a locked network has principal components of the
    features behind them.

    Args:
        dim: length of the input: d, or d + c.
        hidden: width of the hidden layers; unused with one layer.
        out: d', length of the output; with ``residual`` at most ``dim``.
        layers: number of linear layers.
        dropout: share of hidden units dropped in training.
        residual: see above.
        scale: of the input of the first layer.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        out: int,
        *,
        layers: int = LAYERS,
        dropout: float,
        residual: bool,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if residual and out > dim:
            raise ValueError(f"out of a residual FENet must be at most its input's length {dim}, got {out}")
        self.dim, self.out, self.residual, self.scale = dim, out, residual, scale
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
        """Unit vectors, or a locked network's inputs, (..., dim) to embeddings (..., d') of length 1."""
        inputs = vectors * self.scale if self.scale != 1 else vectors
        moved = cast(Tensor, self.net(inputs)).to(vectors.dtype)  # (..., d'); bfloat16 under autocast
        if self.residual:
            moved = moved + vectors[..., : self.out]
        return nn.functional.normalize(moved, dim=-1)

    @torch.inference_mode()
    def embed(self, vectors: Vectors, batch: int = 8192) -> Vectors:
        """:meth:`forward` in evaluation mode, on the network's device: (n, dim) to (n, d') float32."""
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        try:
            parts = [np.empty((0, self.out), np.float32)]
            for at in range(0, len(vectors), batch):
                part = torch.tensor(vectors[at : at + batch], dtype=torch.float32, device=device)
                parts.append(self(part).cpu().numpy())
            return np.concatenate(parts)
        finally:
            self.train(was_training)


@dataclass(frozen=True)
class Embedder:
    """The :class:`felga.types.Embedding` of a network: shared, or locked with a closed form beside it.

    Attributes:
        ridge: of the recipe.
    """

    net: FENet
    closed_form: ClosedForm | None
    ridge: float

    def regions(self, vectors: Vectors, features: RegionFeatures | None) -> Vectors:
        """Eq. 8, or locked: the network's output and the ridge embedding side by side, of length 1.

        Raises:
            BadInputError: a locked network gets no features, or such of another length.
        """
        if self.closed_form is None:
            return self.net.embed(vectors)
        moved = self.net.embed(self.closed_form.inputs(vectors, features))
        return joined(moved, self.closed_form.ridge_embeddings(vectors, features), self.ridge)

    def keywords(self, vectors: Vectors) -> Vectors:
        """Eq. 8, or locked: the closed form's fixed map."""
        if self.closed_form is None:
            return self.net.embed(vectors)
        return self.closed_form.keywords(vectors, self.ridge)


def build(recipe: Recipe, dim: int, components: int = 0) -> FENet:
    """The untrained network for vectors of length ``dim``, with ``components`` beside them if locked."""
    return FENet(
        dim + components,
        recipe.hidden,
        recipe.length_of(dim),
        layers=recipe.layers,
        dropout=recipe.dropout,
        residual=recipe.residual,
        scale=recipe.input_scale,
    )


def network(recipe: Recipe, dim: int, arrays: Mapping[str, npt.NDArray[Any]], components: int = 0) -> FENet:
    """The network with trained weights, in evaluation mode; float32 ones share the memory of ``arrays``."""
    with torch.device("meta"):  # no weights are allocated or drawn
        net = build(recipe, dim, components)
    net.load_state_dict(
        {name: torch.from_numpy(array).float() for name, array in arrays.items()}, assign=True
    )
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
