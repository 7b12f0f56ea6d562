"""``felga info`` and ``felga verify``: what an index holds, and whether it is intact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from felga.cli import flags
from felga.cli.locate import find_index
from felga.cli.output import echo, echo_json
from felga.cli.progress import progress
from felga.errors import BadIndexError
from felga.files import shown
from felga.store.manifest import PACKAGED, ApproximateEntry, FenetEntry, read_manifest


def info(index: flags.Index = None, form: flags.InfoForm = "table") -> None:
    """Show what an index holds and what it was built with."""
    folder = find_index(index)
    manifest = read_manifest(folder)
    if form == "json":
        echo_json(manifest.to_json())
        return
    size = sum(file.size for file in manifest.files.values())
    built, fenet = manifest.contract, manifest.fenet
    rows = {
        "index": shown(folder),
        "corpus": f"{manifest.corpus.kind} {manifest.corpus.root}",
        "images": f"{manifest.images.owners:,}, {manifest.images.fragments:,} regions",
        "texts": f"{manifest.texts.owners:,}, {manifest.texts.fragments:,} {_of_texts(built.keywords)}",
        "quarantined": f"{manifest.errors.images} images, {manifest.errors.texts} texts",
        "encoder": f"{built.encoder['name']}, {built.encoder['dim']} dimensions",
        "regions": _proposer(built.regions) + (", and the whole image" if built.regions["whole"] else ""),
        "keywords": _proposer(built.keywords),
        "quality": _quality(built.regions),
        "features": f"{built.regions['features']} per region" if built.regions["features"] else "none",
        "fenet": f"{fenet.sha256[:12]}, {manifest.dim} dimensions, {_source(fenet)}" if fenet else "none",
        "search": _search(manifest.approximate),
        "size": f"{size / 1e6:,.1f} MB in {len(manifest.files)} files",
        "written by": f"felga {manifest.felga}, format {manifest.format_version}",
    }
    echo("\n".join(f"{name:12} {value}" for name, value in rows.items()))


def verify(index: flags.Index = None) -> None:
    """Check every file and every row of an index against its manifest."""
    from felga.store.verify import verify as check

    folder = find_index(index)
    with progress() as show:
        manifest, damage = check(folder, show)
    if damage:
        echo("\n".join(damage))
        raise BadIndexError(f"{shown(folder)} is damaged: remove it and run `felga index` again")
    echo(
        f"{shown(folder)} is sound: {len(manifest.files)} files, {manifest.images.fragments} regions of "
        f"{manifest.images.owners} images, {manifest.texts.fragments} "
        f"{_of_texts(manifest.contract.keywords)} of {manifest.texts.owners} texts"
    )


def _search(codes: ApproximateEntry | None) -> str:
    if codes is None:
        return "exact"
    return (
        f"approximate, {codes.factory}: {codes.recall:.3f} of the ten best images of {codes.queries} words "
        f"(asked for: {codes.min_recall:g})"
    )


def _of_texts(keywords: Mapping[str, Any]) -> str:
    return "keywords and whole texts" if keywords["whole"] else "keywords"


def _quality(regions: Mapping[str, Any]) -> str:
    predictor = regions["quality"]
    return str(predictor.get("name", "predicted")) if predictor else "as the proposer says, if it does"


def _source(fenet: FenetEntry) -> str:
    return "comes with felga" if fenet.source == PACKAGED else f"from {shown(fenet.source)}"


def _proposer(part: Mapping[str, Any]) -> str:
    return f"{part['proposer']['name']}, top {part['top']}"
