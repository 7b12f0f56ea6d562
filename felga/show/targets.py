"""Where results may be written: checked before the work for them is done."""

from __future__ import annotations

import os
from pathlib import Path

from felga.errors import BadInputError
from felga.files import shown


def check_file(path: Path, example: str) -> None:
    """Check that a file could be written to ``path``, in a new folder if need be.

    Args:
        example: a name that would do, for the error.

    Raises:
        BadInputError: it is a folder, or its folder cannot be created or written.
    """
    if path.is_dir():
        raise BadInputError(f"{shown(path)} is a folder: name a file such as {example}")
    _check_parent(path, path.absolute().parent)


def check_folder(path: Path) -> None:
    """Check that files could be written into ``path``, which need not exist yet.

    Raises:
        BadInputError: it is no folder, or it cannot be created or written.
    """
    if path.exists() and not path.is_dir():
        raise BadInputError(f"{shown(path)} is a file: name a folder")
    _check_parent(path, path.absolute())


def _check_parent(path: Path, folder: Path) -> None:
    nearest = next(at for at in (folder, *folder.parents) if at.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInputError(f"{shown(path)} cannot be written: {shown(nearest)} is not a writable folder")
