"""The engine: open an index, search images by words, assign sentences to parts of images.

The only place that wires store, indexes, encoder and FENet together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from felga.corpus.decode import read_image
from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.registry import make_encoder
from felga.search.flat import FragmentIndex
from felga.search.owners import Owner, best_owners
from felga.store.manifest import HASHED_AT_OPEN, Manifest, TableEntry, damaged, differences, read_manifest
from felga.store.tables import Owners
from felga.types import Box, Encoder, ImageHit, RegionHit, Rows, TextHit, Vectors

if TYPE_CHECKING:
    from felga.fenet.checkpoint import Checkpoint


class Engine:
    """An index that is open for reading. It stays as it was when it was opened, also while it is written."""

    def __init__(
        self, folder: Path, manifest: Manifest, *, device: str = "auto", root: Path | None = None
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.root = root or Path(manifest.corpus["root"])
        self._device = device
        self._images = Owners(folder / "images.lance", manifest.images.version)
        self._texts = Owners(folder / "texts.lance", manifest.texts.version)
        self._regions = self._open(manifest.images)
        self._keywords = self._open(manifest.texts)

    @classmethod
    def open(cls, folder: str | Path, *, device: str = "auto", root: str | Path | None = None) -> Engine:
        """Open an index.

        Args:
            folder: what ``felga index --out`` wrote.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, for the queries.
            root: where the images are now, if they were moved; None: where they were indexed.

        Raises:
            NotFoundError: there is no index.
            BadIndexError: it is damaged, or of a format that this felga does not read.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if found := damaged(folder, manifest, hash_up_to=HASHED_AT_OPEN):
            newer = read_manifest(folder)
            if newer == manifest:
                raise BadIndexError(
                    f"{folder} is damaged ({'; '.join(found[:3])}): remove it and index again"
                )
            manifest = newer  # a writer was done in between, and removed what the older state needed
        return cls(folder, manifest, device=device, root=Path(root) if root is not None else None)

    def search(self, query: str, k: int = 10, *, regions: int = 1, whole: bool = True) -> list[ImageHit]:
        """Object discovery: the ``k`` images whose best region fits a word or phrase best. Exact.

        Args:
            regions: boxes for each hit, its best ones.
            whole: the whole image counts as a region too.

        >>> engine.search("boat", k=3)[0].regions[0].box  # doctest: +SKIP
        (12.0, 80.5, 201.0, 160.0)
        """
        return self.search_all([query], k, regions=regions, whole=whole)[0]

    def search_all(
        self, queries: Sequence[str], k: int = 10, *, regions: int = 1, whole: bool = True
    ) -> list[list[ImageHit]]:
        """:meth:`search` for several queries at once."""
        if any(not query.strip() for query in queries):
            raise BadInputError("a query is empty: say a word or a phrase")
        return self._image_hits(self._embed(self.encoder.encode_texts(queries)), k, regions, whole)

    def search_image(
        self, path: str | Path, box: Box | None = None, k: int = 10, *, regions: int = 1, whole: bool = True
    ) -> list[ImageHit]:
        """The images whose best region looks most like an image, or like the part of it in ``box``."""
        return self._image_hits(self._look(Path(path), box), k, regions, whole)[0]

    def assign(self, path: str | Path, box: Box | None = None, k: int = 10) -> list[TextHit]:
        """Description assignment: the ``k`` texts whose best keyword fits an image best. Exact.

        Args:
            path: a crop, or with ``box`` the image that it is a part of.
            box: ``x1, y1, x2, y2`` in pixels of the upright image.
        """
        return self._text_hits(self._look(Path(path), box), k)[0]

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that the index was made with.

        Raises:
            BadIndexError: the one that is installed here has other weights or preprocessing.
        """
        made_with = self.manifest.contract["encoder"]
        encoder = make_encoder(made_with["name"], device=self._device, pooling=made_with.get("pooling"))
        if differ := differences(made_with, dict(encoder.identity())):
            raise BadIndexError(
                f"{self.folder} was made with another {made_with['name']} than is here "
                f"({'; '.join(differ)}): "
                "bring that one back, or index again"
            )
        return encoder

    def _open(self, entry: TableEntry) -> FragmentIndex:
        paths = [self.folder / name for name in entry.indexes]
        return FragmentIndex(paths, self.manifest.dim, entry.fragments)

    @cached_property
    def _image_offsets(self) -> Rows:
        return self._images.offsets()

    @cached_property
    def _text_offsets(self) -> Rows:
        return self._texts.offsets()

    @cached_property
    def _parts(self) -> npt.NDArray[np.bool_]:
        """(regions,) bool: which regions are not the whole image."""
        flags = [
            np.asarray(batch.column("whole").flatten()) for batch in self._images.batches(["whole"], 8192)
        ]
        return ~np.concatenate([np.empty(0, bool), *flags]).astype(bool)

    def _embed(self, vectors: Vectors) -> Vectors:
        """Raw vectors as the FAISS files hold them: through the FENet, if the index has one."""
        if self._fenet is None:
            return vectors
        return self._fenet.apply(vectors)

    @cached_property
    def _fenet(self) -> Checkpoint | None:
        if self.manifest.fenet is None:
            return None
        from felga.fenet.checkpoint import load_fenet

        encoder = self.manifest.contract["encoder"]
        return load_fenet(
            self.folder / self.manifest.fenet["file"], encoder=encoder["name"], identity=encoder
        )

    def _look(self, path: Path, box: Box | None) -> Vectors:
        """(1, dim): an image, or a part of it."""
        if not path.exists():
            raise NotFoundError(f"{path} is not there: name an image")
        image = read_image(path, path.name)
        part = image.whole if box is None else _inside(box, image.whole, path)
        return self._embed(self.encoder.encode_regions([image], [np.array([part], np.float32)])[0])

    def _image_hits(self, queries: Vectors, k: int, regions: int, whole: bool) -> list[list[ImageHit]]:
        if k < 1 or regions < 1:
            raise BadInputError(f"k is {k} and regions is {regions}: both are wanted at least 1")
        allowed = None if whole else self._parts
        found = best_owners(self._regions, self._image_offsets, queries, k, allowed)
        rows = self._take(self._images, found, ["image_id", "path", "boxes", "whole"])
        return [
            [
                ImageHit(
                    rank,
                    rows[owner.position]["image_id"],
                    os.path.join(os.fspath(self.root), os.fsdecode(rows[owner.position]["path"])),
                    owner.score,
                    tuple(
                        RegionHit(
                            tuple(float(x) for x in rows[owner.position]["boxes"][i]),  # type: ignore[arg-type]
                            float(owner.scores[i]),
                            rows[owner.position]["whole"][i],
                        )
                        for i in np.argsort(-owner.scores, kind="stable")[:regions]
                        if owner.scores[i] > -np.inf
                    ),
                )
                for rank, owner in enumerate(hits, 1)
            ]
            for hits in found
        ]

    def _text_hits(self, queries: Vectors, k: int) -> list[list[TextHit]]:
        if k < 1:
            raise BadInputError(f"k is {k}, wanted at least 1")
        found = best_owners(self._keywords, self._text_offsets, queries, k)
        rows = self._take(self._texts, found, ["text_id", "text", "keywords", "starts", "ends"])
        return [
            [
                TextHit(
                    rank,
                    (row := rows[owner.position])["text_id"],
                    row["text"],
                    owner.score,
                    row["keywords"][owner.best],
                    (row["starts"][owner.best], row["ends"][owner.best]),
                )
                for rank, owner in enumerate(hits, 1)
            ]
            for hits in found
        ]

    @staticmethod
    def _take(
        table: Owners, found: Sequence[Sequence[Owner]], columns: Sequence[str]
    ) -> dict[int, dict[str, Any]]:
        positions = sorted({owner.position for hits in found for owner in hits})
        return dict(zip(positions, table.take(positions, columns), strict=True))


def _inside(box: Box, whole: Box, path: Path) -> Box:
    """``box`` cut to the image; refused where nothing is left."""
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], whole[2]), min(box[3], whole[3])
    if not (x2 > x1 and y2 > y1):
        raise BadInputError(
            f"the box {','.join(f'{x:g}' for x in box)} holds no pixel of {path.name}, "
            f"which is {whole[2]:g}x{whole[3]:g}: wanted x1,y1,x2,y2 with x1 < x2 and y1 < y2"
        )
    return x1, y1, x2, y2
