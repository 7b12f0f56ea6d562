"""hf: boxes, scores and labels equal transformers'; nothing is unpickled, run or looked up on the hub."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.models.weights import offline
from felga.proposals.hf import hf
from felga.testing.proposer import IMAGES, scene
from felga.types import DecodedImage

from .tiny import DETECTORS, LABELS, by_transformers, tiny_detector, tiny_detr


def edit(folder, name="config.json", **changes):
    """Set keys of a json file; None removes one."""
    content = json.loads((folder / name).read_text())
    for key, value in changes.items():
        content.pop(key, None)
        if value is not None:
            content[key] = value
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_detector(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made, tmp_path):
    """A copy, to change."""
    return shutil.copytree(made, tmp_path / "detector")


@pytest.mark.parametrize("model_type", DETECTORS)
def test_regions_equal_those_of_transformers(tmp_path, model_type):
    folder = tiny_detector(tmp_path, model_type, 3)
    proposer = hf(str(folder), device="cpu")
    for image in IMAGES:
        (regions,), expected = proposer.propose([image], 1000), by_transformers(folder, image)
        assert len(expected) > 5
        np.testing.assert_allclose([r.box for r in regions], [box for box, *_ in expected], atol=1e-3)
        np.testing.assert_allclose([r.score for r in regions], [score for _, score, _ in expected], atol=1e-5)
        assert [r.label for r in regions] == [label for *_, label in expected]


@pytest.mark.parametrize("model_type", DETECTORS)
def test_regions_are_among_those_of_the_pipeline(tmp_path, model_type):
    folder = tiny_detector(tmp_path, model_type, 4)
    detect = t.pipeline("object-detection", model=str(folder), device="cpu")
    image = IMAGES[1]
    found = detect(Image.fromarray(image.pixels), threshold=0.0)
    (regions,) = hf(str(folder), device="cpu").propose([image], 10)
    assert len(regions) == 10
    for region in regions:
        distances = []
        for row in found:
            if row["label"] == region.label and abs(row["score"] - region.score) < 1e-5:
                corners = np.array([row["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")])
                cut = corners.clip(0, [image.width, image.height] * 2)
                distances.append(np.abs(cut - region.box).max())
        assert min(distances) < 1.001  # the pipeline truncates to whole pixels


def test_boxes_of_a_downscaled_image_refer_to_the_original(made):
    small = IMAGES[0]
    large = DecodedImage(small.image_id, small.pixels, small.width * 5, small.height * 5)
    (ours,), (theirs,) = (hf(str(made), device="cpu").propose([image], 9) for image in (large, small))
    np.testing.assert_allclose([r.box for r in ours], [[5 * v for v in r.box] for r in theirs], rtol=1e-4)


def test_three_rows_of_pixels_are_no_channels(made):
    image = scene(60, 3, 8)
    (regions,), expected = hf(str(made), device="cpu").propose([image], 5), by_transformers(made, image)
    np.testing.assert_allclose([r.score for r in regions], [score for _, score, _ in expected[:5]], atol=1e-5)


def test_the_network_is_loaded_on_first_use(folder):
    proposer = hf(str(folder), device="cpu")
    proposer.settings()
    assert "_model" not in vars(proposer)
    proposer.propose(IMAGES[:1], 1)
    assert not proposer._model.training
    assert not any(parameter.requires_grad for parameter in proposer._model.parameters())


def test_settings_tell_weights_labels_and_preprocessing_apart(folder, tmp_path):
    before = hf(str(folder), device="cpu").settings()
    assert before["preprocessing"]["size"] == {"height": 64, "width": 64}
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert hf(str(moved), device="cpu").settings() == before
    other = hf(str(tiny_detector(tmp_path / "other", seed=1)), device="cpu").settings()
    assert [key for key in before if before[key] != other[key]] == ["weights"]
    edit(moved, id2label={**LABELS, 0: "ship"}, label2id={"ship": 0, "dog": 1, "tree": 2})
    edit(moved, "preprocessor_config.json", size={"height": 96, "width": 96})
    changed = hf(str(moved), device="cpu").settings()
    assert [key for key in before if before[key] != changed[key]] == ["config", "preprocessing"]


def test_labels_are_valid_unicode(folder):
    edit(folder, id2label={0: "bo\ud800at", 1: "bo\ud800at", 2: "bo\ud800at"})
    (regions,) = hf(str(folder), device="cpu").propose(IMAGES[:1], 3)
    assert {region.label for region in regions} == {"bo?at"}


def test_a_named_backbone_is_timms_and_not_looked_up_on_the_hub(tmp_path):
    tiny_detr(3).save_pretrained(tmp_path)
    t.DeformableDetrImageProcessor(size={"shortest_edge": 160, "longest_edge": 320}).save_pretrained(tmp_path)
    expected = hf(str(tmp_path), device="cpu").propose(IMAGES, 10)
    backbone = json.loads((tmp_path / "config.json").read_text())["backbone_config"]
    kwargs = {key: backbone[key] for key in ("out_indices", "features_only", "num_channels")}
    edit(
        tmp_path, backbone_config=None, backbone="test_resnet", use_timm_backbone=True, backbone_kwargs=kwargs
    )
    assert hf(str(tmp_path), device="cpu").propose(IMAGES, 10) == expected
    edit(tmp_path, use_timm_backbone=False)
    with pytest.raises(BadInputError, match="names the backbone 'test_resnet' without describing it"):
        hf(str(tmp_path), device="cpu").settings()


@pytest.mark.parametrize("name", ["hf-hub:nobody/evil", "local-dir:/tmp", "nobody/evil", 5])
def test_a_backbone_that_is_no_plain_name_is_refused(folder, name):
    edit(folder, backbone=name)
    with pytest.raises(BadInputError, match=r"has the backbone .*: expected a name such as resnet50"):
        hf(str(folder), device="cpu").settings()
    edit(folder, backbone=None, backbone_config={"model_type": "timm_backbone", "backbone": name})
    with pytest.raises(BadInputError, match=r"has the backbone .*: expected a name such as resnet50"):
        hf(str(folder), device="cpu").propose(IMAGES[:1], 1)


def test_code_in_a_repository_is_never_run(folder, tmp_path):
    expected = hf(str(folder), device="cpu").propose(IMAGES[:1], 5)
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n"
    (folder / "evil.py").write_text(evil)
    auto = {"AutoConfig": "evil.Evil", "AutoModelForObjectDetection": "evil.Evil"}
    edit(folder, auto_map=auto, attn_implementation="nobody/kernel", _attn_implementation="nobody/kernel")
    edit(folder, "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"})
    assert hf(str(folder), device="cpu").propose(IMAGES[:1], 5) == expected
    edit(folder, "preprocessor_config.json", image_processor_type="EvilImageProcessor")
    assert hf(str(folder), device="cpu").propose(IMAGES[:1], 5) == expected  # the usual one of RT-DETR
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "model_type", ["vit", "owlvit", "grounding-dino", "pp_ocrv5_server_det", None, ["detr"]]
)
def test_a_model_that_is_no_detector(folder, model_type):
    edit(folder, model_type=model_type)
    with pytest.raises(BadInputError, match="is no object detector: its model type is") as error:
        hf(str(folder), device="cpu")
    assert "\n" not in str(error.value)


def test_weights_of_another_model(folder, tmp_path):
    edit(folder, d_model=64)
    with pytest.raises(BadInputError, match="truncated or of another model"):
        hf(str(folder), device="cpu").propose(IMAGES[:1], 1)
    detr = tiny_detector(tmp_path / "detr", "detr")
    t.DetrModel.from_pretrained(detr).save_pretrained(detr)  # without heads
    with pytest.raises(
        BadInputError, match="of another model: missing keys 'bbox_predictor|of another model"
    ):
        hf(str(detr), device="cpu").propose(IMAGES[:1], 1)


@pytest.mark.parametrize("kept", [0, 50, 10_000])
def test_truncated_weights(folder, kept):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadInputError, match="truncated"):
        hf(str(folder), device="cpu").propose(IMAGES[:1], 1)


def test_a_pickle_is_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="has no safetensors, only a pickle"):
        hf(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not json"),
        ("[]", "is not a json object"),
        ('{"model_type": "detr", "d_model": "x"}', "d_model"),
    ],
)
def test_a_configuration_that_is_none(folder, content, words):
    (folder / "config.json").write_text(content)
    with pytest.raises(BadInputError, match=words):
        hf(str(folder), device="cpu").settings()


def test_an_image_processor_of_another_task(folder):
    t.ViTImageProcessor().save_pretrained(folder)
    with pytest.raises(BadInputError, match="ViTImageProcessor, yields no boxes"):
        hf(str(folder), device="cpu").settings()


def test_missing_files(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadInputError, match="no image processor that transformers knows"):
        hf(str(folder), device="cpu").settings()
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="contains no weights"):
        hf(str(folder), device="cpu")
    (folder / "config.json").unlink()
    with pytest.raises(NotFoundError, match=r"config\.json"):
        hf(str(folder), device="cpu")


def test_a_model_in_the_hubs_cache(made, tmp_path, monkeypatch):
    repository = tmp_path / "models--someone--detector"
    shutil.copytree(made, repository / "snapshots" / "0123456789")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with offline():
        proposer = hf("someone/detector", device="cpu")
    assert proposer.name == "hf:someone/detector"
    local = hf(str(made), device="cpu")
    assert proposer.settings() == local.settings()
    assert proposer.propose(IMAGES, 5) == local.propose(IMAGES, 5)


def test_wrong_names(monkeypatch):
    with pytest.raises(BadInputError, match="hf:OWNER/NAME of the hub or hf:FOLDER"):
        hf("", device="cpu")
    for name in ("/none/none", "none", "./none", "a/b/c"):
        with pytest.raises(NotFoundError, match="there is no folder"):
            hf(name, device="cpu")
    with pytest.raises(MissingError, match="the configuration of hf:nobody/nothing-felga .* offline"):
        hf("nobody/nothing-felga", device="cpu")
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("a connection"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with offline(), pytest.raises(MissingError, match="not downloaded only because an index names it"):
        hf("nobody/nothing-felga", device="cpu")
