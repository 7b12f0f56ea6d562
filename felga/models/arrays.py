"""Safetensors files: written whole or not at all, and read with one sentence for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from felga.errors import BadInputError, NotFoundError
from felga.files import shown, storage_errors, to_json, write_whole

Arrays = dict[str, npt.NDArray[Any]]
FORMAT = 1


def write_arrays(
    path: str | Path, kind: str, arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """One safetensors file, written by :func:`felga.files.write_whole`.

    Args:
        kind: what the file is, such as ``features``, ``fenet`` or ``training``.
        arrays: by name.
        about: json values, kept in the metadata.

    Raises:
        StorageError: the disk is full or read-only, or permission is missing.
        BadInputError: the path names no file that could be written.
    """
    path = Path(path)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # A single entry: safetensors writes several in random order, and a file would not be reproducible.
    metadata = {"felga": to_json({"kind": kind, "format": FORMAT, **about})}
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save(contiguous, metadata=metadata))
    except OSError as error:
        raise BadInputError(f"{shown(path)} cannot be written: {error.strerror}") from error


def read_arrays(path: str | Path, kind: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file of :func:`write_arrays`, and its metadata.

    Raises:
        NotFoundError: no such file.
        BadInputError: it is unreadable, truncated, not safetensors, or of another kind.
    """
    return _read(Path(path), kind, arrays=True)


def read_about(path: str | Path, kind: str) -> dict[str, Any]:
    """The metadata alone; raises as :func:`read_arrays`."""
    return _read(Path(path), kind, arrays=False)[1]


def _read(path: Path, kind: str, *, arrays: bool) -> tuple[Arrays, dict[str, Any]]:
    if not path.is_file():
        raise NotFoundError(f"{shown(path)} does not exist or is not a file")
    try:
        with safe_open(str(path), framework="np") as file:
            about = json.loads((file.metadata() or {}).get("felga", "{}"))
            names = file.keys() if arrays else ()
            found = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # safetensors raises its own SafetensorError, OSError and ValueError
        raise BadInputError(
            f"{shown(path)} is damaged or not a safetensors file ({error}): make it again"
        ) from error
    if not isinstance(about, dict) or (about.get("kind"), about.get("format")) != (kind, FORMAT):
        said = about if isinstance(about, dict) else {}
        raise BadInputError(
            f"{shown(path)} is {str(said.get('kind', 'something else'))[:40]!r}, format "
            f"{str(said.get('format', 'unknown'))[:10]}; expected {kind!r}, format {FORMAT}"
        )
    return found, about
