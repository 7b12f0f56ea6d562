"""What a sync has to do: a listing compared with the rows of a table. Pure, and the same for both tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pyarrow as pa

from felga.corpus.items import ImageItem, TextItem
from felga.errors import BadInputError
from felga.indexing.options import Counts

SURPRISING = 20  # removals; a sync that removes more than these and over half of a table asks first
EXAMPLES = 5  # ids per kind of change in a dry run
Item = TypeVar("Item")


class Known:
    """The rows of a table by id, kept as Arrow columns.

    Attributes:
        doubled: row ids of outdated twins: a run killed mid-rewrite leaves duplicates, the newer row counts.
    """

    def __init__(self, table: pa.Table, key: str) -> None:
        """``table`` has ``_rowid`` and the columns that the rules compare."""
        self._columns = {name: table.column(name).combine_chunks() for name in table.schema.names}
        self.positions: dict[str, int] = {}
        self.doubled: list[int] = []
        for position, key_of_row in enumerate(table.column(key).to_pylist()):
            if key_of_row in self.positions:
                self.doubled.append(self.value("_rowid", self.positions[key_of_row]))
            self.positions[key_of_row] = position

    def __len__(self) -> int:
        return len(self.positions)

    def value(self, column: str, position: int) -> Any:
        """One cell."""
        return self._columns[column][position].as_py()


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

    encode: list[Item] = field(default_factory=list)
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
    plan: Plan[Item] = Plan()
    here = {rules.key(item) for item in listed}
    gone = {key: position for key, position in known.positions.items() if key not in here}
    hints = {rules.row_hint(known, position) for position in gone.values()}
    by_content: dict[Hashable | None, list[str]] = {}
    for key, position in gone.items():
        by_content.setdefault(rules.row_content(known, position), []).append(key)
    for item in listed:
        key = rules.key(item)
        at = known.positions.get(key)
        if at is None:
            twin = _twin(item, hints, by_content, rules)
            if twin is None:
                plan.note("added", key)
                plan.encode.append(item)
            else:
                plan.note("renamed", key)
                position = gone.pop(twin)
                plan.moves.append((position, known.value("_rowid", position), rules.values(item)))
        elif rules.retry(item, known, at) or not (
            (unchanged := rules.unchanged(item, known, at)) or _same(item, known, at, rules)
        ):
            plan.note("changed", key)
            plan.encode.append(item)
            plan.remove.append(known.value("_rowid", at))
        else:
            plan.note("unchanged", key)
            if not unchanged:
                plan.moves.append((at, known.value("_rowid", at), rules.values(item)))
    for key, position in gone.items():
        plan.note("removed", key)
        plan.remove.append(known.value("_rowid", position))
    return plan


def _same(item: Item, known: Known, at: int, rules: Rules[Item]) -> bool:
    if rules.hint(item) != rules.row_hint(known, at):
        return False
    return (content := rules.content(item)) is not None and content == rules.row_content(known, at)


def _twin(
    item: Item,
    hints: Container[Hashable],
    by_content: Mapping[Hashable | None, list[str]],
    rules: Rules[Item],
) -> str | None:
    """Take out the id of a row that no item claims, with the content of ``item``."""
    if rules.hint(item) not in hints or (content := rules.content(item)) is None:
        return None
    keys = by_content.get(content)
    return keys.pop(0) if keys else None


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
    """Texts: their content is at hand."""
    return Rules(
        key=lambda item: item.text_id,
        hint=lambda item: item.text,
        row_hint=lambda known, at: known.value("text", at),
        content=lambda item: item.text,
        row_content=lambda known, at: known.value("text", at),
        values=lambda item: {"text_id": item.text_id, "image_id": item.image_id},
        unchanged=lambda item, known, at: (
            known.value("text", at) == item.text and known.value("image_id", at) == item.image_id
        ),
        retry=lambda item, known, at: False,
    )


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
