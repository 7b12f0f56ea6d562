"""The engine: open an index, search images by words, assign sentences to parts of images."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np

from felga.asking import (
    Asking,
    ImageOptions,
    OwnerScore,
    WordOptions,
    at_least_one,
    check_owner,
    check_queries,
)
from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.files import canonical, is_url, shown
from felga.indexing.parts import encoded_regions
from felga.queries import ImageSource, Queries, decoded, inside, measured
from felga.questions.answers import Answers, term_vectors
from felga.questions.grammar import parse
from felga.registry import make_encoder
from felga.search.duplicates import without_copies
from felga.search.owners import Owner, best_owners
from felga.search.rules import image_rule, text_rule
from felga.search.scoring import Extras, MeaningAndQuality
from felga.store.copies import looks, near
from felga.store.filters import among
from felga.store.frozen import FrozenIndex
from felga.store.hits import image_hits, keyword_concepts, text_hits
from felga.store.manifest import Manifest, differences, summary
from felga.store.stored import StoredIndex
from felga.store.vocabulary import Vocabulary, words_of
from felga.types import Box, Encoder, Flags, ImageHit, TextHit, Vectors


class Engine:
    """An index open for reading.

    It keeps the state in which it was opened, however often the index is updated meanwhile. Every method
    may be called from several threads. Use it as a context manager, or :meth:`close` it, to let a writer
    remove files that only this state needs.
    """

    def __init__(
        self,
        index: StoredIndex,
        *,
        encoder: Encoder | None = None,
        device: str = "auto",
        root: str | Path | None = None,
    ) -> None:
        """As :meth:`open`, of an index that is open already."""
        self.index = index
        root = index.manifest.corpus.root if root is None else root
        self.root: str | Path = root if isinstance(root, str) and is_url(root) else Path(root)
        self._device = device
        self._lock, self._frozen_lock = threading.RLock(), threading.Lock()
        self._frozen: Engine | None = None
        self._encoder: Encoder | None = None
        self._lazy: dict[str, Any] = {}
        if encoder is not None:
            self._encoder = self._checked(encoder)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        root: str | Path | None = None,
        encoder: Encoder | str | None = None,
    ) -> Engine:
        """Open an index.

        Args:
            folder: what ``felga index --out`` wrote, or the URL that it was pushed to.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, for the queries.
            root: where the images are now, if they were moved; None: where they were indexed.
            encoder: an encoder, or the name of one, which may then fetch its weights from a hub. None: the
                one that the index names, with weights that are on this machine.

        Raises:
            NotFoundError: there is no index.
            BadIndexError: it is damaged, of a format that this felga does not read, or of another encoder.
        """
        if isinstance(folder, str) and is_url(folder):
            from felga.store.remote_index import mirror  # fsspec, which few need

            folder = mirror(folder)
        index = StoredIndex.open(folder, device=device)
        if isinstance(encoder, str):
            pooling = index.manifest.contract.encoder.get("pooling")
            encoder = make_encoder(encoder, device=device, pooling=pooling)
        return cls(index, encoder=encoder, device=device, root=root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the index."""
        self.index.close()

    @property
    def manifest(self) -> Manifest:
        """The contract of the index."""
        return self.index.manifest

    @property
    def measured(self) -> bool:
        """Whether a confidence keeps its promise here: it was measured for ``conse`` with a FENet."""
        return measured(self.manifest)

    @property
    def frozen(self) -> Engine:
        """The same index before its FENet, as :class:`felga.store.frozen.FrozenIndex` makes it when this is
        first asked for: with the encoder's own vectors, 2 bytes per dimension in temporary files.

        Raises:
            BadInputError: the index has no FENet.
            StorageError: there is no room for the files.
        """
        with self._frozen_lock:  # not the other lock: searches go on meanwhile
            if self._frozen is None:
                self._frozen = Engine(FrozenIndex(self.index), encoder=self.encoder, root=self.root)
            return self._frozen

    def search(self, query: str, k: int = 10, **options: Unpack[WordOptions]) -> list[ImageHit]:
        """Object discovery: the ``k`` images that match a word or phrase best.

        Exact, unless the index has an approximate search (``felga index --index``), with the recall that its
        manifest states. Questions of several terms and filtered ones are always answered exactly.

        Ties go to the image whose regions score higher, the best one first, then to the one indexed first.

        ``2:boat AND person NOT car`` asks for several terms (:mod:`felga.questions`): a hit has ``regions``
        for each, and images that surely show what follows NOT are left out. ``boat + beach - person`` asks
        for a sum of vectors.

        Args:
            options: :class:`felga.asking.WordOptions`.

        Raises:
            BadInputError: the query is empty, lacks words beside an operator or has a weight of 0 or less,
                ``k`` is below 1, or an option is refused (:class:`felga.asking.Asking`).

        >>> engine.search("boat", k=3, regions=2)[0].regions[0].box  # doctest: +SKIP
        (12.0, 80.5, 201.0, 160.0)
        """
        if not isinstance(query, str):
            raise BadInputError(f"a query is a string, got {type(query).__name__}; search_all takes several")
        return self.search_all([query], k, **options)[0]

    def search_all(
        self, queries: Sequence[str], k: int = 10, **options: Unpack[WordOptions]
    ) -> list[list[ImageHit]]:
        """:meth:`search` for several queries at once."""
        check_queries(queries)
        how = Asking(**options)
        offsets, columns = self._once("image offsets", self.index.images.offsets), self._columns()
        asked = self.queries()
        questions = [parse(query) for query in queries]
        alone = [question.wanted[0] for question in questions if question.alone]
        vectors = term_vectors(asked, alone)
        chosen = among(self.index.images, self.index.texts, how)
        found = self._ranked_images(vectors, k, how, chosen)
        hits = image_hits(self.index.images, found, self.root, how.regions)
        answers = Answers(self.index, self.root, offsets, columns, asked, self.unknown_words, how, chosen)
        of_one = (
            answers.judged(term.text, vector, owners, own)
            for term, vector, owners, own in zip(alone, vectors, found, hits, strict=True)
        )
        judged = [next(of_one) if question.alone else answers.several(question, k) for question in questions]
        return [[hit for hit in own if (hit.confidence or 0.0) >= how.min_confidence] for own in judged]

    def search_image(
        self, image: ImageSource, box: Box | None = None, k: int = 10, **options: Unpack[ImageOptions]
    ) -> list[ImageHit]:
        """:meth:`search` by an image, or by the part of it in ``box``: what looks most like it.

        Args:
            options: :class:`felga.asking.ImageOptions`. Quality does not count unless asked for.
        """
        how = Asking.by_image(options)
        vector = self._image_vector(image, box)
        found = self._ranked_images(vector, k, how, among(self.index.images, self.index.texts, how))
        return image_hits(self.index.images, found, self.root, how.regions)[0]

    def assign(
        self, image: ImageSource, box: Box | None = None, k: int = 10, *, owner: OwnerScore = "soft"
    ) -> list[TextHit]:
        """Description assignment: the ``k`` texts that match an image best. Exact.

        Ties go to the text whose keywords score higher, the best one first, then to the one indexed first;
        singular and plural of a word count once.

        Args:
            image: a crop, or with ``box`` the image that it is a part of.
            box: ``x1, y1, x2, y2`` in pixels of the upright image.
            owner: ``soft``: a text scores ``(soft + cosine of the whole text / 2) / 1.5`` with the soft
                maximum of its keywords, ``t log(mean(exp(s / t)))``, t = 0.1
                (:class:`felga.search.rules.SoftAndWhole`); ``max``: its best keyword (FELGA, 4.3), which
                nine texts in ten share with another, so that they tie.

        Raises:
            NotFoundError: there is no such file.
            BadInputError: the index has no texts, the image is unreadable, the box lies outside it, ``k`` is
                below 1, or ``owner`` is neither.
        """
        if not self.manifest.texts.owners:
            raise BadInputError(
                f"{shown(self.index.folder)} holds no captions: put them in NAME.txt beside NAME.jpg, or in "
                "metadata.jsonl, and run `felga index` again"
            )
        return self._text_hits(self._image_vector(image, box), k, owner)[0]

    def unknown_words(self, query: str) -> dict[str, list[str]]:
        """Words of a query that neither the index nor its encoder knows -> the nearest known ones, if any.

        Empty for an encoder that has no list of words. Loads no model.

        >>> engine.unknown_words("a zerba")  # doctest: +SKIP
        {'zerba': ['zebra']}
        """
        vocabulary: Vocabulary = self._once(
            "vocabulary", lambda: Vocabulary(self.keyword_words, self.manifest.contract.encoder)
        )
        found = [vocabulary.unknown(phrase) for phrase in parse(query).phrases]
        return {word: near for own in found for word, near in own.items()}

    def keyword_words(self) -> frozenset[str]:
        """The words of all keywords of the index."""
        return words_of(self.index.texts)

    def queries(self) -> Queries:
        """Words as vectors, and how sure an answer to them is."""
        offsets, columns = self._once("image offsets", self.index.images.offsets), self._columns()
        made: Queries = self._once(
            "queries", lambda: Queries(self.index, lambda: self.encoder, offsets, columns)
        )
        return made

    @property
    def encoder(self) -> Encoder:
        """The encoder that the index was built with; it never fetches weights from a hub.

        Raises:
            BadIndexError: the one installed here has other weights or preprocessing.
            MissingError: its package or its weights are not on this machine.
        """
        with self._lock:
            if self._encoder is None:
                from felga.models.weights import offline

                name, pooling = self.manifest.encoder, self.manifest.contract.encoder.get("pooling")
                try:
                    with offline():  # the name may come from a stranger's manifest
                        encoder = make_encoder(name, device=self._device, pooling=pooling)
                except NotFoundError as error:
                    raise BadIndexError(
                        f"{shown(self.index.folder)} was built with the encoder {name!r}, whose weights are "
                        f"gone ({error}): if they were moved, open the index with encoder=NAME"
                    ) from error
                except BadInputError as error:
                    raise BadIndexError(
                        f"{shown(self.index.folder)} was built with the encoder {name!r}, which is not "
                        f"available here ({error}): install the package that provides it"
                    ) from error
                self._encoder = self._checked(encoder)
            return self._encoder

    def _checked(self, encoder: Encoder) -> Encoder:
        expected = self.manifest.contract.encoder
        if differ := differences(canonical(dict(encoder.identity())), expected):
            raise BadIndexError(
                f"{shown(self.index.folder)} was built with a different {expected['name']} than the one here "
                f"({summary(differ)}): install that one, or index again"
            )
        return encoder

    def _image_vector(self, image: ImageSource, box: Box | None) -> Vectors:
        """(1, dim) of an image, or of a part of it."""
        query = decoded(image)
        part = query.whole if box is None else inside(box, query)
        (raw,) = encoded_regions(self.encoder, [query], [np.array([part], np.float32)])
        return self.index.embedding.regions(*raw)

    def _ranked_images(
        self, queries: Vectors, k: int, how: Asking, chosen: Flags | None
    ) -> list[list[Owner]]:
        at_least_one(k=k)
        ranked = partial(
            best_owners,
            self.index.regions,
            self._once("image offsets", self.index.images.offsets),
            queries,
            allowed=None if how.whole else ~self._columns()["whole"],
            among=chosen,
            scorer=MeaningAndQuality() if how.quality else None,
            rule=image_rule(how.owner),
            extras=self._columns(),
            shortlister=None if how.exact else self.index.approximate,
        )
        if not how.dedupe:
            return ranked(k)
        return without_copies(ranked, partial(looks, self.index.images), k, near(self.index.images))

    def _columns(self) -> Extras:
        columns: Extras = self._once(
            "columns",
            lambda: {"whole": self.index.images.whole(), "quality": self.index.images.quality()},
        )
        return columns

    def _text_hits(self, queries: Vectors, k: int, owner: OwnerScore) -> list[list[TextHit]]:
        at_least_one(k=k)
        rule = text_rule(check_owner(owner))
        is_whole: Flags = self._once("whole texts", self.index.texts.whole)
        found = best_owners(
            self.index.keywords,
            self._once("text offsets", self.index.texts.offsets),
            queries,
            k,
            ~is_whole if owner == "max" else None,
            rule=rule,
            extras={"whole": is_whole},
            concepts=partial(keyword_concepts, self.index.texts),
        )
        return text_hits(self.index.texts, found)

    def _once(self, name: str, make: Any) -> Any:
        """What ``make`` returned when it was first asked for."""
        with self._lock:
            if name not in self._lazy:
                self._lazy[name] = make()
            return self._lazy[name]
