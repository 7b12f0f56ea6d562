"""The same on a torchvision detector: the tiny random checkpoint, through the real path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from felga.errors import BadInputError, NotFoundError
from felga.models.arrays import read_arrays
from felga.proposals.torchvision import torchvision
from felga.registry import make_encoder, make_regions
from felga.testing.proposer import IMAGES
from tests.proposals.tiny import tiny_rcnn

from .conftest import run

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_rcnn(tmp_path_factory.mktemp("rcnn") / "rcnn.pth")


@pytest.fixture(scope="module")
def adapted(boxes, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted") / "rcnn.safetensors"
    run(boxes, out, epochs=1, regions=f"torchvision:{NAME}/{checkpoint}")
    return out


def test_box_features_equal_those_of_torchvision(checkpoint):
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=5).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    seen = {}
    model.roi_heads.box_predictor.register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0]))
    image = IMAGES[0]
    boxes = np.array([[5, 5, 60, 70], [20, 0, 120, 90]], np.float32)
    tensor = torch.from_numpy(image.pixels).permute(2, 0, 1) / 255
    with torch.no_grad():
        batch, _ = model.transform([tensor])
        height, width = batch.image_sizes[0]
        scaled = torch.from_numpy(boxes) * torch.tensor([width / image.width, height / image.height] * 2)
        model.roi_heads(model.backbone(batch.tensors), [scaled], batch.image_sizes)
    found = torchvision(f"{NAME}/{checkpoint}", device="cpu").box_features(image, boxes)
    np.testing.assert_allclose(found, seen["features"].numpy(), atol=1e-4)


def test_proposals_and_features_share_one_pass(checkpoint, monkeypatch):
    proposer = torchvision(f"{NAME}/{checkpoint}", device="cpu")
    passes = []
    own = type(proposer)._run
    monkeypatch.setattr(type(proposer), "_run", lambda self, image: passes.append(1) or own(self, image))
    for image in IMAGES:
        (regions,) = proposer.propose([image], 3)
        proposer.box_features(image, np.array([region.box for region in regions], np.float32))
    assert len(passes) == len(IMAGES)
    assert len(proposer._kept) == 1, "the maps of one image at most"


def test_a_head_on_its_features_serves_as_proposer_and_as_encoder(adapted):
    arrays, about = read_arrays(adapted, "adapted")
    assert arrays["weight"].shape == (3, 1024)
    assert about["frozen"]["architecture"] == NAME
    (regions,) = make_regions(f"adapted:{adapted}", device="cpu").propose(IMAGES[:1], 5)
    assert {region.label for region in regions} <= {None, "striped crate", "buoy"}
    encoder = make_encoder(f"adapted:{adapted}", device="cpu")
    (vectors,) = encoder.encode_regions(IMAGES[:1], [np.array([r.box for r in regions], np.float32)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_other_weights_under_the_same_name_are_noticed(adapted, checkpoint):
    before = checkpoint.read_bytes()
    state = torch.load(checkpoint, weights_only=True)
    state["rpn.head.cls_logits.weight"] += 1
    torch.save(state, checkpoint)
    with pytest.raises(BadInputError, match="trained on features of another 'torchvision:"):
        make_regions(f"adapted:{adapted}", device="cpu").settings()
    checkpoint.unlink()
    with pytest.raises(NotFoundError):
        make_regions(f"adapted:{adapted}", device="cpu")
    checkpoint.write_bytes(before)
