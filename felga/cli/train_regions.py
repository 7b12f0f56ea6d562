"""``felga train-regions``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felga.cli import flags
from felga.cli.output import say
from felga.cli.progress import RESUME, progress
from felga.files import shown


def train_regions(
    instances: Annotated[Path, typer.Argument(help="COCO's instances json: boxes, whatever their classes.")],
    images: Annotated[Path, typer.Argument(help="The folder of its images.")],
    out: Annotated[Path, typer.Option(help="The weights to write, for --regions learned:FILE.")] = Path(
        "regions.safetensors"
    ),
    supervision: Annotated[
        str | None, typer.Option(help="Whose boxes these are; recorded. [default: the file's name]")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Learn from the boxes of these classes alone, comma-separated.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How often each view of an image is seen.")] = None,
    seed: flags.Seed = 0,
    resume: flags.Resume = False,
    device: flags.Device = "auto",
) -> None:
    """Train the region proposer `learned` on boxes in COCO's format; it learns no classes."""
    if epochs is not None:
        flags.at_least_one(epochs=epochs)
    from felga.proposals import region_training

    with progress(RESUME) as show:
        region_training.train_regions(
            instances,
            images,
            out,
            supervision=supervision or f"boxes of {shown(instances.name)}, no class names",
            classes=None if classes is None else flags.parse_names(classes),
            epochs=region_training.EPOCHS if epochs is None else epochs,
            seed=seed,
            resume=resume,
            device=device,
            progress=show,
        )
    say(f"{shown(out)} is trained: felga index CORPUS --regions learned:{shown(out)}")
