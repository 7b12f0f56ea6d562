"""The checkpoints that ship inside the package, by the encoder that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from felga.files import to_json
from felga.models.arrays import read_about

WEIGHTS = Path(__file__).parent / "weights"


def packaged(identity: Mapping[str, Any]) -> Path | None:
    """The shipped checkpoint that takes the vectors of an encoder (:func:`takes`); None if there is none.

    Only the metadata of the files are read, and torch is not imported.
    """
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        if takes(read_about(path, "fenet")["identity"], identity):
            return path
    return None


def takes(trained_on: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether a FENet that was trained on the vectors of one encoder takes those of another.

    It takes its own, and those of an encoder that extends it: whose identity has it as its ``base``.
    """
    known = (to_json(dict(one)) for one in (identity, identity.get("base", identity)))
    return to_json(dict(trained_on)) in known


def found() -> Iterator[tuple[str, Path]]:
    """Each shipped checkpoint, with the encoder that it belongs to."""
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        yield f"the FENet of {read_about(path, 'fenet')['identity']['name']}", path
