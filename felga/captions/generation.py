"""Words one after the other: greedy and beam decoding."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from felga.captions.caption_decoder import END, START, UNKNOWN, CaptionDecoder, Pair
from felga.errors import BadInputError

VERSION = 1
"""Raised when the same decoder writes other captions."""


class Generated(NamedTuple):
    """A caption as rows of the table, without start and end; ``score`` is its mean log probability."""

    words: list[int]
    score: float


class Reader(Protocol):
    """A decoder in the midst of a caption, for n rows."""

    def next(self, words: Tensor) -> Tensor:
        """Add a word to each row, (n,), and return what may follow: logits (n, words of the table)."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, which may repeat."""


class Cached:
    """Keeps the keys and values of the words so far; those of a prefix are computed once."""

    def __init__(self, decoder: CaptionDecoder, prefix: Tensor, owners: Tensor) -> None:
        self._decoder, self._owners = decoder, owners
        self._prefix = decoder.read(prefix)
        self._past: list[Pair | None] = [None] * len(self._prefix)
        self._length = 0

    def next(self, words: Tensor) -> Tensor:
        """See :class:`Reader`."""
        states = self._decoder.embed(words[:, None], self._length)
        self._length += 1
        for at, (layer, read) in enumerate(zip(self._decoder.layers, self._prefix, strict=True)):
            past = self._past[at]
            before = read[0][self._owners], read[1][self._owners]
            if past is not None:
                before = torch.cat([before[0], past[0]], 2), torch.cat([before[1], past[1]], 2)
            states, (key, value) = layer(states, before, None)
            if past is not None:
                key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
            self._past[at] = key, value
        return self._decoder.scores(states[:, 0])

    def keep(self, rows: Tensor) -> None:
        """See :class:`Reader`."""
        self._owners = self._owners[rows]
        self._past = [None if past is None else (past[0][rows], past[1][rows]) for past in self._past]


class Recomputed:
    """Reads everything anew for each word: with the printed mask the prefix depends on the words."""

    def __init__(self, decoder: CaptionDecoder, prefix: Tensor, owners: Tensor) -> None:
        self._decoder, self._prefix, self._owners = decoder, prefix, owners
        self._words = owners.new_empty((len(owners), 0))

    def next(self, words: Tensor) -> Tensor:
        """See :class:`Reader`."""
        self._words = torch.cat([self._words, words[:, None]], 1)
        logits: Tensor = self._decoder(self._prefix, self._words, self._owners)
        return logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        """See :class:`Reader`."""
        self._words, self._owners = self._words[rows], self._owners[rows]


def generate(decoder: CaptionDecoder, prefix: Tensor, beam: int = 1) -> list[Generated]:
    """The likeliest caption of each prefix, by its mean log probability per word, the end included.

    Args:
        decoder: in evaluation mode.
        prefix: (b, p, width).
        beam: how many captions are followed at a time; 1 is greedy.

    Raises:
        BadInputError: ``beam`` is below 1 or beyond the words that the decoder knows.
    """
    words = len(decoder.table)
    if not 1 <= beam <= words:
        raise BadInputError(f"beam must be from 1 to {words}, the words that this decoder knows, got {beam}")
    kind = Cached if decoder.shape.mask == "prefix" else Recomputed
    return beam_search(decoder, prefix, beam, kind)


@torch.inference_mode()
def beam_search(
    decoder: CaptionDecoder, prefix: Tensor, beam: int, kind: type[Cached] | type[Recomputed]
) -> list[Generated]:
    """As :func:`generate`, by the given reader.

    A finished caption keeps its place in the beam, with the score that it has. No word comes twice in
    a row, no three words come twice.
    """
    images, device = len(prefix), prefix.device
    if not images:
        return []
    reader: Reader = kind(decoder, prefix, torch.arange(images, device=device))
    total = torch.zeros(images, 1, device=device)  # log probabilities, (b, beam)
    length = torch.zeros_like(total)
    done = torch.zeros_like(total, dtype=torch.bool)
    last = torch.full((images,), START, device=device)
    said = torch.empty((images, 1, 0), dtype=torch.long, device=device)
    for _ in range(decoder.shape.longest):
        logs = reader.next(last).float().log_softmax(-1)
        logs[:, [START, UNKNOWN]] = -torch.inf
        logs = logs.view(images, -1, logs.shape[-1])  # (b, rows, words)
        logs = logs.masked_fill(repeating_words(said, logs), -torch.inf)
        stay = torch.full_like(logs[:, :1], -torch.inf)
        stay[..., END] = 0
        sums = total[..., None] + torch.where(done[..., None], stay, logs)
        lengths = (length + ~done)[..., None]
        best = (sums / lengths).flatten(1).topk(beam, 1).indices  # (b, beam)
        row, last = best // logs.shape[-1], best % logs.shape[-1]
        total = sums.flatten(1).gather(1, best)
        length = lengths[..., 0].gather(1, row)
        done = done.gather(1, row) | (last == END)
        said = torch.cat([said.gather(1, row[..., None].expand(-1, -1, said.shape[2])), last[..., None]], 2)
        if bool(done.all()):
            break
        start = torch.arange(images, device=device)[:, None] * logs.shape[1]
        reader.keep((start + row).flatten())
        last = last.flatten()
    return [_read(said[at, 0], float(total[at, 0] / length[at, 0])) for at in range(images)]


def repeating_words(said: Tensor, logs: Tensor) -> Tensor:
    """Which words would repeat the word before them, or three words of what was ``said`` (b, rows, t).

    Without this a small decoder is caught in loops: green green green.

    Returns:
        Of the shape of ``logs``, (b, rows, words).
    """
    found = torch.zeros_like(logs, dtype=torch.int8)
    if said.shape[2]:
        found.scatter_(2, said[..., -1:], 1)
    if said.shape[2] > 2:
        same = (said[..., :-2] == said[..., -2, None]) & (said[..., 1:-1] == said[..., -1, None])
        found.scatter_reduce_(2, said[..., 2:], same.to(torch.int8), "amax")
    return found.bool()


def _read(words: Tensor, score: float) -> Generated:
    """Up to the end, if there is one."""
    read = words.tolist()
    return Generated(read[: read.index(END)] if END in read else read, score)
