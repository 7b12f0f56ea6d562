"""``felga push`` and ``felga pull``: an index to object storage, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felga.cli.locate import remember
from felga.cli.output import say
from felga.cli.progress import progress
from felga.files import shown

Url = Annotated[str, typer.Argument(help="Where it lies: s3://BUCKET/PREFIX, or another URL of fsspec.")]


def push(
    index: Annotated[Path, typer.Argument(help="Index folder.")],
    url: Url,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also over a state that this index did not push or pull.")
    ] = False,
) -> None:
    """Put an index on object storage, where `--index URL` of other commands reads it.

    Only new files are sent, and the manifest last: nobody ever sees half an index.
    """
    from felga.store.remote_index import push as send

    with progress() as show:
        files, size = send(index, url, replace=replace, progress=show)
    say(f"{files} files ({size / 1e6:,.1f} MB) sent: `felga search WORDS --index {shown(url)}`")


def pull(
    url: Url,
    out: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Copy an index from object storage, to update it here and push it again."""
    from felga.store.remote_index import pull as fetch

    with progress() as show:
        manifest = fetch(url, out, show)
    remember(out)
    say(f"{shown(out)} is ready: {manifest.images.owners} images, {manifest.texts.owners} texts")
