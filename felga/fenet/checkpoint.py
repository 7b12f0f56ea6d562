"""A trained FENet on disk: weights and, in the file's metadata, everything that produced them.

Reading and checking one needs no torch. A checkpoint may come from a stranger: sizes are compared before
anything is allocated, and weights that cannot embed every unit vector are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from felga.errors import BadIndexError, BadInputError
from felga.fenet.arrays import Arrays, read_arrays, write_arrays
from felga.fenet.recipes import Recipe, from_json
from felga.files import shown, to_json
from felga.types import RegionFeatures, Vectors

if TYPE_CHECKING:
    from felga.fenet.model import FENet

LARGEST = 1e18
"""No unit vector may be embedded longer than this before it is normalised: float32 holds its square."""
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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained FENet and its origin.

    Attributes:
        arrays: the weights by name, float32.
        dim: d, the length of the vectors that it takes.
        recipe, seed: how it was trained.
        encoder, identity: the encoder whose frozen vectors it takes.
        fingerprint: of the features that it was trained on.
        versions: of felga and torch.
        history: one entry per epoch, :class:`felga.fenet.train.Epoch` as json values.
        epoch: the one that the weights are from, counted from 1.
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
    device: str = "cpu"

    @property
    def out(self) -> int:
        """d', the length of the vectors that it gives."""
        return self.recipe.length_of(self.dim)

    def regions(self, vectors: Vectors, features: RegionFeatures | None = None) -> Vectors:
        """As of :class:`felga.types.Embedding`; this network takes no features."""
        return self.apply(vectors)

    def keywords(self, vectors: Vectors) -> Vectors:
        """As of :class:`felga.types.Embedding`."""
        return self.apply(vectors)

    @cached_property
    def net(self) -> FENet:
        """The network in evaluation mode, built on first use; two threads may build two equal ones.

        Raises:
            MissingError: no such device here.
        """
        from felga.fenet.model import network
        from felga.models.device import pick_device

        return network(self.recipe, self.dim, self.arrays).to(pick_device(self.device))

    def apply(self, vectors: Vectors, batch: int = 8192) -> Vectors:
        """Fragment embeddings of frozen vectors (Eq. 8), in evaluation mode, on :attr:`device`.

        Args:
            vectors: (n, d) float, rows of length 1.
            batch: rows at a time.

        Returns:
            (n, d') float32, rows of length 1.

        Raises:
            BadInputError: another length than d, or a vector is not finite.
            MissingError: no such device here.
        """
        import torch

        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise BadInputError(f"vectors have shape {vectors.shape}; this FENet takes (n, {self.dim})")
        if not np.isfinite(vectors).all():
            raise BadInputError("a vector has a NaN or an infinity: encode it again")
        device = next(self.net.parameters()).device
        parts = [
            self.net.apply_to(torch.tensor(vectors[at : at + batch], device=device), batch).cpu().numpy()
            for at in range(0, len(vectors), batch)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.out), np.float32)

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
    if encoder is not None and encoder != checkpoint.encoder:
        raise BadIndexError(
            f"{shown(path)} was trained on vectors of {checkpoint.encoder!r}, not of {encoder!r}: "
            f"train a FENet on features of {encoder!r}"
        )
    if identity is not None and to_json(dict(identity)) != to_json(dict(checkpoint.identity)):
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
    recipe, dim = from_json(about["recipe"]), about["dim"]
    if dim < 1:
        raise ValueError(f"its dim is {dim}")
    if len(arrays) != 2 * recipe.layers or {
        name: (array.shape, array.dtype.name) for name, array in arrays.items()
    } != {name: (shape, "float32") for name, shape in _shapes(recipe, dim).items()}:
        raise ValueError("its weights do not have the shapes that its recipe and dim describe")
    return Checkpoint(
        arrays=arrays,
        recipe=recipe,
        device=device,
        history=tuple(about["history"]),
        **{name: about[name] for name in ("dim", "seed", "encoder", "identity", "fingerprint", "versions")},
        epoch=about["epoch"],
    )


def _layers(recipe: Recipe) -> list[str]:
    """Names of the linear layers in :class:`felga.fenet.model.FENet`, where ReLU and dropout are between."""
    return [f"net.{3 * layer}" for layer in range(recipe.layers)]


def _shapes(recipe: Recipe, dim: int) -> dict[str, tuple[int, ...]]:
    widths = [dim, *[recipe.hidden] * (recipe.layers - 1), recipe.length_of(dim)]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, fan_in, fan_out in zip(_layers(recipe), widths, widths[1:], strict=False):
        shapes[f"{layer}.weight"], shapes[f"{layer}.bias"] = (fan_out, fan_in), (fan_out,)
    return shapes


def unusable(recipe: Recipe, dim: int, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """Why weights cannot embed unit vectors, if so: a NaN, an overflow, or vectors without a direction.

    The lengths of the layers' outputs are bounded by Frobenius norms, so finite weights that pass cannot
    overflow for any unit vector. A few vectors are embedded to see that their length is not 0.
    """
    bound = 1.0
    moved = np.random.default_rng(0).standard_normal((4, dim)).astype(np.float32)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    start = moved
    with np.errstate(over="ignore", invalid="ignore"):
        for number, layer in enumerate(_layers(recipe)):
            weight, bias = arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]
            bound = bound * float(np.linalg.norm(weight)) + float(np.linalg.norm(bias))
            if not bound <= LARGEST:  # NaN, too
                return "its weights are not finite or overflow"
            moved = (np.maximum(moved, 0) if number else moved) @ weight.T + bias  # (4, width)
    if recipe.residual:
        moved = start + moved
    if not (np.linalg.norm(moved, axis=1) > 1e-6).all():
        return "it embeds vectors with length 0"
    return None
