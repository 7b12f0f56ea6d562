"""The contract over every proposer that reads a checkpoint."""

from __future__ import annotations

import pytest

from felga.proposals.detreg import detreg
from felga.proposals.torchvision import torchvision

from .contract import ProposerContract
from .tiny import tiny_detreg, tiny_rcnn


class TestDetreg(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        return detreg(str(tiny_detreg(tmp_path_factory.mktemp("detreg") / "checkpoint.pth")), device="cpu")


class TestTorchvision(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        file = tiny_rcnn(tmp_path_factory.mktemp("rcnn") / "rcnn.pth")
        return torchvision(f"fasterrcnn_mobilenet_v3_large_320_fpn/{file}", device="cpu")
