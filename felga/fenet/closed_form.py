"""The closed-form part of the `locked` network: a ridge regression from region features to keywords.

The text side is a fixed map, as in locked tuning (Zhai et al. 2022). The regression tells from a region's
features which keywords the image's text has; words that no text had are reached through a Gaussian kernel
between word vectors (Nystroem features, Williams and Seeger 2001). Both sides are then reduced to the few
directions in which regions differ. No rate, no seed, one pass over any number of images.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError
from felga.types import Floats, RegionFeatures, Rows, Vectors

if TYPE_CHECKING:
    from felga.fenet.features import Features

FEWEST_TEXTS = 3
"""A keyword of fewer texts is not predicted."""
RIDGE = 3.0
"""Of the regression on features, in mean eigenvalues of their covariance."""
TEXT_RIDGE = 0.1
"""Of the regression on kernel features of keywords, in mean eigenvalues of the kernel matrix."""
WIDTH = 0.3
"""t of the kernel ``exp((cos - 1) / t)`` between keywords."""
FLOOR = 1e-4
"""Eigenvalues of the kernel matrix below this share of the largest carry nothing but rounding."""
DIRECTIONS = 128
"""Length of a ridge embedding, at most."""
COMPONENTS = 256
"""Principal components of the features that the network takes."""
ALONE = 2.0
"""w of the closed form without a network, whose frozen vectors know less."""
BLOCK = 2048
"""Regions read at once."""


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """What is known before the first step of a training; by itself an embedding of both sides.

    A region's ridge embedding is unit(x A), x its standardised features; a keyword's is unit(k B), k its
    kernel with the support. An embedding is unit(vector - mean) and the ridge embedding side by side: the
    cosine of two embeddings is ``(cos + w cos_ridge) / (1 + w)``, with w the ``ridge`` of the recipe.

    Attributes:
        region_mean, keyword_mean: (d,) float32, of the frozen vectors.
        feature_mean, feature_scale: (f,) float32, of the features.
        components: (f, c) float, principal axes of the standardised features, scaled so that rows projected
            on them have a root mean square length of 1.
        support: (u, d) float, the centred keywords that are predicted, of length 1.
        text_map: (u, r) float, B.
        ridge: (f, r) float, A.
    """

    region_mean: npt.NDArray[np.float32]
    keyword_mean: npt.NDArray[np.float32]
    feature_mean: npt.NDArray[np.float32]
    feature_scale: npt.NDArray[np.float32]
    components: npt.NDArray[Any]
    support: npt.NDArray[Any]
    text_map: npt.NDArray[Any]
    ridge: npt.NDArray[Any]

    def inputs(self, vectors: Vectors, features: RegionFeatures | None) -> Vectors:
        """What the network takes of regions, (n, d + c) float32: the centred vector, then the components.

        Raises:
            BadInputError: the features are missing, of another length, or not finite.
        """
        parts = [np.empty((0, vectors.shape[1] + self.components.shape[1]), np.float32)]
        for at, seen in self._standardised(vectors, features):
            base = unit(vectors[at : at + BLOCK] - self.region_mean)
            parts.append(np.concatenate([base, seen @ self.components.astype(np.float32)], 1))
        return np.concatenate(parts)

    def ridge_embeddings(self, vectors: Vectors, features: RegionFeatures | None) -> Vectors:
        """The ridge embeddings (n, r) of regions, of length 1; arguments and errors of :meth:`inputs`."""
        parts = [np.empty((0, self.ridge.shape[1]), np.float32)]
        matrix = self.ridge.astype(np.float32)
        parts += [unit(seen @ matrix) for _, seen in self._standardised(vectors, features)]
        return np.concatenate(parts)

    def regions(self, vectors: Vectors, features: RegionFeatures | None) -> Vectors:
        """Embeddings of regions by the closed form alone; arguments and errors of :meth:`inputs`."""
        base = unit(np.asarray(vectors, np.float32) - self.region_mean)
        return joined(base, self.ridge_embeddings(vectors, features), ALONE)

    def centred(self, vectors: Vectors) -> Vectors:
        """The fixed map (n, d) of frozen vectors of keywords (n, d), which the network is trained against."""
        return unit(np.asarray(vectors, np.float32) - self.keyword_mean)

    def keywords(self, vectors: Vectors, weight: float | None = None) -> Vectors:
        """Embeddings (n, d + r) of keywords, from their frozen vectors (n, d).

        Args:
            weight: w; None: that of the closed form alone.
        """
        named = self.centred(vectors)
        kernel = np.exp((named @ self.support.astype(np.float32).T - 1) / WIDTH)  # (n, u)
        return joined(
            named, unit(kernel @ self.text_map.astype(np.float32)), ALONE if weight is None else weight
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by name, the matrices as float16, as a checkpoint keeps them."""
        found: dict[str, npt.NDArray[Any]] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {
            name: value.astype(np.float16 if value.ndim == 2 else np.float32) for name, value in found.items()
        }

    def _standardised(self, vectors: Vectors, features: RegionFeatures | None) -> list[tuple[int, Vectors]]:
        length = len(self.feature_mean)
        if features is None:
            raise BadInputError(NO_FEATURES)
        if features.shape != (len(vectors), length):
            raise BadInputError(
                f"features have shape {features.shape}; this FENet takes ({len(vectors)}, {length})"
            )
        if not np.isfinite(features).all():
            raise BadInputError("a feature has a NaN or an infinity: encode it again")
        return [
            (at, (features[at : at + BLOCK].astype(np.float32) - self.feature_mean) / self.feature_scale)
            for at in range(0, len(features), BLOCK)
        ]


NO_FEATURES = (
    "a locked FENet needs the features of regions, and there are none: index again with an encoder that has "
    "them, such as conse, or use a FENet of another recipe"
)


def joined(vectors: Vectors, ridge: Vectors, weight: float) -> Vectors:
    """Unit vectors (n, d) and (n, r) side by side, of length 1: as :class:`ClosedForm`, w is ``weight``."""
    rows: Vectors = np.concatenate([vectors, np.float32(np.sqrt(weight)) * ridge], 1)
    return rows / np.float32(np.sqrt(1 + weight))


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Rows of length 1, float32; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return rows


def fit(features: Features, pairs: Rows | None = None) -> ClosedForm:
    """Fit the closed form to ``pairs`` (q,) int64 with regions and keywords; None: to all of these.

    A region is told the keywords of its image's text. Half of an image's weight is the whole image's, half
    is shared by its regions; keywords are centred, and divided by the square root of the number of texts
    that have them.

    Raises:
        BadInputError: the pairs have no features, or fewer than two distinct keywords.
    """
    pairs = features.usable if pairs is None else pairs
    sums = _Sums.of(features, pairs)
    mean = sums.total / len(pairs)  # (f,)
    spread = sums.moments / len(pairs) - np.outer(mean, mean)  # (f, f)
    deviation = np.sqrt(np.maximum(np.diagonal(spread), 0))
    scale = np.maximum(deviation, max(1e-3 * deviation.max(), 1e-6))  # (f,)
    spread /= np.outer(scale, scale)
    values, axes = np.linalg.eigh(spread)
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]

    words, texts = sums.words, sums.texts
    answers = (sums.by_word - texts[:, None] * mean) / scale / np.sqrt(texts)[:, None]  # (u, f)
    shrunk = values + max(RIDGE * values.mean(), 1e-6)
    by_feature = axes @ ((axes.T @ answers.T) / len(pairs) / shrunk[:, None])  # (f, u)

    vectors = features.keywords[words].astype(np.float64)
    keyword_mean = vectors.mean(0)
    named = unit(vectors - keyword_mean).astype(np.float64)  # (u, d)
    text_map, ridge = _reduced(named, by_feature, spread)
    count = min(COMPONENTS, len(values))
    length = np.sqrt(max(values[:count].sum(), 1e-12))
    return ClosedForm(
        region_mean=(sums.vectors / np.diff(features.region_offsets)[pairs].sum()).astype(np.float32),
        keyword_mean=keyword_mean.astype(np.float32),
        feature_mean=mean.astype(np.float32),
        feature_scale=scale.astype(np.float32),
        components=(axes[:, :count] / length).astype(np.float32),
        support=named.astype(np.float32),
        text_map=text_map.astype(np.float32),
        ridge=ridge.astype(np.float32),
    )


def _reduced(named: Floats, by_feature: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """The maps of keywords (u, r) and of features (f, r) to ridge embeddings.

    Args:
        named: (u, d) unit vectors of the keywords.
        by_feature: (f, u) the regression on features.
        spread: (f, f) covariance of the standardised features.
    """
    values, axes = np.linalg.eigh(np.exp((named @ named.T - 1) / WIDTH))
    kept = values > FLOOR * values[-1]
    values, axes = values[kept], axes[:, kept]  # the kernel features of the keywords are axes * sqrt(values)
    shrunk = values + TEXT_RIDGE * values.mean()
    ridge = by_feature @ (axes * (np.sqrt(values) / shrunk))  # (f, k)
    _, directions = np.linalg.eigh(ridge.T @ spread @ ridge)
    directions = directions[:, ::-1][:, :DIRECTIONS]  # (k, r), in which regions differ most
    return axes / np.sqrt(values) @ directions, ridge @ directions


@dataclass(frozen=True)
class _Sums:
    """Sums over images, float64, from one pass.

    Attributes:
        vectors: (d,) sum of the frozen vectors of all regions.
        total, moments: (f,) and (f, f), sums of the features x and of x x', each image of weight 1.
        words: (u,) rows of the keywords that are predicted.
        texts: (u,) how many texts have each.
        by_word: (u, f) sums of x over the images whose text has the keyword.
    """

    vectors: Floats
    total: Floats
    moments: Floats
    words: Rows
    texts: Floats
    by_word: Floats

    @classmethod
    def of(cls, features: Features, pairs: Rows) -> _Sums:
        if features.region_features is None:
            raise BadInputError(NO_FEATURES)
        words, texts = _predicted(features, pairs)
        place = np.full(len(features.keywords), -1)
        place[words] = np.arange(len(words))
        length = features.region_features.shape[1]
        vectors = np.zeros(features.dim)
        total, moments = np.zeros(length), np.zeros((length, length))
        by_word = np.zeros((len(words), length))
        counts = np.diff(features.region_offsets)[pairs]
        block = (np.cumsum(counts) - 1) // BLOCK  # about BLOCK regions at once, whole images only
        for some in np.split(pairs, np.flatnonzero(np.diff(block)) + 1):
            rows, owner, weight = _weighted(features, some)
            seen = features.region_features[rows].astype(np.float64)
            vectors += features.regions[rows].sum(0, dtype=np.float64)
            images = np.zeros((len(some), length))  # (b, f)
            np.add.at(images, owner, seen * weight[:, None])
            total += images.sum(0)
            root = seen * np.sqrt(weight)[:, None]
            moments += root.T @ root
            for image, pair in zip(images, some, strict=True):
                at = place[features.keyword_ids[slice(*features.keyword_offsets[pair : pair + 2])]]
                by_word[at[at >= 0]] += image
        return cls(vectors, total, moments, words, texts, by_word)


def _predicted(features: Features, pairs: Rows) -> tuple[Rows, Floats]:
    """The keywords of enough texts (u,), or all where fewer than two are, and the numbers of their texts."""
    texts = np.zeros(len(features.keywords))
    for pair in pairs:
        texts[features.keyword_ids[slice(*features.keyword_offsets[pair : pair + 2])]] += 1
    words = np.flatnonzero(texts >= FEWEST_TEXTS)
    if len(words) < 2:
        words = np.flatnonzero(texts)
    if len(words) < 2:
        raise BadInputError(f"the pairs have {len(words)} distinct keywords; a locked FENet needs at least 2")
    return words, texts[words]


def _weighted(features: Features, pairs: Rows) -> tuple[Rows, Rows, Floats]:
    """Rows of the regions of ``pairs``, the place of each one's pair, and its weight in that pair."""
    starts, counts = features.region_offsets[pairs], np.diff(features.region_offsets)[pairs]
    owner = np.repeat(np.arange(len(pairs)), counts)
    first = np.cumsum(counts) - counts
    rows = np.arange(len(owner)) + (starts - first)[owner]
    whole = np.zeros(len(rows), bool) if features.whole is None else features.whole[rows]
    wholes = np.bincount(owner, whole, len(pairs))
    parts = counts - wholes
    share = np.where((wholes > 0) & (parts > 0), 0.5, 1.0)
    with np.errstate(divide="ignore"):
        weight = np.where(whole, (share / wholes)[owner], (share / parts)[owner])
    return rows, owner, weight
