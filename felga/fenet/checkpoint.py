"""A trained FENet on disk: weights and, in the file's metadata, everything that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from felga.errors import BadIndexError, BadInputError, FelgaError
from felga.fenet.arrays import Arrays, read_arrays, write_arrays
from felga.fenet.features import Vectors
from felga.fenet.model import FENet
from felga.fenet.recipes import Recipe, from_json
from felga.models.device import pick_device


def build(recipe: Recipe, dim: int) -> FENet:
    """The untrained network of a recipe for frozen vectors of length ``dim``."""
    return FENet(
        dim,
        recipe.hidden,
        dim if recipe.out is None else recipe.out,
        layers=recipe.layers,
        dropout=recipe.dropout,
        residual=recipe.residual,
    )


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained FENet and where it comes from.

    Attributes:
        net: the network, in evaluation mode.
        recipe, seed: how it was trained.
        encoder, identity: whose frozen vectors it takes.
        fingerprint: of the features that it was trained from.
        versions: of felga and torch.
        history: what each epoch came to, as :class:`felga.fenet.train.Epoch` in json values.
        epoch: whose weights these are, counted from 1.
    """

    net: FENet
    recipe: Recipe
    seed: int
    encoder: str
    identity: Mapping[str, Any]
    fingerprint: str
    versions: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    epoch: int = 0

    @property
    def dim(self) -> int:
        """d, the length of the vectors that it takes."""
        return self.net.dim

    @property
    def out(self) -> int:
        """d', the length of the vectors that it gives."""
        return self.net.out

    def apply(self, vectors: Vectors, batch: int = 8192) -> Vectors:
        """Fragment embeddings of frozen vectors (Eq. 8), in evaluation mode, on the network's device.

        Args:
            vectors: (n, d) float, rows of length 1.
            batch: rows at a time.

        Returns:
            (n, d') float32, rows of length 1.

        Raises:
            BadInputError: another length than d, or a NaN.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise BadInputError(f"vectors have the shape {vectors.shape}; this FENet takes (n, {self.dim})")
        if not np.isfinite(vectors).all():
            raise BadInputError("a vector has a NaN or an infinity: encode it again")
        device = next(self.net.parameters()).device
        parts = [
            self.net.apply_to(torch.tensor(vectors[at : at + batch], device=device), batch).cpu().numpy()
            for at in range(0, len(vectors), batch)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.out), np.float32)

    def sha256(self) -> str:
        """The sha256 of the weights: what an index records about its FENet."""
        digest = hashlib.sha256()
        for name, value in sorted(arrays_of(self.net).items()):
            digest.update(f"{name}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the checkpoint: safetensors, whole or not at all."""
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
        write_arrays(path, "fenet", arrays_of(self.net), about)


def arrays_of(net: FENet) -> Arrays:
    """A network's weights by name, copied to numpy."""
    return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def put_arrays(net: FENet, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Load weights that :func:`arrays_of` gave. BadInputError if they are another network's."""
    try:
        net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in arrays.items()})
    except RuntimeError as error:
        raise BadInputError("the weights are not those of the network that the recipe describes") from error


def load_fenet(
    path: str | Path,
    *,
    encoder: str | None = None,
    identity: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Read a checkpoint.

    Shapes are compared with the recipe before a network is built, weights must be finite, and a probe must
    come out finite and of length 1: a checkpoint that would silence a search is refused.

    Args:
        encoder, identity: of the vectors it will be applied to; None: not compared.
        device: where the network runs; also ``auto``.

    Raises:
        NotFoundError: no such file.
        BadInputError: it is damaged, truncated, not a checkpoint, or computes no finite vectors.
        BadIndexError: it was trained on another encoder's vectors.
        MissingError: safetensors is not installed, or there is no such device.
    """
    arrays, about = read_arrays(path, "fenet")
    place = pick_device(device) if isinstance(device, str) else device
    try:
        checkpoint = _parsed(arrays, about, place)
        intact = checkpoint.sha256() == about["sha256"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, FelgaError) as error:
        raise BadInputError(
            f"{path} is not a checkpoint that this felga reads ({error}): train again"
        ) from error
    if not intact:
        raise BadInputError(f"{path} is damaged: its weights do not match their sha256; train again")
    _probe(checkpoint, path)
    _check_encoder(checkpoint, path, encoder, identity)
    return checkpoint


def _parsed(arrays: Arrays, about: Mapping[str, Any], device: torch.device) -> Checkpoint:
    recipe = from_json(about["recipe"])
    _check_shapes(arrays, recipe, about["dim"])
    net = build(recipe, about["dim"])
    put_arrays(net, arrays)
    if not isinstance(about["identity"], dict) or not isinstance(about["encoder"], str):
        raise ValueError("it does not say which encoder it belongs to")
    return Checkpoint(
        net=net.eval().to(device),
        recipe=recipe,
        seed=about["seed"],
        encoder=about["encoder"],
        identity=about["identity"],
        fingerprint=about["fingerprint"],
        versions=about["versions"],
        history=tuple(about["history"]),
        epoch=about["epoch"],
    )


def _check_shapes(arrays: Arrays, recipe: Recipe, dim: Any) -> None:
    """Compare the tensors of a file with those of the network, before anything of its size is allocated.

    Raises:
        ValueError: they differ, or a weight is not finite.
    """
    if type(dim) is not int or dim < 1 or len(arrays) != 2 * recipe.layers:
        raise ValueError(f"it has {len(arrays)} tensors and dim {dim!r:.20}")
    widths = [dim, *[recipe.hidden] * (recipe.layers - 1), dim if recipe.out is None else recipe.out]
    for layer, (wide, out) in enumerate(pairwise(widths)):
        for name, shape in ((f"net.{3 * layer}.weight", (out, wide)), (f"net.{3 * layer}.bias", (out,))):
            if name not in arrays or arrays[name].shape != shape:
                raise ValueError(f"{name} is missing or has another shape than {shape}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} holds values that are not finite")


def _probe(checkpoint: Checkpoint, path: str | Path) -> None:
    """Refuse weights that overflow, or that map unit vectors to zero."""
    vectors = np.random.default_rng(0).standard_normal((64, checkpoint.dim)).astype(np.float32)
    embedded = checkpoint.apply(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    if not (np.abs(np.linalg.norm(embedded, axis=1) - 1) <= 1e-3).all():
        raise BadInputError(f"{path} does not map unit vectors to unit vectors (it overflows): train again")


def _check_encoder(
    checkpoint: Checkpoint, path: str | Path, encoder: str | None, identity: Mapping[str, Any] | None
) -> None:
    if encoder is not None and encoder != checkpoint.encoder:
        raise BadIndexError(
            f"{path} was trained on vectors of {checkpoint.encoder!r}, not of {encoder!r}: "
            f"train a FENet on features of {encoder!r}"
        )
    if identity is not None and json.dumps(dict(identity), sort_keys=True) != json.dumps(
        dict(checkpoint.identity), sort_keys=True
    ):
        raise BadIndexError(
            f"{path} was trained on vectors of a different {checkpoint.encoder!r} (other weights or "
            "preprocessing): train again on features of this one"
        )
