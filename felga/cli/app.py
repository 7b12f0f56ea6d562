"""The command line: its commands, and how they end. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from felga.cli.adapt import adapt
from felga.cli.align import align, tags
from felga.cli.audit import audit
from felga.cli.bench import bench_coco, bench_proposals
from felga.cli.caption import caption_run, caption_train
from felga.cli.concepts import concepts
from felga.cli.doctor import doctor
from felga.cli.dups import dups
from felga.cli.export import export
from felga.cli.imports import import_
from felga.cli.index import index
from felga.cli.info import info, verify
from felga.cli.models import models_export, models_import, models_list, models_pull
from felga.cli.output import echo, say, tolerant_streams
from felga.cli.plan import plan
from felga.cli.samples import data, demo
from felga.cli.search import assign, search
from felga.cli.serve import serve
from felga.cli.storage import pull, push
from felga.cli.train import fenet_apply, train
from felga.cli.train_regions import train_regions
from felga.errors import FelgaError
from felga.version import __version__

EPILOG = (
    "Exit codes: 0 done; 1 done, but --strict and something was quarantined; 2 bad option or input; 3 not "
    "found; 4 index damaged or built differently; 5 package, weights or device missing; 6 index is being "
    "written; 7 training diverged; 8 disk full or not writable; 130 interrupted; 141 stdout was closed."
)
app = typer.Typer(
    help="Find parts of images by words, and sentences by parts of images.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
bench = typer.Typer(
    help="Measure retrieval and region proposals on COCO.", no_args_is_help=True, rich_markup_mode=None
)
caption = typer.Typer(help="Captions that a network writes.", no_args_is_help=True, rich_markup_mode=None)
fenet = typer.Typer(help="Put a trained FENet on an index.", no_args_is_help=True, rich_markup_mode=None)
models = typer.Typer(
    help="The weights on this machine; for machines without a network.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: an expected failure is one line and an exit code, a bug keeps its traceback."""
    tolerant_streams()
    try:
        app()
    except FelgaError as error:
        say(f"felga: {error}")
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        echo(f"felga {__version__}")
        raise typer.Exit


app.command(epilog="Example: felga index photos/ --out indexes/photos")(index)
app.command(epilog="Example: felga plan photos/ --encoder clip --format json")(plan)
app.command(epilog='Example: felga search "boat" -k 5 --save-viz boats.png')(search)
app.command(epilog="Example: felga assign photo.jpg --box 10,20,200,180 -k 3")(assign)
app.command(epilog="Example: felga dups --index indexes/photos -0 | xargs -0 ls -l")(dups)
app.command(epilog="Example: felga concepts --index indexes/photos -k 20 --save-viz concepts.png")(concepts)
app.command(epilog="Example: felga audit --index indexes/photos -k 20 --labels instances.json")(audit)
app.command(epilog="Example: felga serve --index indexes/photos --port 8000")(serve)
app.command(epilog="Example: felga export indexes/photos --to clip-retrieval vectors/")(export)
app.command(
    "import", epilog="Example: felga import vectors/ --from clip-retrieval --encoder clip --out indexes/laion"
)(import_)
app.command(epilog="Example: felga push indexes/photos s3://bucket/photos-index")(push)
app.command(epilog="Example: felga pull s3://bucket/photos-index indexes/photos")(pull)
app.command(epilog="Example: felga info --index indexes/photos --format json")(info)
app.command(epilog="Example: felga verify --index indexes/photos")(verify)
app.command(epilog="Example: felga doctor --format json")(doctor)
app.add_typer(models, name="models")
models.command("list", epilog="Example: felga models list --format json")(models_list)
models.command("pull", epilog="Example: felga models pull clip hf:PekingU/rtdetr_r50vd")(models_pull)
models.command("export", epilog="Example: felga models export clip --out clip.tar")(models_export)
models.command("import", epilog="Example: felga models import clip.tar")(models_import)
app.command(epilog="Example: felga train indexes/photos --out photos.fenet.safetensors --plot loss.png")(
    train
)
app.command(
    "train-regions",
    epilog="Example: felga train-regions instances_train2017.json train2017 --out mine.safetensors",
)(train_regions)
app.command(epilog="Example: felga adapt instances.json photos/ -o mine.safetensors --classes boat,buoy")(
    adapt
)
app.add_typer(caption, name="caption")
caption.command(
    "train", epilog="Example: felga caption train captions_train2017.json train2017 -o mine.safetensors"
)(caption_train)
caption.command("run", epilog="Example: felga caption run photo.jpg --model mine.safetensors --format json")(
    caption_run
)
app.command(
    epilog="Example: felga align instances_train2017.json captions_train2017.json train2017 --captioner "
    "captioner.safetensors"
)(align)
app.command(epilog="Example: felga tags photo.jpg --box 10,20,200,180 --model aligned.safetensors")(tags)
app.add_typer(fenet, name="fenet")
fenet.command("apply", epilog="Example: felga fenet apply photos.fenet.safetensors --index indexes/photos")(
    fenet_apply
)
app.add_typer(bench, name="bench")
bench.command(
    "coco", epilog="Example: felga bench coco --root coco --methods frozen,felga --out results.json"
)(bench_coco)
bench.command("proposals", epilog="Example: felga bench proposals --root coco --split train2017")(
    bench_proposals
)
app.command(epilog="Example: felga data coco2017 --root coco")(data)
app.command(epilog="Example: felga demo --out runs/demo")(demo)

if __name__ == "__main__":
    main()
