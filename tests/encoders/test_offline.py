"""Nothing that a manifest names makes felga use a network: sockets fail, HF_HUB_OFFLINE is not set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .tiny import tiny_clip

CODE = """
import socket, sys

attempts = []

def refuse(*arguments, **_):
    attempts.append(arguments)
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from felga.errors import MissingError
from felga.models.weights import offline
from felga.registry import make_encoder, make_regions

kind, name = sys.argv[1:]
try:
    with offline():
        part = (make_encoder if kind == "encoder" else make_regions)(name, device="cpu")
    part.identity() if kind == "identity" else None
    part.encode_texts(["bus"]) if kind == "encoder" else part.settings()
    print("encoded")
except MissingError as error:
    print(error)
assert not attempts, attempts
"""


def run(tmp_path: Path, kind: str, name: str, code: str = CODE) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    environment |= {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "TORCH_HOME": str(tmp_path / "torch"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, kind, name], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


REASON = (
    "is not on this machine, and is not downloaded only because an index names it: name the encoder yourself"
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("encoder", "clip:ViT-B-32/laion2b_s34b_b79k"),  # of the hub
        ("encoder", "clip:RN50/yfcc15m"),  # of a plain url
        ("encoder", "clip:hf-hub:evil/model"),
        ("encoder", "clip:ViT-B-16-SigLIP/webli"),  # its tokenizer is on the hub too
        ("encoder", "blip:evil/model"),
        ("encoder", "blip2:evil/model"),
        ("regions", "torchvision:fasterrcnn_resnet50_fpn"),
    ],
)
def test_a_name_never_downloads(tmp_path, kind, name):
    printed = run(tmp_path, kind, name)
    assert REASON in printed
    assert "\n" not in printed


@pytest.mark.parametrize(
    ("tower", "settings", "reason"),
    [
        ("text_cfg", {"hf_tokenizer_name": "evil/tokenizer"}, "has no tokenizer|cannot be loaded"),
        (
            "text_cfg",
            {"hf_model_name": "evil/model", "hf_tokenizer_name": ""},
            "the configuration of the text tower of clip is not on this machine",
        ),
        ("vision_cfg", {"timm_model_name": "hf-hub:evil/model"}, "names a vision tower of the hub"),
    ],
)
def test_a_local_model_never_downloads_what_its_configuration_names(tmp_path, tower, settings, reason):
    folder = tiny_clip(tmp_path / "model")
    saved = json.loads((folder / "open_clip_config.json").read_text())
    saved["model_cfg"]["custom_text"] = True
    saved["model_cfg"][tower] |= settings
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    code = CODE if tower == "text_cfg" else CODE.replace('encode_texts(["bus"])', '_tower("visual")')
    printed = run(tmp_path, "encoder", f"clip:local-dir:{folder}", code)
    assert any(part in printed for part in reason.split("|")), printed


def test_conse_needs_no_network(tmp_path):
    assert run(tmp_path, "encoder", "conse") == "encoded"
