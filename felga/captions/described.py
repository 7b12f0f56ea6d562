"""A corpus whose images without a text get a generated one, so that description assignment has an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from felga.captions.captioner import Captioner
from felga.captions.generation import VERSION
from felga.corpus.decode import UnreadableImage, decode_image
from felga.corpus.items import Corpus, ImageItem, Listing, TextItem, make_listing
from felga.errors import BadInputError
from felga.files import sha256_file, shown, storage_errors, write_whole
from felga.types import GENERATED, DecodedImage, Progress

TOGETHER = 16  # images read at a time
Entry = tuple[str, int, int]


@dataclass(frozen=True)
class Described:
    """A corpus (:class:`felga.corpus.items.Corpus`) as another lists it, and generated texts.

    Attributes:
        described: the corpus; ``listing``: all of its items and the generated texts.
        captioner: the sha256 of the file that wrote them.
    """

    described: Corpus
    listing: Listing
    captioner: str

    @property
    def kind(self) -> str:
        """Of the corpus."""
        return self.described.kind

    @property
    def root(self) -> str | Path:
        """Of the corpus."""
        return self.described.root

    def settings(self) -> Mapping[str, Any]:
        """Of the corpus, and who wrote the texts."""
        return {**self.described.settings(), "described": self.captioner}

    def scan(self) -> Listing:
        """What was listed when the images were described."""
        return self.listing

    def read(self, item: ImageItem) -> bytes:
        """Of the corpus."""
        return self.described.read(item)


def described(
    corpus: Corpus,
    model: Path,
    memory: Path,
    *,
    beam: int,
    device: str = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> Described:
    """Describe the images of a corpus that have no text; those that cannot be read get none.

    The id of a generated text is its image's with :data:`felga.types.GENERATED` behind it.

    Args:
        model: a captioner.
        memory: a file that keeps the captions, by id, size and time of their images, so that no image is
            described twice, whatever becomes of the run; of another captioner it is made anew.
        progress: called with ``descriptions`` (images).

    Raises:
        NotFoundError, BadInputError, MissingError: as of :meth:`Captioner.load`.
        StorageError: the memory cannot be written.
    """
    captioner, digest = Captioner.load(model, device=device), sha256_file(model)
    listing = corpus.scan()
    captioned = {text.image_id for text in listing.texts}
    silent = [item for item in listing.images if item.image_id not in captioned]
    texts: list[TextItem] = []
    with storage_errors(memory):
        memory.parent.mkdir(parents=True, exist_ok=True)
        known = _recall(memory, {"captioner": digest, "beam": beam, "version": VERSION})
        with memory.open("a", encoding="utf-8") as file:
            for start in range(0, len(silent), TOGETHER):
                some = silent[start : start + TOGETHER]
                new = [item for item in some if _entry(item) not in known]
                for item, caption in _captions(corpus, captioner, new, beam):
                    known[_entry(item)] = caption
                    file.write(json.dumps([*_entry(item), caption]) + "\n")
                file.flush()
                told = [(item.image_id, known.get(_entry(item))) for item in some]
                texts += [TextItem(image + GENERATED, image, caption) for image, caption in told if caption]
                progress("descriptions", start + len(some), len(silent))
    return Described(corpus, make_listing(listing.images, [*listing.texts, *texts], listing.bad), digest)


def _captions(
    corpus: Corpus, captioner: Captioner, items: list[ImageItem], beam: int
) -> Iterator[tuple[ImageItem, str]]:
    readable: list[tuple[ImageItem, DecodedImage]] = []
    for item in items:
        try:
            readable.append((item, decode_image(corpus.read(item), item.image_id)))
        except UnreadableImage:  # it will be quarantined, with the reason
            continue
    if readable:
        found = captioner.captions([image for _, image in readable], beam)
        for (item, _), caption in zip(readable, found, strict=True):
            yield item, caption.text


def _entry(item: ImageItem) -> Entry:
    return item.image_id, item.size, item.mtime_ns


def _recall(memory: Path, about: Mapping[str, Any]) -> dict[Entry, str]:
    """The captions in a memory; it is emptied if another captioner wrote them, and cut after its last line.

    Raises:
        BadInputError: the file is something else.
    """
    data = memory.read_bytes() if memory.exists() else b""
    try:
        first, *rows = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()] or [{}]
        known = {(image_id, size, time): str(caption) for image_id, size, time, caption in rows}
        if data and "captioner" not in first:
            raise ValueError("no captioner is named")
    except (ValueError, TypeError) as error:
        raise BadInputError(
            f"{shown(memory)} is not a list of generated captions ({error}): move it away, or remove it"
        ) from error
    if first != about:
        known = {}
    lines = [dict(about), *([*entry, caption] for entry, caption in known.items())]
    write_whole(memory, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    return known
