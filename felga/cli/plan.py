"""``felga plan``: what indexing a corpus would take."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from felga.cli import flags, sources
from felga.cli.output import echo, echo_json
from felga.cli.progress import duration, progress

if TYPE_CHECKING:
    from felga.indexing.probe import Forecast


def plan(
    corpus: sources.CorpusName = None,
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
    device: flags.Device = flags.DEFAULTS.device,
    batch_size: flags.BatchSize = flags.DEFAULTS.batch_size,
    commit_every: flags.CommitEvery = flags.DEFAULTS.commit_every,
    max_megapixels: flags.MaxMegapixels = flags.DEFAULTS.max_megapixels,
    offline: flags.Offline = False,
    form: flags.InfoForm = "table",
) -> None:
    """Say what `felga index` with these options would take: time, disk and memory.

    100 images and texts, spread over the corpus, are indexed for real in a temporary folder.
    """
    values = locals().copy()
    flags.go_offline(offline)
    from felga.indexing.options import Options
    from felga.indexing.probe import forecast_job

    source, _ = sources.corpus_of(corpus, coco, images, ids, texts)
    options = Options(**{name: values[name] for name in asdict(flags.DEFAULTS)})  # named as the flags are
    with progress() as show:
        found = forecast_job(source, options, fenet=fenet, progress=show)
    if form == "json":
        echo_json(asdict(found))
    else:
        echo(_table(found))


def _table(found: Forecast) -> str:
    seconds, unreadable = found.seconds, found.unreadable
    rows = {
        "images": f"{found.images:,}, {found.regions:,} regions",
        "texts": f"{found.texts:,}, {found.keywords:,} keywords and whole texts",
        "time": f"{duration(seconds['total'])} (images {duration(seconds['images'])}, texts "
        f"{duration(seconds['texts'])}), on this machine as busy as it is now",
        "disk": f"{found.disk_bytes / 1e6:,.1f} MB; while it is written, up to twice as much",
        "memory": f"{found.memory_bytes / 1e6:,.0f} MB",
        "search": "exact, also with --index auto"
        if found.approximate is None
        else f"--index auto would build {found.approximate}; the time does not include it",
        "probed": f"{found.probed_images} images, {found.probed_texts} texts"
        + (f"; {unreadable} cannot be read" if unreadable else ""),
    }
    return "\n".join(f"{name:8} {value}" for name, value in rows.items())
