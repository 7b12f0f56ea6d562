"""A trained FENet on disk: weights and, in the file's metadata, everything that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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

    Args:
        path: the file.
        encoder, identity: of the vectors that it is to be applied to; None: not asked.
        device: where the network goes.

    Raises:
        NotFoundError: no such file.
        BadInputError: it is damaged, cut short or no checkpoint.
        BadIndexError: it was trained on another encoder's vectors.
        MissingError: safetensors is not installed.
    """
    arrays, about = read_arrays(path, "fenet")
    try:
        recipe = from_json(about["recipe"])
        net = build(recipe, about["dim"])
        put_arrays(net, arrays)
        made = Checkpoint(
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
        intact = made.sha256() == about["sha256"]
    except (KeyError, TypeError, ValueError, FelgaError) as error:
        raise BadInputError(
            f"{path} is no checkpoint that this felga reads ({error}): train it again"
        ) from error
    if not intact:
        raise BadInputError(f"{path} is damaged, its weights are not those that were saved: train it again")
    if encoder is not None and encoder != made.encoder:
        raise BadIndexError(
            f"{path} was trained on vectors of {made.encoder!r}, not of {encoder!r}: "
            f"train a FENet on features of {encoder!r}"
        )
    if identity is not None and json.dumps(dict(identity), sort_keys=True) != json.dumps(
        dict(made.identity), sort_keys=True
    ):
        raise BadIndexError(
            f"{path} was trained on vectors of another {made.encoder!r} (weights or preprocessing differ): "
            "train it again on features of this one"
        )
    return made
