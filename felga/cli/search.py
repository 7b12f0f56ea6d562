"""``felga search`` and ``felga assign``."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from felga.cli import flags
from felga.cli.output import say
from felga.cli.outputs import Outputs
from felga.cli.remote import opened, query_image
from felga.corpus.inside import exists
from felga.corpus.items import IN_FILES
from felga.errors import BadInputError
from felga.files import is_url, read_lines, shown

if TYPE_CHECKING:
    from felga.cli.remote import Asked
    from felga.types import Box, ImageHit, TextHit


Ids = Annotated[Path | None, typer.Option(help="Only images with these ids: a file, one per line.")]
PathGlob = Annotated[str | None, typer.Option(help='Only images whose path matches, e.g. "2024/*".')]
Caption = Annotated[str | None, typer.Option(help="Only images whose caption contains this.")]
Exact = Annotated[bool, typer.Option("--exact", help="Look at every region, whatever the index has.")]


def search(
    query: Annotated[
        list[str] | None, typer.Argument(help='One query each: words, or "boat AND person NOT car".')
    ] = None,
    index: flags.AnyIndex = None,
    server: flags.Server = None,
    top: flags.TopK = 10,
    queries: Annotated[Path | None, typer.Option(help="File of queries, one per line.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by an image instead of words.")] = None,
    box: flags.BoxText = None,
    regions: Annotated[int, typer.Option(help="Boxes per hit, and per term of AND.")] = 1,
    whole: flags.Whole = True,
    quality: flags.Quality = None,
    owner_score: flags.OwnerScore = "soft",
    min_confidence: flags.MinConfidence = None,
    explain: flags.Explain = False,
    dedupe: flags.Dedupe = False,
    same_region: flags.SameRegion = False,
    ids: Ids = None,
    path: PathGlob = None,
    caption: Caption = None,
    exact: Exact = False,
    form: flags.SearchForm = "table",
    paths: flags.Paths = False,
    null: flags.Null = False,
    save_viz: flags.SaveViz = None,
    html: flags.Html = None,
    copy_to: flags.CopyTo = None,
    link_to: flags.LinkTo = None,
    crops_to: flags.CropsTo = None,
    root: flags.Root = None,
    encoder: flags.QueryEncoder = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Object discovery: the images that match a query best, with the box of their best region."""
    flags.go_offline(offline)
    _be_quick()
    flags.at_least_one(k=top, regions=regions)
    asked = _asked(query, queries, image, box)
    part = flags.parse_box(box)
    if image and (explain or same_region or min_confidence is not None):
        raise BadInputError("--min-confidence, --explain and --same-region are for words, not for an image")
    outputs = Outputs(form, paths, null, save_viz, html, copy_to, link_to, crops_to)
    how: Any = {"regions": regions, "whole": whole, "owner": owner_score, "dedupe": dedupe, "exact": exact}
    how |= {"path": path, "caption": caption, "ids": _lines(ids, "image ids")}
    with opened(server, index, outputs, device=device, root=root, encoder=encoder) as (engine, folder):
        if image:
            image = query_image(engine, image)
            hits = [engine.search_image(image, part, top, quality=bool(quality), **how)]
        else:
            _say_unknown(engine, asked)
            how |= {"quality": quality is not False, "explain": explain, "same_region": same_region}
            hits = engine.search_all(asked, top, min_confidence=min_confidence or 0.0, **how)
            if min_confidence is None:
                hits = [_believed(engine, query, found) for query, found in zip(asked, hits, strict=True)]
        missing = _missing(engine, hits)
    many = len(asked) > 1 or queries is not None
    print_answers("images", asked, hits, folder, outputs, missing=missing, many=many, image=image, box=part)


def assign(
    image: Annotated[
        Path,
        typer.Argument(help="A crop, or the image that --box is a part of, by its path or its id."),
    ],
    box: flags.BoxText = None,
    index: flags.AnyIndex = None,
    server: flags.Server = None,
    top: flags.TopK = 10,
    owner_score: flags.OwnerScore = "soft",
    form: flags.Form = "table",
    save_viz: flags.SaveViz = None,
    html: flags.Html = None,
    root: flags.Root = None,
    encoder: flags.QueryEncoder = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Description assignment: the texts that match a crop or a box best, with their best keyword."""
    flags.go_offline(offline)
    _be_quick()
    flags.at_least_one(k=top)
    part = flags.parse_box(box)
    outputs = Outputs(form=form, save_viz=save_viz, html=html)
    with opened(server, index, outputs, device=device, root=root, encoder=encoder) as (engine, folder):
        path = query_image(engine, image)
        hits = engine.assign(path, part, top, owner=owner_score)
    print_answers("texts", [_name(image, box)], [hits], folder, outputs, image=path, box=part)


def _be_quick() -> None:
    """Save a process of one query what pays only in a long one; called before torch is imported."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # idle threads would spin for longer than a query takes
    gc.set_threshold(
        100_000
    )  # imports leave no garbage, and scanning them for it takes a tenth of their time


def print_answers(
    kind: Literal["images", "texts"],
    asked: Sequence[str],
    hits: Sequence[Sequence[ImageHit | TextHit]],
    folder: Path | str,
    outputs: Outputs | None = None,
    *,
    missing: frozenset[str] = frozenset(),
    many: bool = False,
    image: Path | None = None,
    box: Box | None = None,
) -> None:
    """Write the hits of each query to stdout, and wherever else they were asked for."""
    from felga.show.text import Answer

    answers = [
        Answer(query, shown(folder), found, kind, missing, image, box)
        for query, found in zip(asked, hits, strict=True)
    ]
    (outputs or Outputs()).emit(answers, many=many)


def _believed(engine: Asked, query: str, hits: list[ImageHit]) -> list[ImageHit]:
    """The hits of a query, or none if they may as well be of something that is not there."""
    from felga.questions.doubt import doubt
    from felga.search.confidence import SURE

    found = doubt(engine, query, hits)
    if found is None:
        return hits
    term = "" if found.term == query else f" for {shown(found.term)!r}"
    say(
        f"no match for {shown(query)!r}: the best image{term} has a confidence of {found.confidence:.2f}, an "
        f"answer needs {SURE}; --min-confidence 0 shows it"
    )
    return []


def _say_unknown(engine: Asked, queries: Sequence[str]) -> None:
    """One line for each word that nothing knows."""
    unknown = {word: near for query in queries for word, near in engine.unknown_words(query).items()}
    for word, near in unknown.items():
        nearest = f"; nearest: {', '.join(near)}" if near else ""
        say(f"{word!r} is not a word that this index or encoder knows{nearest}")


def _asked(query: list[str] | None, queries: Path | None, image: Path | None, box: str | None) -> list[str]:
    """The words asked for, or the name of the image."""
    asked = [_readable(word) for word in query or []]
    asked += read_lines(queries, "queries") if queries else []
    if not (asked or image):
        raise BadInputError("give query words, --queries FILE or --image IMAGE")
    if asked and image:
        raise BadInputError("give query words (or --queries FILE) or --image, not both")
    if box and not image:
        raise BadInputError("--box needs --image, the image that it is a part of")
    return [_name(image, box)] if image else asked


def _lines(path: Path | None, what: str) -> list[str] | None:
    return None if path is None else read_lines(path, what)


def _readable(query: str) -> str:
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"the query '{shown(query)}' is not valid UTF-8: check the terminal") from error
    return query


def _name(image: Path, box: str | None) -> str:
    return f"{shown(image)}[{box}]" if box else shown(image)


def _missing(engine: Asked, hits: Sequence[Sequence[ImageHit]]) -> frozenset[str]:
    """Paths of hits that no longer exist, reported once; other corpora than these may have no paths."""
    if not hasattr(engine, "manifest") or engine.manifest.corpus.kind not in IN_FILES:
        return frozenset()
    paths = {hit.path for found in hits for hit in found if not is_url(hit.path)}
    missing = frozenset(path for path in paths if not exists(path))
    if missing:
        say(
            f"{len(missing)} of {len(paths)} images not found, e.g. "
            f"{shown(min(missing))}: give their new folder with --root, or run `felga index` again"
        )
    return missing
