"""BLEU and CIDEr-D: values worked out by hand, and properties."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from felga.errors import BadInputError
from felga.evaluation.captioning import bleu, caption_scores, cider

REFERENCES = [
    ["A dog runs on the beach.", "a brown dog on sand"],
    ["A red bus is parked.", "the bus stands at a stop", "a double decker bus"],
]


def test_a_reference_copied_has_full_bleu():
    assert bleu([own[0] for own in REFERENCES], REFERENCES) == pytest.approx(1)


def test_bleu_of_a_caption_worked_out_by_hand():
    """4 of 5 words and 2 of 4 pairs occur; no brevity penalty, for a reference has 5 words."""
    captions = ["a dog on sand today"]
    references = [["a dog runs on the beach", "a brown dog on sand"]]
    assert bleu(captions, references, 1) == pytest.approx(4 / 5)
    assert bleu(captions, references, 2) == pytest.approx(math.sqrt(4 / 5 * 3 / 4))
    assert bleu(["a dog"], references, 1) == pytest.approx(math.exp(1 - 5 / 2))


def test_bleu_clips_repeated_words():
    assert bleu(["bus bus bus bus"], [["the bus stops here"]], 1) == pytest.approx(1 / 4)


def test_case_and_punctuation_do_not_count():
    captions = ["a DOG runs, on the beach", "A red bus is parked!"]
    assert bleu(captions, REFERENCES) == pytest.approx(1)


def test_cider_of_a_caption_worked_out_by_hand():
    """Two images; an n-gram of one image has the weight log 2, of both 0."""
    references = [["red dog"], ["red bus"]]
    first, second = cider(["red dog", "dog"], references)
    # n = 1: dog alone counts, cosine 1; n = 2: one pair, cosine 1; n = 3, 4: none.
    assert first == pytest.approx(10 * 2 / 4)
    assert second == 0
    (shorter, _) = cider(["dog", "red bus"], references)
    assert shorter == pytest.approx(10 * math.exp(-1 / 72) / 4)


def test_cider_clips_repeated_words():
    references = [["dog sits"], ["bus"]]
    once, twice = (cider([caption, "bus"], references)[0] for caption in ("dog sits", "dog dog dog dog"))
    assert once == pytest.approx(5)
    # tf-idf (4, 0) against (1, 1): clipped to 1, over 4 * sqrt(2); two words longer.
    assert twice == pytest.approx(10 * math.exp(-4 / 72) / 4 / (4 * math.sqrt(2)))


def test_all_scores_at_once():
    scores = caption_scores(["a dog runs on the beach", "a red bus is parked"], REFERENCES)
    assert scores.bleu == pytest.approx((1, 1, 1, 1))
    assert scores.cider == pytest.approx(
        sum(cider(["a dog runs on the beach", "a red bus is parked"], REFERENCES)) / 2
    )


def test_captions_and_references_that_do_not_fit_are_refused():
    with pytest.raises(BadInputError, match="1 captions for 2 images"):
        cider(["a dog"], REFERENCES)
    with pytest.raises(BadInputError, match="image 1 has no reference"):
        bleu(["a", "b"], [["a"], []])


def test_without_sacrebleu_one_sentence_says_so():
    code = (
        "import sys; sys.modules['sacrebleu'] = None\nfrom felga.evaluation.captioning import bleu\n"
        "try:\n    bleu(['a'], [['a']])\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "MissingError BLEU needs sacrebleu: pip install 'felga[bench]'"
