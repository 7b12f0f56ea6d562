"""A trained FENet on disk: weights and, in the file's metadata, everything that produced them.

Reading and checking one needs no torch. A checkpoint may come from a stranger: sizes are compared before
anything is allocated, and weights that cannot embed every unit vector are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from felga.errors import BadIndexError, BadInputError
from felga.fenet.closed_form import ClosedForm, unit
from felga.fenet.packaged import takes
from felga.fenet.recipes import Recipe, from_json
from felga.files import shown
from felga.models.arrays import Arrays, read_arrays, write_arrays
from felga.types import RegionFeatures, Vectors

if TYPE_CHECKING:
    from felga.fenet.model import Embedder, FENet

LARGEST = 1e18
"""No unit vector may be embedded longer than this before it is normalised: float32 holds its square."""
OVERFLOW = "its weights are not finite or overflow"
_FIELDS: dict[str, type] = {
    "dim": int,
    "recipe": dict,
    "seed": int,
    "encoder": str,
    "identity": dict,
    "fingerprint": str,
    "versions": dict,
    "history": list,
    "epoch": int,
    "sha256": str,
}
_LATER = ("frozen", "provenance")
"""Fields, each an object, that older checkpoints lack."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained FENet and its origin: an :class:`felga.types.Embedding`.

    Attributes:
        arrays: the weights by name, float32 or float16; of a locked network also those of its
            :class:`felga.fenet.closed_form.ClosedForm`.
        dim: d, the length of the vectors that it takes.
        recipe, seed: how it was trained.
        encoder, identity: the encoder whose frozen vectors it takes.
        fingerprint: of the features that it was trained on.
        versions: of felga and torch.
        history: one entry per epoch, :class:`felga.fenet.train.Epoch` as json values.
        epoch: the one that the weights are from, counted from 1.
        frozen: what the frozen vectors scored on the held-out pairs, ``discovery`` and ``assignment``, where
            ``history`` says what the network did; empty without held-out pairs.
        provenance: of a checkpoint that is passed on: its data and their licences; json values.
        device: where the network runs: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    arrays: Arrays
    dim: int
    recipe: Recipe
    seed: int
    encoder: str
    identity: Mapping[str, Any]
    fingerprint: str
    versions: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    epoch: int = 0
    frozen: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def out(self) -> int:
        """d', the length of the vectors that it gives."""
        return self.recipe.length_of(self.dim) + (self.closed_form.ridge.shape[1] if self.closed_form else 0)

    @property
    def feature_dim(self) -> int | None:
        """f, length of the region features that it takes; None: it takes vectors alone."""
        return None if self.closed_form is None else len(self.closed_form.feature_mean)

    @cached_property
    def closed_form(self) -> ClosedForm | None:
        """The closed form of a locked network; None for a shared one."""
        return _closed_form(self.arrays) if self.recipe.network == "locked" else None

    @cached_property
    def net(self) -> FENet:
        """The network in evaluation mode, built on first use; two threads may build two equal ones.

        Raises:
            MissingError: no such device here.
        """
        from felga.fenet.model import network
        from felga.models.device import pick_device

        weights = {name: array for name, array in self.arrays.items() if name.startswith("net.")}
        components = 0 if self.closed_form is None else self.closed_form.components.shape[1]
        return network(self.recipe, self.dim, weights, components).to(pick_device(self.device))

    def regions(self, vectors: Vectors, features: RegionFeatures | None = None) -> Vectors:
        """Fragment embeddings of regions (Eq. 8), in evaluation mode, on :attr:`device`.

        Args:
            vectors: (n, d) float, rows of length 1.
            features: (n, f) of a locked network; a shared one ignores them.

        Returns:
            (n, d') float32, rows of length 1.

        Raises:
            BadInputError: another length than d or f, a value is not finite, or features are missing.
            MissingError: no such device here.
        """
        return self._embedder.regions(self._checked(vectors), features)

    def keywords(self, vectors: Vectors) -> Vectors:
        """Fragment embeddings of words, phrases or sentences: (n, d) to (n, d') float32.

        A locked network needs no torch for it. Raises as :meth:`regions`.
        """
        vectors = self._checked(vectors)
        if self.closed_form is not None:
            return self.closed_form.keywords(vectors, self.recipe.ridge)
        return self._embedder.keywords(vectors)

    @cached_property
    def _embedder(self) -> Embedder:
        from felga.fenet.model import Embedder

        return Embedder(self.net, self.closed_form, self.recipe.ridge)

    def _checked(self, vectors: Vectors) -> Vectors:
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise BadInputError(f"vectors have shape {vectors.shape}; this FENet takes (n, {self.dim})")
        if not np.isfinite(vectors).all():
            raise BadInputError("a vector has a NaN or an infinity: encode it again")
        return vectors

    def sha256(self) -> str:
        """The sha256 of the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.arrays.items()):
            digest.update(f"{name}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the checkpoint (safetensors), whole or not at all; errors of :func:`write_arrays`."""
        about = {
            "dim": self.dim,
            "out": self.out,
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
            "encoder": self.encoder,
            "identity": dict(self.identity),
            "fingerprint": self.fingerprint,
            "versions": dict(self.versions),
            "history": [dict(epoch) for epoch in self.history],
            "epoch": self.epoch,
            "frozen": dict(self.frozen),
            "provenance": dict(self.provenance),
            "sha256": self.sha256(),
        }
        write_arrays(path, "fenet", self.arrays, about)


def load_fenet(
    path: str | Path,
    *,
    encoder: str | None = None,
    identity: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        encoder, identity: of the vectors that it is going to be applied to; None: not checked.
        device: where the network runs.

    Raises:
        NotFoundError: no such file.
        BadInputError: it is damaged, truncated or not a checkpoint, or its weights are unusable.
        BadIndexError: it was trained on another encoder's vectors.
    """
    arrays, about = read_arrays(path, "fenet")
    try:
        checkpoint = _parsed(arrays, about, device)
    except (BadInputError, ValueError) as error:
        raise BadInputError(
            f"{shown(path)} is not a checkpoint that this felga reads ({error}): train it again"
        ) from error
    if checkpoint.sha256() != about["sha256"]:
        raise BadInputError(f"{shown(path)} is damaged, its weights were changed: train it again")
    if wrong := unusable(checkpoint.recipe, checkpoint.dim, arrays):
        raise BadInputError(f"{shown(path)} is unusable, {wrong}: train it again")
    if identity is not None and takes(checkpoint.identity, identity):
        return checkpoint
    if encoder is not None and encoder != checkpoint.encoder:
        raise BadIndexError(
            f"{shown(path)} was trained on vectors of {checkpoint.encoder!r}, not of {encoder!r}: "
            f"train a FENet on features of {encoder!r}"
        )
    if identity is not None:
        raise BadIndexError(
            f"{shown(path)} was trained on vectors of a different {checkpoint.encoder!r} (other weights or "
            "preprocessing): train it again on features of this one"
        )
    return checkpoint


def _parsed(arrays: Arrays, about: Mapping[str, Any], device: str) -> Checkpoint:
    """A checkpoint whose fields have their types and whose arrays have the shapes of its network.

    Raises:
        ValueError, BadInputError: says what does not fit.
    """
    for name, kind in _FIELDS.items():
        if type(about.get(name)) is not kind:
            raise ValueError(f"its {name} is missing or not of type {kind.__name__}")
    for epoch in about["history"]:
        if type(epoch) is not dict or not {"epoch", "loss", "rate", "discovery", "assignment"} <= set(epoch):
            raise ValueError("its history is malformed")
    for name in _LATER:
        if type(about.get(name, {})) is not dict:
            raise ValueError(f"its {name} is malformed")
    recipe, dim = from_json(about["recipe"]), about["dim"]
    if dim < 1:
        raise ValueError(f"its dim is {dim}")
    count = 2 * recipe.layers + (len(fields(ClosedForm)) if recipe.network == "locked" else 0)
    if (
        len(arrays) != count
        or {name: array.shape for name, array in arrays.items()} != _shapes(recipe, dim, arrays)
        or not {array.dtype.name for array in arrays.values()} <= {"float32", "float16"}
    ):
        raise ValueError("its weights do not have the shapes that its recipe and dim describe")
    return Checkpoint(
        arrays=arrays,
        recipe=recipe,
        device=device,
        history=tuple(about["history"]),
        **{name: about[name] for name in ("dim", "seed", "encoder", "identity", "fingerprint", "versions")},
        epoch=about["epoch"],
        **{name: about.get(name, {}) for name in _LATER},
    )


def _layers(recipe: Recipe) -> list[str]:
    """Names of the linear layers in :class:`felga.fenet.model.FENet`, where ReLU and dropout are between."""
    return [f"net.{3 * layer}" for layer in range(recipe.layers)]


def _closed_form(arrays: Mapping[str, npt.NDArray[Any]]) -> ClosedForm:
    return ClosedForm(**{entry.name: arrays[entry.name] for entry in fields(ClosedForm)})


def _shapes(recipe: Recipe, dim: int, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights; numbers of features, keywords and components are those of the matrices."""
    shapes: dict[str, tuple[int, ...]] = {}
    components = 0
    if recipe.network == "locked":
        found = arrays["components"].shape if "components" in arrays else ()
        mapped = arrays["text_map"].shape if "text_map" in arrays else ()
        if len(found) != 2 or 0 in found or len(mapped) != 2 or 0 in mapped:
            raise ValueError("its components or its text_map are not a matrix")
        length, components = found
        shapes |= {"region_mean": (dim,), "keyword_mean": (dim,), "feature_mean": (length,)}
        shapes |= {"feature_scale": (length,), "components": found, "ridge": (length, mapped[1])}
        shapes |= {"support": (mapped[0], dim), "text_map": mapped}
    widths = [dim + components, *[recipe.hidden] * (recipe.layers - 1), recipe.length_of(dim)]
    for layer, fan_in, fan_out in zip(_layers(recipe), widths, widths[1:], strict=False):
        shapes[f"{layer}.weight"], shapes[f"{layer}.bias"] = (fan_out, fan_in), (fan_out,)
    return shapes


def unusable(recipe: Recipe, dim: int, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """Why weights cannot embed unit vectors, if so: a NaN, an overflow, or vectors without a direction.

    The lengths of the layers' outputs are bounded by Frobenius norms, so finite weights that pass cannot
    overflow for any unit vector. A few vectors are embedded to see that their length is not 0.
    """
    weights = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    rng = np.random.default_rng(0)
    moved = unit(rng.standard_normal((4, dim)))
    bound = recipe.input_scale
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if recipe.network == "locked":
            closed_form = _closed_form(weights)
            bound = max(recipe.input_scale, 1) * _input_bound(closed_form) + recipe.ridge
            if not bound <= LARGEST:  # NaN, too
                return OVERFLOW
            seen = rng.standard_normal((4, len(closed_form.feature_mean))).astype(np.float16)
            parts = closed_form.keywords(moved, 1.0), closed_form.ridge_embeddings(moved, seen)
            if not all((np.abs(np.linalg.norm(part, axis=1) - 1) < 1e-3).all() for part in parts):
                return "it embeds keywords or regions with length 0"
            moved = closed_form.inputs(moved, seen)
        start, moved = moved, moved * np.float32(recipe.input_scale)
        for number, layer in enumerate(_layers(recipe)):
            weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
            bound = bound * float(np.linalg.norm(weight)) + float(np.linalg.norm(bias))
            if not bound <= LARGEST:  # NaN, too
                return OVERFLOW
            moved = (np.maximum(moved, 0) if number else moved) @ weight.T + bias  # (4, width)
    if recipe.residual:
        moved = start[:, :dim] + moved
    if not (np.linalg.norm(moved, axis=1) > 1e-6).all():
        return "it embeds vectors with length 0"
    return None


def _input_bound(closed_form: ClosedForm) -> float:
    """What bounds a locked network's inputs and ridge embeddings before normalisation; NaN or infinite if a
    value of the closed form is, or if a scale is not above 0."""
    scale = closed_form.feature_scale
    if not ((scale > 0) & np.isfinite(scale)).all():
        return float("inf")
    seen = float(np.linalg.norm((1 + np.abs(closed_form.feature_mean)) / scale))
    matrices = np.linalg.norm(closed_form.components), np.linalg.norm(closed_form.ridge)
    means = np.linalg.norm(closed_form.region_mean), np.linalg.norm(closed_form.keyword_mean)
    lengths = np.linalg.norm(closed_form.support, axis=1)
    if not (lengths <= 2).all():  # NaN, too; or the kernel would overflow
        return float("inf")
    texts = len(lengths) * 30 * float(np.linalg.norm(closed_form.text_map))  # exp((2 - 1) / WIDTH) < 30
    return 1.0 + seen * float(sum(matrices)) + float(sum(means)) + texts
