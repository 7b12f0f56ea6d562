"""Visual tokens: the last map of a frozen network, pooled to a grid (MIC21Summarizer, Eq. 1-3).

The paper reads ``p6`` of a Mask R-CNN, 256 channels pooled to 16 x 16. Here it is the map that conse reads:
1,280 channels of EfficientNet-Lite, such as 12 x 16 cells of an image of 4:3, pooled to 6 x 6.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.corpus.decode import read_image
from felga.files import write_whole
from felga.models.efficientnet import CHANNELS, DEFAULT, NETWORKS, shared_trunk
from felga.types import DecodedImage, Progress

GRID = 6
TOKENS = GRID * GRID
_SIZE = 2 * TOKENS * CHANNELS  # bytes of an image


def visual_tokens(image: DecodedImage, device: torch.device) -> npt.NDArray[np.float16]:
    """(36, 1280) float16, row by row; one pass of the network, shared with conse and the region head."""
    seen = shared_trunk(DEFAULT, device).maps(image).last
    pooled = F.adaptive_avg_pool2d(seen.float()[None], GRID)[0]
    tokens: npt.NDArray[np.float16] = pooled.flatten(1).T.half().cpu().numpy()
    return tokens


def visual_settings() -> dict[str, Any]:
    """Json values: what decides the tokens of an image, beside the code."""
    settings = shared_trunk(DEFAULT, torch.device("cpu")).settings()
    return {"network": DEFAULT, "weights": NETWORKS[DEFAULT].sha256, "pass": settings, "grid": GRID}


class Projection(nn.Module):
    """Eq. 3: norm, dropout, and a linear map into the space of the words' vectors.

    The paper does not say which norm: it is a layer norm over the channels. Learned positions tell the cells
    apart.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(CHANNELS), nn.Dropout(dropout)
        self.project = nn.Linear(CHANNELS, width)
        self.positions = nn.Parameter(0.02 * torch.randn(TOKENS, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, 36, 1280) -> (b, 36, width) float32."""
        projected: Tensor = self.project(self.dropout(self.norm(tokens.float()))) + self.positions
        return projected


class TokenFile:
    """The visual tokens of some images, in one file of fixed size per image.

    A run that was killed goes on with the next image; of another list of images all are made anew.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._list = folder / "tokens.bin", folder / "tokens.json"

    def fill(
        self, images: Sequence[tuple[str, Path]], device: torch.device, progress: Progress
    ) -> npt.NDArray[np.float16]:
        """Add the images (id, file) that are missing, and return the tokens of all: (n, 36, 1280), on disk.

        Raises:
            BadInputError: an image cannot be read.
        """
        wanted = json.dumps([visual_settings(), [image_id for image_id, _ in images]]).encode()
        if not self._list.exists() or self._list.read_bytes() != wanted:
            self._file.unlink(missing_ok=True)
            write_whole(self._list, wanted)
        with self._file.open("ab") as file:
            done = min(file.tell() // _SIZE, len(images))
            file.truncate(done * _SIZE)
            for number, (image_id, path) in enumerate(images[done:], done + 1):
                file.write(visual_tokens(read_image(path, image_id), device).tobytes())
                progress("visual tokens", number, len(images))
        return np.memmap(self._file, np.float16, "r", shape=(len(images), TOKENS, CHANNELS))
