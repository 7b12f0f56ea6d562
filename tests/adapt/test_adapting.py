"""Training a head: it learns, resumes to the bit, and refuses what cannot be learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from felga.adapt.collected import PROPOSALS, Collected
from felga.adapt.examples import read_task
from felga.corpus.decode import read_image
from felga.errors import BadInputError, NotFoundError
from felga.models.arrays import read_arrays
from felga.models.efficientnet import DEFAULT, NETWORKS
from felga.registry import make_regions
from tests.cli.calls import call

from .conftest import SUPERVISION, draw, read, run, write


def test_the_file_says_what_it_knows_and_whose_boxes_it_saw(file):
    arrays, about = read_arrays(file, "adapted")
    assert {name: array.shape for name, array in arrays.items()} == {"weight": (3, 1280), "bias": (3,)}
    assert about["classes"] == ["striped crate", "buoy"]
    assert (about["supervision"], about["boxes"], about["images"]) == (SUPERVISION, 12, 12)
    assert (about["seed"], about["epochs"], about["regions"]) == (0, 3, "learned")
    assert about["frozen"]["features"]["weights"]["efficientnet-lite"] == NETWORKS[DEFAULT].sha256
    assert not file.with_name(file.name + ".training").exists()


def test_a_killed_training_goes_on_to_the_same_bytes(boxes, file, tmp_path):
    class Killed(Exception):
        pass

    def kill(stage, done, total):
        if (stage, done) in (("images", 5), ("steps", total // 2 + 1)):
            raise Killed

    half = tmp_path / "half.safetensors"
    for _ in range(2):
        with pytest.raises(Killed):
            run(boxes, half, resume=True, progress=kill)
    assert not half.exists()
    with pytest.raises(BadInputError, match="of another training: train without --resume"):
        run(boxes, half, seed=1, resume=True)
    listed = tmp_path / "half.safetensors.training" / "features.jsonl"
    listed.write_bytes(listed.read_bytes()[:-20])  # as a crash leaves it
    seen = []
    run(boxes, half, resume=True, progress=lambda *step: seen.append(step))
    assert seen[0] == ("images", 12, 12), "the other images were seen already"
    assert half.read_bytes() == file.read_bytes()


def test_another_seed_gives_another_file(boxes, file, tmp_path):
    run(boxes, tmp_path / "other", seed=1)
    own, other = (read_arrays(path, "adapted")[0]["weight"] for path in (file, tmp_path / "other"))
    assert not np.array_equal(own, other)


def test_examples_are_those_of_plain_loops(boxes):
    """IoU >= .5 with an object: its class; < .3 with all: background; the rest is left out."""
    task = read_task(boxes / "instances.json")
    image = read_image(boxes / "images" / "3.png", "3")
    proposals = np.array([r.box for r in make_regions("learned").propose([image], PROPOSALS)[0]], np.float32)
    found = task.examples(image, proposals)
    x, y, w, h = read(boxes)["annotations"][3]["bbox"]
    truth = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)
    rows = {tuple(box): label for box, label in zip(found.boxes.tolist(), found.labels, strict=True)}
    for box in proposals.tolist():
        overlap = float(box_iou(torch.tensor([box]), truth))
        expected = 1 if overlap >= 0.5 else 2 if overlap < 0.3 else None
        assert rows.get(tuple(box)) == expected
    jittered = found.boxes[found.labels == 1][-3:]
    assert rows[tuple(truth[0].tolist())] == 1
    assert (box_iou(torch.from_numpy(jittered), truth) > 0.5).all()
    again = task.examples(image, proposals)
    np.testing.assert_array_equal(again.boxes, found.boxes)


def test_what_lies_in_a_crowd_or_is_of_no_class_asked_for(boxes, tmp_path):
    data = read(boxes)
    image = read_image(boxes / "images" / "3.png", "3")
    task = read_task(boxes / "instances.json", ["striped crate"])
    assert (task.classes, task.boxes) == (("striped crate",), 6)
    own = np.array([[x, y, x + w, y + h] for x, y, w, h in [data["annotations"][3]["bbox"]]], np.float32)
    assert task.examples(image, own).labels.tolist() == [1], "a buoy is background"
    data["annotations"][3] |= {"category_id": 1, "iscrowd": 1}
    task = read_task(write(tmp_path, data), ["striped crate"])
    assert task.examples(image, own).labels.tolist() == [], "a crowd is neither"


def test_scale_is_that_of_numpy(tmp_path):
    features = np.random.default_rng(0).normal(3, 2, (5000, 4)).astype(np.float16)
    collected = Collected(tmp_path, 4)
    collected.features = features
    mean, deviation = collected.scale()
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation, features.astype(np.float64).std(0), rtol=1e-5)


def changed(folder, tmp_path, change):
    data = read(folder)
    change(data)
    return write(tmp_path, data)


@pytest.mark.parametrize(
    ("change", "classes", "words"),
    [
        (lambda data: None, ["boy"], "has no class 'boy': did you mean 'buoy'"),
        (lambda data: None, ["buoy", "buoy"], "--classes names the class 'buoy' twice"),
        (lambda data: data["categories"][0].update(name="buoy"), None, "names the class 'buoy' twice"),
        (lambda data: data["categories"][0].update(name=" "), None, "a class without a name"),
        (lambda data: data["annotations"].clear(), None, "has no box to learn from"),
        (
            lambda data: data["categories"].extend([{"id": 3, "name": "tug"}, {"id": 4, "name": "jib"}]),
            None,
            "has no box of 'tug' and 1 other classes: draw some",
        ),
    ],
)
def test_boxes_that_cannot_be_learned_from(boxes, tmp_path, change, classes, words):
    with pytest.raises(BadInputError, match=words):
        read_task(changed(boxes, tmp_path, change), classes)


def test_images_and_boxes_that_do_not_fit(boxes, tmp_path):
    run_on = draw(tmp_path / "few", 3)
    (run_on / "images" / "1.png").unlink()
    with pytest.raises(NotFoundError, match=r"1 of 3 images are not in .*images, such as 1\.png"):
        run(run_on, tmp_path / "x")
    assert not (tmp_path / "x.training").exists(), "told before any work"
    (run_on / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(BadInputError, match=r"1\.png"):
        run(run_on, tmp_path / "x")
    data = read(run_on)
    data["annotations"][0]["bbox"] = [500, 10, 20, 20]
    write(run_on, data)
    with pytest.raises(
        BadInputError, match="the box 500, 10, 520, 30 lies outside its image 0, which has 224x160"
    ):
        run(run_on, tmp_path / "x")
    with pytest.raises(BadInputError, match="is a folder: name the file to write"):
        run(boxes, tmp_path)
    (tmp_path / "plain").write_text("")
    with pytest.raises(BadInputError, match="plain/x cannot be written: Not a directory"):
        run(boxes, tmp_path / "plain" / "x")
    with pytest.raises(BadInputError, match="not of 'grid'"):
        run(boxes, tmp_path / "x", regions="grid")


def test_the_command_trains_and_says_how_to_go_on(boxes, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    words = [boxes / "instances.json", boxes / "images", "-o", out, "--epochs", 1, "--classes", "buoy"]
    _, err = call(capsys, "adapt", *words, "--device", "cpu")
    assert f"felga index CORPUS --encoder adapted:{out}" in err
    about = read_arrays(out, "adapted")[1]
    assert about["supervision"] == "boxes and class names of instances.json"
    assert about["classes"] == ["buoy"]
    _, err = call(capsys, "adapt", boxes / "no.json", boxes, code=3)
    assert "does not exist" in err
