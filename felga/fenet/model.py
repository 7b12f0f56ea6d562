"""FENet: from frozen fragment vectors to fragment embeddings (FELGA, 3.2.4, Eq. 8)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

LAYERS = 3
"""Linear layers of the paper's FENet (4.5)."""


class FENet(nn.Module):
    """Eq. 8: one network for regions and keywords alike; its output has length 1.

    ``layers`` linear layers, ReLU and dropout between them, as in the paper (4.5): 4096-4096-512. With
    ``residual`` the last layer starts at zero and its output is added to the input, so that training
    starts from the frozen vector; then the output has the input's length.

    Args:
        dim: d, length of the frozen vectors.
        hidden: width of the hidden layers; without meaning for one layer.
        out: d', length of the output; with ``residual`` it must be ``dim``.
        layers: how many linear layers.
        dropout: share of hidden units dropped in training.
        residual: see above.
    """

    def __init__(
        self, dim: int, hidden: int, out: int, *, layers: int = LAYERS, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        if residual and out != dim:
            raise ValueError(f"a residual FENet gives what it takes: {dim}, not {out}")
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
