"""An index as it was before its FENet: the raw vectors of its tables, searched in the same way."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from felga.errors import BadInputError
from felga.files import shown, storage_errors
from felga.search.flat import FlatSearcher
from felga.store.owner_table import OwnerTable
from felga.store.pieces import build_pieces
from felga.store.stored import StoredIndex
from felga.types import Frozen


class FrozenIndex(StoredIndex):
    """What ``felga index --fenet none`` would have made of the same corpus.

    Its tables are those of the index that it is made of; it needs that one to stay open, and does not close
    it.
    """

    def __init__(self, index: StoredIndex) -> None:
        """Write the raw vectors into temporary files that have no name any more once they are mapped.

        They take 2 bytes per dimension of each region and keyword; writing them takes as much memory as
        writing an index does (:data:`felga.store.pieces.FULL`).

        Raises:
            BadInputError: the index has no FENet.
            StorageError: there is no room for the files.
        """
        if index.manifest.fenet is None:
            raise BadInputError(
                f"{shown(index.folder)} has no FENet: it answers by its encoder alone, with or without asking"
            )
        vars(self).update(vars(index))
        dim = int(index.manifest.contract.encoder["dim"])
        self.manifest = replace(index.manifest, fenet=None, approximate=None, dim=dim)
        beside = Path(tempfile.gettempdir())
        with storage_errors(beside), tempfile.TemporaryDirectory(prefix="felga-", dir=beside) as name:
            self.regions = self._raw(Path(name), "regions", self.images)
            self.keywords = self._raw(Path(name), "keywords", self.texts)

    def close(self) -> None:
        """Nothing to release: the files are those of the index that this is made of."""

    def _raw(self, folder: Path, stem: str, table: OwnerTable) -> FlatSearcher:
        dim = self.manifest.dim
        names, counts = build_pieces(
            folder, stem, table, dim=dim, embed=Frozen().regions, mark="raw", intact=()
        )
        return FlatSearcher([folder / name for name in names], dim, sum(counts))
