"""``felga import``: an index of vectors that another program made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from felga.cli import flags
from felga.cli.locate import remember
from felga.cli.output import say
from felga.cli.progress import progress
from felga.files import shown


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder with img_emb/, metadata/ and perhaps text_emb/.")],
    source: Annotated[Literal["clip-retrieval"], typer.Option("--from", help="The layout to read.")],
    encoder: Annotated[str, typer.Option(help="The encoder that made the vectors: see felga doctor.")],
    out: Annotated[Path | None, typer.Option(help="Index folder, new. [default: indexes/NAME]")] = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Make an index of vectors of whole images; the encoder that made them embeds the queries."""
    flags.go_offline(offline)
    from felga.indexing.imported import import_vectors
    from felga.registry import make_encoder

    target = out or Path("indexes", folder.resolve().name or "root")
    with progress() as show:
        done = import_vectors(folder, make_encoder(encoder, device=device), target, progress=show)
    remember(target)
    say(f"{done.images:,} images, {done.texts:,} texts in {shown(target)}")
    checked = f"{done.compared} of them encoded here agree" if done.compared else "none could be compared"
    say(f"the vectors are taken to be of {encoder}: {checked}")
    for count, what in (
        (done.quarantined, f"quarantined: see {shown(target / 'errors.jsonl')}"),
        (done.parts, "rows of parts of images left out"),
        (done.scaled, "vectors of images scaled to length 1"),
        (done.absent, "images not here: paths or URLs alone are known of them"),
    ):
        if count:
            say(f"{count:,} {what}")
