"""Draw docs/hero.png, the picture at the top of the README: python bench/hero.py [--out FILE]

Two searches in the demo corpus (photographs from scikit-image): one that works and one that fails. Green
frames mark images that show what was searched for, red frames the others; the purple box is the best region.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import felga
from felga.corpus.demo import DemoCorpus, write_demo
from felga.corpus.folder import FolderCorpus
from felga.show.sheets import Hit, result_sheet

QUERIES = ("rocket", "astronaut")
K = 5


def rows(engine: felga.Engine, corpus: DemoCorpus) -> list[tuple[str, list[Hit]]]:
    """Query and its ``K`` best hits, checked against the boxes of the corpus."""
    return [
        (
            f'"{query}"',
            [
                Hit(
                    Image.open(hit.path).convert("RGB"),
                    None if hit.regions[0].whole else hit.regions[0].box,
                    query in corpus.boxes[hit.image_id],
                    hit.score,
                )
                for hit in engine.search(query, K)
            ],
        )
        for query in QUERIES
    ]


def draw(engine: felga.Engine, corpus: DemoCorpus, path: Path) -> None:
    """Write the picture, in 256 colours to keep the repository small."""
    sheet = result_sheet(rows(engine, corpus))
    sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def main() -> None:
    """Index the demo corpus in a temporary folder and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "hero.png")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_demo(Path(folder, "corpus"))
        felga.index(FolderCorpus(corpus.folder), Path(folder, "index"))
        draw(felga.Engine.open(Path(folder, "index")), corpus, out)


if __name__ == "__main__":
    main()
