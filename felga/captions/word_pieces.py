"""The words of a decoder: BERT's word pieces and their frozen vectors, of the packaged MiniLM or another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.files import sha256_file, shown
from felga.models.minilm import PACKAGE, SHA256, minilm_file
from felga.models.weights import check_weights

TABLES = "embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight"
SPECIAL = "[CLS]", "[SEP]", "[UNK]"  # start (the paper's empty token), end, unknown
TRAILING = "."  # some people end a caption with it, some do not: it is not learned

_INSIDE_WORDS = re.compile(r"(?<=\w) ?([-'/]) (?=\w)")  # the tokenizer parts them: man ' s, t - shirt


@dataclass(frozen=True, slots=True)
class Source:
    """Where words and their vectors come from.

    Attributes:
        folder: a checkpoint of BERT in the format of transformers; None: the packaged MiniLM.
        sha256: of its weights.
    """

    folder: Path | None
    sha256: str

    @classmethod
    def of(cls, folder: Path | None) -> Source:
        """
        Raises:
            NotFoundError: no such folder, or it lacks weights or tokenizer.
        """
        if folder is None:
            return cls(None, SHA256)
        folder = folder.absolute()
        for name in ("model.safetensors", "tokenizer.json"):
            if not (folder / name).is_file():
                raise NotFoundError(
                    f"{shown(folder)} has no {name}: name a folder with a BERT as transformers saves it, "
                    "with model.safetensors and tokenizer.json"
                )
        return cls(folder, sha256_file(folder / "model.safetensors"))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path | None) -> Source:
        """Of :meth:`to_json`; ``folder``: where it is now, if it has moved.

        Raises:
            MissingError: it is gone, or no longer what it was.
        """
        was = values["folder"]
        folder = folder or (Path(was) if was is not None else None)
        try:
            found = cls.of(folder)
        except NotFoundError as error:
            raise MissingError(f"the words' vectors are missing: {error}; say where with --words") from error
        if found.sha256 != values["sha256"]:
            where = "the packaged MiniLM" if folder is None else shown(folder)
            raise MissingError(
                f"{where} has other weights than the decoder was trained with (sha256 {found.sha256[:12]}, "
                f"expected {values['sha256'][:12]}): name their folder with --words"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Json values."""
        return {"folder": None if self.folder is None else str(self.folder), "sha256": self.sha256}

    def tokenizer(self) -> Tokenizer:
        """Without truncation and padding.

        Raises:
            BadInputError: not a tokenizer, or not BERT's.
        """
        path = self._folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise BadInputError(f"{shown(path)} is not a tokenizer: {error}") from error
        if missing := [name for name in SPECIAL if tokenizer.token_to_id(name) is None]:
            raise BadInputError(f"{shown(path)} has no {missing[0]}: expected the tokenizer of a BERT")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def vectors(self, ids: Sequence[int]) -> Tensor:
        """(n, width) float32 of tokenizer ids.

        Raises:
            BadInputError: the file has no word vectors, or too few.
            MissingError: the packaged weights are missing or damaged.
        """
        path = self._folder / "model.safetensors"
        if self.folder is None:
            check_weights(path, SHA256, PACKAGE)
        try:
            with safe_open(str(path), framework="pt") as file:
                name = next(name for name in file.keys() if name in TABLES)  # noqa: SIM118
                table: Tensor = file.get_tensor(name)
        except Exception as error:  # safetensors raises its own SafetensorError; StopIteration: no such name
            reason = "no word vectors" if isinstance(error, StopIteration) else error
            raise BadInputError(f"{shown(path)} cannot be used ({reason}): expected a BERT") from error
        if table.ndim != 2 or len(table) <= max(ids):
            raise BadInputError(
                f"{shown(path)} has word vectors of shape {tuple(table.shape)}, but its tokenizer knows the "
                f"id {max(ids)}: weights and tokenizer are of different models"
            )
        return table[torch.tensor(ids)].float()

    @property
    def _folder(self) -> Path:
        return minilm_file().parent if self.folder is None else self.folder


class WordPieces:
    """Texts as rows of a table of frozen vectors, restricted to the pieces that occur in some texts.

    Attributes:
        ids: (words,) int32, the tokenizer's id of each row; start, end and unknown come first.
        table: (words, width) float32.
    """

    def __init__(self, source: Source, ids: Sequence[int]) -> None:
        """Raises: as of :meth:`Source.tokenizer` and :meth:`Source.vectors`."""
        self.source = source
        self.ids = np.array(ids, np.int32)
        self.table = source.vectors([int(one) for one in ids])
        self._tokenizer = source.tokenizer()
        self._rows = {int(one): row for row, one in enumerate(ids)}

    @classmethod
    def of_texts(cls, source: Source, texts: Iterable[str]) -> WordPieces:
        """The pieces of these texts."""
        tokenizer = source.tokenizer()
        special: list[Any] = [tokenizer.token_to_id(name) for name in SPECIAL]
        found = {one for text in texts for one in tokenizer.encode(text, add_special_tokens=False).ids}
        return cls(source, special + sorted(found - set(special)))

    def rows(self, text: str) -> list[int]:
        """The pieces of a text, without start and end; what has no row is :data:`UNKNOWN`."""
        unknown = SPECIAL.index("[UNK]")
        text = text.strip().removesuffix(TRAILING)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self._rows.get(one, unknown) for one in ids]

    def text(self, rows: Sequence[int]) -> str:
        """The text of pieces."""
        decoded = self._tokenizer.decode([int(self.ids[row]) for row in rows])
        return _INSIDE_WORDS.sub(r"\1", decoded)
