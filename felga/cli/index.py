"""``felga index``: build or update an index."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from felga.cli import flags, sources
from felga.cli.locate import remember
from felga.cli.output import echo, say
from felga.cli.progress import AGAIN, progress
from felga.errors import BadInputError, PartialFailure
from felga.files import shown

if TYPE_CHECKING:
    from felga.corpus.items import Corpus
    from felga.indexing.encode import Engine
    from felga.indexing.options import Report
    from felga.store.stored import StoredIndex
    from felga.types import Progress

ENOUGH, MOST = 200, 20_000
"""Captioned images that are worth a FENet of their own; and of which the gain is forecast while one waits."""
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
Prune = Annotated[bool, typer.Option("--prune", help="Go ahead even if most of the index would be removed.")]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option(help="ray: encode by the workers of a Ray cluster; the index is the same."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of the Ray cluster. [default: $RAY_ADDRESS, else one on this machine, started if need be]"
    ),
]
Describe = Annotated[
    Path | None,
    typer.Option(help="A captioner that writes a text, marked as generated, for images without one."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 if anything was quarantined.")]


def index(
    corpus: sources.CorpusName = None,
    out: Annotated[Path | None, typer.Option(help="Index folder. [default: indexes/NAME]")] = None,
    coco: sources.Coco = None,
    images: sources.CocoImages = None,
    ids: sources.Ids = None,
    texts: sources.TextsPer = "joined",
    encoder: flags.Encoder = flags.DEFAULTS.encoder,
    regions: flags.Regions = flags.DEFAULTS.regions,
    keywords: flags.Keywords = flags.DEFAULTS.keywords,
    top_regions: flags.TopRegions = flags.DEFAULTS.top_regions,
    top_keywords: flags.TopKeywords = flags.DEFAULTS.top_keywords,
    whole: flags.IndexWhole = flags.DEFAULTS.whole,
    quality: flags.RegionQuality = flags.DEFAULTS.quality,
    pooling: flags.Pooling = None,
    fenet: flags.Fenet = "auto",
    index: SearchIndex = None,
    min_recall: MinRecall = None,
    device: flags.Device = flags.DEFAULTS.device,
    batch_size: flags.BatchSize = flags.DEFAULTS.batch_size,
    commit_every: flags.CommitEvery = flags.DEFAULTS.commit_every,
    max_megapixels: flags.MaxMegapixels = flags.DEFAULTS.max_megapixels,
    engine: EngineName = "local",
    address: Address = None,
    describe: Describe = None,
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

    source, name = sources.corpus_of(corpus, coco, images, ids, texts)
    target = out or Path("indexes", name)
    options = Options(**{name: values[name] for name in asdict(flags.DEFAULTS)})  # named as the flags are
    with _engine(engine, address) as encoding, progress(AGAIN) as show:
        source = source if describe is None else _described(source, describe, target, dry_run, device, show)
        report = run(
            source, target, options, fenet=fenet, index=index, min_recall=min_recall, prune=prune,
            dry_run=dry_run, engine=encoding, progress=show,
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


def _described(
    source: Corpus, captioner: Path, target: Path, dry_run: bool, device: str, show: Progress
) -> Corpus:
    """The corpus with generated texts, which are kept beside the index."""
    if dry_run:
        raise BadInputError("--describe writes captions to know the plan: leave out --dry-run or --describe")
    from felga.captions.described import described

    memory = target.with_name(f"{target.name}.captions.jsonl")
    return described(source, captioner, memory, beam=4, device=device, progress=show)


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


def _engine(name: str, address: str | None) -> AbstractContextManager[Engine]:
    """What encodes, while it is connected."""
    if name == "local":
        if address is not None:
            raise BadInputError("--address needs --engine ray")
        from felga.indexing.encode import LocalEngine

        return nullcontext(LocalEngine)
    from felga.indexing.cluster import ray_engine

    return ray_engine(address)
