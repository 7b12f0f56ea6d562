import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from felga.corpus.class_names import NAMES, NOT_NAMES, mentions, noun_phrase
from felga.errors import BadInputError
from felga.evaluation.ceilings import keyword_ceiling, proposal_ceiling
from felga.evaluation.protocol import (
    RECALLS,
    SIZES,
    Split,
    check_disjoint,
    description_assignment,
    discovery_curve,
    discovery_scores,
    evaluate,
    object_discovery,
)
from felga.evaluation.ranking import with_wholes
from felga.evaluation.task_results import SizeResult
from felga.search.matrix import owner_scores
from felga.search.rules import text_rule
from felga.search.scoring import GAMMA
from felga.types import Frozen
from tests.search import reference
from tests.search.test_matrix import exact_vectors

COCO_MINI = Path(os.environ.get("FELGA_COCO_MINI", Path(__file__).parents[2] / ".." / "shared" / "coco-mini"))


def make_split(seed=0, images=30, boxes=45):
    g = np.random.default_rng(seed)
    names = ["person", "dog", "hot dog", "toaster"]  # no image shows a toaster
    keywords = ["man", "puppy", "hot dog", "red", "tree", "dogs"] + [f"word{i}" for i in range(14)]
    regions = g.integers(0, 4, images)
    lengths = g.integers(0, 5, images)
    box_class, box_image = g.integers(0, 3, boxes), g.integers(0, images, boxes)
    contains = np.zeros((4, images), bool)
    contains[box_class, box_image] = True
    contains[0, 0] = True  # a crowd: it shows the class, but is no query
    corner = g.uniform(0, 100, (boxes, 2))
    truth = np.concatenate([corner, corner + g.uniform(10, 60, (boxes, 2))], axis=1)
    corner = g.uniform(0, 100, (regions.sum(), 2))
    proposed = np.concatenate([corner, corner + g.uniform(10, 60, (regions.sum(), 2))], axis=1)
    for row, image in enumerate(np.repeat(np.arange(images), regions)):
        own = np.flatnonzero(box_image == image)
        if len(own) and row % 2:  # every other proposal is near an object
            proposed[row] = truth[own[0]] + g.uniform(-6, 6, 4)
    return Split(
        class_names=names,
        class_vectors=exact_vectors(g, 4),
        region_vectors=exact_vectors(g, regions.sum()),
        region_offsets=np.concatenate([[0], np.cumsum(regions)]),
        keyword_vectors=exact_vectors(g, 20),
        keyword_rows=g.integers(0, 20, lengths.sum()),
        keyword_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        box_vectors=exact_vectors(g, boxes),
        box_class=box_class,
        box_area=g.choice([100.0, 1024.0, 5000.0, 9216.0, 50000.0], boxes),
        box_image=box_image,
        contains=contains,
        mentions=g.random((4, images)) < 0.3,
        image_vectors=exact_vectors(g, images),
        text_vectors=exact_vectors(g, images),
        region_boxes=proposed.astype(np.float32),
        boxes=truth.astype(np.float32),
        keywords=keywords,
    )


def precision(scores, relevant):
    return average_precision_score(relevant, np.maximum(scores, -9))


def discovery_loop(split, vectors, offsets):
    return [
        reference.best_fragment_scores(query, vectors, np.arange(len(vectors)), offsets)
        for query in split.class_vectors
    ]


def test_object_discovery_equals_loops():
    split = make_split()
    scores = discovery_loop(split, split.region_vectors, split.region_offsets)
    found = object_discovery(split)
    expected = [precision(scores[i], split.contains[i]) for i in range(3)]
    assert list(found.per_class.values()) == [*map(pytest.approx, expected), None]
    result = found.result()
    assert result.map == pytest.approx(np.mean(expected), abs=1e-12)
    assert (result.queries, result.left_out) == (3, 1)
    np.testing.assert_array_equal(discovery_scores(split), scores)


def test_object_discovery_by_size_leaves_other_sizes_out():
    split = make_split(1)
    scores = np.array(discovery_loop(split, split.region_vectors, split.region_offsets))
    found = object_discovery(split).per_size
    for size, (low, high) in SIZES.items():
        expected = []
        for kind in range(4):
            kept, relevant = [], []
            for image in range(split.images):
                areas = split.box_area[(split.box_class == kind) & (split.box_image == image)]
                right = len(areas) > 0 and low <= areas.max() < high
                if right or not split.contains[kind, image]:
                    kept.append(image)
                    relevant.append(right)
            if any(relevant):
                expected.append(precision(scores[kind][kept], np.array(relevant)))
        assert found[size].queries == len(expected)
        assert found[size].map == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("relevance", ["box", "mention"])
def test_description_assignment_equals_loops(relevance):
    split = make_split(2)
    relevant = split.contains if relevance == "box" else split.mentions
    expected = np.array(
        [
            precision(
                reference.best_fragment_scores(
                    box, split.keyword_vectors, split.keyword_rows, split.keyword_offsets
                ),
                relevant[kind],
            )
            for box, kind in zip(split.box_vectors, split.box_class, strict=True)
        ]
    )
    found = description_assignment(split, relevance=relevance)
    np.testing.assert_allclose(found.ranking.metrics.average_precision, expected, atol=1e-12)
    assert found.result().map == pytest.approx(expected.mean())
    assert found.per_class["dog"] == pytest.approx(expected[split.box_class == 1].mean())
    assert found.per_class["toaster"] is None
    small = expected[split.box_area < 1024]
    assert found.per_size["small"] == SizeResult(pytest.approx(small.mean()), len(small))
    assert sum(entry.queries for entry in found.per_size.values()) == len(expected)


class Applied:
    """An embedding that applies one function to everything."""

    def __init__(self, function):
        self.keywords = function

    def regions(self, vectors, features):
        return self.keywords(vectors)


def test_a_method_is_an_embedding():
    split = make_split(3)
    turn = np.random.default_rng(0).permutation(16)
    seen = []

    def turned(vectors):
        seen.append(len(vectors))
        return np.ascontiguousarray(vectors[:, turn])

    assert evaluate(split, Applied(turned)) == evaluate(split)  # a rotation changes no cosine
    soft = replace(
        split, text_whole=np.ones(split.images, bool), region_whole=np.zeros(len(split.region_vectors), bool)
    )
    assert evaluate(soft, Applied(turned), owner="soft") == evaluate(soft, owner="soft")
    np.testing.assert_array_equal(split.embedded(Applied(turned)).text_vectors, turned(split.text_vectors))
    assert len(split.keyword_vectors) in seen  # distinct ones, not one for each place

    half = evaluate(split, Applied(np.abs))
    assert half.object_discovery.map != evaluate(split).object_discovery.map


def test_entire_images_and_texts():
    split = make_split(4)
    whole = split.entire()
    scores = discovery_loop(split, split.image_vectors, np.arange(split.images + 1))
    np.testing.assert_array_equal(discovery_scores(whole), scores)
    assert description_assignment(whole).result().queries == 45
    with pytest.raises(BadInputError, match="whole images"):
        replace(split, text_vectors=None).entire()


def test_soft_owner_scores_equal_loops():
    split = make_split(10)
    g = np.random.default_rng(10)
    whole = np.zeros(len(split.region_vectors), bool)
    whole[split.region_offsets[:-1][np.diff(split.region_offsets) > 1]] = True  # some images have none
    quality = g.uniform(0.1, 1, len(whole)).astype(np.float32)
    split = replace(split, region_whole=whole, region_quality=quality)
    quality[3] = np.nan  # unknown: by its cosine
    for own in (np.ones_like(quality), np.nan_to_num(quality, nan=1)):
        expected = np.full((4, split.images), -np.inf)
        for kind, query in enumerate(split.class_vectors):
            for image in range(split.images):
                rows = range(split.region_offsets[image], split.region_offsets[image + 1])
                each = {row: query @ split.region_vectors[row] + GAMMA * np.log(own[row]) for row in rows}
                if each:
                    best = max(each.values())
                    of_whole = [query @ split.region_vectors[row] for row in rows if whole[row]]
                    expected[kind, image] = (best + 0.5 * of_whole[0]) / 1.5 if of_whole else best
        found = discovery_scores(split, owner="soft", quality=own.min() < 1)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    scores = np.full((len(split.box_vectors), split.images), -np.inf)
    for box, vector in enumerate(split.box_vectors):
        for text in range(split.images):
            rows = split.keyword_rows[split.keyword_offsets[text] : split.keyword_offsets[text + 1]]
            if len(rows):
                powers = [np.exp(float(split.keyword_vectors[row] @ vector) / 0.1) for row in rows]
                scores[box, text] = 0.1 * np.log(np.mean(powers))
    best = description_assignment(split).ranking.metrics.average_precision
    for counts in (None, np.arange(split.images) % 3 > 0):  # the second has texts without keywords and with
        split = replace(split, text_whole=counts)
        whole = split.box_vectors @ split.text_vectors.T
        wanted = scores.copy()
        if counts is not None:
            mixed = (np.where(scores > -np.inf, scores, whole) + 0.5 * whole) / 1.5
            wanted = np.where(counts, mixed, scores)
        soft = _soft_scores(split)
        np.testing.assert_allclose(soft, wanted, atol=1e-6)  # some of these texts tie but for rounding
        expected = [precision(row, split.contains[c]) for row, c in zip(soft, split.box_class, strict=True)]
        found = description_assignment(split, owner="soft").ranking.metrics.average_precision
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert not np.allclose(found, best)
        unchanged = description_assignment(split).ranking.metrics.average_precision
        np.testing.assert_array_equal(unchanged, best)  # by the maximum, whole texts never count
    with pytest.raises(BadInputError, match="vectors of the whole texts"):
        description_assignment(replace(split, text_vectors=None), owner="soft")


def _soft_scores(split):
    fragments, whole = (split.keyword_vectors, split.keyword_rows, split.keyword_offsets), None
    if split.text_whole is not None:
        fragments, whole = with_wholes(*fragments, split.text_vectors, split.text_whole)
    return owner_scores(split.box_vectors, *fragments, rule=text_rule("soft"), whole=whole)


def test_equal_texts_tie_under_soft_scores_with_their_wholes():
    """To the bit, wherever they stand; texts that differ as a whole do not."""
    g = np.random.default_rng(11)
    split = make_split(11, images=300)
    texts = g.standard_normal((7, 16)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    kind = g.integers(0, 7, 300)
    split = replace(
        split,
        keyword_rows=np.tile([3, 5], 300),
        keyword_offsets=2 * np.arange(301),
        text_vectors=texts[kind],
        text_whole=np.ones(300, bool),
    )
    for row in _soft_scores(split):
        assert len(set(row.tolist())) == 7
        assert all(len(set(row[kind == each].tolist())) == 1 for each in range(7))


def test_texts_of_the_same_keywords_tie_under_soft_scores():
    split = make_split(11)
    rows = np.array([3, 5, 8, 8, 3, 5, 5, 8, 3] + [1] * 27)
    offsets = np.array([0, 3, 6, 9, *range(10, 37)])
    split = replace(split, keyword_rows=rows, keyword_offsets=offsets)
    only_first = np.zeros_like(split.contains)
    only_first[:, 0] = True
    found = description_assignment(replace(split, contains=only_first), owner="soft").ranking.metrics
    assert (1 / found.pessimistic - 1 / found.optimistic > 2 - 1e-9).all()  # two texts stand beside it


def test_quality_decides_between_regions_of_equal_meaning():
    split = make_split(12)
    split = replace(split, region_quality=np.full(len(split.region_vectors), 0.5, np.float32))
    lowered = discovery_scores(split, quality=True)
    kept = np.isfinite(lowered)
    np.testing.assert_allclose(lowered[kept], discovery_scores(split)[kept] + GAMMA * np.log(0.5), atol=1e-6)
    with pytest.raises(BadInputError, match="no quality of regions"):
        discovery_scores(replace(split, region_quality=None), quality=True)


def test_features_go_with_their_vectors():
    split = make_split(13)
    g = np.random.default_rng(13)
    count = len(split.region_vectors)
    regions, boxes, images = (g.normal(size=(n, 3)).astype(np.float16) for n in (count, 45, 30))
    split = replace(split, region_features=regions, box_features=boxes, image_features=images)
    given = []

    class Noted(Frozen):
        def regions(self, vectors, features=None):
            given.append((vectors, features))
            return vectors

    for each, first in (
        (split, (split.region_vectors, regions)),
        (split.entire(), (split.image_vectors, images)),
    ):
        given.clear()
        each.embedded(Noted())
        for (vectors, features), (own, of_own) in zip(
            given, (first, (split.box_vectors, boxes)), strict=True
        ):
            assert vectors is own
            assert features is of_own


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_proposal_ceiling_equals_loops():
    split = make_split(5)
    found = np.zeros((4, split.images))
    for box, kind, image in zip(split.boxes, split.box_class, split.box_image, strict=True):
        proposals = split.region_boxes[split.region_offsets[image] : split.region_offsets[image + 1]]
        if any(iou(box.astype(float), other.astype(float)) >= 0.5 for other in proposals):
            found[kind, image] = 1
    assert 0 < found.sum() < split.contains.sum()
    expected = np.mean([reference.grouped_precision(found[i], split.contains[i]) for i in range(3)])
    assert proposal_ceiling(split) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(BadInputError, match="proposal ceiling"):
        proposal_ceiling(replace(split, boxes=None))


def test_perfect_proposals_have_the_ceiling_one():
    split = make_split(6)
    contains = np.zeros_like(split.contains)
    contains[split.box_class, split.box_image] = True
    order = np.argsort(split.box_image, kind="stable")
    perfect = replace(
        split,
        contains=contains,
        region_boxes=split.boxes[order],
        region_vectors=split.box_vectors[order],
        region_offsets=np.searchsorted(split.box_image[order], np.arange(split.images + 1)),
    )
    assert proposal_ceiling(perfect) == 1.0
    assert proposal_ceiling(perfect, iou=1.01) == pytest.approx(contains[:3].mean(), abs=1e-12)


def test_keyword_ceiling_equals_loops():
    split = make_split(7)
    names = {"man": 0, "puppy": 1, "dogs": 1, "hot dog": 2}
    found = np.zeros((4, split.images))
    for text in range(split.images):
        for row in split.keyword_rows[split.keyword_offsets[text] : split.keyword_offsets[text + 1]]:
            if split.keywords[row] in names:
                found[names[split.keywords[row]], text] = 1
    expected = np.mean(
        [reference.grouped_precision(found[kind], split.contains[kind]) for kind in split.box_class]
    )
    assert keyword_ceiling(split) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(BadInputError, match="split.keywords"):
        keyword_ceiling(replace(split, keywords=None))


def test_curve_is_the_best_precision_at_a_recall_or_beyond():
    split = make_split(8)
    scores = discovery_scores(split)
    recall, found = discovery_curve(split)
    assert recall is RECALLS
    for at in (0, 37, 50, 100):
        expected = []
        for kind in range(3):
            points = []
            for threshold in set(scores[kind]):
                taken = scores[kind] >= threshold
                right = (taken & split.contains[kind]).sum()
                if right / split.contains[kind].sum() >= RECALLS[at] - 1e-12:
                    points.append(right / taken.sum())
            expected.append(max(points))
        assert found[at] == pytest.approx(np.mean(expected))


def test_a_malformed_split_is_refused():
    split = make_split(9)
    for change in (
        {"box_class": split.box_class[:-1]},
        {"box_class": split.box_class + 4},
        {"contains": split.contains[:, 1:]},
        {"region_offsets": split.region_offsets[:-1]},
        {"keyword_offsets": split.keyword_offsets + 1},
        {"keywords": ["one"]},
    ):
        with pytest.raises(BadInputError):
            replace(split, **change)
    with pytest.raises(BadInputError, match="length 1"):
        evaluate(split, Applied(lambda vectors: vectors * np.float32(np.nan)))
    with pytest.raises(BadInputError, match="mention"):
        description_assignment(replace(split, mentions=None), relevance="mention")


def test_train_images_in_test_are_refused():
    check_disjoint([1, 2], [3, 4])
    with pytest.raises(BadInputError, match=r"2 of 3 test images .* such as 2"):
        check_disjoint([1, 2, 3], [2, 3, 4])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A hot dog on a park bench.", {"hot dog", "bench"}),
        ("A teddy-bear in bed", {"teddy bear", "bed"}),
        ("Two DOGS, a man's hat", {"dog", "person"}),
        ("an orange cat", {"cat"}),
        ("an orange and a banana", {"orange", "banana"}),
        ("He peels an orange", {"orange"}),
        ("a baseball player swings his bat", {"person", "baseball bat"}),
        ("a catcher's mitt", {"baseball glove"}),
        ("people wait at the train station", {"person"}),
        ("glasses of wine and a glass of milk", {"wine glass"}),
        ("a laptop keyboard, a mouse pad", {"laptop"}),
        ("silverware", {"fork", "knife", "spoon"}),
        ("a caterpillar in a carpet shop", set()),
        ("", set()),
    ],
)
def test_mentions(text, named):
    names = list(NAMES)
    assert {names[i] for i in np.flatnonzero(mentions([text], names)[:, 0])} == named


@pytest.mark.parametrize(
    ("text", "name", "phrase"),
    [
        ("A man on a big red bus.", "bus", "big red bus"),
        ("A man on a big red bus.", "person", "man"),
        ("Two large DOGS", "dog", "large dogs"),
        ("a man riding horses", "horse", "horses"),  # not "man riding horses"
        ("A cat and dog sit", "dog", "dog"),
        ("The black hot dog", "dog", None),
        ("The black hot dog", "hot dog", "black hot dog"),
        ("dogs", "dog", "dogs"),
        ("a red, white cup", "cup", "cup"),
        ("a train station", "train", None),
    ],
)
def test_noun_phrases(text, name, phrase):
    assert noun_phrase(text, name) == phrase


def test_classes_that_are_not_requested_still_take_part():
    assert mentions(["a hot dog", "a dog"], ["dog"]).tolist() == [[False, True]]
    assert mentions(["Two gryphons", "a gryphon"], ["gryphon"]).tolist() == [[True, True]]


def test_the_table_of_names_is_consistent():
    assert len(NAMES) == 80
    for name, phrases in NAMES.items():
        assert name in phrases or name == "orange", name
        assert len(set(phrases)) == len(phrases), name
    for phrase in NOT_NAMES:
        assert not any(phrase in listed for listed in NAMES.values()), phrase


def test_mentions_agree_with_the_annotations_of_real_captions():
    folder = COCO_MINI / "annotations"
    if not folder.is_dir():
        pytest.skip("coco-mini is not here: set FELGA_COCO_MINI")
    instances = json.loads((folder / "instances_val2017.json").read_text(encoding="utf-8"))
    captions = json.loads((folder / "captions_val2017.json").read_text(encoding="utf-8"))
    names = [category["name"] for category in instances["categories"]]
    assert names == list(NAMES)
    kinds = {category["id"]: i for i, category in enumerate(instances["categories"])}
    columns = {image["id"]: i for i, image in enumerate(instances["images"])}
    texts = [""] * len(columns)
    for caption in captions["annotations"]:
        texts[columns[caption["image_id"]]] += caption["caption"] + "\n"
    shown = np.zeros((80, len(columns)), bool)
    for box in instances["annotations"]:
        shown[kinds[box["category_id"]], columns[box["image_id"]]] = True
    named = mentions(texts, names)
    assert (named & shown).sum() / named.sum() > 0.85  # what a text names, its image nearly always shows
    assert (named & shown)[0].sum() / shown[0].sum() > 0.8  # people are named
