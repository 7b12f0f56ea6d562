"""Safetensors files: written whole or not at all, and read with one sentence for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.files import write_whole

Arrays = dict[str, npt.NDArray[Any]]
FORMAT = 1


def _safetensors() -> tuple[Any, Any]:
    try:
        from safetensors import safe_open
        from safetensors.numpy import save
    except ModuleNotFoundError as error:
        if error.name != "safetensors":
            raise
        raise MissingError(
            "feature files and checkpoints need the package 'safetensors': pip install safetensors"
        ) from error
    return safe_open, save


def write_arrays(
    path: str | Path, kind: str, arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """One safetensors file, atomically (:func:`felga.files.write_whole`).

    Args:
        path: the file.
        kind: ``features``, ``fenet`` or ``training``.
        arrays: by name.
        about: json values, kept in the metadata.
    """
    _, save = _safetensors()
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # One entry alone: safetensors writes several in random order, and a file would not be reproducible.
    metadata = {"felga": json.dumps({"kind": kind, "format": FORMAT, **about}, sort_keys=True)}
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(contiguous, metadata=metadata))
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from error


def read_arrays(path: str | Path, kind: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file that :func:`write_arrays` wrote, and what it says about them.

    Raises:
        NotFoundError: no such file.
        BadInputError: it cannot be read, is no safetensors file, is cut short, or is of another kind.
        MissingError: safetensors is not installed.
    """
    safe_open, _ = _safetensors()
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="np") as file:
            about = json.loads((file.metadata() or {}).get("felga", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # safetensors raises its own SafetensorError, OSError and ValueError
        raise BadInputError(f"{path} is damaged or no safetensors file ({error}): make it again") from error
    found = (about.get("kind", "something else"), about.get("format", FORMAT))
    if found != (kind, FORMAT):
        raise BadInputError(
            f"{path} is a file of {found[0]!r}, format {found[1]}; {kind!r}, format {FORMAT} is wanted"
        )
    return arrays, about
