"""torchvision: region proposals equal torchvision's; weights from a file and from the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import get_model, get_weight

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.proposals.torchvision import torchvision
from felga.testing.proposer import IMAGES

from .tiny import tiny_rcnn

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_rcnn(tmp_path_factory.mktemp("rcnn") / "rcnn.pth")


def test_boxes_equal_those_of_torchvision(file):
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=5).eval()
    model.load_state_dict(torch.load(file))
    image = IMAGES[0]
    tensor = torch.from_numpy(image.pixels).permute(2, 0, 1) / 255
    with torch.no_grad():
        batch, _ = model.transform([tensor])
        (boxes,), _ = model.rpn(batch, model.backbone(batch.tensors))
    height, width = batch.image_sizes[0]
    boxes = boxes.numpy() * np.array([image.width / width, image.height / height] * 2, np.float32)
    covered = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (image.width * image.height)
    (regions,) = torchvision(f"{NAME}/{file}", device="cpu").propose([image], 10)
    np.testing.assert_allclose([r.box for r in regions], boxes[covered < 0.99][:10], atol=1e-3)


def test_a_file_may_be_given_relative_to_the_root(file):
    a, b = (torchvision(f"{NAME}/{name}", device="cpu") for name in (file, str(file)[1:]))
    assert a.settings() == b.settings()
    assert a.propose(IMAGES[:1], 3) == b.propose(IMAGES[:1], 3)


def test_weights_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingError, match=f"the weight file of torchvision:{NAME} is not on this machine"):
        torchvision(NAME, device="cpu")  # at once, not at the first image
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    url = get_weight("FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1").url
    tiny_rcnn(cache / url.rpartition("/")[2], classes=91)
    (regions,) = torchvision(NAME, device="cpu").propose(IMAGES[:1], 3)
    assert len(regions) == 3
    (again,) = torchvision(f"{NAME}/COCO_V1", device="cpu").propose(IMAGES[:1], 3)
    assert again == regions


def test_a_failed_download_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    proposer = torchvision(NAME, device="cpu")
    with pytest.raises(MissingError, match=f"cannot download the weights of torchvision:{NAME}") as error:
        proposer.propose(IMAGES[:1], 3)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "error", "words"),
    [
        ("", BadInputError, "no region proposal network"),
        ("fasterrcnn_resnet50_fpm", BadInputError, "did you mean 'fasterrcnn_resnet50_fpn'"),
        ("retinanet_resnet50_fpn", BadInputError, "no region proposal network"),
        (f"{NAME}/COCO_V9", BadInputError, "tags are COCO_V1"),
        (f"{NAME}/none.pth", NotFoundError, r"none\.pth"),
        (f"{NAME}//none/none", NotFoundError, "none"),
    ],
)
def test_wrong_names(argument, error, words):
    with pytest.raises(error, match=words):
        torchvision(argument, device="cpu")


def test_bad_checkpoints(file, tmp_path):
    short = tmp_path / "short.pth"
    short.write_bytes(file.read_bytes()[:1_000_000])
    with pytest.raises(BadInputError, match="truncated"):
        torchvision(f"{NAME}/{short}", device="cpu").propose(IMAGES[:1], 3)
    with pytest.raises(BadInputError, match="is not a checkpoint of fasterrcnn_resnet50_fpn: it lacks"):
        torchvision(f"fasterrcnn_resnet50_fpn/{file}", device="cpu").propose(IMAGES[:1], 3)
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(BadInputError, match="no named tensors"):
        torchvision(f"{NAME}/{tmp_path}/list.pth", device="cpu").propose(IMAGES[:1], 3)
