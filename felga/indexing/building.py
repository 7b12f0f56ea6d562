"""The folder that an index is built in: whether it may be, what it is bound to, what was quarantined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from felga.corpus.items import BadItem
from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.files import canonical, read_regular, shown, to_json, write_whole
from felga.store.manifest import (
    FORMAT_VERSION,
    NAME,
    Contract,
    Errors,
    Manifest,
    differences,
    read_manifest,
    summary,
)
from felga.store.owner_table import OwnerTable
from felga.store.stored import NativeFolder

BUILDING = "building.json"  # the contract of a first run that is not finished
IMPORTED = "imported"
"""Names the proposers of an index whose vectors were not made here."""


def check_target(out: Path) -> None:
    """Refuse a file, and a folder that holds something else; nothing is created yet."""
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInputError(f"{shown(out)} is a file: name a folder for the index")
    names = {path.name for path in out.iterdir()}
    if not names & {NAME, BUILDING}:
        others = sorted(name for name in names if not name.startswith("."))
        if others:
            raise BadInputError(
                f"{shown(out)} holds {shown(others[0])!r} and is not an index: name an empty or a new folder"
            )


def make_folder(out: Path) -> NativeFolder:
    """The folder of an index, made if need be.

    Raises:
        BadInputError: it lies below a file.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadInputError(f"{shown(out)} lies below a file: name a folder for the index") from error
    return NativeFolder(out)


def open_contract(folder: Path, contract: Contract) -> Manifest | None:
    """The current manifest, if any, once it is certain that this run may add to the index."""
    try:
        before = read_manifest(folder)
    except NotFoundError:
        building = folder / BUILDING
        if not building.exists():
            data = {"format_version": FORMAT_VERSION, **asdict(contract)}
            write_whole(building, to_json(data).encode())
            return None
        try:
            data = json.loads(read_regular(building))
            version = data.pop("format_version", None)
            if version != FORMAT_VERSION:
                raise ValueError(f"format version {version} instead of {FORMAT_VERSION}")
            unfinished = Contract(**data)
        except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise BadIndexError(
                f"{building} is not of an index that this felga can finish ({error}): remove the folder and "
                "index again"
            ) from error
        check_same(unfinished, contract, "holds an unfinished index built with")
        return None
    check_same(before.contract, contract, "was built with")
    return before


def check_same(actual: Contract, wanted: Contract, state: str) -> None:
    """Refuse to mix what two contracts made; ``state`` is how the first one came about.

    Raises:
        BadIndexError: they differ.
    """
    if actual.regions["proposer"]["name"] == IMPORTED != wanted.regions["proposer"]["name"]:
        raise BadIndexError(
            "the index holds vectors from `felga import`, to which no images can be added: index the images "
            "into another --out"
        )
    if differ := differences(asdict(actual), canonical(asdict(wanted))):
        raise BadIndexError(
            f"the index {state} other options ({summary(differ)}): use the same ones, or another --out"
        )


def write_errors(folder: Path, images: OwnerTable, bad: Sequence[BadItem]) -> Errors:
    """Write ``errors.jsonl``: what was quarantined, by the scan or by decoding."""
    lines = [asdict(item) for item in bad]
    for row in images.take(_quarantined(images), ["image_id", "path", "error"]):
        where = shown(row["path"])
        lines.append({"kind": "image", "item_id": row["image_id"], "path": where, "reason": row["error"]})
    lines.sort(key=lambda line: (line["kind"], line["item_id"], line["reason"]))
    content = "".join(to_json(line) + "\n" for line in lines).encode()
    path = folder / "errors.jsonl"
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)
    return Errors(
        images=sum(line["kind"] == "image" for line in lines),
        texts=sum(line["kind"] == "text" for line in lines),
    )


def _quarantined(images: OwnerTable) -> list[int]:
    """Positions of images that could not be read."""
    found, start = [], 0
    for batch in images.batches(["error"], 8192):
        found += (start + np.flatnonzero(batch.column("error").is_valid())).tolist()
        start += batch.num_rows
    return found
