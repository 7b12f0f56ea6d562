"""``felga demo`` and ``felga data``: a corpus to try felga on, and COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from felga.cli import flags
from felga.cli.index import say_report
from felga.cli.locate import remember
from felga.cli.output import say
from felga.cli.progress import progress
from felga.cli.search import print_answers
from felga.files import shown


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the corpus, the index and the sheets.")] = Path(
        "felga-demo"
    ),
    device: flags.Device = "auto",
) -> None:
    """Index scenes made of scikit-image's photographs, then run three searches and an assignment."""
    flags.go_offline(True)
    from felga.corpus.demo import write_demo
    from felga.corpus.folder import FolderCorpus
    from felga.engine import Engine
    from felga.indexing.job import index
    from felga.indexing.options import Options
    from felga.show import sheets

    corpus = write_demo(out / "corpus")
    folder = out / "index"
    with progress() as show:
        report = index(FolderCorpus(corpus.folder), folder, Options(device=device), progress=show)
    remember(folder)
    say_report(report)
    words = [query for query, _ in corpus.searches]
    image, box = corpus.folder / corpus.assignment.image_id, corpus.assignment.box
    with Engine.open(folder, device=device) as engine:
        hits = engine.search_all(words, 5)
        texts = engine.assign(image, box, 3)
    print_answers("images", words, hits, folder, many=True)
    print_answers("texts", [f"{shown(image)}[{','.join(f'{x:g}' for x in box)}]"], [texts], folder)
    drawn = {f"search-{query.replace(' ', '-')}": sheets.image_sheet(query, found)
             for query, found in zip(words, hits, strict=True)}  # fmt: skip
    for name, sheet in (drawn | {"assign": sheets.text_sheet(image, box, texts)}).items():
        sheets.save(sheet, path := out / "sheets" / f"{name}.png")
        say(f"drawn into {shown(path)}")


def data(
    name: Annotated[Literal["coco2014", "coco2017"], typer.Argument(help="The data set.")],
    root: Annotated[Path, typer.Option(help="Where it goes, in the official layout.")] = Path("coco"),
    mirror: Annotated[str | None, typer.Option(help="Download from here instead of COCO's server.")] = None,
) -> None:
    """Download COCO's official archives: resumable, checked by md5, unpacked."""
    from felga.corpus.download import HOME, fetch_coco

    with progress() as show:
        fetch_coco(int(name[-4:]), root, home=mirror or HOME, progress=show)
    say(f"{name} is in {shown(root)}")
