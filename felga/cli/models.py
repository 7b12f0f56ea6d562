"""``felga models``: the weights on this machine, fetched, and brought to machines without a network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from felga.cli import flags
from felga.cli.output import echo, echo_json, say
from felga.errors import BadInputError, did_you_mean
from felga.files import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from felga.models.listing import Weights
    from felga.registry import Kind

Names = Annotated[list[str], typer.Argument(help="As in --encoder or --regions: clip, blip:OWNER/NAME, ...")]
NOTHING = "its weights come in packages, or are files of your own"
SHORT = 12  # digits of a sha256 in a table


def models_list(form: flags.InfoForm = "table") -> None:
    """Show the weights on this machine, in packages and caches, and the names that use them."""
    flags.go_offline(True)
    from felga.fenet.packaged import found as fenets
    from felga.models.listing import listed
    from felga.registry import found

    weights = listed([*found(), *fenets()])
    if form == "json":
        echo_json([one.as_dict() for one in weights])
    else:
        echo(_table(weights))


def models_pull(names: Names, offline: flags.Offline = False) -> None:
    """Fetch what encoders and proposers need, and run each once on an image and a text."""
    flags.go_offline(offline)
    from felga.models.caches import contents, located

    for name in names:
        before = contents()
        read = try_out(name)
        fetched = [path for path in read if path.resolve() not in before]
        for path in fetched:
            say(f"fetched {located(path)}, {path.stat().st_size / 1e6:,.1f} MB")
        here = "" if fetched else f"; {NOTHING}" if not read else "; all of its files were here"
        say(f"{name} works{here}")


def models_export(
    names: Names,
    out: Annotated[Path, typer.Option(help="The bundle to write, a plain tar.")],
    offline: flags.Offline = False,
) -> None:
    """Write the cached weights of encoders and proposers into one file; fetches what is missing."""
    flags.go_offline(offline)
    from felga.models.bundles import export_bundle
    from felga.show.targets import check_file

    check_file(out, "clip.tar")
    read = {name: try_out(name) for name in names}
    for name, paths in read.items():
        if not paths:
            say(f"{name}: {NOTHING}")
    if not any(read.values()):
        raise BadInputError(f"there is nothing to export of {', '.join(names)}: {NOTHING}")
    exported = [name for name, paths in read.items() if paths]
    manifest = export_bundle(exported, [path for paths in read.values() for path in paths], out)
    size = f"{out.stat().st_size / 1e6:,.1f} MB"
    say(f"{len(manifest.files)} files of {', '.join(exported)} in {shown(out)}, {size}")


def models_import(
    bundle: Annotated[Path, typer.Argument(help="A file of `felga models export`.")],
) -> None:
    """Put the weights of a bundle into the caches of this machine, after checking every file."""
    flags.go_offline(True)
    from felga.models.bundles import import_bundle

    done = import_bundle(bundle)
    files = done.manifest.files
    say(f"{len(done.written)} of {len(files)} files written, {len(files) - len(done.written)} were there")
    for repository in done.moved:
        say(f"{repository} had another version: its name now means the one of the bundle")
    say(f"ready without a network: {', '.join(done.manifest.names)}")


def try_out(name: str) -> list[Path]:
    """Run an encoder or a proposer once, on the CPU: the files that it read from the caches.

    Raises:
        BadInputError: no such name.
        MissingError: its weights are neither here nor can be fetched.
    """
    import numpy as np

    from felga.models.caches import reading
    from felga.registry import make_encoder, make_regions
    from felga.types import DecodedImage

    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    image = DecodedImage("noise", pixels, 128, 96)
    with reading() as read:
        if _kind(name) == "encoders":
            encoder = make_encoder(name, device="cpu", batch_size=1)
            encoder.identity()
            encoder.encode_texts(["boat"])
            encoder.encode_regions([image], [np.array([image.whole], np.float32)])
        else:
            proposer = make_regions(name, device="cpu")
            proposer.settings()
            proposer.propose([image], 1)
    return list(dict.fromkeys(read))


def _kind(name: str) -> Kind:
    from felga.registry import names

    family = name.partition(":")[0]
    kinds: tuple[Kind, ...] = ("encoders", "regions")
    for kind in kinds:
        if family in names(kind):
            return kind
    known = [known for kind in kinds for known in names(kind)]
    raise BadInputError(
        f"there is no encoder and no region proposer named {family!r}: {did_you_mean(family, known)}"
    )


def _table(weights: Sequence[Weights]) -> str:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in ("used by", "from", "file", "MB", "sha256"):
        table.add_column(column, overflow="fold", justify="right" if column == "MB" else "left")
    for one in weights:
        size = f"{one.size / 1e6:,.1f}"
        where = escape(one.source), escape(Path(one.path).name)
        table.add_row(escape("\n".join(one.names)), *where, size, one.sha256[:SHORT])
    out = io.StringIO()
    console = Console()
    width = console.width if console.is_terminal else 140
    Console(file=out, width=width, force_terminal=console.is_terminal).print(table)
    return out.getvalue()
