"""Four images of noise, each with a caption of its own, in COCO's format."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

CAPTIONS = ["a red dog", "two cats on a sofa", "the man's boat", "an empty street"]


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """The folder: ``captions.json`` and ``images/``."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for at in range(len(CAPTIONS)):
        coarse = random.integers(0, 255, (3 + at, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((96, 64)).save(folder / "images" / f"{at}.png")
    rows = {
        "images": [{"id": at, "file_name": f"{at}.png"} for at in range(len(CAPTIONS))],
        "annotations": [{"id": at, "image_id": at, "caption": text} for at, text in enumerate(CAPTIONS)],
    }
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder
