"""Safetensors files: written whole or not at all, and read with one sentence for what is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError, MissingError, NotFoundError

Arrays = dict[str, npt.NDArray[Any]]


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


def write_whole(path: str | Path, content: bytes) -> None:
    """Write ``path`` so that a reader, or a crash, sees the old file or the new one, never a part."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from error


def write_arrays(
    path: str | Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """One safetensors file, atomically (:func:`write_whole`)."""
    _, save = _safetensors()
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_whole(path, save(contiguous, metadata=dict(metadata)))


def read_arrays(path: str | Path, kind: str) -> tuple[Arrays, dict[str, str]]:
    """The arrays and the metadata of a safetensors file that felga wrote.

    Args:
        path: the file.
        kind: what it must be: its metadata's ``felga`` entry (``features``, ``fenet``, ``training``).

    Raises:
        NotFoundError: no such file.
        BadInputError: it cannot be read, is no safetensors file, is cut short, or is of another kind.
    """
    safe_open, _ = _safetensors()
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # safetensors raises its own SafetensorError, OSError and ValueError
        raise BadInputError(f"{path} is damaged or no safetensors file ({error}): make it again") from error
    found = metadata.get("felga")
    if found != kind:
        raise BadInputError(f"{path} is a file of {found or 'something else'!r}; one of {kind!r} is wanted")
    return arrays, metadata
