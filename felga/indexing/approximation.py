"""The approximate search of an index: built where it is wanted, measured with words, kept while it fits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from felga.errors import BadInputError
from felga.files import shown
from felga.models.wordlist import bank_words
from felga.search.approximate import (
    ApproximateSearcher,
    Depth,
    check_factory,
    depths,
    factory_for,
    write_approximate,
)
from felga.search.owners import Owner, best_owners
from felga.search.rules import image_rule
from felga.search.scoring import MeaningAndQuality
from felga.store.commit import commit_approximate
from felga.store.manifest import ApproximateEntry, Manifest
from felga.store.stored import StoredIndex
from felga.types import Encoder, Floats, Progress, Vectors

FLAT, AUTO = "flat", "auto"
RECALL = 0.98
"""The recall that is asked for, unless something else is."""
KNOWN = 0.8  # share of the codes and of the fragments that must still belong together
QUERIES, K = 256, 10  # words that recall is measured with, and how many of the best images of each


def check_asked(
    asked: str | None, min_recall: float | None, before: Manifest | None, dim: int
) -> tuple[str, float]:
    """What is asked of an index, where it was not said; refused before an hour is spent.

    Args:
        asked: ``flat``: searched exactly; ``auto``; or a factory of FAISS. None: as before, or ``flat``.
        min_recall: share of the ten best images that must be found. None: as before, or :data:`RECALL`.
        dim: of the vectors that are searched.

    Raises:
        BadInputError: there is no such factory, or the recall is not in (0, 1].
    """
    entry = before.approximate if before else None
    asked = asked or (entry.asked if entry else FLAT)
    min_recall = min_recall if min_recall is not None else entry.min_recall if entry else RECALL
    if not 0 < min_recall <= 1:
        raise BadInputError(f"min_recall must lie above 0 and be at most 1, got {min_recall}")
    if asked not in (FLAT, AUTO):
        check_factory(asked, dim)
    return asked, min_recall


def approximate(
    folder: Path,
    encoder: Callable[[], Encoder],
    asked: str,
    min_recall: float,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Manifest:
    """Bring the approximate search of an index in line with what is asked and with its fragments.

    It is built anew if something else is asked for than before, or if a fifth of its fragments have changed.
    Recall is measured against the exact answer, with words as queries: these lie apart from regions, and an
    index that finds regions by regions may well miss what words ask for.

    Args:
        folder: of the index, whose lock is held.
        encoder: the encoder of the index.
        asked, min_recall: of :func:`check_asked`.

    Raises:
        BadInputError: no depth reaches that recall; the index is then searched exactly.
    """
    with StoredIndex.open(folder) as index:
        before = index.manifest.approximate
        factory = factory_for(len(index.regions), index.manifest.dim) if asked == AUTO else asked
        entry: ApproximateEntry | None = None
        if factory is not None and factory != FLAT and len(index.regions):
            kept = before is not None and (before.asked, before.min_recall) == (asked, min_recall)
            if kept and before is not None and before.factory == factory and _is_known(index, before):
                entry = before
            else:
                entry = _built(index, folder, factory, encoder(), asked, min_recall, progress)
        reached = entry is None or entry.recall >= min_recall
        manifest = commit_approximate(
            folder, index.manifest, entry if reached else None, index.images, index.texts
        )
    if entry is not None and not reached:
        (folder / entry.file).unlink(missing_ok=True)
        raise BadInputError(
            f"{entry.factory} finds {entry.recall:.3f} of the ten best images at most, {min_recall:g} was "
            f"asked for: {shown(folder)} is ready and searched exactly; lower --min-recall, or name another "
            "--index"
        )
    return manifest


def _built(
    index: StoredIndex,
    folder: Path,
    factory: str,
    encoder: Encoder,
    asked: str,
    min_recall: float,
    progress: Progress,
) -> ApproximateEntry:
    """A new approximate search, written and measured."""
    table, before = index.manifest.images, index.manifest.approximate
    path = folder / f"approximate-{_key(index, factory)}.faiss"
    if before is None or before.file != path.name:  # one that no manifest names may be damaged
        write_approximate(index.regions, factory, path, progress)
    depth, recall = _depth(index, path, encoder, min_recall)
    return ApproximateEntry(
        path.name, asked, factory, table.pieces, table.counts, depth.effort, depth.fetch, min_recall, recall,
        QUERIES,
    )  # fmt: skip


def _is_known(index: StoredIndex, entry: ApproximateEntry) -> bool:
    """Whether codes and fragments still belong together, by and large."""
    table = index.manifest.images
    here = {*table.pieces}
    live = sum(count for name, count in zip(entry.pieces, entry.counts, strict=True) if name in here)
    return live >= KNOWN * max(sum(entry.counts), table.fragments)


def _key(index: StoredIndex, factory: str) -> str:
    return hashlib.sha256("\n".join([factory, *index.manifest.images.pieces]).encode()).hexdigest()[:32]


def _depth(index: StoredIndex, path: Path, encoder: Encoder, wanted: float) -> tuple[Depth, float]:
    """The cheapest depth that reaches the recall, or the deepest; and its recall.

    Both halves of the queries must reach it, and the lower recall counts: what was chosen on one half is
    confirmed by the other.
    """
    table = index.manifest.images
    starts = np.cumsum([0, *table.counts])[:-1].tolist()
    searcher = ApproximateSearcher(path, index.regions, table.counts, starts, Depth(0, 1))
    ask = _asking(index, _words(index, encoder))
    exact = ask(None)
    recall = 0.0
    for depth in depths(searcher, len(index.regions)):
        searcher.depth = depth
        each = _recalls(exact, ask(searcher))
        recall = float(min(each[::2].mean(), each[1::2].mean()))
        if recall >= wanted:
            break
    return searcher.depth, recall


def _words(index: StoredIndex, encoder: Encoder) -> Vectors:
    """(QUERIES, dim) of words from all over the bank."""
    words = bank_words()
    chosen = [words[at] for at in np.linspace(0, len(words) - 1, QUERIES).astype(int)]
    return index.embedding.keywords(encoder.encode_texts(chosen))


def _asking(
    index: StoredIndex, queries: Vectors
) -> Callable[[ApproximateSearcher | None], list[list[Owner]]]:
    """What answers the queries as a search does by default."""
    offsets = index.images.offsets()
    extras = {"whole": index.images.whole(), "quality": index.images.quality()}

    def ask(shortlister: ApproximateSearcher | None) -> list[list[Owner]]:
        return best_owners(
            index.regions, offsets, queries, K, scorer=MeaningAndQuality(), rule=image_rule("soft"),
            extras=extras, shortlister=shortlister,
        )  # fmt: skip

    return ask


def _recalls(exact: list[list[Owner]], found: list[list[Owner]]) -> Floats:
    """(q,) share of the exact owners that were found."""
    shares = [
        len({owner.position for owner in own} & {owner.position for owner in best}) / max(len(best), 1)
        for best, own in zip(exact, found, strict=True)
    ]
    return np.array(shares)
