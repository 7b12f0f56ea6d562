"""Where captions and images disagree: captions of another image, words for nothing there, things left unsaid.

A caption is read as its keywords and its whole text, and each is asked of its own image as a query would be
(:mod:`felga.search.confidence`). Limits were chosen on train2017, of FENets of other images (bench/audit.py).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from felga.engine import Engine
from felga.errors import BadInputError
from felga.files import located, shown
from felga.models.wordlist import names_a_thing
from felga.proposals.inflection import singular
from felga.search.confidence import SURE, Query, confidence, total
from felga.search.scoring import Extras
from felga.survey.names import Names, Surveyed
from felga.types import Box, Progress, Vectors, is_generated

FITS = 0.3
"""A caption fits its image if its words stand, on average, so many standard deviations above what they score
in all: 1 of 200 captions of train2017 did not, and 7 of 10 that were given to another image."""
SUPPORTED = -4.0
"""The sum of evidence that a keyword needs: 1 in 12 of true captions had less, and 7 of 10 wrong ones."""
SAID = 0.5
"""A name is mentioned if a keyword of the image's captions has this cosine with it."""
QUALITY = 0.3  # of a region that shows a thing
BLOCK = 64  # images that are read at once
CACHED = 4096  # queries that are kept
_WORD = re.compile(r"[^\W\d_]+")

Kind: TypeAlias = Literal["caption", "keyword", "region"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a caption and an image disagree.

    Attributes:
        kind: ``caption``: it does not fit the image as a whole; ``keyword``: no region supports it, in a
            caption that fits; ``region``: it shows something that no caption of the image mentions.
        rank: from 1, of its kind.
        score: of a caption, how many standard deviations its words stand above what they score in all
            images, on average; of a keyword, the sum of its evidence; of a region, the confidence of its
            name.
        word: the keyword, of a caption its least supported one; or the name of the region.
        text_id, text, span: the caption, and where the keyword stands in it; None of a region.
        box, quality: of a region; else None.
    """

    kind: Kind
    rank: int
    score: float
    image_id: str
    path: str
    word: str
    text_id: str | None = None
    text: str | None = None
    span: tuple[int, int] | None = None
    box: Box | None = None
    quality: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Its attributes as json values."""
        return {**asdict(self), "path": shown(self.path)}


@dataclass(frozen=True, slots=True)
class Audit:
    """The findings of each kind, worst first.

    Attributes:
        texts: how many captions were read.
    """

    captions: tuple[Finding, ...]
    keywords: tuple[Finding, ...]
    regions: tuple[Finding, ...]
    texts: int


def audit(engine: Engine, k: int = 50, *, progress: Progress | None = None) -> Audit:
    """The ``k`` worst findings of each kind.

    Memory holds a few images beside the sizes, qualities and ids of all.

    Raises:
        BadInputError: ``k`` is below 1, or no image of the index has a caption.
    """
    if k < 1:
        raise BadInputError(f"k must be at least 1, got {k}")
    seen = Surveyed(engine)
    texts_of = _texts_of(seen)
    if not texts_of:
        raise BadInputError(
            f"no image of {shown(seen.index.folder)} has a caption to audit: put captions in NAME.txt beside "
            "NAME.jpg, or in metadata.jsonl, and run `felga index` again"
        )
    job = _Job(seen)
    found: dict[Kind, list[Finding]] = {"caption": [], "keyword": [], "region": []}
    images, read = sorted(texts_of), 0
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        for finding in job.findings(block, [texts_of[image] for image in block]):
            found[finding.kind].append(finding)
        read += sum(len(texts_of[image]) for image in block)
        for kind in found:
            found[kind] = _worst(found[kind], k)
        if progress is not None:
            progress("captions", start + len(block), len(images))
    ranked = {
        kind: tuple(replace(one, rank=n) for n, one in enumerate(own, 1)) for kind, own in found.items()
    }
    return Audit(ranked["caption"], ranked["keyword"], ranked["region"], read)


def _worst(findings: list[Finding], k: int) -> list[Finding]:
    """The lowest scores first, of regions the highest; on ties, the order of the index."""
    return sorted(findings, key=lambda one: -one.score if one.kind == "region" else one.score)[:k]


def _texts_of(seen: Surveyed) -> dict[int, list[int]]:
    """Images that have regions and texts by people -> their texts; both by position."""
    ids = seen.index.images.read(["image_id"]).column("image_id").to_pylist()
    place = {image_id: at for at, image_id in enumerate(ids) if seen.offsets[at] < seen.offsets[at + 1]}
    found: dict[int, list[int]] = {}
    texts = seen.index.texts.read(["text_id", "image_id"])
    columns = (texts.column(name).to_pylist() for name in ("text_id", "image_id"))
    for at, (text_id, image_id) in enumerate(zip(*columns, strict=True)):
        if image_id in place and not is_generated(text_id):
            found.setdefault(place[image_id], []).append(at)
    return found


@dataclass(frozen=True, slots=True)
class _Image:
    """An image and its regions."""

    row: dict[str, Any]
    path: str
    regions: Vectors
    extras: Extras

    def finding(self, kind: Kind, score: float, word: str, **more: Any) -> Finding:
        return Finding(kind, 0, score, self.row["image_id"], self.path, word, **more)


class _Job:
    """What all images of an audit share."""

    def __init__(self, seen: Surveyed) -> None:
        self._seen = seen
        self._background = seen.queries.background()
        self._names: Names = seen.names()
        self._text_offsets = seen.index.texts.offsets()
        self._queries: OrderedDict[str, Query] = OrderedDict()

    def findings(self, images: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Finding]:
        """Of some images, with their texts."""
        index, found = self._seen.index, []
        columns = ["image_id", "path", "boxes"]
        rows = index.images.take(images, columns)
        wanted = [at for own in texts for at in own]
        columns = ["text_id", "text", "keywords", "starts", "ends", "whole"]
        about = dict(zip(wanted, index.texts.take(wanted, columns), strict=True))
        for at, row, own in zip(images, rows, texts, strict=True):
            path = located(self._seen.engine.root, row["path"])
            image = _Image(row, path, *self._seen.regions(at))
            captions = [about[text] for text in own]
            vectors = [index.keywords.vectors(*self._text_offsets[[text, text + 1]].tolist()) for text in own]
            for caption, rows_of in zip(captions, vectors, strict=True):
                found += self._of_caption(image, caption, rows_of)
            found += self._unsaid(image, captions, np.concatenate(vectors))
        return found

    def _of_caption(self, image: _Image, caption: dict[str, Any], vectors: Vectors) -> list[Finding]:
        """A caption that does not fit, or its keywords that nothing supports. Only keywords that are known to
        name things are judged by themselves; a caption without any is not judged."""
        standings, support = [], []
        for at, (word, whole) in enumerate(zip(caption["keywords"], caption["whole"], strict=True)):
            name = singular(word)
            query = self._background.query(vectors[at]) if whole else self._query(name, vectors[at])
            standings.append(query.standing(image.regions, image.extras))
            if not whole and names_a_thing(name):
                support.append((total(query.evidence(image.regions, image.extras)), at))
        if not support:
            return []
        fit = float(np.mean(standings))
        doubted = [(fit, min(support)[1])] if fit < FITS else []
        kind: Kind = "caption" if doubted else "keyword"
        return [
            image.finding(
                kind,
                score,
                caption["keywords"][at],
                text_id=caption["text_id"],
                text=caption["text"],
                span=(caption["starts"][at], caption["ends"][at]),
            )
            for score, at in doubted or support
            if doubted or score < SUPPORTED
        ]

    def _unsaid(self, image: _Image, captions: Sequence[dict[str, Any]], vectors: Vectors) -> list[Finding]:
        """Regions that surely show what no caption mentions; of each name the one that stands out most."""
        whole = np.array([flag for caption in captions for flag in caption["whole"]], bool)
        said = {singular(word) for caption in captions for word in _WORD.findall(caption["text"].lower())}
        usable = np.flatnonzero(~image.extras["whole"] & ~(image.extras["quality"] < QUALITY))
        names, standings = self._names.of(image.regions[usable])
        best: dict[int, int] = {}
        for at in np.argsort(-standings, kind="stable").tolist():
            best.setdefault(int(names[at]), int(usable[at]))
        found = []
        for name, region in best.items():
            word, vector = self._names.words[name], self._names.vectors[name]
            near = vectors[~whole] @ vector
            if word in said or word.split()[-1] in said or near.max(initial=-1.0) >= SAID:
                continue
            evidence = self._query(f"name {word}", vector).evidence(image.regions, image.extras)
            sure = confidence(evidence)
            if sure >= SURE:
                x1, y1, x2, y2 = image.row["boxes"][region]
                quality = float(image.extras["quality"][region])
                known = None if np.isnan(quality) else quality
                found.append(image.finding("region", sure, word, box=(x1, y1, x2, y2), quality=known))
        return found

    def _query(self, name: str, vector: Vectors) -> Query:
        """A query; those of the last words are kept."""
        if name not in self._queries:
            self._queries[name] = self._background.query(vector)
            if len(self._queries) > CACHED:
                self._queries.popitem(last=False)
        self._queries.move_to_end(name)
        return self._queries[name]
