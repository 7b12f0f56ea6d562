"""``felga align`` and ``felga tags``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from felga.cli import flags
from felga.cli.output import echo, echo_json, say
from felga.cli.progress import RESUME, progress
from felga.files import shown

if TYPE_CHECKING:
    from felga.types import DecodedImage, Region

AlignedFile = Annotated[Path, typer.Option("--model", help="A model of felga align.")]


def align(
    instances: Annotated[Path, typer.Argument(help="COCO's instances json: boxes and class names.")],
    captions: Annotated[Path, typer.Argument(help="COCO's captions json, of the same images.")],
    images: Annotated[Path, typer.Argument(help="The folder of the images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model to write.")] = Path(
        "aligned.safetensors"
    ),
    captioner: Annotated[
        Path | None,
        typer.Option(help="A model of felga caption train: its decoder writes the region captions."),
    ] = None,
    supervision: Annotated[
        str | None, typer.Option(help="Whose boxes and captions these are; recorded. [default: the files]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How often each described region is seen.")] = None,
    seed: flags.Seed = 0,
    resume: flags.Resume = False,
    device: flags.Device = "auto",
) -> None:
    """Align regions with phrases of captions: tags, region captions, and a region vector (AlignCap)."""
    if epochs is not None:
        flags.at_least_one(epochs=epochs)
    from felga.alignment import align_training

    with progress(RESUME) as show:
        align_training.train_alignment(
            instances,
            captions,
            images,
            out,
            captioner=captioner,
            supervision=supervision
            or f"boxes and class names of {shown(instances.name)}, captions of {shown(captions.name)}",
            epochs=align_training.EPOCHS if epochs is None else epochs,
            seed=seed,
            resume=resume,
            device=device,
            progress=show,
        )
    say(
        f"{shown(out)} is trained: felga tags IMAGE --model {shown(out)}, or felga index CORPUS --encoder "
        f"aligned:{shown(out)}"
    )


def tags(
    image: Annotated[Path, typer.Argument(help="An image.")],
    model: AlignedFile,
    box: flags.BoxText = None,
    top: Annotated[int, typer.Option("--top", "-k", help="Tags per region.")] = 5,
    regions: flags.Regions = "learned",
    top_regions: flags.TopRegions = 10,
    form: flags.InfoForm = "table",
    device: flags.Device = "auto",
) -> None:
    """Tags with scores of a box, or of the whole image and its proposed regions."""
    part = flags.parse_box(box)
    flags.at_least_one(top=top, top_regions=top_regions)
    import numpy as np

    from felga.alignment.aligned import AlignedModel
    from felga.queries import decoded, inside
    from felga.types import Region

    seen = decoded(image)
    aligned = AlignedModel.load(model, device=device)
    if part is not None:
        found = [Region(inside(part, seen), 1.0)]
    else:
        found = [Region(seen.whole, 1.0, whole=True), *_proposed(seen, regions, top_regions, device)]
    said = aligned.regions(seen, np.array([region.box for region in found], np.float32))
    rows: list[dict[str, Any]] = [
        {"box": list(region.box), "whole": region.whole, "tags": [tag._asdict() for tag in own]}
        for region, own in zip(found, aligned.tags_of(said, top), strict=True)
    ]
    if form == "json":
        echo_json({"image": shown(image), "model": shown(model), "regions": rows})
        return
    for row in rows:
        where = "whole image" if row["whole"] else ",".join(f"{side:.0f}" for side in row["box"])
        echo(f"{where:24} " + ", ".join(f"{tag['tag']} {tag['score']:.2f}" for tag in row["tags"]))


def _proposed(image: DecodedImage, regions: str, top: int, device: str) -> list[Region]:
    from felga.registry import make_regions

    return make_regions(regions, device=device).propose([image], top)[0]
