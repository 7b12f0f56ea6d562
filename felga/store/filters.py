"""Which images of an index may be hits: by their ids, their paths, their captions."""

from __future__ import annotations

import fnmatch
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute  # pa.compute

from felga.asking import Asking
from felga.store.owner_table import OwnerTable
from felga.types import Flags


def among(images: OwnerTable, texts: OwnerTable, asking: Asking) -> Flags | None:
    """(images,) bool, those that pass every filter; None: there is no filter."""
    if not asking.filtered:
        return None
    passed = np.ones(len(images), bool)
    if asking.ids is not None:
        passed &= _one_of(images.read(["image_id"]).column("image_id"), asking.ids)
    if asking.path is not None:
        matches = re.compile(fnmatch.translate(asking.path)).match
        paths = images.read(["path"]).column("path").to_pylist()
        passed &= np.fromiter((matches(os.fsdecode(path)) is not None for path in paths), bool, len(paths))
    if asking.caption is not None:
        table = texts.read(["image_id", "text"])
        with_it = pa.compute.match_substring(table.column("text"), asking.caption, ignore_case=True)
        owners = table.column("image_id").filter(with_it).drop_null()
        passed &= _one_of(images.read(["image_id"]).column("image_id"), owners.to_pylist())
    return passed


def _one_of(column: pa.ChunkedArray, values: object) -> Flags:
    wanted = pa.array(list(values), pa.string())  # type: ignore[call-overload]
    flags: Flags = np.asarray(pa.compute.is_in(column, wanted), bool)
    return flags
