"""``felga caption train`` and ``felga caption run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from felga.cli import flags
from felga.cli.output import echo, echo_json, say
from felga.cli.progress import RESUME, progress
from felga.errors import BadInputError
from felga.files import shown

if TYPE_CHECKING:
    from felga.types import Box

Words = Annotated[
    Path | None,
    typer.Option(
        help="A BERT as transformers saves it, for its word vectors. [default: the packaged MiniLM]"
    ),
]


def caption_train(
    captions: Annotated[Path, typer.Argument(help="COCO's captions json.")],
    images: Annotated[Path, typer.Argument(help="The folder of its images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The captioner to write.")] = Path(
        "captioner.safetensors"
    ),
    words: Words = None,
    printed_mask: Annotated[
        bool, typer.Option("--printed-mask", help="The paper's mask, which lets words see what follows.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="How often each caption is seen.")] = None,
    seed: flags.Seed = 0,
    resume: flags.Resume = False,
    device: flags.Device = "auto",
) -> None:
    """Train a decoder that writes captions, on images with captions by people."""
    if epochs is not None:
        flags.at_least_one(epochs=epochs)
    from felga.captions import caption_training

    with progress(RESUME) as show:
        caption_training.train_captioner(
            captions,
            images,
            out,
            words=words,
            mask="printed" if printed_mask else "prefix",
            epochs=caption_training.EPOCHS if epochs is None else epochs,
            seed=seed,
            resume=resume,
            device=device,
            progress=show,
        )
    say(f"{shown(out)} is trained: felga caption run IMAGE --model {shown(out)}")


def caption_run(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[
        Path, typer.Option(help="A captioner of felga caption train; with --box a model of felga align.")
    ],
    box: flags.BoxText = None,
    beam: Annotated[int, typer.Option(help="Captions followed at a time; 1 is greedy, and faster.")] = 4,
    words: Words = None,
    form: flags.InfoForm = "table",
    device: flags.Device = "auto",
) -> None:
    """Write a caption for each image, or a phrase for a box. It is generated: fluent, and often wrong."""
    if (part := flags.parse_box(box)) is not None:
        _caption_box(images, part, model, beam, form, device)
        return
    from felga.captions.captioner import ROWS, Captioner
    from felga.corpus.decode import read_image

    captioner = Captioner.load(model, device=device, words=words)
    found = []
    with progress() as show:
        for start in range(0, len(images), ROWS):
            batch = images[start : start + ROWS]
            found += captioner.captions([read_image(path, shown(path)) for path in batch], beam)
            show("captions", start + len(batch), len(images))
    rows = list(zip(images, found, strict=True))
    if form == "json":
        about = {"generated": True, "model": shown(model), "beam": beam}
        echo_json(
            [{"path": shown(path), "caption": one.text, "score": one.score, **about} for path, one in rows]
        )
    else:
        for path, one in rows:
            echo(f"{shown(path)}: {one.text} (generated)")


def _caption_box(images: list[Path], box: Box, model: Path, beam: int, form: str, device: str) -> None:
    """The phrase of a part of one image, by a model of felga align."""
    if len(images) > 1:
        raise BadInputError(f"--box is a part of one image, got {len(images)} images: name one")
    import numpy as np

    from felga.alignment.aligned import AlignedModel
    from felga.queries import decoded, inside

    image = decoded(images[0])
    part = inside(box, image)
    aligned = AlignedModel.load(model, device=device)
    (one,) = aligned.captions_of(aligned.regions(image, np.array([part], np.float32)), beam)
    path = shown(images[0])
    if form == "json":
        about = {"generated": True, "model": shown(model), "beam": beam}
        echo_json([{"path": path, "box": list(part), "caption": one.text, "score": one.score, **about}])
    else:
        where = ",".join(f"{side:g}" for side in part)
        echo(f"{path}[{where}]: {one.text} (generated)")
