"""The contract over every encoder that reads a checkpoint, through the names that a user types."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from felga.errors import BadInputError
from felga.registry import make_encoder
from felga.testing.encoder import IMAGES, boxes

from .contract import LazyContract
from .tiny import TINY_RESNET, tiny_blip, tiny_blip2, tiny_clip


def maker(base, write, family, pooling=None):
    """Makes encoders of a family from tiny checkpoints of two seeds, each written once."""
    folders = [write(base / str(seed), seed) for seed in (0, 1)]
    return lambda seed: make_encoder(
        f"{family}:{folders[seed]}", device="cpu", batch_size=2 + seed, pooling=pooling
    )


class TestClip(LazyContract):
    @pytest.fixture(scope="class", params=["vit", "resnet"])
    @classmethod
    def make(cls, request, tmp_path_factory):
        vision = TINY_RESNET if request.param == "resnet" else None
        base = tmp_path_factory.mktemp("clip")
        return maker(base, lambda folder, seed: tiny_clip(folder, seed, vision), "clip:local-dir")


class TestClipRoi(LazyContract):
    exact_crops = False

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory):
        base = tmp_path_factory.mktemp("clip")
        return maker(base, lambda folder, seed: tiny_clip(folder, seed, TINY_RESNET), "clip:local-dir", "roi")


class TestBlip(LazyContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory):
        return maker(tmp_path_factory.mktemp("blip"), tiny_blip, "blip")


class TestBlip2(LazyContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory):
        return maker(tmp_path_factory.mktemp("blip2"), tiny_blip2, "blip2")


FAMILIES = {"clip:local-dir": tiny_clip, "blip": tiny_blip, "blip2": tiny_blip2}


@pytest.fixture(scope="module", params=["conse", *FAMILIES])
def encoder(request, tmp_path_factory):
    if request.param == "conse":
        return make_encoder("conse", device="cpu")
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("model"))
    return make_encoder(f"{request.param}:{folder}", device="cpu")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["bus", "\udcff\udce9"], r"'\\udcff\\udce9' is not valid Unicode at character 0: encode the text"),
        (["a \ud800"], "at character 2"),
        ("bus", "texts must be a list of strings, got str: put it in a list"),
        (["bus", None], "a text must be a string, got NoneType"),
        ([b"bus"], "a text must be a string, got bytes"),
    ],
)
def test_invalid_texts_are_refused_in_one_sentence(encoder, texts, message):
    with pytest.raises(BadInputError, match=message) as caught:
        encoder.encode_texts(texts)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_box_that_is_not_finite_is_refused(encoder, bad):
    with pytest.raises(BadInputError, match=r"a box of '60x50#1' is not finite"):
        encoder.encode_regions(IMAGES[:1], [boxes((0, 0, bad, 4))])


def test_every_image_needs_its_boxes(encoder):
    with pytest.raises(BadInputError, match="got 3 images and 1 arrays of boxes"):
        encoder.encode_regions(IMAGES, [boxes()])


@pytest.mark.parametrize("family", ["conse", *FAMILIES])
def test_options_are_checked_alike(family, tmp_path):
    name = "conse" if family == "conse" else f"{family}:{FAMILIES[family](tmp_path)}"
    with pytest.raises(BadInputError, match="batch_size must be at least 1, got 0"):
        make_encoder(name, device="cpu", batch_size=0)
    with pytest.raises(BadInputError, match="does not support pooling='max'; use '"):
        make_encoder(name, device="cpu", pooling="max")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_index_of_local_weights_can_move(family, tmp_path):
    """The same weights in another folder have the same identity; the name says where they are."""
    here = FAMILIES[family](tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "there")
    a, b = (make_encoder(f"{family}:{folder}", device="cpu") for folder in (here, there))
    assert a.name != b.name
    assert a.identity() == b.identity()
    assert str(tmp_path) not in str(a.identity())
