"""``felga export``: the vectors of an index for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from felga.cli import flags
from felga.cli.locate import find_index
from felga.cli.output import say
from felga.cli.progress import progress
from felga.errors import BadInputError
from felga.files import shown


def export(
    index: Annotated[str, typer.Argument(help="Index folder, or the URL that one was pushed to.")],
    target: Annotated[
        str,
        typer.Argument(
            help="Where to write: a new or empty folder; or a Milvus, http://HOST:19530#NAME or FILE.db#NAME."
        ),
    ],
    to: Annotated[Literal["clip-retrieval", "milvus"], typer.Option(help="The layout to write.")],
    root: flags.Root = None,
) -> None:
    """Write the vectors of all regions, and what each row is, for other programs."""
    if to == "milvus":
        _into_milvus(find_index(index), target, root)
        return
    from felga.show.targets import check_folder

    folder = Path(target)
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInputError(f"{shown(folder)} is not empty: name a new folder")
    from felga.store.export import export_clip_retrieval
    from felga.store.stored import StoredIndex

    with StoredIndex.open(find_index(index)) as stored, progress() as show:
        done = export_clip_retrieval(stored, folder, root or stored.manifest.corpus.root, show)
    captions = "with" if done.texts else "without"
    say(f"{done.rows:,} regions, {captions} vectors of captions, in {shown(folder)}")


def _into_milvus(index: Path, target: str, root: Path | None) -> None:
    from felga.milvus.connection import Place
    from felga.milvus.filling import fill
    from felga.store.stored import StoredIndex

    if root is not None:
        raise BadInputError("paths in Milvus are relative: give --root to `felga search` instead")
    place = Place.parse(target)
    with StoredIndex.open(index) as stored, progress() as show:
        rows = fill(stored, place, show)
    say(f"{rows:,} regions: `felga search WORDS --index '{place}'` searches them")
