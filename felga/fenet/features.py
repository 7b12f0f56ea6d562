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
from felga.fenet.closed_form import ClosedForm
from felga.files import shown
from felga.models.arrays import read_arrays, write_arrays
from felga.search.segments import check_offsets, check_unit
from felga.types import Flags, RegionFeatures, Rows, Vectors

_OPTIONAL = ("region_features", "whole")
"""Arrays with a row for each region that a :class:`Features` may lack."""


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
        region_features: (n, f) float16, what the encoder's network saw of each region
            (:class:`felga.types.FeatureEncoder`); None: it does not say.
        whole: (n,) bool, regions that are the whole image; None: unknown, taken as none.

    Raises:
        BadInputError: shapes, offsets or ids do not fit, a vector is not finite and of length 1, or a feature
            is not finite.
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
    region_features: RegionFeatures | None = None
    whole: Flags | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen: this only converts the arrays to their types
        for name in ("regions", "keywords"):
            put(self, name, np.ascontiguousarray(getattr(self, name), np.float32))
        for name in ("region_offsets", "keyword_ids", "keyword_offsets"):
            put(self, name, np.ascontiguousarray(getattr(self, name), np.int64))
        for name, kind in (("region_features", np.float16), ("whole", np.bool_)):
            if getattr(self, name) is not None:
                put(self, name, np.ascontiguousarray(getattr(self, name), kind))
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
        self._check_region_features()
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

    def _check_region_features(self) -> None:
        seen, whole, regions = self.region_features, self.whole, len(self.regions)
        if seen is not None:
            if seen.ndim != 2 or len(seen) != regions or not seen.shape[1]:
                raise BadInputError(f"region features have shape {seen.shape}, expected ({regions}, f)")
            if not np.isfinite(seen).all():
                raise BadInputError("a feature of a region is not finite: encode the images again")
        if whole is not None and whole.shape != (regions,):
            raise BadInputError(f"whole has shape {whole.shape}, expected ({regions},), one per region")

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
        return {name: getattr(self, name) for name in names} | {
            name: array for name in _OPTIONAL if (array := getattr(self, name)) is not None
        }

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
            **{
                name: array[rows["region"][0]]
                for name in _OPTIONAL
                if (array := getattr(self, name)) is not None
            },
            region_offsets=rows["region"][1],
            keyword_ids=self.keyword_ids[rows["keyword"][0]],
            keyword_offsets=rows["keyword"][1],
            pair_ids=tuple(self.pair_ids[pair] for pair in pairs),
        )

    def without(self, keywords: Rows) -> Features:
        """No pair has the ``keywords`` (w,) int64 any more; their vectors and ids stay."""
        kept = ~np.isin(self.keyword_ids, keywords)  # (m,)
        before = np.concatenate([[0], np.cumsum(kept)])
        return replace(self, keyword_ids=self.keyword_ids[kept], keyword_offsets=before[self.keyword_offsets])

    def table(
        self, pairs: Rows, device: str | torch.device = "cpu", closed_form: ClosedForm | None = None
    ) -> Table:
        """Move ``pairs`` to a device: every vector once, and the rows of each pair.

        Args:
            pairs: (q,) int64, pairs with regions and keywords (:attr:`usable`).
            closed_form: of a locked network, whose inputs and text embeddings are made here, once.
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
            inputs=None
            if closed_form is None
            else torch.from_numpy(closed_form.inputs(self.regions, self.region_features)).to(device),
            texts=None
            if closed_form is None
            else torch.from_numpy(closed_form.centred(self.keywords)).to(device),
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
        inputs: (n, i) float32, what a locked network takes of each region; None with a shared one.
        texts: (u, d) float32, the text embeddings of a locked network; None with a shared one.
        flips: (q, r, k) bool, a coin flipped for each region and keyword; None unless they are labels.
    """

    vectors: Tensor
    rows: Tensor
    real: Tensor
    regions: int
    first_keyword: int
    inputs: Tensor | None = None
    texts: Tensor | None = None
    flips: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, index: Tensor) -> Table:
        """Only the pairs ``index`` (s,) int64; the vectors are shared, not copied."""
        flips = None if self.flips is None else self.flips[index]
        return replace(self, rows=self.rows[index], real=self.real[index], flips=flips)

    def flipped(self, seed: int) -> Table:
        """With a coin flipped for each region and keyword of each pair."""
        shape = len(self), self.regions, self.rows.shape[1] - self.regions
        flips = np.random.default_rng(seed).random(shape, np.float32) < 0.5  # (q, r, k)
        return replace(self, flips=torch.from_numpy(flips).to(self.rows.device))

    def batch(self, index: Tensor) -> Batch:
        """The pairs ``index`` (b,) int64, gathered on the device; shapes depend only on b."""
        rows = self.rows[index]  # (b, r + k)
        regions, keywords = rows[:, : self.regions], rows[:, self.regions :]  # (b, r), (b, k)
        return Batch(
            self.vectors[rows],
            self.real[index],
            keywords,
            self.regions,
            inputs=None if self.inputs is None else self.inputs[regions],
            # A pad points to row 0, a region.
            texts=None if self.texts is None else self.texts[(keywords - self.first_keyword).clamp(min=0)],
            flips=None if self.flips is None else self.flips[index],
        )


@dataclass(frozen=True)
class Batch:
    """b pairs, padded: regions first, then keywords.

    Attributes:
        vectors: (b, r + k, d) float32.
        real: (b, r + k) bool.
        keyword_ids: (b, k) int64, equal for equal keywords; meaningless where padded.
        regions: r.
        inputs, texts, flips: (b, r, i), (b, k, d) and (b, r, k) of :class:`Table`, or None.
    """

    vectors: Tensor
    real: Tensor
    keyword_ids: Tensor
    regions: int
    inputs: Tensor | None = None
    texts: Tensor | None = None
    flips: Tensor | None = None

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
