"""The contracts, for the proposers that read a checkpoint and for keybert."""

from __future__ import annotations

import pytest

from felga.proposals.detreg import detreg
from felga.proposals.hf import hf
from felga.proposals.onnx import onnx
from felga.proposals.torchvision import torchvision
from felga.registry import make_keywords
from felga.testing import KeywordContract, ProposerContract

from .exported import Yolov8, Yolox, optimum, rt_detr, yolo
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


class TestOnnx(ProposerContract):
    @pytest.fixture(scope="class", params=["yolox", "yolov8", "rt-detr", "transformers"])
    @classmethod
    def proposer(cls, request, tmp_path_factory):
        folder = tmp_path_factory.mktemp("onnx")
        file = folder / "model.onnx"
        if request.param in ("rt-detr", "transformers"):
            (rt_detr if request.param == "rt-detr" else optimum)(tiny_detector(folder), file)
        else:
            yolo(Yolox(3, False) if request.param == "yolox" else Yolov8(3), file)
        return onnx(str(file), device="cpu")


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
