"""Train the FENet that ships inside the package, from an index of COCO's training images.

    felga index --coco COCO/annotations/captions_train2017.json --images COCO/train2017 --out INDEX
    python bench/packaged_fenet.py INDEX

Writes felga/fenet/weights/ENCODER.safetensors: the `locked` recipe, seed 0, trained on captions alone. The
metadata of the file say what it was made from; no image and no caption is in it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from felga.errors import BadInputError
from felga.evaluation.results import commit
from felga.fenet.packaged import WEIGHTS
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.store.pairs import features_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path, help="an index of COCO train2017 images with their captions")
    args = parser.parse_args()
    features = features_of(args.index)
    if features.region_features is None:
        raise BadInputError(f"{args.index} has no features of regions: index again with conse")
    fenet = train(features, make_recipe("locked"), seed=0, device="cpu")
    name = "".join(letter if letter.isalnum() else "-" for letter in features.encoder)
    path = WEIGHTS / f"{name}.safetensors"
    provenance = {
        "data": "captions of COCO train2017 images, and features of the images; no boxes, no class names",
        "images": len(features.usable),
        "captions": "COCO Consortium, CC BY 4.0",
        "image_licences": "each image under its own Flickr licence; none is in this file",
        "licence": "that of felga",
        "command": "python bench/packaged_fenet.py INDEX",
        "commit": commit(),
    }
    replace(fenet, provenance=provenance).save(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {len(features.usable)} pairs")


if __name__ == "__main__":
    main()
