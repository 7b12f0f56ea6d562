"""Tiny random checkpoints, written as their libraries write them; read back by felga's own loading code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TINY_VIT = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TINY_RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
TINY_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def tiny_clip(
    folder: Path,
    seed: int = 0,
    vision: dict[str, Any] | None = None,
    preprocess: dict[str, Any] | None = None,
    safetensors: bool = True,
) -> Path:
    """An open_clip folder of 0.8 M parameters."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    config = {"embed_dim": 16, "vision_cfg": dict(vision or TINY_VIT), "text_cfg": dict(TINY_TEXT)}
    model = open_clip.CLIP(**config)
    for parameter in model.parameters():  # the initial biases and norms are constants
        parameter.data += 0.02 * torch.randn_like(parameter)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    if safetensors:
        save_file(state, folder / "open_clip_model.safetensors")
    else:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    saved = {"model_cfg": config, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    return folder
