"""detectron2 and mayaku: the real packages where installed, else a fake of the calls made to Detectron2."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.proposals.detectron2 import class_names, detectron2, mayaku
from felga.testing import ProposerContract
from felga.testing.proposer import IMAGES, scene

from . import fake_detectron2 as fake

REAL = importlib.util.find_spec("detectron2") is not None


@pytest.fixture(scope="module", autouse=True)
def detectron(tmp_path_factory):
    if REAL:
        yield
        return
    fake.install(tmp_path_factory.mktemp("detectron2"))
    yield
    fake.uninstall()


def write(folder: Path, base: str = fake.MASK, seed: int = 0, **model) -> str:
    """Write a small config based on the zoo and a random checkpoint; return the proposer's argument."""
    import detectron2 as package
    import yaml
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    zoo = Path(package.__file__).parent / "model_zoo" / "configs"
    content = {
        "_BASE_": str(zoo / base),
        "MODEL": {
            "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
            "ROI_HEADS": {"NUM_CLASSES": 3, "SCORE_THRESH_TEST": 0.0},
            **model,
        },
        "INPUT": {"MIN_SIZE_TEST": 128},
        "OPTIONS_OF_MY_OWN": {"DOMAIN": "sea"},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    cfg = get_cfg()
    cfg.set_new_allowed(True)
    cfg.merge_from_file(str(config), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(seed)
    model = build_model(cfg)
    torch.save({"model": model.state_dict(), "iteration": 7}, folder / "model.pth")
    return f"{config}@{folder}/model.pth"


class TestInstances(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        return detectron2(write(tmp_path_factory.mktemp("mask")), device="cpu")


class TestProposals(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        return detectron2(write(tmp_path_factory.mktemp("rpn"), fake.RPN), device="cpu")


def overlap(a, b):
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    both = max(0.0, x2 - x1) * max(0.0, y2 - y1)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both)


def test_instances_of_all_classes_overlap_little(tmp_path):
    (regions,) = detectron2(write(tmp_path), device="cpu").propose([scene(200, 150, 9)], 10)
    assert len(regions) > 1
    for i, a in enumerate(regions):
        assert all(overlap(a.box, b.box) <= 0.5 + 0.1 for b in regions[:i])  # clipped to the image afterwards


def test_labels_are_the_classes_of_the_model(tmp_path):
    argument = write(tmp_path)
    (regions,) = detectron2(argument, device="cpu").propose(IMAGES[:1], 5)
    assert {r.label for r in regions} <= {"0", "1", "2"}
    (tmp_path / "classes.txt").write_text("boat\nbuoy\n\nlight house\n")
    (regions,) = detectron2(argument, device="cpu").propose(IMAGES[:1], 5)
    assert {r.label for r in regions} <= {"boat", "buoy", "light house"}
    (regions,) = detectron2(f"{argument}#rpn", device="cpu").propose(IMAGES[:1], 5)
    assert {r.label for r in regions} == {None}
    (tmp_path / "classes.txt").write_bytes(b"boat\xff\nbuoy\nlight house\n")
    with pytest.raises(BadInputError, match="is not UTF-8"):
        detectron2(argument, device="cpu").propose(IMAGES[:1], 5)
    (tmp_path / "classes.txt").write_text("boat\n")
    with pytest.raises(BadInputError, match="names 1 classes; the model has 3"):
        detectron2(argument, device="cpu").propose(IMAGES[:1], 5)


def test_names_are_used_only_if_their_number_fits(tmp_path):
    assert class_names(tmp_path / "m.pth", 2, ["a", "b"]) == ["a", "b"]
    assert class_names(tmp_path / "m.pth", 2, ["a", "b", "c"]) == ["0", "1"]


def test_rpn_proposals_agree_inside_and_outside_a_mask_rcnn(tmp_path):
    """The same proposal network, inside a Mask R-CNN and on its own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, alone = write(tmp_path / "a"), write(tmp_path / "b", fake.RPN)
    state = torch.load(tmp_path / "a" / "model.pth")["model"]
    kept = {k: v for k, v in state.items() if not k.startswith("roi_heads")}
    torch.save({"model": kept}, tmp_path / "b" / "model.pth")
    (a,) = detectron2(f"{whole}#rpn", device="cpu").propose(IMAGES[:1], 10)
    (b,) = detectron2(alone, device="cpu").propose(IMAGES[:1], 10)
    np.testing.assert_allclose([r.box for r in a], [r.box for r in b], atol=1e-3)
    assert a


def test_settings_depend_on_weights_and_source(tmp_path):
    for i in range(2):
        (tmp_path / str(i)).mkdir()
    a, b = (detectron2(write(tmp_path / str(i), seed=i), device="cpu").settings() for i in range(2))
    assert a["weights"] != b["weights"]
    c = detectron2(f"{tmp_path}/0/config.yaml@{tmp_path}/0/model.pth#rpn", device="cpu").settings()
    assert c["boxes"] == "rpn"
    assert c != a


def test_a_name_of_the_model_zoo(tmp_path):
    argument = write(tmp_path)
    weights = argument.rpartition("@")[2]
    for name in (fake.MASK, fake.MASK.removesuffix(".yaml")):
        proposer = detectron2(f"{name}@{weights}", device="cpu")
        with pytest.raises(
            BadInputError, match="is not a checkpoint of GeneralizedRCNN"
        ):  # 80 classes, not 3
            proposer.propose(IMAGES[:1], 5)


@pytest.mark.parametrize(
    ("argument", "error", "words"),
    [
        ("", BadInputError, "CONFIG@WEIGHTS"),
        ("config.yaml", BadInputError, "CONFIG@WEIGHTS"),
        ("config.yaml@", BadInputError, "CONFIG@WEIGHTS"),
        ("{valid}#boxes", BadInputError, "#rpn or #instances"),
        ("/none.yaml@{weights}", NotFoundError, r"none\.yaml"),
        ("{config}@/none.pth", NotFoundError, r"none\.pth"),
        ("{config}@/none.pkl", BadInputError, "is a pickle"),
        ("{weights}@{weights}", BadInputError, "not a Detectron2 config"),
    ],
)
def test_wrong_arguments(tmp_path, argument, error, words):
    valid = write(tmp_path)
    config, _, weights = valid.rpartition("@")
    with pytest.raises(error, match=words) as raised:
        detectron2(argument.format(valid=valid, config=config, weights=weights), device="cpu")
    assert "\n" not in str(raised.value)


def test_instances_of_a_proposal_network(tmp_path):
    with pytest.raises(BadInputError, match="has no instances"):
        detectron2(f"{write(tmp_path, fake.RPN)}#instances", device="cpu")


def test_an_architecture_defined_elsewhere_is_refused(tmp_path):
    argument = write(tmp_path)
    config = tmp_path / "config.yaml"
    text = config.read_text().replace("MODEL:", "MODEL:\n  META_ARCHITECTURE: TeacherOfMine")
    config.write_text(text)
    with pytest.raises(BadInputError, match="needs code that Detectron2 does not have"):
        detectron2(argument, device="cpu").propose(IMAGES[:1], 5)


def test_truncated_weights(tmp_path):
    argument = write(tmp_path)
    file = tmp_path / "model.pth"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInputError, match="truncated"):
        detectron2(argument, device="cpu").propose(IMAGES[:1], 5)


def test_without_detectron2_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "detectron2", None)
    with pytest.raises(MissingError, match=r"pip install .*detectron2.*mayaku"):
        detectron2("a.yaml@b.pth", device="cpu")


def test_without_mayaku_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mayaku", None)
    with pytest.raises(MissingError, match="pip install mayaku"):
        mayaku("a.yaml@b.pth", device="cpu")


@pytest.mark.skipif(not REAL, reason="Detectron2 is not installed: nothing to compare mayaku with")
def test_mayaku_proposes_what_detectron2_proposes(tmp_path):
    pytest.importorskip("mayaku")
    argument = write(tmp_path, RESNETS={"DEPTH": 50})
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.set_new_allowed(True)
    cfg.merge_from_file(str(tmp_path / "config.yaml"), allow_unsafe=False)
    cfg.pop("OPTIONS_OF_MY_OWN")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    saved = torch.load(tmp_path / "model.pth")
    # without trained norms the activations of random layers explode
    saved["model"]["backbone.bottom_up.stem.conv1.weight"] *= 1e-3
    torch.save(saved, tmp_path / "model.pth")
    (a,) = detectron2(argument, device="cpu").propose(IMAGES[:1], 3)
    (b,) = mayaku(argument, device="cpu").propose(IMAGES[:1], 3)
    np.testing.assert_allclose(a[0].box, b[0].box, atol=0.1)
    assert [r.label for r in a] == [r.label for r in b]
    # random weights give many near ties, which the last bits break differently
    assert all(overlap(one.box, two.box) > 0.8 for one, two in zip(a, b, strict=True))
