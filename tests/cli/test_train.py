"""`felga train` on a small index of a third-party encoder."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from felga.fenet.checkpoint import load_fenet
from tests.cli.calls import call

TOY = ["--encoder", "toy", "--keywords", "words", "--regions", "grid", "--no-quality", "--device", "cpu"]
SMALL = ["--device", "cpu", "--set", "epochs=2", "--set", "hidden=8", "--set", "batch=4"]


@pytest.fixture
def pairs(capsys, tmp_path, toy):
    """An index of twelve images with a caption each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", (40, 40), (20 * i, 100, 50)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"number {i}\n")
    call(capsys, "index", folder, "--out", tmp_path / "index", *TOY)
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ([], "felga+owner"),
        (["--recipe", "paper"], "felga"),
        (["--set", "method=dense"], "dense"),
        (["--method", "global"], "global"),
        (["--method", "sparse", "--set", "method=sparse"], "sparse"),
    ],
)
def test_the_method_given_is_the_method_trained(capsys, pairs, tmp_path, words, method):
    out, err = call(capsys, "train", pairs, "--out", tmp_path / "f.safetensors", *SMALL, *words)
    assert set(json.loads(out)) >= {"checkpoint", "sha256", "loss"}
    assert "is trained on 12 pairs (0 left out)" in err
    assert load_fenet(tmp_path / "f.safetensors").recipe.method == method


def test_a_fenet_is_put_on_an_index_and_removed(capsys, pairs, tmp_path):
    call(capsys, "train", pairs, "--out", tmp_path / "f.safetensors", *SMALL)
    _, err = call(capsys, "fenet", "apply", tmp_path / "f.safetensors", "--index", pairs, "--device", "cpu")
    assert "now has the FENet" in err
    assert "none" not in call(capsys, "info", "--index", pairs)[0].split("fenet")[1].splitlines()[0]
    _, err = call(capsys, "fenet", "apply", "--remove", "--index", pairs)
    assert "now has no FENet, 8 dimensions" in err


def test_features_are_saved_and_trained_from(capsys, pairs, tmp_path):
    out = ["--out", tmp_path / "f.safetensors"]
    first, _ = call(capsys, "train", pairs, *out, *SMALL, "--features-out", tmp_path / "features")
    again, _ = call(capsys, "train", tmp_path / "features", *out, *SMALL)
    assert json.loads(first)["sha256"] == json.loads(again)["sha256"]


def test_what_held_out_captions_say_is_one_line(capsys, pairs, tmp_path):
    words = ["--out", tmp_path / "f.safetensors", *SMALL]
    _, err = call(capsys, "train", pairs, *words)
    assert "held-out" not in err
    out, err = call(capsys, "train", pairs, *words, "--set", "validation=0.5")
    kept, frozen = json.loads(out), load_fenet(tmp_path / "f.safetensors").frozen
    line = "held-out captions: frozen {:.1f} / {:.1f}, trained {:.1f} / {:.1f}".format(
        *(100 * score[task] for score in (frozen, kept) for task in ("discovery", "assignment"))
    )
    assert line in err
    lost = sum(frozen.values()) > kept["discovery"] + kept["assignment"]
    assert ("the frozen vectors are better, do not apply it" in err) == lost
