"""onnx: boxes equal those of the authors' steps, written out here, and transformers'; bad files fail."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.ops import nms

from felga.errors import BadInputError, NotFoundError
from felga.proposals.onnx import names_in, onnx
from felga.registry import factory
from felga.testing.proposer import IMAGES, scene
from felga.types import DecodedImage

from .exported import Half, Head, Yolov8, Yolox, described, export, optimum, rt_detr, yolo
from .tiny import DETECTORS, LABELS, by_transformers, tiny_detector


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One file of each family; ``detr`` is a folder of transformers."""
    base = tmp_path_factory.mktemp("onnx")
    folder = tiny_detector(base / "detr", "rt_detr", 3)
    optimum(folder, folder / "model.onnx")
    return {
        "yolox": yolo(Yolox(3, False), base / "yolox.onnx"),
        "decoded": yolo(Yolox(3, True), base / "decoded.onnx"),
        "yolov8": yolo(Yolov8(3), base / "yolov8.onnx"),
        "rt-detr": rt_detr(folder, base / "rt-detr.onnx"),
        "transformers": folder / "model.onnx",
        "detr": folder,
    }


def raw(file, feeds):
    return onnxruntime.InferenceSession(str(file)).run(None, feeds)


def expected(boxes, scores, labels, image, overlap):
    """(box, score, label) after NMS by torchvision, cut to the image, without those that cover all of it."""
    kept = (
        nms(torch.tensor(np.array(boxes)), torch.tensor(np.array(scores)), overlap).tolist()
        if overlap
        else None
    )
    order = kept if kept is not None else sorted(range(len(scores)), key=lambda at: -scores[at])
    rows = []
    for at in order:
        x1, y1, x2, y2 = boxes[at]
        box = max(0, x1), max(0, y1), min(image.width, x2), min(image.height, y2)
        inside = box[2] > box[0] and box[3] > box[1]
        if inside and (box[2] - box[0]) * (box[3] - box[1]) < 0.99 * image.width * image.height:
            rows.append((box, scores[at], labels[at]))
    return rows


def by_yolox(file, image, width=96, height=64):
    """The steps of YOLOX's demo for an export that is not decoded, cell by cell."""
    pixels = image.pixels[:, :, ::-1]
    ratio = min(height / pixels.shape[0], width / pixels.shape[1])
    inner = int(pixels.shape[1] * ratio), int(pixels.shape[0] * ratio)
    canvas = np.full((height, width, 3), 114, np.uint8)
    canvas[: inner[1], : inner[0]] = cv2.resize(pixels, inner, interpolation=cv2.INTER_LINEAR)
    (output,) = raw(file, {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32)})
    boxes, scores, labels, row = [], [], [], 0
    for stride in (8, 16, 32):
        for y in range(height // stride):
            for x in range(width // stride):
                dx, dy, w, h, objectness, *classes = output[0, row].tolist()
                cx, cy, w, h = (
                    (dx + x) * stride,
                    (dy + y) * stride,
                    math.exp(w) * stride,
                    math.exp(h) * stride,
                )
                boxes.append([v / ratio for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)])
                scores.append(objectness * max(classes))
                labels.append(f"class {classes.index(max(classes))}")
                row += 1
    assert row == output.shape[1]
    return expected(boxes, scores, labels, image, 0.65)


def by_yolov8(file, image, width=96, height=64):
    """Letterbox in the middle, boxes in pixels of the input."""
    high, wide = image.pixels.shape[:2]
    ratio = min(height / high, width / wide)
    inner = round(wide * ratio), round(high * ratio)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.full((height, width, 3), 114, np.uint8)
    resized = cv2.resize(image.pixels, inner, interpolation=cv2.INTER_LINEAR)
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    (output,) = raw(file, {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32) / 255})
    boxes, scores, labels = [], [], []
    for cx, cy, w, h, *classes in output[0].T.tolist():
        cx, cy = cx - left, cy - top
        boxes.append([v / ratio for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)])
        scores.append(max(classes))
        labels.append(f"class {classes.index(max(classes))}")
    return expected(boxes, scores, labels, image, 0.65)


def by_rt_detr(file, image, side=64):
    """The steps of RT-DETR's demo: resized by PIL, boxes in pixels of the original."""
    resized = np.asarray(Image.fromarray(image.pixels).resize((side, side), Image.Resampling.BILINEAR))
    planes = resized.transpose(2, 0, 1)[None].astype(np.float32) / 255
    sizes = np.array([[image.width, image.height]])
    labels, boxes, scores = raw(file, {"images": planes, "orig_target_sizes": sizes})
    names = [f"class {label}" for label in labels[0].tolist()]
    return expected(boxes[0].tolist(), scores[0].tolist(), names, image, None)


@pytest.mark.parametrize(
    ("family", "steps"),
    [("yolox", by_yolox), ("yolov8", by_yolov8), ("rt-detr", by_rt_detr)],
)
def test_regions_equal_those_of_the_authors_steps(made, family, steps):
    proposer = onnx(str(made[family]), device="cpu")
    assert proposer.settings()["family"] == family
    for image in IMAGES:
        (regions,), wanted = proposer.propose([image], 1000), steps(made[family], image)
        assert len(wanted) > 5
        np.testing.assert_allclose([r.box for r in regions], [box for box, *_ in wanted], atol=1e-3)
        np.testing.assert_allclose([r.score for r in regions], [score for _, score, _ in wanted], atol=1e-6)
        assert [r.label for r in regions] == [label for *_, label in wanted]


def test_yolox_decoded_and_not_yield_the_same(made):
    plain, decoded = (onnx(str(made[name]), device="cpu") for name in ("yolox", "decoded"))
    assert [one.settings()["decoded"] for one in (plain, decoded)] == [False, True]
    for ours, theirs in zip(plain.propose(IMAGES, 50), decoded.propose(IMAGES, 50), strict=True):
        assert [r.label for r in ours] == [r.label for r in theirs]
        np.testing.assert_allclose([r.box for r in ours], [r.box for r in theirs], atol=1e-3)


@pytest.mark.parametrize("model_type", DETECTORS)
def test_regions_equal_those_of_transformers(tmp_path, model_type):
    folder = tiny_detector(tmp_path, model_type, 3)
    image = IMAGES[0]
    free = model_type in ("detr", "conditional_detr")
    height, width = (64, 80) if model_type == "yolos" else (64, 64)
    file = optimum(folder, tmp_path / "model.onnx", height, width, mask=free)
    (regions,) = onnx(str(file), device="cpu").propose([image], 1000)
    wanted = by_transformers(folder, image)
    assert len(wanted) > 5
    np.testing.assert_allclose([r.score for r in regions], [score for _, score, _ in wanted], atol=1e-4)
    best = {r.score: r for r in regions}
    for box, score, label in wanted[:5]:  # of nearly equal scores the order may differ
        near = [r for r in best.values() if abs(r.score - score) < 1e-4 and r.label == label]
        assert min(np.abs(np.array(r.box) - box).max() for r in near) < 0.1  # pixels


def test_the_configuration_may_lie_one_folder_above(made, tmp_path):
    expected = onnx(str(made["transformers"]), device="cpu").propose(IMAGES, 5)
    folder = shutil.copytree(made["detr"], tmp_path / "model")
    (folder / "onnx").mkdir()
    file = (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    assert onnx(str(file), device="cpu").propose(IMAGES, 5) == expected
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(
        BadInputError, match=r"put config.json and preprocessor_config.json of the model beside"
    ):
        onnx(str(file), device="cpu").propose(IMAGES, 5)


def test_a_size_that_the_image_processor_does_not_make(tmp_path):
    folder = tiny_detector(tmp_path, "yolos")
    file = optimum(folder, tmp_path / "model.onnx")
    with pytest.raises(
        BadInputError, match=r"takes pixel_values .*64, 64.* makes .*64, 80.*free height and width"
    ):
        onnx(str(file), device="cpu").propose(IMAGES[:1], 1)


def test_free_sides_are_those_of_the_metadata_or_640_and_half_precision_is_given_half_precision(tmp_path):
    free = {"images": {0: "batch", 2: "height", 3: "width"}}
    head = Yolox(3, False)
    proposer = onnx(str(yolo(head, tmp_path / "free.onnx", 640, 640, free)), device="cpu")
    assert proposer.settings()["input"] == [640, 640]
    (wanted,) = proposer.propose(IMAGES[:1], 3)
    sized = described(shutil.copy(tmp_path / "free.onnx", tmp_path / "sized.onnx"), imgsz="[320, 416]")
    assert onnx(str(sized), device="cpu").settings()["input"] == [416, 320]
    for junk in ("[320]", "320", "['a', 'b']", "[1.5, 2]", "("):
        file = described(shutil.copy(tmp_path / "free.onnx", tmp_path / "junk.onnx"), imgsz=junk)
        assert onnx(str(file), device="cpu").settings()["input"] == [640, 640]
    half = onnx(str(yolo(Half(head), tmp_path / "half.onnx", 640, 640)), device="cpu")
    (found,) = half.propose(IMAGES[:1], 3)
    np.testing.assert_allclose([r.score for r in found], [r.score for r in wanted], atol=2e-2)


def test_an_image_smaller_than_the_original_and_one_that_is_a_line(made):
    small = IMAGES[0]
    large = DecodedImage(small.image_id, small.pixels, small.width * 5, small.height * 5)
    for family in ("yolox", "yolov8", "rt-detr", "transformers"):
        proposer = onnx(str(made[family]), device="cpu")
        (ours,), (theirs,) = (proposer.propose([image], 9) for image in (large, small))
        np.testing.assert_allclose([r.box for r in ours], [[5 * v for v in r.box] for r in theirs], rtol=1e-4)
        proposer.propose([scene(3000, 1, 1), scene(1, 3000, 2)], 3)


def test_class_names_come_from_the_file_beside_or_the_metadata(made, tmp_path):
    file = shutil.copy(made["yolox"], tmp_path / "a.onnx")
    label = [r.label for r in onnx(str(file), device="cpu").propose(IMAGES[:1], 20)[0]]
    assert set(label) <= {"class 0", "class 1", "class 2"}
    described(file, names="{0: 'boat', 1: 'dog', 2: 'tr\\ud800ee'}")
    before = onnx(str(file), device="cpu")
    names = {"class 0": "boat", "class 1": "dog", "class 2": "tr?ee"}
    assert [r.label for r in before.propose(IMAGES[:1], 20)[0]] == [names[one] for one in label]
    (tmp_path / "a.txt").write_text("ship\nhound\noak\n")
    after = onnx(str(file), device="cpu")
    assert {r.label for r in after.propose(IMAGES[:1], 20)[0]} <= {"ship", "hound", "oak"}
    changed = [key for key, value in after.settings().items() if before.settings()[key] != value]
    assert changed == ["labels"]  # and the file itself holds its metadata
    (tmp_path / "a.txt").write_text("ship\nhound\n")
    with pytest.raises(BadInputError, match="has 2 lines: expected the names of the 3 classes of a.onnx"):
        onnx(str(file), device="cpu").settings()


def test_names_of_transformers(made):
    labels = {r.label for r in onnx(str(made["transformers"]), device="cpu").propose(IMAGES, 20)[0]}
    assert labels <= set(LABELS.values())


@pytest.mark.parametrize(
    "text", ["", "boat", "{", "5", "__import__('os')", "{'a': 'boat'}", "(" * 5000, "x" * 2_000_000]
)
def test_names_that_are_none(text):
    assert names_in(text) == {}


def test_settings_tell_files_apart_and_not_where_they_lie(made, tmp_path):
    before = onnx(str(made["yolox"]), device="cpu").settings()
    moved = onnx(shutil.copy(made["yolox"], tmp_path / "moved.onnx"), device="cpu").settings()
    assert moved == before
    other = onnx(str(yolo(Yolox(3, False, seed=1), tmp_path / "other.onnx")), device="cpu").settings()
    assert [key for key in before if before[key] != other[key]] == ["weights"]


def test_the_graph_is_loaded_on_first_use(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"junk")
    proposer = onnx(str(tmp_path / "a.onnx"), device="cpu")
    with pytest.raises(BadInputError, match="is damaged, or no ONNX file"):
        proposer.settings()


class Plain(torch.nn.Module):
    def __init__(self, *sides):
        super().__init__()
        self.sides = sides

    def forward(self, images):
        return tuple(images.mean() * torch.ones(side) for side in self.sides)


@pytest.mark.parametrize(
    ("given", "sides"),
    [
        ((1, 3, 64, 64), [(1, 1000)]),  # a classifier
        ((1, 3, 64, 64), [(1, 252, 30)]),  # YOLOv5: three anchors per cell
        ((1, 3, 64, 64), [(1, 84, 84)]),  # both ways to read it
        ((1, 3, 64, 64), [(1, 84, 5)]),  # no class
        ((1, 3, 64, 64), [(1, 8, 84), (1, 32, 16, 16)]),  # with masks
        ((8, 3, 64, 64), [(8, 84, 8)]),  # eight images at once
        ((1, 1, 64, 64), [(1, 84, 8)]),  # grey
        ((1, 64, 64, 3), [(1, 84, 8)]),  # channels last
        ((1, 10), [(1, 84, 8)]),  # no image
    ],
)
def test_a_graph_that_is_no_known_detector_is_described(tmp_path, given, sides):
    names = [f"out{at}" for at in range(len(sides))]
    file = export(Plain(*sides), tmp_path / "a.onnx", (torch.zeros(given),), ["given"], names)
    with pytest.raises(BadInputError) as error:
        onnx(str(file), device="cpu").propose(IMAGES[:1], 1)
    text = str(error.value)
    assert "\n" not in text
    for part in (
        "is no detector that is known",
        "it takes given (",
        "yields out0 (",
        "expected images (1, 3,",
    ):
        assert part in text


def test_masks_and_poses_of_yolov8_are_refused(made, tmp_path):
    file = described(shutil.copy(made["yolov8"], tmp_path / "pose.onnx"), task="pose")
    with pytest.raises(BadInputError, match="was exported for 'pose': expected a detector of boxes"):
        onnx(str(file), device="cpu").settings()


def test_an_input_that_is_too_large(tmp_path):
    class Huge(torch.nn.Module):
        def forward(self, images):
            return images[:, :, :8, :8].mean(1)

    free = {"images": {3: "width"}}
    file = export(Huge(), tmp_path / "a.onnx", (torch.zeros(1, 3, 100_000, 8),), ["images"], ["output"], free)
    with pytest.raises(BadInputError, match="takes images of 640x100000 pixels: expected 1 to 4096"):
        onnx(str(file), device="cpu").settings()


@pytest.mark.parametrize("kept", [0, 1, 100, 5000])
def test_a_damaged_file(made, tmp_path, kept):
    file = tmp_path / "a.onnx"
    file.write_bytes(made["yolox"].read_bytes()[:kept])
    with pytest.raises(
        BadInputError, match="is damaged, or no ONNX file that ONNX Runtime runs: [A-Z]"
    ) as error:
        onnx(str(file), device="cpu").propose(IMAGES[:1], 1)
    assert "\n" not in str(error.value)


def test_a_graph_that_wants_more_memory_than_there_is(tmp_path):
    import onnx as package
    from onnx import TensorProto, helper, numpy_helper

    sides = numpy_helper.from_array(np.array([1, 84, 10**12]), "sides")
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["sides"], ["output"])],
        "bomb",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [sides],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    package.save(model, str(tmp_path / "a.onnx"))
    with pytest.raises(BadInputError, match="fails on an image: ") as error:
        onnx(str(tmp_path / "a.onnx"), device="cpu").propose(IMAGES[:1], 1)
    assert len(str(error.value)) < 600


def test_weights_in_other_files_are_not_read(made, tmp_path, monkeypatch):
    import onnx as package

    model = package.load(str(made["yolox"]))
    file = tmp_path / "a.onnx"
    package.save(model, str(file), save_as_external_data=True, location="a.data", size_threshold=0)
    assert (tmp_path / "a.data").is_file()
    for folder in (tmp_path, tmp_path.parent):
        monkeypatch.chdir(folder)
        with pytest.raises(
            BadInputError, match="keeps its weights in other files, which felga does not read"
        ):
            onnx(str(file), device="cpu").settings()


def test_boxes_and_scores_that_are_not_finite_are_dropped(tmp_path):
    head = Yolox(3, False)
    with torch.no_grad():
        head.head.levels[0].bias[2] = 1000.0  # exp is infinite
        head.head.levels[1].bias[:] = float("nan")
    (regions,) = onnx(str(yolo(head, tmp_path / "a.onnx")), device="cpu").propose(IMAGES[:1], 1000)
    assert 1 <= len(regions) <= 6  # of the coarsest grid, 3 x 2 cells


def test_wrong_names(tmp_path):
    with pytest.raises(BadInputError, match="onnx:FILE"):
        onnx("", device="cpu")
    with pytest.raises(NotFoundError, match="it does not exist"):
        onnx(str(tmp_path / "none.onnx"), device="cpu")
    with pytest.raises(NotFoundError, match="it is a folder"):
        onnx(str(tmp_path), device="cpu")


def test_without_onnx_runtime_the_package_is_named():
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from felga.errors import MissingError\n"
        "from felga.registry import make_regions\n"
        "try: make_regions('onnx:a.onnx')\n"
        "except MissingError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the package 'onnxruntime', which is not installed: pip install onnxruntime" in done.stdout
    assert factory("regions", "onnx:a:b")[1] == "a:b"


def test_the_head_of_these_tests_has_all_strides():
    found, cells, _ = Head(6, 0, 1.0)(torch.zeros(1, 3, 64, 96))
    assert found.shape == (1, len(cells), 6) == (1, 8 * 12 + 4 * 6 + 2 * 3, 6)
