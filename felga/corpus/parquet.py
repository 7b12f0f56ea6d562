"""Parquet shards of img2dataset: an image and its caption in each row."""

from __future__ import annotations

import os
from typing import BinaryIO

from felga.corpus.captions import quoted
from felga.corpus.inside import PARQUET, TAR
from felga.corpus.items import (
    UNKNOWN,
    BadItem,
    ImageItem,
    Listing,
    TextItem,
    Texts,
    make_listing,
    texts_of,
)
from felga.corpus.parquet_shard import KEY, DamagedParquet, image_column, member_name, rows
from felga.corpus.shards import ShardCorpus
from felga.errors import BadInputError
from felga.files import open_regular, shown

CAPTION = "caption"
STATUS, SUCCESS, MESSAGE = "status", "success", "error_message"


def parquet(argument: str, *, texts: Texts = "joined") -> ParquetShards:
    """The corpus ``parquet:SHARDS``: a folder, a file, or such as ``DIR/{00000..00009}.parquet``.

    Raises:
        BadInputError: no shard is named, or the pattern is malformed.
        NotFoundError: there is no such folder or file.
    """
    return ParquetShards(argument, texts)


class ParquetShards(ShardCorpus):
    """The images of parquet shards, as ``img2dataset --output_format parquet`` writes them.

    A row has an image in the column ``jpg`` (``png``, ``webp``), a ``key``, and perhaps a ``caption``: a
    string or a list of strings. A row with a ``status`` that is not ``success`` has no image, and is
    quarantined with its ``error_message``.

    Ids are ``SHARD/KEY``, paths ``SHARD.parquet/KEY.jpg``. Listing does not read the column of the images,
    hence their sizes are not known. The time of an image is that of its shard, plus the size of the shard as
    nanoseconds: if either changes, the images of the shard are hashed, and those whose bytes are the same
    stay.
    """

    kind = "parquet"
    suffix = PARQUET

    def scan(self) -> Listing:
        """List the rows of all shards; memory holds the columns of some rows, without the images.

        Raises:
            BadInputError: there are no shards, or no image in any.
            NotFoundError: a shard that the pattern names is missing.
        """
        bad: list[BadItem] = []
        images: list[ImageItem] = []
        texts: list[TextItem] = []
        for shard in self._shards.find(bad):
            try:
                with open_regular(self.root / shard) as file:
                    self._read_shard(file, shard, images, texts, bad)
            except DamagedParquet as error:
                beside = f"{shard.removesuffix(PARQUET)}{TAR}"
                if os.path.isfile(self.root / beside):
                    where = shown(os.path.basename(beside))
                    error = DamagedParquet(f"{error}; {where} beside it is read as webdataset:")
                bad.append(BadItem("image", shown(shard), shown(shard), f"the parquet file {error}"))
            except OSError as error:
                reason = f"the file cannot be read: {error.strerror}"
                bad.append(BadItem("image", shown(shard), shown(shard), reason))
        if bad and not images:
            raise BadInputError(f"{shown(self.root)} holds no image: of {bad[0].item_id}, {bad[0].reason}")
        return make_listing(images, texts, bad)

    def _read_shard(
        self,
        file: BinaryIO,
        shard: str,
        images: list[ImageItem],
        texts: list[TextItem],
        bad: list[BadItem],
    ) -> None:
        """List one shard, up to where it is damaged."""
        column = image_column(file)
        status = os.fstat(file.fileno())
        stamp, stem = status.st_mtime_ns + status.st_size, shard.removesuffix(PARQUET)
        for number, row in enumerate(rows(file, (KEY, CAPTION, STATUS, MESSAGE)), 1):
            name = member_name(row[KEY], column)
            if name is None:
                where = f"{shown(shard)}:{number}"
                bad.append(BadItem("image", where, shown(shard), f"its key is {quoted(row[KEY])}"))
                continue
            image_id = shown(f"{stem}/{row[KEY]}")
            if row.get(STATUS) not in (None, SUCCESS):
                reason = f"img2dataset reports {row[STATUS]}: {row.get(MESSAGE)}"
                bad.append(BadItem("image", image_id, shown(f"{shard}/{name}"), reason))
                continue
            images.append(ImageItem(image_id, f"{shard}/{name}", UNKNOWN, stamp))
            caption = row.get(CAPTION)
            captions = [caption] if isinstance(caption, str) else caption
            if captions is None:
                continue
            if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
                reason = f"caption is {quoted(caption)}, expected a string or a list of strings"
                bad.append(BadItem("text", image_id, shown(shard), reason))
                continue
            texts += texts_of(captions, image_id, image_id, self._texts)
