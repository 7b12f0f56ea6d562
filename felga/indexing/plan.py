"""What a sync has to do: a listing compared with the rows of a table. Pure, and the same for both tables."""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from felga.corpus.columns import CHUNK, Items, ascending
from felga.corpus.items import ImageItem, TextItem
from felga.errors import BadInputError
from felga.indexing.options import Counts
from felga.types import Rows

SURPRISING = 20  # removals; a sync that removes more than these and over half of a table asks first
EXAMPLES = 5  # ids per kind of change in a dry run
DIGEST = "digest of text"
"""The column of a table of texts that :func:`text_rules` compares."""
Item = TypeVar("Item")


class Known:
    """The rows of a table, as Arrow columns that are read when they are first compared.

    Attributes:
        ids: of the rows, (n,), in chunks.
        doubled: row ids of outdated twins: a run killed mid-rewrite leaves duplicates, the newer row counts.
    """

    def __init__(self, read: Callable[[str], pa.ChunkedArray], key: str) -> None:
        """
        Args:
            read: a column by name: ``key``, ``_rowid`` and those that the rules compare.
            key: the column of ids.
        """
        self._read = read
        self.ids = self._read(key)
        self._columns = {key: self.ids}
        found, _ = _sorted(self.ids)
        self.doubled = [] if ascending(found) else self._doubled()

    def __len__(self) -> int:
        return len(self.ids)

    def value(self, column: str, position: int) -> Any:
        """One cell."""
        if column not in self._columns:
            self._columns[column] = self._read(column)
        return self._columns[column][position].as_py()

    def _doubled(self) -> list[int]:
        newest: dict[str, int] = {}
        older = []
        for position, key in enumerate(self.ids.to_pylist()):
            if key in newest:
                older.append(newest[key])
            newest[key] = position
        return [self.value("_rowid", position) for position in older]


class Chosen(Sequence[Item]):
    """Some of the items of a listing, which are made when they are looked at."""

    def __init__(self, listed: Sequence[Item]) -> None:
        self._listed = listed
        self._at = array("q")

    def add(self, at: int) -> None:
        """Choose the item at a position of the listing."""
        self._at.append(at)

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self._listed[n] for n in self._at[at]]
        return self._listed[self._at[at]]


@dataclass(frozen=True, slots=True)
class Rules(Generic[Item]):
    """How items of one kind are compared with rows.

    Attributes:
        key: id of an item.
        hint, row_hint: cheap part of the content, equal wherever the content is.
        content, row_content: the content itself, None where it cannot be read; compared only if hints match.
        values: columns that a renamed or touched row takes over from its item.
        unchanged: whether a row of the same id still describes the item, without looking at its content.
        retry: whether a row of the same id must be made again, whatever its content (quarantined rows).
    """

    key: Callable[[Item], str]
    hint: Callable[[Item], Hashable]
    row_hint: Callable[[Known, int], Hashable]
    content: Callable[[Item], Hashable | None]
    row_content: Callable[[Known, int], Hashable | None]
    values: Callable[[Item], Mapping[str, Any]]
    unchanged: Callable[[Item, Known, int], bool]
    retry: Callable[[Item, Known, int], bool]


@dataclass(slots=True)
class Plan(Generic[Item]):
    """What a sync does to one table.

    Attributes:
        encode: items that are new or changed, in the order of the listing.
        remove: row ids of owners that are gone or changed.
        moves: position, row id and new values of rows whose fragments are kept.
        counts: of all listed items and removed rows.
        examples: the first ids of each kind of change.
    """

    encode: Chosen[Item]
    remove: list[int] = field(default_factory=list)
    moves: list[tuple[int, int, Mapping[str, Any]]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, change: str, key: str) -> None:
        """Count a change."""
        setattr(self.counts, change, getattr(self.counts, change) + 1)
        if len(first := self.examples.setdefault(change, [])) < EXAMPLES:
            first.append(key)


def make_plan(listed: Sequence[Item], known: Known, rules: Rules[Item]) -> Plan[Item]:
    """Compare a listing with the rows of a table.

    An item without a row takes over a row without an item if their contents are equal: it was renamed.
    """
    plan: Plan[Item] = Plan(Chosen(listed))
    positions = _positions(_ids(listed, rules.key), known.ids)
    claimed = np.zeros(len(known), bool)
    claimed[positions[positions >= 0]] = True
    gone = dict.fromkeys(np.flatnonzero(~claimed).tolist())
    hints = {rules.row_hint(known, position) for position in gone}
    by_content: dict[Hashable | None, list[int]] = {}
    for position in gone:
        by_content.setdefault(rules.row_content(known, position), []).append(position)
    for n, item in enumerate(listed):
        key, at = rules.key(item), int(positions[n])
        if at < 0:
            twin = _twin(item, hints, by_content, rules)
            if twin is None:
                plan.note("added", key)
                plan.encode.add(n)
            else:
                plan.note("renamed", key)
                del gone[twin]
                plan.moves.append((twin, known.value("_rowid", twin), rules.values(item)))
        elif rules.retry(item, known, at) or not (
            (unchanged := rules.unchanged(item, known, at)) or _same(item, known, at, rules)
        ):
            plan.note("changed", key)
            plan.encode.add(n)
            plan.remove.append(known.value("_rowid", at))
        else:
            plan.note("unchanged", key)
            if not unchanged:
                plan.moves.append((at, known.value("_rowid", at), rules.values(item)))
    for position in gone:
        plan.note("removed", known.ids[position].as_py())
        plan.remove.append(known.value("_rowid", position))
    return plan


def _ids(listed: Sequence[Item], key: Callable[[Item], str]) -> pa.ChunkedArray:
    if isinstance(listed, Items):
        return listed.ids
    return pa.chunked_array([pa.array(map(key, listed), pa.large_string())])


def _positions(listed: pa.ChunkedArray, known: pa.ChunkedArray) -> Rows:
    """(n,) where each listed id is among the known ones, which are unique; -1: nowhere.

    Both are sorted, and compared a part at a time: a table of all ids would take more memory than they do.
    """
    listed, places = _sorted(listed)
    known, rows = _sorted(known)
    found = np.full(len(listed), -1, np.int64)
    start = 0
    for at in range(0, len(known), CHUNK):
        part = known[at : at + CHUNK].combine_chunks()
        last = part[-1].as_py()
        stop = bisect_right(listed, last, start, key=lambda one: one.as_py())
        for begin in range(start, stop, CHUNK):
            end = min(begin + CHUNK, stop)
            inside = pc.index_in(listed[begin:end].cast(part.type), part)
            found[begin:end] = pc.fill_null(pc.add(inside.cast(pa.int64()), at), -1).to_numpy()
        start = stop
    if rows is not None:
        found[found >= 0] = rows[found[found >= 0]]
    if places is None:
        return found
    back = np.empty_like(found)
    back[places] = found
    return back


def _sorted(ids: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Rows | None]:
    """Ids in order, and where each of them was; None: they were in order."""
    if ascending(ids):
        return ids, None
    order = pc.sort_indices(ids)
    return ids.cast(pa.large_string()).take(order), order.to_numpy().astype(np.int64)


def _same(item: Item, known: Known, at: int, rules: Rules[Item]) -> bool:
    if rules.hint(item) != rules.row_hint(known, at):
        return False
    return (content := rules.content(item)) is not None and content == rules.row_content(known, at)


def _twin(
    item: Item,
    hints: Container[Hashable],
    by_content: Mapping[Hashable | None, list[int]],
    rules: Rules[Item],
) -> int | None:
    """Take out the position of a row that no item claims, with the content of ``item``."""
    if rules.hint(item) not in hints or (content := rules.content(item)) is None:
        return None
    positions = by_content.get(content)
    return positions.pop(0) if positions else None


def image_rules(
    sha256: Callable[[ImageItem], str], still_bad: Callable[[ImageItem, str], bool]
) -> Rules[ImageItem]:
    """Images: equal bytes are the same image.

    Args:
        sha256: of an image's bytes, empty where it cannot be read.
        still_bad: whether a quarantined image would be quarantined again for the same reason.
    """

    def values(item: ImageItem) -> Mapping[str, Any]:
        return {
            "image_id": item.image_id,
            "path": os.fsencode(item.path),
            "size": item.size,
            "mtime_ns": item.mtime_ns,
        }

    def unchanged(item: ImageItem, known: Known, at: int) -> bool:
        if known.value("error", at) is not None:
            return True  # it was retried
        return all(known.value(name, at) == value for name, value in values(item).items())

    def retry(item: ImageItem, known: Known, at: int) -> bool:
        reason = known.value("error", at)
        return reason is not None and not still_bad(item, reason)

    return Rules(
        key=lambda item: item.image_id,
        hint=lambda item: item.size,
        row_hint=lambda known, at: known.value("size", at),
        content=lambda item: sha256(item) or None,
        row_content=lambda known, at: known.value("sha256", at) or None,
        values=values,
        unchanged=unchanged,
        retry=retry,
    )


def text_rules() -> Rules[TextItem]:
    """Texts: their content is at hand; of rows, its digest (:func:`text_digest`) is."""

    def row_content(known: Known, at: int) -> bytes:
        digest: bytes = known.value(DIGEST, at)
        return digest

    return Rules(
        key=lambda item: item.text_id,
        hint=lambda item: text_digest(item.text),
        row_hint=row_content,
        content=lambda item: text_digest(item.text),
        row_content=row_content,
        values=lambda item: {"text_id": item.text_id, "image_id": item.image_id},
        unchanged=lambda item, known, at: (
            row_content(known, at) == text_digest(item.text) and known.value("image_id", at) == item.image_id
        ),
        retry=lambda item, known, at: False,
    )


def text_digest(text: str) -> bytes:
    """16 bytes that stand for a text of the index, so that texts are not in memory twice."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def check_removals(what: str, plan: Plan[Any], known: Known, root: str) -> None:
    """Refuse a sync that would empty a table by surprise.

    Raises:
        BadInputError: more than :data:`SURPRISING` owners and over half of them would go, or all images.
    """
    removed, total = plan.counts.removed, len(known)
    if (removed > SURPRISING and 2 * removed > total) or (what == "images" and 0 < total == removed):
        raise BadInputError(
            f"this would remove {removed} of the {total} {what} in the index: is {root} complete and "
            "mounted, and is --out the right index? --dry-run prints the plan, --prune goes ahead"
        )
