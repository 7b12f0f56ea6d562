"""felga models: fetched from a hub by its own client, carried to another home, used there offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
from PIL import Image

from felga.encoders.open_clip import DEFAULT

from ..encoders.tiny import tiny_blip, tiny_clip
from ..models.homes import move_in
from ..models.hub import serving
from ..proposals.tiny import tiny_detector, tiny_rcnn
from .calls import SCRIPT, call

CLIP, BLIP, DETECTOR = "clip:hf-hub:tiny/clip", "blip:tiny/blip", "hf:tiny/detector"
RCNN = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
LIST = ("models", "list")
RCNN_FILE = "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth"
VECTORS = """
import sys
import numpy as np
from felga.registry import make_encoder, make_regions
from felga.testing.encoder import BOXES, IMAGES
*encoders, detector, out = sys.argv[1:]
arrays = []
for name in encoders:
    encoder = make_encoder(name, device="cpu")
    arrays += [encoder.encode_texts(["a red bus", "dog"]), *encoder.encode_regions(IMAGES, BOXES)]
for regions in make_regions(detector, device="cpu").propose(IMAGES, 5):
    arrays.append([[*region.box, region.score] for region in regions])
np.savez(out, *arrays)
"""


class Home:
    """A machine of its own, as far as caches go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: object, hub: str = "", code: int = 0, script: str = SCRIPT) -> tuple[str, str]:
        """A command in a process of its own: (stdout, stderr). Without ``hub`` no network is reachable."""
        environment = {k: v for k, v in os.environ.items() if "OFFLINE" not in k}
        environment |= {
            "HOME": str(self.folder),
            "HF_HOME": str(self.folder / "hf"),
            "TORCH_HOME": str(self.folder / "torch"),
            "HF_ENDPOINT": hub or "http://127.0.0.1:9",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", script, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == code, done.stderr[-3000:]
        return done.stdout, done.stderr

    def vectors(self) -> list[np.ndarray]:
        """What the three models say of the test images."""
        out = self.folder / "vectors.npz"
        self.run(CLIP, BLIP, DETECTOR, out, script=VECTORS)
        with np.load(out) as saved:
            return [saved[key] for key in saved.files]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> Path:
    """What a hub has: three models, each with a file that felga does not fetch."""
    root = tmp_path_factory.mktemp("repositories")
    tiny_clip(root / "tiny" / "clip")
    tiny_blip(root / "tiny" / "blip")
    tiny_detector(root / "tiny" / "detector")
    for model in (root / "tiny").iterdir():
        (model / "README.md").write_text("# tiny\n")
    return root


@pytest.fixture(scope="module")
def connected(tmp_path_factory, repositories) -> tuple[Home, str]:
    """A machine that fetched all of them, and what was said about it."""
    home = Home(tmp_path_factory.mktemp("connected"))
    with serving(repositories) as url:
        _, said = home.run("models", "pull", CLIP, BLIP, DETECTOR, "conse", hub=url)
    return home, said


@pytest.fixture(scope="module")
def bundle(connected, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "new" / "tiny.tar"
    _, said = connected[0].run("models", "export", CLIP, BLIP, DETECTOR, "--out", out, "--offline")
    assert "10 files of" in said
    return out


def test_pull_says_what_it_fetched(connected):
    _, said = connected
    assert "fetched tiny/clip: open_clip_model.safetensors, " in said
    assert "fetched tiny/blip: tokenizer.json, " in said
    assert "README" not in said
    assert said.endswith("conse works; its weights come in packages, or are files of your own\n")


def test_pull_without_a_network_is_one_sentence(tmp_path, capsys, monkeypatch):
    _, said = Home(tmp_path).run("models", "pull", BLIP, code=5)
    assert "127.0.0.1 cannot be reached: connect to the network, bring it from another machine" in said
    assert said.count("\n") == 1
    move_in(tmp_path, monkeypatch)
    _, said = call(capsys, "models", "pull", BLIP, "--offline", code=5)
    assert "is not on this machine, and felga is offline: fetch it once" in said


def test_the_models_say_the_same_to_the_bit_on_a_machine_without_a_network(connected, bundle, tmp_path):
    there = Home(tmp_path)
    _, said = there.run("models", "import", bundle)
    assert said.startswith("10 of 10 files written, 0 were there\n")
    assert said.endswith(f"ready without a network: {CLIP}, {BLIP}, {DETECTOR}\n")
    ours, theirs = connected[0].vectors(), there.vectors()
    assert len(ours) == 11
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_imported_models_index_and_search_offline(bundle, tmp_path):
    there = Home(tmp_path / "home")
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{seed}.png")
    index = tmp_path / "index"
    there.run("models", "import", bundle)
    there.run("index", photos, "--out", index, "--encoder", BLIP, "--regions", DETECTOR, "--offline")
    found, _ = there.run("search", "a red bus", "--index", index, "-l", "--offline")
    assert sorted(Path(line).name for line in found.splitlines()) == ["0.png", "1.png", "2.png"]


def test_torchs_cache_travels_too(tmp_path, capsys, monkeypatch):
    checkpoints = Path("torch", "hub", "checkpoints")
    move_in(tmp_path / "here", monkeypatch)
    (tmp_path / "here" / checkpoints).mkdir(parents=True)
    tiny_rcnn(tmp_path / "here" / checkpoints / RCNN_FILE, classes=91)
    _, said = call(capsys, "models", "export", RCNN, "learned", "--out", tmp_path / "rcnn.tar")
    assert f"learned: its weights come in packages, or are files of your own\n1 files of {RCNN} in" in said
    move_in(tmp_path / "there", monkeypatch)
    call(capsys, "models", "import", tmp_path / "rcnn.tar")
    ours, theirs = (tmp_path / home / checkpoints / RCNN_FILE for home in ("here", "there"))
    assert ours.read_bytes() == theirs.read_bytes()
    rows = json.loads(call(capsys, "models", "list", "--format", "json")[0])
    assert [row["names"] for row in rows if row["source"] == "torch's cache"] == [[f"{RCNN}/COCO_V1"]]


def test_list_names_every_file_with_its_users(connected, capsys, monkeypatch):
    hub = move_in(connected[0].folder, monkeypatch)
    rows = {Path(row["path"]).name: row for row in json.loads(call(capsys, *LIST, "--format", "json")[0])}
    (file,) = hub.glob("models--tiny--clip/snapshots/*/open_clip_model.safetensors")
    assert rows[file.name] == {
        "names": [CLIP],
        "source": "tiny/clip",
        "path": str(file),
        "size": file.stat().st_size,
        "sha256": os.path.basename(os.readlink(file)),  # as the hub calls it
    }
    assert rows["regions.safetensors"]["names"] == ["learned"]
    assert rows["conse.safetensors"]["names"] == ["the FENet of conse"]
    table, _ = call(capsys, *LIST)
    assert all(text in table for text in (CLIP, BLIP, DETECTOR, "keybert", rows[file.name]["sha256"][:12]))


def test_list_knows_the_names_of_open_clip(tmp_path, capsys, monkeypatch):
    repository = move_in(tmp_path, monkeypatch) / "models--laion--CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    (repository / "snapshots" / ("1" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("1" * 40) / "open_clip_model.safetensors").write_bytes(b"weights")
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / ".cache" / "clip" / "rn50-quickgelu-yfcc15m-455df137.pt").write_bytes(b"weights")
    told = open_clip.get_pretrained_cfg

    def of_a_plain_url(architecture, tag):  # as older versions of open_clip know some weights
        return told(architecture, tag) | ({"hf_hub": ""} if tag == "yfcc15m" else {})

    monkeypatch.setattr(open_clip, "get_pretrained_cfg", of_a_plain_url)
    rows = {row["source"]: row["names"] for row in json.loads(call(capsys, *LIST, "--format", "json")[0])}
    assert rows["laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"] == [f"clip:{DEFAULT}"]
    assert rows["open_clip's cache"] == ["clip:RN50/yfcc15m", "clip:RN50-quickgelu/yfcc15m"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("learned", "there is nothing to export of learned: its weights come in packages"),
        ("clp", "there is no encoder and no region proposer named 'clp': did you mean 'clip'?"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(name, reason, tmp_path, capsys):
    _, said = call(capsys, "models", "export", name, "--out", tmp_path / "x.tar", code=2)
    assert reason in said
    assert list(tmp_path.iterdir()) == []


def test_the_target_is_checked_first(tmp_path, capsys):
    _, said = call(capsys, "models", "export", CLIP, "--out", tmp_path, code=2)
    assert "is a folder: name a file such as clip.tar" in said
