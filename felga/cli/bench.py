"""``felga bench``: measure retrieval and region proposals on COCO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from felga.cli import flags
from felga.cli.output import echo, say, write_file
from felga.cli.progress import progress
from felga.errors import BadInputError
from felga.files import shown

if TYPE_CHECKING:
    from felga.evaluation.results import Results

TableFormat: TypeAlias = Literal["markdown", "json", "csv"]
TABLE_FORMATS: dict[str, TableFormat] = {".md": "markdown", ".json": "json", ".csv": "csv"}


def bench_coco(
    root: flags.CocoRoot,
    train_root: Annotated[
        Path | None, typer.Option(help="COCO's folder for training. [default: --root]")
    ] = None,
    train_split: Annotated[str, typer.Option(help="train2017 or train2014.")] = "train2017",
    test_split: Annotated[str, typer.Option(help="val2017 or val2014.")] = "val2017",
    ids: Annotated[Path | None, typer.Option(help="File with the test image ids to use.")] = None,
    train_ids: Annotated[Path | None, typer.Option(help="File with the training image ids to use.")] = None,
    methods: Annotated[
        str, typer.Option(help="Rows of the paper's tables, comma-separated, or all.")
    ] = "all",
    encoder: flags.Encoder = flags.DEFAULTS.encoder,
    regions: flags.Regions = flags.DEFAULTS.regions,
    keywords: flags.Keywords = flags.DEFAULTS.keywords,
    whole: flags.IndexWhole = flags.DEFAULTS.whole,
    quality: flags.RegionQuality = flags.DEFAULTS.quality,
    pooling: flags.Pooling = None,
    recipe: Annotated[str, typer.Option(help="locked, residual, paper+, paper or auto.")] = "auto",
    settings: flags.Settings = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each trained method, comma-separated.")] = "0,1,2",
    relevance: Annotated[
        Literal["box", "mention"],
        typer.Option(help="Relevant texts: of images that show the class, or that mention it."),
    ] = "box",
    out: flags.ResultsOut = None,
    tables: Annotated[Path | None, typer.Option(help="The paper's tables: .md, .json or .csv.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for curves, bars and sheets.")] = None,
    figure: Annotated[str, typer.Option(help="Class of the before/after sheet (Figure 2).")] = "boat",
    work: Annotated[Path, typer.Option(help="Folder for the indexes.")] = Path("indexes"),
    device: flags.Device = flags.DEFAULTS.device,
    batch_size: flags.BatchSize = flags.DEFAULTS.batch_size,
    offline: flags.Offline = False,
) -> None:
    """Object discovery and description assignment by mAP on COCO, as the paper measures them (4.3).

    Beside its rows: soft owner scores, scores with the quality of regions, and whether the boxes are right.
    """
    flags.go_offline(offline)
    form = _table_format(tables)
    from felga.evaluation import benchmark
    from felga.evaluation.drawings import Drawings
    from felga.indexing.options import Options

    with progress() as show:
        measured = benchmark.bench_coco(
            root,
            methods=None if methods == "all" else flags.parse_names(methods),
            options=Options(
                encoder=encoder, regions=regions, keywords=keywords, whole=whole, quality=quality,
                pooling=pooling, device=device, batch_size=batch_size,
            ),
            train_root=train_root, train_split=train_split, test_split=test_split,
            ids=ids, train_ids=train_ids, recipe=recipe, changes=flags.parse_settings(settings),
            seeds=flags.parse_numbers(seeds), relevance=relevance, work=work, progress=show, log=say,
            drawings=Drawings(figures, figure) if figures else None,
        )  # fmt: skip
    _write(measured, out, tables, form)


def bench_proposals(
    root: flags.CocoRoot,
    split: Annotated[str, typer.Option(help="train2017, val2017, train2014 or val2014.")] = "val2017",
    regions: Annotated[str, typer.Option(help="Region proposers, comma-separated.")] = (
        "graphseg+edgeboxes,selective-search,grid"
    ),
    every: Annotated[int, typer.Option(help="Use every N-th image.")] = 1,
    out: flags.ResultsOut = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Recall at 10, 50 and 100 proposals, COCO's average recall, and time, per proposer."""
    flags.go_offline(offline)
    from felga.evaluation import proposal_recall
    from felga.files import to_json

    with progress() as show:
        measured = proposal_recall.bench_proposals(
            root, split, flags.parse_names(regions), every=every, device=device, progress=show
        )
    if out:
        write_file(out, to_json(measured, indent=1) + "\n")
        say(f"results are in {shown(out)}")
    echo(proposal_recall.as_table(measured["results"]))


def _table_format(tables: Path | None) -> TableFormat:
    if tables is None:
        return "markdown"
    if tables.suffix not in TABLE_FORMATS:
        raise BadInputError(f"{shown(tables)} must end in {', '.join(TABLE_FORMATS)}")
    return TABLE_FORMATS[tables.suffix]


def _write(measured: Results, out: Path | None, tables: Path | None, form: TableFormat) -> None:
    from felga.evaluation.results import write_results
    from felga.evaluation.tables import render_tables

    rendered = render_tables(measured, form)
    if out:
        write_results(measured, out)
        say(f"results are in {shown(out)}")
    if tables:
        write_file(tables, rendered)
    echo(rendered)
