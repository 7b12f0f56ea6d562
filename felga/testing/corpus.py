"""What a corpus guarantees: :class:`CorpusContract`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from felga.corpus.decode import UnreadableImage, decode_image
from felga.corpus.items import LARGEST, UNKNOWN, BadItem, Corpus, ImageItem, Listing, TextItem
from felga.files import is_url


def check_images(images: Sequence[ImageItem]) -> None:
    """Sorted by unique ids of valid UTF-8; paths that the system can encode; numbers within int64."""
    ids = [image.image_id for image in images]
    assert ids == sorted(set(ids)), "image ids are unique and sorted"
    for image in images:
        assert image.image_id
        image.image_id.encode()  # no lone surrogates
        assert "\0" not in image.path
        os.fsencode(image.path)
        assert type(image.size) is type(image.mtime_ns) is int
        assert 0 <= image.size <= LARGEST
        assert -LARGEST <= image.mtime_ns <= LARGEST


def check_texts(texts: Sequence[TextItem]) -> None:
    """Sorted by unique ids of valid UTF-8; never blank."""
    ids = [text.text_id for text in texts]
    assert ids == sorted(set(ids)), "text ids are unique and sorted"
    for text in texts:
        assert text.text_id
        assert text.text.strip()
        assert text.image_id is None or text.image_id
        f"{text.text_id}{text.image_id}{text.text}".encode()


def check_bad(bad: Sequence[BadItem]) -> None:
    """Each has a reason, and all of it can be stored."""
    for item in bad:
        assert item.kind in ("image", "text")
        assert item.reason
        f"{item.item_id}{item.path}{item.reason}".encode()


class CorpusContract:
    """Tests of a :class:`felga.corpus.items.Corpus`.

    Override the fixture ``corpus`` with a small corpus of at least one readable image.
    """

    @pytest.fixture
    def corpus(self) -> Corpus:
        """The corpus under test."""
        raise NotImplementedError("override the fixture `corpus`")

    def test_satisfies_the_protocol(self, corpus: Corpus) -> None:
        assert isinstance(corpus, Corpus)
        assert corpus.kind
        assert is_url(str(corpus.root)) or Path(corpus.root).is_absolute()

    def test_settings_are_json(self, corpus: Corpus) -> None:
        assert json.loads(json.dumps(dict(corpus.settings()), allow_nan=False)) == dict(corpus.settings())

    def test_everything_listed_can_be_stored(self, corpus: Corpus) -> None:
        listing = corpus.scan()
        assert isinstance(listing, Listing)
        check_images(listing.images)
        check_texts(listing.texts)
        check_bad(listing.bad)

    def test_a_second_scan_is_equal(self, corpus: Corpus) -> None:
        assert corpus.scan() == corpus.scan()

    def test_an_image_can_be_read_and_decoded(self, corpus: Corpus) -> None:
        decoded = []
        for image in corpus.scan().images:
            with suppress(UnreadableImage):
                decoded.append(decode_image(corpus.read(image), image.image_id))
        assert decoded, "give the fixture `corpus` at least one readable image"

    def test_sizes_are_those_of_the_bytes(self, corpus: Corpus) -> None:
        """A renamed image is recognized by its size, if the corpus knows sizes, then by its bytes."""
        for image in corpus.scan().images:
            if (data := _read(corpus, image)) is not None:
                assert image.size in (len(data), UNKNOWN)

    def test_reading_is_repeatable_and_threads_agree(self, corpus: Corpus) -> None:
        images = corpus.scan().images
        alone = [_read(corpus, image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda image: _read(corpus, image), [*images] * 4))
        assert together == alone * 4

    def test_a_vanished_image_is_unreadable(self, corpus: Corpus) -> None:
        gone = replace(corpus.scan().images[0], path="felga-no-such-image.jpg")
        with pytest.raises(UnreadableImage):
            corpus.read(gone)


def _read(corpus: Corpus, image: ImageItem) -> bytes | None:
    try:
        return corpus.read(image)
    except UnreadableImage:
        return None
