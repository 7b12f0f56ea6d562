"""``felga dups``: the images of an index that are copies of one another."""

from __future__ import annotations

from typing import Annotated

import typer

from felga.cli import flags
from felga.cli.locate import find_index
from felga.cli.output import echo, echo_bytes, only_ascii, say
from felga.cli.outputs import check_lists
from felga.cli.progress import progress
from felga.errors import BadInputError


def dups(
    index: flags.Index = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Least cosine of two copies, as whole images. [default: 0.9 where the index has features, "
            "else only equal files]",
        ),
    ] = None,
    form: flags.Form = "table",
    paths: Annotated[
        bool, typer.Option("--paths", "-l", help="Only the paths of all but the best copy, one per line.")
    ] = False,
    null: flags.Null = False,
    root: flags.Root = None,
) -> None:
    """Near duplicates: groups of images that are copies of one another, the best copy first."""
    check_lists(form, paths, null)
    if threshold is not None and not -1 <= threshold <= 1:
        raise BadInputError(f"--threshold must be a cosine, between -1 and 1, got {threshold:g}")
    folder = find_index(index)
    from felga.show.groups import all_but_the_best, render_groups
    from felga.store.copies import copies
    from felga.store.stored import StoredIndex

    with StoredIndex.open(folder) as stored, progress() as show:
        groups = copies(stored.images, root or stored.manifest.corpus.root, threshold, show)
        if threshold is None and stored.manifest.contract.regions["features"] is None:
            say("only equal files were looked for: this index has no features; --threshold compares vectors")
    if paths or null:
        echo_bytes(all_but_the_best(groups, b"\0" if null else b"\n"))
    else:
        echo(render_groups(groups, form, only_ascii=only_ascii()))
