"""How near generated captions come to those that people wrote: BLEU (by sacrebleu) and CIDEr-D.

Both compare lower-case words without punctuation, as COCO's evaluation of captions does, though not by its
tokenizer: here ``man's`` is two words, and so is ``t-shirt``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from felga.errors import BadInputError, MissingError

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0  # words; CIDEr-D's penalty of another length

Ngram = tuple[str, ...]


class CaptionScores(NamedTuple):
    """Of a set of captions.

    Attributes:
        bleu: BLEU-1 to BLEU-4 of the whole set, each from 0 to 1.
        cider: CIDEr-D, the mean of the images, from 0 to 10.
    """

    bleu: tuple[float, float, float, float]
    cider: float


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score one caption per image against all captions that people wrote for it.

    Raises:
        BadInputError: not as many captions as images, no image, or one without a reference.
        MissingError: sacrebleu is not installed.
    """
    _check(captions, references)
    one, two, three, four = (bleu(captions, references, order) for order in ORDERS)
    return CaptionScores((one, two, three, four), sum(cider(captions, references)) / len(captions))


def caption_words(text: str) -> list[str]:
    """The lower-case words and numbers of a caption.

    >>> caption_words("A man's T-shirt, 2 sizes too big.")
    ['a', 'man', 's', 't', 'shirt', '2', 'sizes', 'too', 'big']
    """
    return re.findall(r"[^\W_]+", text.lower())


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]], order: int = 4) -> float:
    """BLEU up to n-grams of ``order`` of a whole set, unsmoothed, from 0 to 1 (Papineni et al., 2002).

    Args, raises: as of :func:`caption_scores`.
    """
    _check(captions, references)
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError as error:
        raise MissingError("BLEU needs sacrebleu: pip install 'felga[bench]'") from error
    most = max(map(len, references))
    streams = [
        [" ".join(caption_words(own[at])) if at < len(own) else None for own in references]
        for at in range(most)
    ]
    metric = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order)
    said = [" ".join(caption_words(caption)) for caption in captions]
    return float(metric.corpus_score(said, streams).score) / 100


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each image, from 0 to 10 (Vedantam et al., 2015, Eq. 1-5).

    The mean over n = 1..4 and over the references of ``10 exp(-(l_c - l_r)^2 / 72)`` times the cosine of
    tf-idf vectors of n-grams, where those of the caption are clipped to those of the reference. How rare an
    n-gram is comes from the references of all images, so a score depends on the set.

    Args, raises: as of :func:`caption_scores`.
    """
    _check(captions, references)
    counted = [[_ngrams(caption_words(one)) for one in own] for own in references]
    found_in = Counter(gram for own in counted for gram in set().union(*own))
    images = math.log(len(references))
    weights = {gram: images - math.log(count) for gram, count in found_in.items()}
    scores = []
    for caption, own in zip(captions, counted, strict=True):
        said = _ngrams(caption_words(caption))
        scores.append(sum(_similarity(said, one, weights, images) for one in own) / len(own))
    return scores


def _similarity(
    caption: Counter[Ngram], reference: Counter[Ngram], weights: dict[Ngram, float], unseen: float
) -> float:
    """CIDEr-D of a caption and one reference."""
    total = 0.0
    for order in ORDERS:
        said, wanted = (
            {gram: count * weights.get(gram, unseen) for gram, count in own.items() if len(gram) == order}
            for own in (caption, reference)
        )
        norms = math.hypot(*said.values()) * math.hypot(*wanted.values())
        if norms:
            common = said.keys() & wanted.keys()
            total += sum(min(said[gram], wanted[gram]) * wanted[gram] for gram in common) / norms
    longer = _length(caption) - _length(reference)
    return 10 * math.exp(-(longer**2) / (2 * SIGMA**2)) * total / len(ORDERS)


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    """The n-grams of all :data:`ORDERS`, counted."""
    return Counter(tuple(words[at : at + order]) for order in ORDERS for at in range(len(words) - order + 1))


def _length(ngrams: Counter[Ngram]) -> int:
    return sum(count for gram, count in ngrams.items() if len(gram) == 1)


def _check(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not captions or len(captions) != len(references):
        raise BadInputError(
            f"{len(captions)} captions for {len(references)} images: expected one per image, and at least one"
        )
    if missing := [at for at, own in enumerate(references) if not own]:
        raise BadInputError(f"image {missing[0]} has no reference: leave it out, or give it a caption")
