"""Options that several commands share, and the parsing of their values. Defaults are those of ``Options``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from felga.errors import BadInputError
from felga.indexing.options import Options

DEFAULTS = Options()

Format: TypeAlias = Literal["table", "json", "jsonl", "csv"]
Pool: TypeAlias = Literal["roi", "crop"]
INDEX_HELP = (
    "Index folder, or the URL that one was pushed to. "
    "[default: $FELGA_INDEX, else the newest below indexes/, else the last one built]"
)

Index = Annotated[str | None, typer.Option("--index", help=INDEX_HELP)]
AnyIndex = Annotated[
    str | None, typer.Option("--index", help=INDEX_HELP.replace("pushed to.", "pushed to, or milvus:URI."))
]
TopK = Annotated[int, typer.Option("--top", "-k", help="Number of hits.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network, not even a model hub.")]
Server = Annotated[
    str | None, typer.Option(help="Ask the `felga serve` at this URL, with the token in $FELGA_TOKEN.")
]
Root = Annotated[Path | None, typer.Option(help="Where the indexed images are now, if they were moved.")]
Form = Annotated[Format, typer.Option("--format", help="Format of the output.")]
SearchForm = Annotated[
    Literal["table", "json", "jsonl", "csv", "coco"],
    typer.Option("--format", help="Format of the output; coco: COCO json of images and boxes."),
]
Paths = Annotated[bool, typer.Option("--paths", "-l", help="Only the paths of the images, one per line.")]
Null = Annotated[bool, typer.Option("--null", "-0", help="The same for xargs -0: a NUL after each path.")]
Dedupe = Annotated[bool, typer.Option("--dedupe", help="Of near duplicates, only the best; see felga dups.")]
InfoForm = Annotated[Literal["table", "json"], typer.Option("--format", help="Format of the output.")]
BoxText = Annotated[str | None, typer.Option("--box", help="x1,y1,x2,y2 in pixels: only that part of it.")]
SaveViz = Annotated[Path | None, typer.Option(help="Also draw the hits into this image file.")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Also write the hits into this page, images included.")
]
CopyTo = Annotated[Path | None, typer.Option(help="Also copy the images into this folder.")]
LinkTo = Annotated[Path | None, typer.Option(help="Also link to the images from this folder.")]
CropsTo = Annotated[Path | None, typer.Option(help="Also cut the regions out, into this folder.")]
Encoder = Annotated[str, typer.Option(help="conse, clip:ARCH/PRETRAINED, ...: see felga doctor.")]
QueryEncoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="The index's encoder by name: may fetch weights. [default: as found on this machine]",
    ),
]
Regions = Annotated[str, typer.Option(help="Region proposer: see felga doctor.")]
Keywords = Annotated[str, typer.Option(help="Keyword proposer: see felga doctor.")]
Whole = Annotated[bool, typer.Option(help="Count the whole image as a region.")]
IndexWhole = Annotated[bool, typer.Option(help="Whole images are regions, whole texts keywords, too.")]
Quality = Annotated[
    bool | None,
    typer.Option(
        "--quality/--no-quality",
        help="Count how well a region fits an object. [default: for words, not with --image]",
    ),
]
MinConfidence = Annotated[
    float | None,
    typer.Option(
        help="Leave out hits of a lower confidence, 0 to 1. [default: no hits if the best one is below 0.95]",
        min=0,
        max=1,
    ),
]
Explain = Annotated[bool, typer.Option("--explain", help="Say for each hit what else its region looks like.")]
SameRegion = Annotated[
    bool, typer.Option("--same-region", help="One box must show everything that AND joins.")
]
OwnerScore = Annotated[
    Literal["soft", "max"],
    typer.Option(
        help="max: an image or text scores its best fragment (the paper); soft: the others count, too."
    ),
]
RegionQuality = Annotated[
    bool, typer.Option("--quality/--no-quality", help="Predict for every region how well it fits an object.")
]
Pooling = Annotated[Pool | None, typer.Option(help="roi: one pass per image; crop: one per region.")]
BatchSize = Annotated[int, typer.Option(help="Crops or texts per forward pass.")]
TopRegions = Annotated[int, typer.Option(help="At most this many regions per image.")]
TopKeywords = Annotated[int, typer.Option(help="At most this many keywords per text.")]
CommitEvery = Annotated[
    int, typer.Option(help="Images or texts per commit; a killed run loses at most these.")
]
MaxMegapixels = Annotated[float, typer.Option(help="Quarantine larger images.")]
Fenet = Annotated[
    str,
    typer.Option(
        help="auto: the one that an index has, or for a new index the one that comes with felga; none; or a "
        "checkpoint file."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE, a setting of the recipe, e.g. epochs=20.")
]
CocoRoot = Annotated[Path, typer.Option(help="COCO's folder: annotations/, val2017/, ...")]
ResultsOut = Annotated[Path | None, typer.Option(help="Write the results as json.")]


def go_offline(offline: bool) -> None:
    """Keep hub clients from using the network; they read these variables when they are imported."""
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


def parse_box(text: str | None) -> tuple[float, float, float, float] | None:
    """The box of ``--box``.

    Raises:
        BadInputError: not four numbers.
    """
    if text is None:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInputError(
            f"--box {text} is not a box: expected x1,y1,x2,y2 in pixels, e.g. 10,20,200,180"
        ) from error
    return x1, y1, x2, y2


def parse_settings(pairs: list[str] | None, **also: Any) -> dict[str, Any]:
    """``NAME=VALUE`` pairs of ``--set``; values are json, or else plain words.

    Args:
        also: the same settings from flags of their own, None where not given.

    Raises:
        BadInputError: not NAME=VALUE, or a setting with two different values.
    """
    settings = {name: value for name, value in also.items() if value is not None}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise BadInputError(f"--set {pair} is not NAME=VALUE, e.g. epochs=20")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if settings.setdefault(name, value) != value:
            raise BadInputError(f"{name} is given as both {settings[name]!r} and {value!r}: give it once")
    return settings


def parse_numbers(text: str) -> list[int]:
    """Whole numbers separated by commas.

    Raises:
        BadInputError: anything else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInputError(f"{text!r} is not a list of whole numbers such as 0,1,2") from error


def parse_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


def at_least_one(**values: int) -> None:
    """Check numbers before anything is loaded.

    Raises:
        BadInputError: one is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise BadInputError(f"{name} must be at least 1, got {value}")
