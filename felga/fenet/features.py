"""The frozen fragments of image-text pairs: ragged on disk; on the device one tensor and padded batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from felga.errors import BadInputError
from felga.files import shown
from felga.models.arrays import read_arrays, write_arrays
from felga.search.segments import check_offsets, check_unit
from felga.types import Flags, Rows, Vectors


@dataclass(frozen=True, eq=False)
class Features:
    """FENet's training data (FELGA, Eq. 2): frozen unit vectors of regions and keywords, by pair.

    Pair ``i`` has the regions ``region_offsets[i]:region_offsets[i + 1]`` and the keywords
    ``keywords[keyword_ids[keyword_offsets[i]:keyword_offsets[i + 1]]]``. Their numbers vary, and may be
    zero; such pairs are kept here and left out of training.

    Attributes:
        regions: (n, d) float32, each row of length 1, a pair's regions side by side.
        region_offsets: (p + 1,) int64.
        keywords: (u, d) float32, each distinct keyword once.
        keyword_ids: (m,) int64, rows of ``keywords``.
        keyword_offsets: (p + 1,) int64.
        pair_ids: p names; empty: "0", "1", ...
        keyword_texts: u strings, or None if unknown; informative only.
        encoder, identity: the encoder of the vectors; recorded in the checkpoint.

    Raises:
        BadInputError: shapes, offsets or ids do not fit, or a vector is not finite and of length 1.
    """

    regions: Vectors
    region_offsets: Rows
    keywords: Vectors
    keyword_ids: Rows
    keyword_offsets: Rows
    pair_ids: tuple[str, ...] = ()
    keyword_texts: tuple[str, ...] | None = None
    encoder: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen: this only converts the arrays to their types
        for name in ("regions", "keywords"):
            put(self, name, np.ascontiguousarray(getattr(self, name), np.float32))
        for name in ("region_offsets", "keyword_ids", "keyword_offsets"):
            put(self, name, np.ascontiguousarray(getattr(self, name), np.int64))
        put(self, "pair_ids", tuple(self.pair_ids) or tuple(str(i) for i in range(len(self))))
        if self.keyword_texts is not None:
            put(self, "keyword_texts", tuple(self.keyword_texts))
        self._check()

    def _check(self) -> None:
        for name, vectors in (("region", self.regions), ("keyword", self.keywords)):
            if vectors.ndim != 2 or vectors.shape[1] != self.regions.shape[-1]:
                raise BadInputError(
                    f"{name} vectors have shape {vectors.shape}, expected (n, d) with the same d for both"
                )
            check_unit(vectors, name)
        check_offsets(self.region_offsets, len(self.regions))
        check_offsets(self.keyword_offsets, len(self.keyword_ids))
        if len(self.keyword_offsets) != len(self.region_offsets):
            raise BadInputError(
                f"there are {len(self.region_offsets)} region offsets and {len(self.keyword_offsets)} "
                "keyword offsets: both need one more than pairs"
            )
        ids = self.keyword_ids
        if ids.size and (ids.min() < 0 or ids.max() >= len(self.keywords)):
            raise BadInputError(f"keyword ids must lie in 0..{len(self.keywords) - 1}, the keywords")
        if len(self.pair_ids) != len(self):
            raise BadInputError(f"{len(self.pair_ids)} pair ids for {len(self)} pairs")
        if self.keyword_texts is not None and len(self.keyword_texts) != len(self.keywords):
            raise BadInputError(f"{len(self.keyword_texts)} keyword texts for {len(self.keywords)} keywords")

    def __len__(self) -> int:
        """Number of pairs, including those without regions or keywords."""
        return max(len(self.region_offsets) - 1, 0)

    @property
    def dim(self) -> int:
        """d, the length of the vectors."""
        return int(self.regions.shape[1])

    @property
    def usable(self) -> Rows:
        """(p',) int64, the pairs with regions and keywords: the others teach nothing."""
        return np.flatnonzero((np.diff(self.region_offsets) > 0) & (np.diff(self.keyword_offsets) > 0))

    @property
    def left_out(self) -> int:
        """Number of pairs without regions or without keywords."""
        return len(self) - len(self.usable)

    def fingerprint(self) -> str:
        """The sha256 of everything that a training could depend on."""
        digest = hashlib.sha256()
        about = [self.dim, self.encoder, self.identity, self.pair_ids, self.keyword_texts]
        digest.update(json.dumps(about, sort_keys=True).encode())
        for name, array in self._arrays().items():
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        names = ("regions", "region_offsets", "keywords", "keyword_ids", "keyword_offsets")
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | Path) -> None:
        """Write a features file (safetensors), whole or not at all; errors of :func:`write_arrays`."""
        texts = {"pair_ids": self.pair_ids, "keyword_texts": self.keyword_texts}
        arrays = self._arrays() | {
            name: np.frombuffer(json.dumps(value).encode(), np.uint8) for name, value in texts.items()
        }
        about = {
            "encoder": self.encoder,
            "identity": dict(self.identity),
            "fingerprint": self.fingerprint(),
        }
        write_arrays(path, "features", arrays, about)

    @classmethod
    def load(cls, path: str | Path) -> Features:
        """Read a features file.

        Raises:
            NotFoundError: no such file.
            BadInputError: it is damaged, of another kind, or does not match its fingerprint.
        """
        arrays, about = read_arrays(path, "features")
        try:
            pair_ids = json.loads(arrays.pop("pair_ids").tobytes())
            texts = json.loads(arrays.pop("keyword_texts").tobytes())
            made = cls(
                **arrays,
                pair_ids=tuple(pair_ids),
                keyword_texts=None if texts is None else tuple(texts),
                encoder=about["encoder"],
                identity=about["identity"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"{shown(path)} is not a complete features file ({error}): make it again"
            ) from error
        if made.fingerprint() != about.get("fingerprint"):
            raise BadInputError(f"{shown(path)} does not match its fingerprint: make it again")
        return made

    def take(self, pairs: Rows) -> Features:
        """Only ``pairs`` (q,) int64, in this order; all keywords are kept, and so are their ids."""
        pairs = np.asarray(pairs, np.int64)
        rows = {}
        for name in ("region", "keyword"):
            offsets = getattr(self, f"{name}_offsets")
            counts = np.diff(offsets)[pairs]
            ends = np.concatenate([[0], np.cumsum(counts)])
            rows[name] = (np.repeat(offsets[pairs] - ends[:-1], counts) + np.arange(ends[-1]), ends)
        return replace(
            self,
            regions=self.regions[rows["region"][0]],
            region_offsets=rows["region"][1],
            keyword_ids=self.keyword_ids[rows["keyword"][0]],
            keyword_offsets=rows["keyword"][1],
            pair_ids=tuple(self.pair_ids[pair] for pair in pairs),
        )

    def table(self, pairs: Rows, device: str | torch.device = "cpu") -> Table:
        """Move ``pairs`` to a device: every vector once, and the rows of each pair.

        Args:
            pairs: (q,) int64, pairs with regions and keywords (:attr:`usable`).
        """
        pairs = np.asarray(pairs, np.int64)
        sides = [
            _padded(self.region_offsets, pairs, np.arange(len(self.regions))),
            _padded(self.keyword_offsets, pairs, len(self.regions) + self.keyword_ids),
        ]
        return Table(
            vectors=torch.from_numpy(np.concatenate([self.regions, self.keywords])).to(device),  # (n + u, d)
            rows=torch.from_numpy(np.concatenate([side[0] for side in sides], 1)).to(device),  # (q, r + k)
            real=torch.from_numpy(np.concatenate([side[1] for side in sides], 1)).to(device),  # (q, r + k)
            regions=sides[0][0].shape[1],
            first_keyword=len(self.regions),
        )


def _padded(offsets: Rows, pairs: Rows, values: Rows) -> tuple[Rows, Flags]:
    """Ragged rows as a rectangle (q, widest) of ``values``, and which of its cells are real.

    A pad points to row 0, an actual vector, so that nothing is NaN; only the mask marks it as a pad.
    """
    starts, counts = offsets[pairs], np.diff(offsets)[pairs]
    column = np.arange(max(int(counts.max(initial=0)), 1))
    real = column < counts[:, None]  # (q, widest)
    at = np.where(real, starts[:, None] + column, 0)
    return np.where(real, values[at] if len(values) else 0, 0), real


@dataclass(frozen=True)
class Table:
    """Pairs on a device: one tensor of vectors, and padded tables of the vectors of each pair.

    Attributes:
        vectors: (n + u, d) float32, all regions, then all distinct keywords.
        rows: (q, r + k) int64 into ``vectors``: r regions, then k keywords; a pad is row 0.
        real: (q, r + k) bool, False for a pad.
        regions: r.
        first_keyword: n, the row of ``vectors`` where the keywords begin.
    """

    vectors: Tensor
    rows: Tensor
    real: Tensor
    regions: int
    first_keyword: int

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, index: Tensor) -> Table:
        """Only the pairs ``index`` (s,) int64; the vectors are shared, not copied."""
        return replace(self, rows=self.rows[index], real=self.real[index])

    def batch(self, index: Tensor) -> Batch:
        """The pairs ``index`` (b,) int64, gathered on the device; shapes depend only on b."""
        rows = self.rows[index]  # (b, r + k)
        return Batch(self.vectors[rows], self.real[index], rows[:, self.regions :], self.regions)


@dataclass(frozen=True)
class Batch:
    """b pairs, padded: regions first, then keywords.

    Attributes:
        vectors: (b, r + k, d) float32.
        real: (b, r + k) bool.
        keyword_ids: (b, k) int64, equal for equal keywords; meaningless where padded.
        regions: r.
    """

    vectors: Tensor
    real: Tensor
    keyword_ids: Tensor
    regions: int

    @property
    def real_regions(self) -> Tensor:
        """(b, r) bool."""
        return self.real[:, : self.regions]

    @property
    def real_keywords(self) -> Tensor:
        """(b, k) bool."""
        return self.real[:, self.regions :]

    def frozen_similarity(self) -> Tensor:
        """(b, r, k): the cosine of each region and each keyword within each pair, pads included."""
        return self.vectors[:, : self.regions] @ self.vectors[:, self.regions :].transpose(1, 2)
