"""The shards of a corpus: those of a folder, one file, or what ``DIR/{00000..00009}.tar`` stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from felga.corpus.decode import read_file
from felga.corpus.folder import files_below
from felga.corpus.items import BadItem, ImageItem, Texts
from felga.errors import BadInputError, NotFoundError
from felga.files import shown

MOST = 100_000  # shards that a pattern may name


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a corpus.

    Attributes:
        family: of the corpus, as in ``webdataset:SHARDS``.
        suffix: of a shard.
        root: the folder that holds them all.
        pattern: what names them below it; empty: every file of that suffix in the folder.
    """

    family: str
    suffix: str
    root: Path
    pattern: str

    @classmethod
    def named(cls, family: str, suffix: str, argument: str) -> Shards:
        """The shards that ``family:argument`` names; nothing is listed yet.

        Raises:
            BadInputError: none are named, or the pattern is malformed.
            NotFoundError: there is no such folder or file.
        """
        kind = suffix[1:]
        if not argument:
            raise BadInputError(
                f"{family} needs {kind} shards: {family}:FOLDER, or '{family}:DIR/{{00000..00009}}{suffix}'"
            )
        path, before = Path(argument).absolute(), argument.partition("{")[0]
        folder = os.path.dirname(before)
        if path.is_dir():
            return cls(family, suffix, path, "")
        if path.is_file():
            found = cls(family, suffix, path.parent, path.name)
        elif before == argument or not (root := Path(folder).absolute()).is_dir():
            gone = argument if before == argument else folder
            raise NotFoundError(f"{shown(gone)} does not exist: name {kind} shards or their folder")
        else:
            found = cls(family, suffix, root, argument[len(folder) :].lstrip("/") if folder else argument)
        found._check_pattern()
        return found

    def find(self, bad: list[BadItem], unfit: Mapping[str, str] | None = None) -> list[str]:
        """Their paths below the root, in order; hidden files and folders are skipped.

        Args:
            unfit: suffixes of files that are no shards and should be, with the reason.

        Raises:
            BadInputError: there are none.
            NotFoundError: one that the pattern names is missing.
        """
        if self.pattern:
            shards = list(expanded(self.pattern))
            missing = [shard for shard in shards if not os.path.lexists(self.root / shard)]
            if missing:
                raise NotFoundError(
                    f"{len(missing)} of {len(shards)} shards are missing from {shown(self.root)}, such as "
                    f"{shown(missing[0])}"
                )
            return shards
        shards, kind = [], self.suffix[1:]
        for path in files_below(self.root, bad):
            if path.endswith(self.suffix):
                shards.append(path)
            for ending, reason in (unfit or {}).items():
                if path.endswith(ending):
                    bad.append(BadItem("image", shown(path), shown(path), reason))
        if not shards and not bad:
            raise BadInputError(
                f"{shown(self.root)} holds no {self.suffix} file: {self.family}: names {kind} shards"
            )
        return sorted(shards)

    def _check_pattern(self) -> None:
        count = sum(1 for _ in islice(expanded(self.pattern), MOST + 1))
        if count > MOST:
            raise BadInputError(f"{shown(self.pattern)} names more than {MOST} shards")
        names = (name for name in expanded(self.pattern) if not name.endswith(self.suffix))
        if wrong := next(names, None):
            raise BadInputError(
                f"{shown(wrong)} is no {self.suffix[1:]} shard: expected a folder, FILE{self.suffix} or a "
                f"pattern such as '{{00000..00009}}{self.suffix}'"
            )


class ShardCorpus:
    """What the corpora of shards have in common: a subclass lists them.

    Attributes:
        kind: the name of the family.
        suffix: of a shard.
        root: the folder that holds all shards.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, shards: str | Path, texts: Texts = "joined") -> None:
        self._texts: Texts = texts
        self._shards = Shards.named(self.kind, self.suffix, os.fspath(shards))
        self.root = self._shards.root

    def settings(self) -> Mapping[str, Any]:
        """Which shards, and how captions become texts."""
        return {"shards": self._shards.pattern, "texts": self._texts}

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image.

        Raises:
            UnreadableImage: it or its shard is gone, empty, damaged or too large.
        """
        return read_file(self.root / item.path, item.image_id)


def expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for, as a shell expands braces: ``{a,b}`` and ``{000..123}``."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    inside = match[1]
    if numbers := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside):
        first, last = numbers[1], numbers[2]
        if int(first) > int(last):
            raise BadInputError(f"{{{inside}}} is no range: expected the smaller number first")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts: Iterator[str] = (f"{number:0{width}}" for number in range(int(first), int(last) + 1))
    elif "," in inside:
        parts = iter(inside.split(","))
    else:
        raise BadInputError(f"{{{inside}}} is neither a range such as {{00000..00009}} nor a list")
    for part in parts:
        yield from expanded(pattern[: match.start()] + part + pattern[match.end() :])
