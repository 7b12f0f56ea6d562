"""The command line: parse, call, print. Data on stdout, progress and counts on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from felga import __version__
from felga.errors import BadIndexError, BadInputError, FelgaError, NotFoundError, PartialFailure

if TYPE_CHECKING:
    from felga.corpus.items import Corpus
    from felga.indexing.job import Report
    from felga.types import Box, ImageHit, TextHit

EPILOG = (
    "Exit codes: 0 done; 1 done, but --strict and something was quarantined; 2 bad option or input; 3 not "
    "there; 4 index damaged or made otherwise; 5 package, weights or device missing; 6 index is being "
    "written; 7 a training diverged."
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
    help="Measure: the paper's protocol, proposals.", no_args_is_help=True, rich_markup_mode=None
)
fenet_app = typer.Typer(help="Put a trained FENet on an index.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench, name="bench")
app.add_typer(fenet_app, name="fenet")

Index = Annotated[Path | None, typer.Option(help="Folder of the index. [default: the one built last]")]
TopK = Annotated[int, typer.Option("--top", "-k", help="How many hits.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network, also not a model hub.")]
Root = Annotated[Path | None, typer.Option(help="Where the images are now, if they were moved.")]
Form = Annotated[Literal["table", "json", "jsonl", "csv"], typer.Option("--format", help="On stdout.")]
InfoForm = Annotated[Literal["table", "json"], typer.Option("--format", help="On stdout.")]
BoxText = Annotated[str | None, typer.Option("--box", help="x1,y1,x2,y2 in pixels: that part of the image.")]
SaveViz = Annotated[Path | None, typer.Option(help="Also draw the hits into this image file.")]


def main() -> None:
    """Entry point: an expected failure is one line and an exit code, a bug keeps its traceback."""
    try:
        app()
    except FelgaError as error:
        print(f"felga: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: felga index photos/ --out indexes/photos")
def index(
    corpus: Annotated[
        Path | None, typer.Argument(help="Folder of images; captions in NAME.txt or metadata.jsonl.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the index. [default: indexes/NAME]")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO captions json, in place of a folder.")] = None,
    images: Annotated[Path | None, typer.Option(help="The COCO images.")] = None,
    ids: Annotated[Path | None, typer.Option(help="Only these COCO image ids, one a line.")] = None,
    texts: Annotated[
        Literal["joined", "each"], typer.Option(help="The captions of an image are one text, or one each.")
    ] = "joined",
    encoder: Annotated[
        str, typer.Option(help="conse, clip:ARCH/PRETRAINED, ...: see felga doctor.")
    ] = "conse",
    regions: Annotated[str, typer.Option(help="Region proposer.")] = "graphseg+edgeboxes",
    keywords: Annotated[str, typer.Option(help="Keyword proposer.")] = "keybert",
    top_regions: Annotated[int, typer.Option(help="Regions of an image, at most.")] = 10,
    top_keywords: Annotated[int, typer.Option(help="Keywords of a text, at most.")] = 10,
    whole: Annotated[bool, typer.Option(help="The whole image is one region more.")] = True,
    pooling: Annotated[
        Literal["roi", "crop"] | None, typer.Option(help="One pass an image, or one a region.")
    ] = None,
    fenet: Annotated[Path | None, typer.Option(help="FENet checkpoint to put on the index.")] = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Crops or texts in a forward pass.")] = 32,
    commit_every: Annotated[int, typer.Option(help="Owners between commits: what a kill can cost.")] = 64,
    max_megapixels: Annotated[float, typer.Option(help="Larger images are quarantined.")] = 178.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if anything was quarantined.")] = False,
    offline: Offline = False,
) -> None:
    """Bring an index in line with a corpus: new, changed, renamed and removed images and texts.

    What is unchanged is not encoded again. A run that was stopped goes on where it was. What cannot be
    read is listed with its reason in errors.jsonl, and counted.
    """
    _prepare(offline)
    from felga.indexing.job import Options
    from felga.indexing.job import index as run

    source, name = _corpus(corpus, coco, images, ids, texts)
    target = out or Path("indexes", name)
    options = Options(
        encoder, regions, keywords, top_regions, top_keywords, whole, device, batch_size, pooling,
        commit_every, max_megapixels,
    )  # fmt: skip
    with _progress() as progress:
        report = run(source, target, options, fenet=fenet, progress=progress)
    _remember(target)
    _tell(report)
    quarantined = report.images.quarantined + report.texts.quarantined
    if strict and quarantined:
        raise PartialFailure(f"{quarantined} items were quarantined: see {target / 'errors.jsonl'}")


@app.command(epilog='Example: felga search "boat" -k 5 --save-viz boats.png')
def search(
    query: Annotated[list[str] | None, typer.Argument(help="Words or phrases, each a query.")] = None,
    index: Index = None,
    top: TopK = 10,
    queries: Annotated[Path | None, typer.Option(help="File of queries, one a line.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image as the query.")] = None,
    box: BoxText = None,
    regions: Annotated[int, typer.Option(help="Boxes for each hit.")] = 1,
    whole: Annotated[bool, typer.Option(help="The whole image counts as a region.")] = True,
    form: Form = "table",
    save_viz: SaveViz = None,
    root: Root = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Object discovery: the images whose best region fits a query best, with the box."""
    _prepare(offline)
    asked = [*(query or []), *(_lines(queries) if queries else [])]
    if bool(asked) == bool(image):
        raise BadInputError("name what to search: words, --queries FILE or --image IMAGE, words or an image")
    if box and not image:
        raise BadInputError("--box is a part of --image: name the image")
    engine, folder = _engine(index, device, root)
    if image:
        asked = [f"{image}[{box}]" if box else str(image)]
        found = [engine.search_image(image, _box(box), top, regions=regions, whole=whole)]
    else:
        found = engine.search_all(asked, top, regions=regions, whole=whole)
    _answer(asked, found, folder, form, many=len(asked) > 1 or queries is not None)
    if save_viz:
        from felga.show import sheets

        for i, (words, hits) in enumerate(zip(asked, found, strict=True)):
            path = save_viz if len(asked) == 1 else save_viz.with_stem(f"{save_viz.stem}-{i + 1}")
            sheets.save(sheets.image_sheet(words, hits), path)
            _say(f"drawn into {path}")


@app.command(epilog="Example: felga assign photo.jpg --box 10,20,200,180 -k 3")
def assign(
    image: Annotated[Path, typer.Argument(help="A crop, or the image that --box is a part of.")],
    box: BoxText = None,
    index: Index = None,
    top: TopK = 10,
    form: Form = "table",
    save_viz: SaveViz = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Description assignment: the texts whose best keyword fits a crop or a box best."""
    _prepare(offline)
    engine, folder = _engine(index, device, None)
    hits = engine.assign(image, _box(box), top)
    _answer([f"{image}[{box}]" if box else str(image)], [hits], folder, form, many=False)
    if save_viz:
        from felga.show import sheets

        sheets.save(sheets.text_sheet(image, _box(box), hits), save_viz)
        _say(f"drawn into {save_viz}")


@app.command(epilog="Example: felga info --index indexes/photos --format json")
def info(index: Index = None, form: InfoForm = "table") -> None:
    """What an index holds and what made it."""
    from felga.store.manifest import read_manifest

    folder = index or _last()
    manifest = read_manifest(folder)
    if form == "json":
        print(json.dumps(asdict(manifest), ensure_ascii=False, indent=1))
        return
    size = sum(entry["size"] for entry in manifest.files.values())
    made = manifest.contract
    rows = [
        ("index", str(folder)),
        ("corpus", f"{manifest.corpus['kind']} {manifest.corpus['root']}"),
        ("images", f"{manifest.images.owners:,}, {manifest.images.fragments:,} regions"),
        ("texts", f"{manifest.texts.owners:,}, {manifest.texts.fragments:,} keywords"),
        ("quarantined", f"{manifest.errors['images']} images, {manifest.errors['texts']} texts"),
        ("encoder", f"{made['encoder']['name']}, {made['encoder']['dim']} dimensions"),
        (
            "regions",
            f"{made['regions']['name']}, top {made['regions']['top']}, whole {made['regions']['whole']}",
        ),
        ("keywords", f"{made['keywords']['name']}, top {made['keywords']['top']}"),
        (
            "fenet",
            f"{manifest.fenet['sha256'][:12]}, {manifest.dim} dimensions" if manifest.fenet else "none",
        ),
        ("size", f"{size / 1e6:,.1f} MB in {len(manifest.files)} files"),
        ("written by", f"felga {manifest.felga}, format {manifest.format_version}"),
    ]
    for name, value in rows:
        print(f"{name:12} {value}")


@app.command(epilog="Example: felga verify --index indexes/photos")
def verify(index: Index = None) -> None:
    """Check every file and every row of an index against its manifest."""
    from felga.store.verify import verify as check

    folder = index or _last()
    manifest, found = check(folder)
    for line in found:
        print(line)
    if found:
        raise BadIndexError(f"{folder} is damaged: remove it and run `felga index` again")
    print(
        f"{folder} is sound: {len(manifest.files)} files, {manifest.images.fragments} regions of "
        f"{manifest.images.owners} images, {manifest.texts.fragments} keywords of "
        f"{manifest.texts.owners} texts"
    )


@app.command(epilog="Example: felga doctor --format json")
def doctor(form: InfoForm = "table", device: Device = "auto") -> None:
    """What is installed, which encoders and proposers load, what the others lack, and which device."""
    from felga.cli.doctor import examine

    found = examine(device)
    if form == "json":
        print(json.dumps(found, indent=1))
        return
    print(f"felga {found['felga']}, Python {found['python']}, device {found['device']}")
    for name, version in found["packages"].items():
        print(f"  {name:32} {version or 'not installed'}")
    for kind in ("encoders", "regions", "keywords"):
        print(f"{kind}:")
        for entry in found[kind]:
            print(f"  {entry['name']:20} {entry['state']:12} {entry['about']}")
            if entry["lacks"]:
                print(f"  {'':20} {entry['lacks']}")


@app.command(epilog="Example: felga train indexes/photos --out photos.fenet.safetensors --plot loss.png")
def train(
    source: Annotated[Path, typer.Argument(help="An index, or a features file of --features-out.")],
    out: Annotated[Path, typer.Option(help="The checkpoint.")] = Path("fenet.safetensors"),
    recipe: Annotated[
        str, typer.Option(help="paper, residual, or auto: by how many pairs there are.")
    ] = "auto",
    method: Annotated[
        str, typer.Option(help="felga, dense, sparse, dynamic, global, dense+global or sparse+global.")
    ] = "felga",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the recipe, e.g. epochs=20.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed training stopped.")] = False,
    features_out: Annotated[Path | None, typer.Option(help="Also keep what it was trained from.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Loss curve, PNG.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of a TensorBoard log.")] = None,
    device: Device = "auto",
) -> None:
    """Train FENet on the pairs of an index, from their captions alone (FELGA, 3.2)."""
    from felga.fenet.features import Features
    from felga.fenet.recipes import make_recipe
    from felga.fenet.train import Progress
    from felga.fenet.train import train as run
    from felga.show import curves
    from felga.store.pairs import features_of

    features = features_of(source) if source.is_dir() else Features.load(source)
    changes = _settings(settings or [])
    plan = make_recipe(recipe, pairs=len(features.usable), **{**changes, "method": method})
    if features_out:
        features.save(features_out)
        _say(f"features are in {features_out}")
    with _progress() as show:

        def progress(at: Progress) -> None:
            done = (at.epoch - 1) * at.steps + at.step
            show(f"epoch {at.epoch} loss {at.loss:.4f} rate {at.rate:.4g}", done, at.epochs * at.steps)

        made = run(features, plan, seed=seed, out=out, resume=resume, device=device, progress=progress)
    if plot:
        curves.loss_curve(made, plot)
    if tensorboard:
        curves.tensorboard_log(made, tensorboard)
    _say(
        f"{out} is trained on {len(features.usable)} pairs ({features.left_out} left out), epoch {made.epoch}"
    )
    print(json.dumps({"checkpoint": str(out), "sha256": made.sha256(), **dict(made.history[made.epoch - 1])}))


@fenet_app.command(
    "apply", epilog="Example: felga fenet apply photos.fenet.safetensors --index indexes/photos"
)
def fenet_apply(
    checkpoint: Annotated[Path | None, typer.Argument(help="What felga train wrote.")] = None,
    index: Index = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the FENet off the index.")] = False,
) -> None:
    """Put a FENet on an index, or take it off; the raw vectors stay, nothing is encoded."""
    from felga.indexing.job import apply_fenet

    if (checkpoint is None) != remove:
        raise BadInputError("name a checkpoint to put on the index, or --remove, one of the two")
    folder = index or _last()
    manifest = apply_fenet(folder, checkpoint)
    _say(f"{folder} has {'no FENet' if remove else f'the FENet {checkpoint}'}, {manifest.dim} dimensions")


@bench.command(
    "coco", epilog="Example: felga bench coco --root coco --methods frozen,felga --out results.json"
)
def bench_coco(
    root: Annotated[Path, typer.Option(help="COCO's folder: annotations/, val2017/, ...")],
    train_root: Annotated[Path | None, typer.Option(help="The same for training. [default: --root]")] = None,
    train_split: Annotated[str, typer.Option(help="train2017 or train2014.")] = "train2017",
    test_split: Annotated[str, typer.Option(help="val2017 or val2014.")] = "val2017",
    ids: Annotated[Path | None, typer.Option(help="Only these test image ids, one a line.")] = None,
    train_ids: Annotated[Path | None, typer.Option(help="Only these training image ids.")] = None,
    methods: Annotated[str, typer.Option(help="Rows of the paper's tables, by commas, or all.")] = "all",
    encoder: Annotated[str, typer.Option(help="See felga doctor.")] = "conse",
    regions: Annotated[str, typer.Option(help="Region proposer.")] = "graphseg+edgeboxes",
    keywords: Annotated[str, typer.Option(help="Keyword proposer.")] = "keybert",
    whole: Annotated[bool, typer.Option(help="The whole image is one region more.")] = True,
    pooling: Annotated[
        Literal["roi", "crop"] | None, typer.Option(help="One pass an image, or a region.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="paper, residual or auto.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the recipe.")] = None,
    seeds: Annotated[str, typer.Option(help="Trainings of each method, by commas.")] = "0,1,2",
    relevance: Annotated[
        Literal["box", "mention"],
        typer.Option(help="Right texts: of images that show it, or that name it."),
    ] = "box",
    out: Annotated[Path | None, typer.Option(help="Results json.")] = None,
    tables: Annotated[Path | None, typer.Option(help="The paper's tables: .md, .json or .csv.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for curves, bars and sheets.")] = None,
    figure: Annotated[
        str, typer.Option(help="Class of the before/after sheet (the paper's Figure 2).")
    ] = "boat",
    work: Annotated[Path, typer.Option(help="Where the indexes are kept.")] = Path("indexes"),
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Crops or texts in a forward pass.")] = 32,
    offline: Offline = False,
) -> None:
    """Object discovery and description assignment by mAP on COCO, as the paper measures them (4.3)."""
    _prepare(offline)
    from felga.evaluation import benchmark, results
    from felga.evaluation.tables import render_tables
    from felga.indexing.job import Options

    form = {".md": "markdown", ".json": "json", ".csv": "csv"}.get(tables.suffix) if tables else "markdown"
    if form is None:
        raise BadInputError(f"{tables} has no format: name a file that ends in .md, .json or .csv")
    drawn = benchmark.Drawings(figures, figure) if figures else None
    with _progress() as progress:
        found = benchmark.bench_coco(
            root,
            methods=results.METHODS if methods == "all" else [name.strip() for name in methods.split(",")],
            options=Options(
                encoder, regions, keywords, whole=whole, device=device, batch_size=batch_size, pooling=pooling
            ),
            train_root=train_root,
            train_split=train_split,
            test_split=test_split,
            ids=ids,
            train_ids=train_ids,
            recipe=recipe,
            changes=_settings(settings or []),
            seeds=_numbers(seeds),
            relevance=relevance,
            work=work,
            progress=progress,
            tell=_say,
            drawings=drawn,
        )
    rendered = render_tables(found, form)  # type: ignore[arg-type]
    if out:
        results.write_results(found, out)
        _say(f"results are in {out}")
    if tables:
        tables.write_text(rendered, "utf-8")
    sys.stdout.write(rendered)


@bench.command("proposals", epilog="Example: felga bench proposals --root coco --split train2017")
def bench_proposals(
    root: Annotated[Path, typer.Option(help="COCO's folder: annotations/, val2017/, ...")],
    split: Annotated[str, typer.Option(help="train2017, val2017, train2014 or val2014.")] = "val2017",
    regions: Annotated[str, typer.Option(help="Region proposers, by commas.")] = (
        "graphseg+edgeboxes,selective-search,grid"
    ),
    every: Annotated[int, typer.Option(help="Take every N-th image.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Results json.")] = None,
    device: Device = "auto",
) -> None:
    """Recall at 10, 50 and 100 proposals, COCO's average recall, and time, for each proposer."""
    from felga.evaluation import proposal_recall
    from felga.files import to_json, write_whole

    names = [name.strip() for name in regions.split(",")]
    with _progress() as progress:
        found = proposal_recall.bench_proposals(
            root, split, names, every=every, device=device, progress=progress
        )
    if out:
        write_whole(out, (to_json(found, indent=1) + "\n").encode())
        _say(f"results are in {out}")
    sys.stdout.write(proposal_recall.as_table(found["results"]))


@app.command(epilog="Example: felga data coco2017 --root coco")
def data(
    name: Annotated[Literal["coco2014", "coco2017"], typer.Argument(help="Which data set.")],
    root: Annotated[Path, typer.Option(help="Where it goes, in the official layout.")] = Path("coco"),
    mirror: Annotated[str | None, typer.Option(help="Another address than COCO's own.")] = None,
) -> None:
    """Fetch COCO's official archives: resumable, checked by md5, unpacked."""
    from felga.corpus.download import HOME, fetch_coco

    with _progress() as progress:
        fetch_coco(int(name[-4:]), root, home=mirror or HOME, progress=progress)
    _say(f"{name} is in {root}")


@app.command(epilog="Example: felga demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the corpus, the index and the sheets.")] = Path(
        "felga-demo"
    ),
    device: Device = "auto",
) -> None:
    """The main job on photographs that come inside scikit-image: index, three searches, one assignment."""
    _prepare(offline=True)
    from felga.corpus.demo import write_demo
    from felga.corpus.folder import FolderCorpus
    from felga.engine import Engine
    from felga.indexing.job import Options
    from felga.indexing.job import index as run
    from felga.show import sheets

    made = write_demo(out / "corpus")
    folder = out / "index"
    with _progress() as progress:
        report = run(FolderCorpus(made.folder), folder, Options(device=device), progress=progress)
    _remember(folder)
    _tell(report)
    engine = Engine.open(folder, device=device)
    words = [query for query, _ in made.searches]
    found = engine.search_all(words, 5)
    _answer(words, found, folder, "table", many=True)
    for query, hits in zip(words, found, strict=True):
        sheets.save(
            sheets.image_sheet(query, hits), path := out / "sheets" / f"search-{query.replace(' ', '-')}.png"
        )
        _say(f"drawn into {path}")
    image, box = made.folder / made.assignment.image_id, made.assignment.box
    texts = engine.assign(image, box, 3)
    _answer([f"{image}[{','.join(f'{x:g}' for x in box)}]"], [texts], folder, "table", many=False)
    sheets.save(sheets.text_sheet(image, box, texts), path := out / "sheets" / "assign.png")
    _say(f"drawn into {path}")


def _prepare(offline: bool) -> None:
    if offline:  # the hub's libraries read these when they are imported
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


def _corpus(
    folder: Path | None,
    coco: Path | None,
    images: Path | None,
    ids: Path | None,
    texts: Literal["joined", "each"],
) -> tuple[Corpus, str]:
    """The corpus that was named, and a name for its index."""
    if (folder is None) == (coco is None):
        raise BadInputError("name a folder of images, or a COCO captions json by --coco, one of the two")
    if coco is not None:
        from felga.corpus.coco import CocoCorpus

        return CocoCorpus(coco, images, ids=ids, texts=texts), coco.stem
    if images is not None or ids is not None:
        raise BadInputError("--images and --ids go with --coco")
    from felga.corpus.folder import FolderCorpus

    assert folder is not None
    return FolderCorpus(folder, texts=texts), folder.resolve().name or "root"


def _engine(index: Path | None, device: str, root: Path | None) -> tuple[Any, Path]:
    from felga.engine import Engine

    folder = index or _last()
    return Engine.open(folder, device=device, root=root), folder


def _box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInputError(
            f"--box {text} is not a box: wanted x1,y1,x2,y2 in pixels, e.g. 10,20,200,180"
        ) from error
    return x1, y1, x2, y2


def _settings(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE as json values where they are any, else as words."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInputError(f"--set {pair} is not NAME=VALUE, e.g. epochs=20")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInputError(f"{text!r} is no list of whole numbers such as 0,1,2") from error


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there: name a file of queries, one a line") from error
    except (UnicodeDecodeError, OSError) as error:
        raise BadInputError(
            f"{path} is not readable as UTF-8 text ({error}): wanted queries, one a line"
        ) from error
    if not any(lines):
        raise BadInputError(f"{path} holds no query: wanted one a line")
    return [line for line in lines if line]


def _answer(
    asked: list[str],
    found: list[list[ImageHit]] | list[list[TextHit]],
    folder: Path,
    form: Literal["table", "json", "jsonl", "csv"],
    *,
    many: bool,
) -> None:
    from felga.show.text import Answer, render

    answers = [Answer(query, str(folder), found[i]) for i, query in enumerate(asked)]
    sys.stdout.write(render(answers, form, many=many))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _tell(report: Report) -> None:
    for name, counts in (("images", report.images), ("texts", report.texts)):
        listed = ", ".join(f"{value} {what}" for what, value in asdict(counts).items())
        _say(f"{name}: {listed}")
    _say(f"{report.folder} is ready ({report.seconds['total']:.1f} s)")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars with rates and time left on stderr; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}
    with bars:

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:  # what was done before is no part of the rate
                tasks[stage] = bars.add_task(stage, total=total, completed=done, rate="")
            speed = bars.tasks[tasks[stage]].speed
            bars.update(tasks[stage], completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "")

        yield show


def _state_file() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base, "felga", "last-index")


def _remember(folder: Path) -> None:
    """Note which index was built last, for commands without --index."""
    path = _state_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(folder.resolve()))
    except OSError as error:  # a home that cannot be written must not cost an index that is done
        _say(f"felga: not noted as the index built last ({error}); name it by --index")


def _last() -> Path:
    try:
        return Path(os.fsdecode(_state_file().read_bytes()))
    except OSError as error:
        raise NotFoundError(
            "no index was built yet: run `felga index CORPUS`, or name one by --index"
        ) from error


if __name__ == "__main__":
    main()
