"""Which corpus a command means, and the options that say so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from felga.errors import BadInputError
from felga.files import is_url

if TYPE_CHECKING:
    from felga.corpus.items import Corpus, Texts

CorpusName = Annotated[
    str | None,
    typer.Argument(
        help="Folder of images, with captions in NAME.txt or metadata.jsonl; s3://BUCKET/PREFIX; "
        "webdataset:SHARDS; parquet:SHARDS; or PLUGIN:ARGUMENT."
    ),
]
Ids = Annotated[Path | None, typer.Option(help="File of COCO image ids to use, one per line.")]
TextsPer = Annotated[Literal["joined", "each"], typer.Option(help="One text per image, or one per caption.")]
Coco = Annotated[Path | None, typer.Option(help="COCO captions json, instead of a folder.")]
CocoImages = Annotated[Path | None, typer.Option("--images", help="Folder of the COCO images.")]


def corpus_of(
    named: str | None, coco: Path | None, images: Path | None, ids: Path | None, texts: Texts
) -> tuple[Corpus, str]:
    """The corpus to index, and a name for its index.

    Raises:
        BadInputError: none is named, or two are.
    """
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
