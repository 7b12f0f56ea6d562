"""``felga adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felga.cli import flags
from felga.cli.output import say
from felga.cli.progress import RESUME, progress
from felga.files import shown


def adapt(
    instances: Annotated[Path, typer.Argument(help="COCO's instances json: your boxes and classes.")],
    images: Annotated[Path, typer.Argument(help="The folder of its images.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write, for --encoder and --regions adapted:FILE.")
    ] = Path("adapted.safetensors"),
    supervision: Annotated[
        str | None, typer.Option(help="Whose boxes and names these are; recorded. [default: the file's name]")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Learn these classes alone, comma-separated. [default: all]")
    ] = None,
    regions: Annotated[
        str, typer.Option(help="The frozen detector: learned, learned:FILE or torchvision:MODEL/FILE.")
    ] = "learned",
    epochs: Annotated[int | None, typer.Option(help="How often each box is seen, on average.")] = None,
    seed: flags.Seed = 0,
    resume: flags.Resume = False,
    device: flags.Device = "auto",
) -> None:
    """Learn classes of your own from boxes in COCO's format; backbone and region proposals stay frozen."""
    if epochs is not None:
        flags.at_least_one(epochs=epochs)
    from felga.adapt import adapting

    with progress(RESUME) as show:
        adapting.adapt(
            instances,
            images,
            out,
            supervision=supervision or f"boxes and class names of {shown(instances.name)}",
            classes=None if classes is None else flags.parse_names(classes),
            regions=regions,
            epochs=adapting.EPOCHS if epochs is None else epochs,
            seed=seed,
            resume=resume,
            device=device,
            progress=show,
        )
    say(f"{shown(out)} is trained: felga index CORPUS --encoder adapted:{shown(out)}")
