"""The contracts, for the proposers that read a checkpoint and for keybert."""

from __future__ import annotations

import pytest

from felga.proposals.detreg import detreg
from felga.proposals.hf import hf
from felga.proposals.torchvision import torchvision
from felga.registry import make_keywords
from felga.testing import KeywordContract, ProposerContract

from .tiny import DETECTORS, tiny_detector, tiny_detreg, tiny_rcnn


class TestDetreg(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        return detreg(str(tiny_detreg(tmp_path_factory.mktemp("detreg") / "checkpoint.pth")), device="cpu")


class TestHf(ProposerContract):
    @pytest.fixture(scope="class", params=DETECTORS)
    @classmethod
    def proposer(cls, request, tmp_path_factory):
        return hf(str(tiny_detector(tmp_path_factory.mktemp("hf"), request.param)), device="cpu")


class TestTorchvision(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        file = tiny_rcnn(tmp_path_factory.mktemp("rcnn") / "rcnn.pth")
        return torchvision(f"fasterrcnn_mobilenet_v3_large_320_fpn/{file}", device="cpu")


class TestKeyBert(KeywordContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return make_keywords("keybert", device="cpu")


class TestKeyBertPhrases(KeywordContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return make_keywords("keybert:1-2", device="cpu")
