"""The proposer `learned` with its packaged weights, and training one's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from felga.corpus.decode import read_image
from felga.errors import BadInputError, NotFoundError
from felga.models.arrays import read_arrays, write_arrays
from felga.models.efficientnet import DEFAULT, shared_trunk
from felga.proposals import learned as module
from felga.proposals.learned import PACKAGED, Learned, learned
from felga.proposals.region_head import RegionHead, weights_of
from felga.proposals.region_training import train_regions
from felga.registry import make_encoder
from felga.testing import ProposerContract
from felga.testing.proposer import IMAGES, scene
from tests.cli.calls import call


class TestLearned(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return learned("", device="cpu")


def test_the_packaged_weights_say_where_they_are_from():
    _, about = read_arrays(PACKAGED, "regions")
    assert about["supervision"] == "boxes of coco-mini train2017, no class names"
    assert about["classes"] is None
    assert PACKAGED.stat().st_size < 1e6
    assert learned("", device="cpu").settings()["supervision"] == about["supervision"]


def test_regions_do_not_overlap_and_carry_their_quality():
    for regions in learned("", device="cpu").propose(IMAGES, 30):
        boxes = torch.tensor([region.box for region in regions])
        overlap = box_iou(boxes, boxes).fill_diagonal_(0)
        assert overlap.max() <= module.DUPLICATE + 1e-4
        assert all(region.quality == region.score for region in regions if region.score > module.LEAST)


def test_the_quality_of_any_box_is_that_of_the_predictions_it_covers():
    proposer = learned("", device="cpu")
    (regions,) = proposer.propose(IMAGES[:1], 20)
    own = np.array([region.box for region in regions], np.float32)
    (again,) = proposer.quality(IMAGES[:1], [own])
    assert again.dtype == np.float32
    scores = np.array([region.score for region in regions])
    assert (again >= np.maximum(scores, module.LEAST) - 1e-4).all()
    far = np.array([[0, 0, 2, 2]], np.float32)
    (little,) = proposer.quality(IMAGES[:1], [far])
    assert 0 < little[0] < again.max()
    (nothing,) = proposer.quality(IMAGES[:1], [np.zeros((0, 4), np.float32)])
    assert nothing.shape == (0,)
    # by a plain loop over the head's predictions
    found, values, scale = proposer._candidates(IMAGES[0])
    box = own[3] * scale
    expected = max(
        float(value * box_iou(torch.tensor(box)[None], torch.tensor(one)[None]))
        for one, value in zip(found, values, strict=True)
    )
    np.testing.assert_allclose(again[3], expected, rtol=1e-4)


def test_the_encoder_and_the_proposer_share_one_pass(monkeypatch):
    image = scene(200, 150, 9)
    trunk = shared_trunk(DEFAULT, torch.device("cpu"))
    passes = []
    run = type(trunk)._run
    monkeypatch.setattr(type(trunk), "_run", lambda self, own: passes.append(own.image_id) or run(self, own))
    (regions,) = learned("", device="cpu").propose([image], 5)
    boxes = np.array([region.box for region in regions], np.float32)
    make_encoder("conse", device="cpu").encode_regions([image], [boxes])
    assert passes == [image.image_id]
    before = len(trunk._kept)
    del image
    assert len(trunk._kept) == before - 1, "maps go with their image"


@pytest.fixture(scope="module")
def boxes_to_learn(tmp_path_factory):
    """Twelve images of one bright rectangle each, in COCO's format."""
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(12):
        pixels = rng.integers(90, 110, (160, 224, 3), dtype=np.uint8)
        x, y = int(rng.integers(5, 110)), int(rng.integers(5, 60))
        w, h = int(rng.integers(60, 100)), int(rng.integers(50, 90))
        pixels[y : y + h, x : x + w] = (250, 30, 30)
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 224, "height": 160})
        annotations.append(
            {
                "id": n,
                "image_id": n,
                "category_id": 1 + n % 2,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
        )
    data = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "also red"}],
    }
    (folder / "instances.json").write_text(json.dumps(data))
    return folder


def run(folder, out, **options):
    train_regions(
        folder / "instances.json", folder / "images", out, supervision="red boxes", device="cpu", **options
    )


def test_training_learns_and_resumes_to_the_same_weights(boxes_to_learn, tmp_path, monkeypatch):
    whole = tmp_path / "whole.safetensors"
    run(boxes_to_learn, whole, epochs=12)
    assert not (tmp_path / "whole.safetensors.training").exists()
    proposer = learned(str(whole), device="cpu")
    assert proposer.settings()["supervision"] == "red boxes"
    assert proposer.name == f"learned:{whole}"
    hits = 0
    truth = json.loads((boxes_to_learn / "instances.json").read_text())["annotations"]
    for row in truth:
        image = read_image(boxes_to_learn / "images" / f"{row['image_id']}.png", "x")
        (regions,) = proposer.propose([image], 1)
        x, y, w, h = row["bbox"]
        box = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)
        hits += bool(box_iou(torch.tensor([regions[0].box]), box) > 0.5)
    assert hits >= 9

    class Killed(Exception):
        pass

    def kill(stage, done, total):
        if (stage, done) in (("maps", 5), ("regions", total // 2 + 1)):
            raise Killed

    half = tmp_path / "half.safetensors"
    for _ in range(2):
        with pytest.raises(Killed):
            run(boxes_to_learn, half, epochs=12, resume=True, progress=kill)
    assert not half.exists()
    with pytest.raises(BadInputError, match="another training"):
        run(boxes_to_learn, half, epochs=9, resume=True)
    run(boxes_to_learn, half, epochs=12, resume=True)
    assert half.read_bytes() == whole.read_bytes()


def test_the_command_trains_and_says_how_to_go_on(boxes_to_learn, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    words = [boxes_to_learn / "instances.json", boxes_to_learn / "images", "--out", out, "--epochs", 1]
    _, err = call(capsys, "train-regions", *words, "--device", "cpu")
    assert f"felga index CORPUS --regions learned:{out}" in err
    about = learned(str(out), device="cpu").settings()
    assert about["supervision"] == "boxes of instances.json, no class names"
    other = tmp_path / "one-class.safetensors"
    run(boxes_to_learn, other, epochs=1, classes=["red"])
    assert (read_arrays(out, "regions")[1]["boxes"], read_arrays(other, "regions")[1]["boxes"]) == (12, 6)


def test_what_cannot_be_learned_from_is_refused(boxes_to_learn, tmp_path):
    with pytest.raises(BadInputError, match="has no class 'blue'"):
        run(boxes_to_learn, tmp_path / "x", classes=["blue"])
    with pytest.raises(NotFoundError):
        train_regions(tmp_path / "no.json", tmp_path, tmp_path / "x", supervision="", device="cpu")
    assert not list(tmp_path.iterdir())


class SmallHead(RegionHead):
    def __init__(self):
        super().__init__(width=8, depth=0)


class SmallLearned(Learned):
    head_type = SmallHead


def test_a_subclass_with_a_head_of_its_own_proposes_by_it(tmp_path):
    file = tmp_path / "small.safetensors"
    torch.manual_seed(0)
    write_arrays(file, "regions", weights_of(SmallHead()), read_arrays(PACKAGED, "regions")[1])
    (regions,) = SmallLearned(file, "cpu", named=True).propose(IMAGES[:1], 5)
    assert len(regions) == 5
    with pytest.raises(BadInputError, match="holds no region head"):
        learned(str(file), device="cpu").propose(IMAGES[:1], 5)


def test_weights_that_are_no_region_head_are_refused(tmp_path):
    arrays, about = read_arrays(PACKAGED, "regions")
    file = tmp_path / "w.safetensors"
    with pytest.raises(NotFoundError, match="does not exist"):
        learned(str(file))
    file.write_bytes(b"x")
    with pytest.raises(BadInputError, match="damaged or not a safetensors file"):
        learned(str(file))
    write_arrays(file, "regions", arrays, {**about, "network": {"weights": "0" * 64}})
    with pytest.raises(BadInputError, match="another network's maps"):
        learned(str(file))
    name = "out.bias"
    for wrong in (arrays[name][:3], np.full_like(arrays[name], np.nan)):
        write_arrays(file, "regions", {**arrays, name: wrong}, about)
        with pytest.raises(BadInputError, match="holds no region head"):
            learned(str(file), device="cpu").propose(IMAGES[:1], 3)
