"""Nothing that a manifest names makes felga use a network: sockets fail, HF_HUB_OFFLINE is not set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .tiny import tiny_clip

CODE = """
import json, socket, sys

attempts = []

def refuse(*arguments, **_):
    attempts.append(arguments)
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from felga.errors import MissingError
from felga.models.weights import offline
from felga.registry import make_encoder, make_regions

printed = []
for kind, name in json.loads(sys.argv[1]):
    try:
        with offline():
            part = make_regions(name, device="cpu") if kind == "regions" else make_encoder(name, device="cpu")
        if kind == "encoder":
            part.encode_texts(["bus"])
        elif kind == "vision":
            part._tower("visual")
        else:
            part.settings()
        printed.append("encoded")
    except MissingError as error:
        printed.append(str(error))
    assert not attempts, (name, attempts)
print(json.dumps(printed))
"""


def run(tmp_path: Path, *parts: tuple[str, str]) -> list[str]:
    """What becomes of each (kind, name), all in one process without a network."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    environment |= {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "TORCH_HOME": str(tmp_path / "torch"),
    }
    command = [sys.executable, "-c", CODE, json.dumps(parts)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


REASON = (
    "is not on this machine, and is not downloaded only because an index names it: name the encoder yourself"
)


NAMES = [
    ("encoder", "clip:ViT-B-32/laion2b_s34b_b79k"),  # of the hub
    ("encoder", "clip:RN50/yfcc15m"),  # of a plain url
    ("encoder", "clip:hf-hub:evil/model"),
    ("encoder", "clip:ViT-B-16-SigLIP/webli"),  # its tokenizer is on the hub too
    ("encoder", "blip:evil/model"),
    ("encoder", "blip2:evil/model"),
    ("regions", "torchvision:fasterrcnn_resnet50_fpn"),
]


def test_a_name_never_downloads(tmp_path):
    for (_, name), printed in zip(NAMES, run(tmp_path, *NAMES), strict=True):
        assert REASON in printed, name
        assert "\n" not in printed, name


CONFIGURATIONS = [
    ("text_cfg", {"hf_tokenizer_name": "evil/tokenizer"}, ("has no tokenizer", "cannot be loaded")),
    (
        "text_cfg",
        {"hf_model_name": "evil/model", "hf_tokenizer_name": ""},
        ("the configuration of the text tower of clip is not on this machine",),
    ),
    ("vision_cfg", {"timm_model_name": "hf-hub:evil/model"}, ("names a vision tower of the hub",)),
]


def test_a_local_model_never_downloads_what_its_configuration_names(tmp_path):
    parts = []
    for number, (tower, settings, _) in enumerate(CONFIGURATIONS):
        folder = tiny_clip(tmp_path / f"model{number}")
        saved = json.loads((folder / "open_clip_config.json").read_text())
        saved["model_cfg"]["custom_text"] = True
        saved["model_cfg"][tower] |= settings
        (folder / "open_clip_config.json").write_text(json.dumps(saved))
        parts.append(("encoder" if tower == "text_cfg" else "vision", f"clip:local-dir:{folder}"))
    for (tower, _, reasons), printed in zip(CONFIGURATIONS, run(tmp_path, *parts), strict=True):
        assert any(reason in printed for reason in reasons), (tower, printed)


def test_conse_needs_no_network(tmp_path):
    assert run(tmp_path, ("encoder", "conse")) == ["encoded"]
