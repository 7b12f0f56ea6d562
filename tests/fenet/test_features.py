"""Ragged pairs: complete on disk, correctly padded on the device, refused if malformed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from felga.errors import BadInputError, NotFoundError
from felga.fenet.features import Features

from .pairs import make_pairs, with_empty_pairs


def test_pairs_without_fragments_are_left_out_and_counted():
    features = with_empty_pairs(make_pairs(5))
    assert len(features) == 7
    assert features.left_out == 2
    assert features.usable.tolist() == [0, 1, 2, 3, 4]


def test_a_batch_holds_what_its_pairs_have():
    features = make_pairs(9, seed=1)
    table = features.table(features.usable[2:])
    index = torch.tensor([5, 0, 3])
    batch = table.batch(index)
    for place, pair in enumerate((index + 2).tolist()):
        regions = features.regions[slice(*features.region_offsets[pair : pair + 2])]
        ids = features.keyword_ids[slice(*features.keyword_offsets[pair : pair + 2])]
        real = batch.real[place].numpy()
        assert np.array_equal(
            batch.vectors[place].numpy()[real], np.concatenate([regions, features.keywords[ids]])
        )
        found = batch.keyword_ids[place][batch.real_keywords[place]] - table.first_keyword
        assert found.tolist() == ids.tolist()
    assert torch.isfinite(batch.vectors).all()  # pads too


def test_shapes_depend_on_the_batch_size_alone():
    features = make_pairs(20, seed=2)
    table = features.table(features.usable)
    shapes = {table.batch(torch.tensor([i, i + 1])).vectors.shape for i in range(19)}
    assert len(shapes) == 1


def test_taken_pairs_keep_their_fragments():
    features = with_empty_pairs(make_pairs(7))
    some = features.take(np.array([6, 2, 8, 7]))
    assert some.pair_ids == ("6", "2", "8", "7")
    for place, pair in enumerate((6, 2, 8, 7)):
        here = slice(*some.region_offsets[place : place + 2])
        there = slice(*features.region_offsets[pair : pair + 2])
        assert np.array_equal(some.regions[here], features.regions[there])
        here = slice(*some.keyword_offsets[place : place + 2])
        there = slice(*features.keyword_offsets[pair : pair + 2])
        assert np.array_equal(some.keyword_ids[here], features.keyword_ids[there])
    assert len(features.take(np.array([], int))) == 0


def test_save_and_load(tmp_path):
    features = with_empty_pairs(make_pairs(6))
    path = tmp_path / "deep" / "some.features"
    features.save(path)
    again = Features.load(path)
    assert again.fingerprint() == features.fingerprint()
    assert np.array_equal(again.regions, features.regions)
    assert again.pair_ids == features.pair_ids
    assert again.keyword_texts is None
    assert again.identity == features.identity
    assert [p.name for p in path.parent.iterdir()] == ["some.features"]  # no .part stays


def test_features_of_regions_travel_with_them(tmp_path):
    features = make_pairs(9, seen=5)
    assert features.region_features.dtype == np.float16
    some = features.take(np.array([4, 1]))
    for place, pair in enumerate((4, 1)):
        here = slice(*some.region_offsets[place : place + 2])
        there = slice(*features.region_offsets[pair : pair + 2])
        assert np.array_equal(some.region_features[here], features.region_features[there])
        assert np.array_equal(some.whole[here], features.whole[there])
    features.save(tmp_path / "f")
    again = Features.load(tmp_path / "f")
    assert np.array_equal(again.region_features, features.region_features)
    assert np.array_equal(again.whole, features.whole)
    bare = replace(features, region_features=None, whole=None)
    bare.save(tmp_path / "f")
    assert Features.load(tmp_path / "f").region_features is None
    other = features.region_features.copy()
    other[0, 0] += 1
    marks = {
        features,
        bare,
        replace(features, region_features=other),
        replace(features, whole=~features.whole),
    }
    assert len({each.fingerprint() for each in marks}) == 4


def test_deleted_keywords_are_gone_from_every_pair():
    features = make_pairs(20)
    some = features.without(np.array([3, 7]))
    for pair in range(20):
        before = features.keyword_ids[slice(*features.keyword_offsets[pair : pair + 2])]
        after = some.keyword_ids[slice(*some.keyword_offsets[pair : pair + 2])]
        assert after.tolist() == [i for i in before if i not in (3, 7)]
    assert np.array_equal(some.keywords, features.keywords)


def test_the_fingerprint_covers_everything():
    features = make_pairs(6)
    other = features.regions.copy()
    other[0] = -other[0]
    marks = {
        features.fingerprint(),
        replace(features, regions=other).fingerprint(),
        replace(features, encoder="another").fingerprint(),
        replace(features, pair_ids=tuple("abcdef")).fingerprint(),
        replace(features, keyword_texts=None).fingerprint(),
    }
    assert len(marks) == 5


def test_a_damaged_file_is_refused_with_one_sentence(tmp_path):
    path = tmp_path / "some.features"
    with pytest.raises(NotFoundError):
        Features.load(path)
    make_pairs(6).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"not this", whole[:-40], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(BadInputError, match="make it again"):
            Features.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"regions": np.full((3, 16), np.nan)}, "region vectors are not of length 1"),
        ({"region_offsets": np.array([0, 1])}, "offsets"),
        ({"keyword_offsets": np.array([0, 99])}, "offsets"),
        ({"keywords": make_pairs(6).keywords[:1]}, "keyword ids must lie in"),
        ({"pair_ids": ("a",)}, "pair ids"),
        ({"keyword_texts": ("a",)}, "keyword texts"),
        ({"keywords": np.eye(4)}, "have shape"),
        ({"region_features": np.ones((2, 5))}, "region features have shape"),
        ({"region_features": np.full((len(make_pairs(6).regions), 5), np.inf)}, "not finite"),
        ({"whole": np.ones(2, bool)}, "whole has shape"),
    ],
)
def test_mismatched_parts_are_refused(change, words):
    features = make_pairs(6)
    with pytest.raises(BadInputError, match=words):
        replace(features, **change)
