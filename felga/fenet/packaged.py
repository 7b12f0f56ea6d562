"""The checkpoints that ship inside the package, by the encoder that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from felga.files import to_json
from felga.models.arrays import read_about

WEIGHTS = Path(__file__).parent / "weights"


def packaged(identity: Mapping[str, Any]) -> Path | None:
    """The shipped checkpoint for an encoder of exactly this identity; None if there is none.

    Only the metadata of the files are read, and torch is not imported.
    """
    wanted = to_json(dict(identity))
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        if to_json(read_about(path, "fenet")["identity"]) == wanted:
            return path
    return None


def found() -> Iterator[tuple[str, Path]]:
    """Each shipped checkpoint, with the encoder that it belongs to."""
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        yield f"the FENet of {read_about(path, 'fenet')['identity']['name']}", path
