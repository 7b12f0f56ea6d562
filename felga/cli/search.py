"""``felga search`` and ``felga assign``."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from felga.cli import flags
from felga.cli.locate import find_index
from felga.cli.output import echo, only_ascii, say
from felga.errors import BadInputError
from felga.files import read_lines, shown

if TYPE_CHECKING:
    from felga.engine import Engine
    from felga.types import ImageHit, TextHit


def search(
    query: Annotated[list[str] | None, typer.Argument(help="Words or phrases, one query each.")] = None,
    index: flags.Index = None,
    top: flags.TopK = 10,
    queries: Annotated[Path | None, typer.Option(help="File of queries, one per line.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by an image instead of words.")] = None,
    box: flags.BoxText = None,
    regions: Annotated[int, typer.Option(help="Boxes per hit.")] = 1,
    whole: flags.Whole = True,
    quality: flags.Quality = None,
    owner_score: flags.OwnerScore = "soft",
    form: flags.Form = "table",
    save_viz: flags.SaveViz = None,
    root: flags.Root = None,
    encoder: flags.QueryEncoder = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Object discovery: the images that match a query best, with the box of their best region."""
    flags.go_offline(offline)
    _be_quick()
    flags.at_least_one(k=top, regions=regions)
    asked = [_readable(word) for word in query or []]
    asked += read_lines(queries, "queries") if queries else []
    if not (asked or image):
        raise BadInputError("give query words, --queries FILE or --image IMAGE")
    if asked and image:
        raise BadInputError("give query words (or --queries FILE) or --image, not both")
    if box and not image:
        raise BadInputError("--box needs --image, the image that it is a part of")
    part = flags.parse_box(box)
    targets = _targets(save_viz, 1 if image else len(asked))
    folder = find_index(index)
    from felga.engine import Engine

    with Engine.open(folder, device=device, root=root, encoder=encoder) as engine:
        if image:
            asked = [_name(image, box)]
            path = _query_image(engine, image)
            hits = [
                engine.search_image(
                    path, part, top, regions=regions, whole=whole, quality=bool(quality), owner=owner_score
                )
            ]
        else:
            _say_unknown(engine, asked)
            hits = engine.search_all(
                asked, top, regions=regions, whole=whole, quality=quality is not False, owner=owner_score
            )
        missing = _missing(engine, hits)
    print_answers(
        "images", asked, hits, folder, form, missing=missing, many=len(asked) > 1 or queries is not None
    )
    if targets:
        from felga.show import sheets

        for words, found, target in zip(asked, hits, targets, strict=True):
            sheets.save(sheets.image_sheet(words, found), target)
            say(f"drawn into {shown(target)}")


def assign(
    image: Annotated[
        Path,
        typer.Argument(help="A crop, or the image that --box is a part of, by its path or its id."),
    ],
    box: flags.BoxText = None,
    index: flags.Index = None,
    top: flags.TopK = 10,
    owner_score: flags.OwnerScore = "soft",
    form: flags.Form = "table",
    save_viz: flags.SaveViz = None,
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
    targets = _targets(save_viz, 1)
    folder = find_index(index)
    from felga.engine import Engine

    with Engine.open(folder, device=device, root=root, encoder=encoder) as engine:
        path = _query_image(engine, image)
        hits = engine.assign(path, part, top, owner=owner_score)
    print_answers("texts", [_name(image, box)], [hits], folder, form)
    if targets:
        from felga.show import sheets

        sheets.save(sheets.text_sheet(path, part, hits), targets[0])
        say(f"drawn into {shown(targets[0])}")


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
    folder: Path,
    form: flags.Format = "table",
    *,
    missing: frozenset[str] = frozenset(),
    many: bool = False,
) -> None:
    """Write the hits of each query to stdout."""
    from felga.show.text import Answer, render

    answers = [
        Answer(query, shown(folder), found, kind, missing) for query, found in zip(asked, hits, strict=True)
    ]
    echo(render(answers, form, many=many, only_ascii=only_ascii()))


def _say_unknown(engine: Engine, queries: Sequence[str]) -> None:
    """One line for each word that nothing knows."""
    unknown = {word: near for query in queries for word, near in engine.unknown_words(query).items()}
    for word, near in unknown.items():
        nearest = f"; nearest: {', '.join(near)}" if near else ""
        say(f"{word!r} is not a word that this index or encoder knows{nearest}")


def _readable(query: str) -> str:
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"the query '{shown(query)}' is not valid UTF-8: check the terminal") from error
    return query


def _name(image: Path, box: str | None) -> str:
    return f"{shown(image)}[{box}]" if box else shown(image)


def _query_image(engine: Engine, image: Path) -> Path:
    """The image file, which may also be named relative to the indexed images."""
    indexed = engine.root / image
    return indexed if indexed.exists() and not image.exists() else image


def _targets(save_viz: Path | None, count: int) -> list[Path]:
    """The files to draw, checked before anything is loaded."""
    if save_viz is None:
        return []
    from felga.show import sheets

    sheets.check_target(save_viz)
    if count == 1:
        return [save_viz]
    return [save_viz.with_stem(f"{save_viz.stem}-{number}") for number in range(1, count + 1)]


def _missing(engine: Engine, hits: Sequence[Sequence[ImageHit]]) -> frozenset[str]:
    """Paths of hits that no longer exist, reported once; other corpora than these may have no paths."""
    if engine.manifest.corpus.kind not in ("folder", "coco"):
        return frozenset()
    paths = {hit.path for found in hits for hit in found}
    missing = frozenset(path for path in paths if not os.path.exists(path))
    if missing:
        say(
            f"{len(missing)} of {len(paths)} images not found, e.g. "
            f"{shown(min(missing))}: give their new folder with --root, or run `felga index` again"
        )
    return missing
