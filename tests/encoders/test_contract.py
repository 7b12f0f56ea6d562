"""The contract over every encoder that reads a checkpoint, through the names that a user types."""

from __future__ import annotations

import pytest

from felga.encoders.blip import blip
from felga.encoders.blip2 import blip2
from felga.registry import make_encoder

from .contract import EncoderContract
from .tiny import TINY_RESNET, tiny_blip, tiny_blip2, tiny_clip


class TestClip(EncoderContract):
    @pytest.fixture(scope="class", params=["vit", "resnet"])
    @classmethod
    def vision(cls, request):
        return TINY_RESNET if request.param == "resnet" else None

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, tmp_path_factory, vision):
        folder = tiny_clip(tmp_path_factory.mktemp("clip"), 0, vision)
        return make_encoder(f"clip:local-dir:{folder}", device="cpu", batch_size=2)

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls, tmp_path_factory, vision):
        folder = tiny_clip(tmp_path_factory.mktemp("clip"), 1, vision)
        return make_encoder(f"clip:local-dir:{folder}", device="cpu", batch_size=3)


class TestClipRoi(EncoderContract):
    exact_crops = False

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, tmp_path_factory):
        folder = tiny_clip(tmp_path_factory.mktemp("clip"), 0, TINY_RESNET)
        return make_encoder(f"clip:local-dir:{folder}", device="cpu", batch_size=2, pooling="roi")

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls, tmp_path_factory):
        folder = tiny_clip(tmp_path_factory.mktemp("clip"), 1, TINY_RESNET)
        return make_encoder(f"clip:local-dir:{folder}", device="cpu", pooling="roi")


class TestBlip(EncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, tmp_path_factory):
        return blip(str(tiny_blip(tmp_path_factory.mktemp("blip"), 0)), device="cpu", batch_size=2)

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls, tmp_path_factory):
        return blip(str(tiny_blip(tmp_path_factory.mktemp("blip"), 1)), device="cpu")


class TestBlip2(EncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, tmp_path_factory):
        folder = tiny_blip2(tmp_path_factory.mktemp("blip2"), 0)
        return blip2(str(folder), device="cpu", batch_size=2)

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls, tmp_path_factory):
        return blip2(str(tiny_blip2(tmp_path_factory.mktemp("blip2"), 1)), device="cpu")
