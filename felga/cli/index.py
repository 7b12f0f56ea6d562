"""``felga index``: build or update an index."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from felga.cli import flags
from felga.cli.locate import remember
from felga.cli.output import echo, say
from felga.cli.progress import progress
from felga.errors import BadInputError, PartialFailure
from felga.files import is_url, shown

if TYPE_CHECKING:
    from felga.corpus.items import Corpus, Texts
    from felga.indexing.options import Report
    from felga.store.stored import StoredIndex

ENOUGH, MOST = 200, 20_000
"""Captioned images that are worth a FENet of their own; and of which the gain is forecast while one waits."""
CorpusName = Annotated[
    str | None,
    typer.Argument(
        help="Folder of images, with captions in NAME.txt or metadata.jsonl; s3://BUCKET/PREFIX; "
        "webdataset:SHARDS; parquet:SHARDS; or PLUGIN:ARGUMENT."
    ),
]
Ids = Annotated[Path | None, typer.Option(help="File of COCO image ids to use, one per line.")]
TextsPer = Annotated[Literal["joined", "each"], typer.Option(help="One text per image, or one per caption.")]
TopRegions = Annotated[int, typer.Option(help="At most this many regions per image.")]
TopKeywords = Annotated[int, typer.Option(help="At most this many keywords per text.")]
Fenet = Annotated[
    str,
    typer.Option(
        help="auto: the one that an index has, or for a new index the one that comes with felga; none; or a "
        "checkpoint file."
    ),
]
SearchIndex = Annotated[
    str | None,
    typer.Option(
        help="flat: exact; auto: approximate from 100,000 regions on; or a FAISS factory such as "
        "IVF4096,PQ128x4fs. [default: as before; flat for a new index]"
    ),
]
MinRecall = Annotated[
    float | None,
    typer.Option(
        help="Share of the ten best images that an approximate search must find. [default: as before; 0.98]"
    ),
]
CommitEvery = Annotated[
    int, typer.Option(help="Images or texts per commit; a killed run loses at most these.")
]
Limit = Annotated[float, typer.Option(help="Quarantine larger images.")]
Prune = Annotated[bool, typer.Option("--prune", help="Go ahead even if most of the index would be removed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 if anything was quarantined.")]


def index(
    corpus: CorpusName = None,
    out: Annotated[Path | None, typer.Option(help="Index folder. [default: indexes/NAME]")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO captions json, instead of a folder.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the COCO images.")] = None,
    ids: Ids = None,
    texts: TextsPer = "joined",
    encoder: flags.Encoder = flags.DEFAULTS.encoder,
    regions: flags.Regions = flags.DEFAULTS.regions,
    keywords: flags.Keywords = flags.DEFAULTS.keywords,
    top_regions: TopRegions = flags.DEFAULTS.top_regions,
    top_keywords: TopKeywords = flags.DEFAULTS.top_keywords,
    whole: flags.IndexWhole = flags.DEFAULTS.whole,
    quality: flags.RegionQuality = flags.DEFAULTS.quality,
    pooling: flags.Pooling = None,
    fenet: Fenet = "auto",
    index: SearchIndex = None,
    min_recall: MinRecall = None,
    device: flags.Device = flags.DEFAULTS.device,
    batch_size: flags.BatchSize = flags.DEFAULTS.batch_size,
    commit_every: CommitEvery = flags.DEFAULTS.commit_every,
    max_megapixels: Limit = flags.DEFAULTS.max_megapixels,
    prune: Prune = False,
    dry_run: DryRun = False,
    strict: Strict = False,
    offline: flags.Offline = False,
) -> None:
    """Bring an index in line with a corpus: new, changed, renamed and removed images and texts.

    Unchanged ones are not encoded again, and an interrupted run resumes. What cannot be read is listed with
    its reason in errors.jsonl, and counted.
    """
    values = locals().copy()
    flags.go_offline(offline)
    from felga.indexing.job import index as run
    from felga.indexing.options import Options

    source, name = _corpus(corpus, coco, images, ids, texts)
    target = out or Path("indexes", name)
    options = Options(**{name: values[name] for name in asdict(flags.DEFAULTS)})  # named as the flags are
    with progress() as show:
        report = run(
            source, target, options, fenet=fenet, index=index, min_recall=min_recall, prune=prune,
            dry_run=dry_run, progress=show,
        )  # fmt: skip
    if dry_run:
        echo(_plan(report))
        return
    remember(target)
    say_report(report)
    if report.texts.added + report.texts.changed:
        say_what_training_would_bring(target)
    if strict and (quarantined := report.images.quarantined + report.texts.quarantined):
        raise PartialFailure(f"{quarantined} items were quarantined: see {shown(target / 'errors.jsonl')}")


def say_report(report: Report) -> None:
    """Report on stderr what a run did."""
    for name in ("images", "texts"):
        counts = ", ".join(f"{value} {what}" for what, value in asdict(getattr(report, name)).items())
        say(f"{name}: {counts}")
    say(f"{shown(report.folder)} is ready ({report.seconds['total']:.1f} s)")


def say_what_training_would_bring(folder: Path) -> None:
    """One line for an index of many captioned images without a FENet of its own."""
    from felga.store.stored import StoredIndex

    with StoredIndex.open(folder) as opened:
        if opened.manifest.texts.owners < ENOUGH or not _has_packaged_or_no_fenet(opened):
            return
        how = f"`felga train {shown(folder)}` and `felga fenet apply` adapt the search to these captions"
        if opened.manifest.contract.regions["features"] is None or opened.manifest.texts.owners > MOST:
            say(how)
            return
        from felga.fenet.forecast import forecast
        from felga.store.pairs import features_of

        features = features_of(folder)
        if len(features.usable) < ENOUGH:
            return
        now, trained = forecast(features, opened.fenet)
        say(f"{how}; held-out captions forecast mAP {trained} instead of {now} (images / texts)")


def _has_packaged_or_no_fenet(opened: StoredIndex) -> bool:
    from felga.fenet.packaged import packaged
    from felga.files import sha256_file

    if opened.manifest.fenet is None:
        return True
    path = packaged(opened.manifest.contract.encoder)
    return path is not None and sha256_file(path) == opened.manifest.fenet.sha256


def _plan(report: Report) -> str:
    """What a run would do: counts, and the first few ids of each kind of change."""
    lines = []
    for name in ("images", "texts"):
        counts = {key: value for key, value in asdict(getattr(report, name)).items() if key != "fragments"}
        lines.append(f"{name}: " + ", ".join(f"{value} {what}" for what, value in counts.items()))
        for change, ids in report.examples.get(name, {}).items():
            if change != "unchanged":
                more = ", ..." if counts[change] > len(ids) else ""
                lines.append(f"  {change}: {', '.join(ids)}{more}")
    lines.append(f"nothing was written to {shown(report.folder)}")
    return "\n".join(lines)


def _corpus(
    named: str | None, coco: Path | None, images: Path | None, ids: Path | None, texts: Texts
) -> tuple[Corpus, str]:
    """The corpus to index, and a name for its index."""
    if (named is None) == (coco is None):
        raise BadInputError("give either CORPUS, a folder of images, or --coco CAPTIONS.json")
    if coco is not None:
        from felga.corpus.coco import CocoCorpus

        return CocoCorpus(coco, images, ids=ids, texts=texts), coco.stem
    if images is not None or ids is not None:
        raise BadInputError("--images and --ids need --coco")
    assert named is not None
    if is_url(named):
        named = f"objects:{named}"
    folder = Path(named)
    family, colon, argument = named.partition(":")
    if colon and not folder.exists():
        from felga.registry import make_corpus, names

        if family in names("corpora"):
            return make_corpus(named, texts=texts), _folder_name(f"{family}-{Path(argument).stem}")
    from felga.corpus.folder import FolderCorpus

    return FolderCorpus(folder, texts=texts), folder.resolve().name or "root"


def _folder_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")
