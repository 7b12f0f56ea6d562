"""What clip needs of open_clip's internals: one tower, built and loaded strictly; tokenizer; preprocessing.

open_clip's own factory builds both towers, reads whatever keys fit, and asks the hub for what a configuration
names. Only this module depends on more than open_clip's public names; a test compares it with
``open_clip.create_model_and_transforms``.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from felga.encoders.towers import Tower
from felga.errors import MissingError
from felga.models.weights import first_line, hub_folder, is_offline, load_exactly

SUPPORTED = "open_clip_torch>=3,<4"

try:
    from open_clip import CLIP, CoCa, CustomTextCLIP, SimpleTokenizer, convert_weights_to_lp
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict
    from open_clip.transformer import LayerNormFp32
except ModuleNotFoundError:  # the registry says how to install it
    raise
except ImportError as error:
    raise MissingError(
        f"clip does not work with open_clip_torch {version('open_clip_torch')} ({first_line(error)}): "
        f"pip install '{SUPPORTED}'"
    ) from error

# The tower that is not needed is built this small, and never run.
STUNTED: dict[Tower, dict[str, Any]] = {
    "visual": {"image_size": 32, "patch_size": 32, "layers": 1, "width": 64, "head_width": 64},
    "text": {"context_length": 4, "vocab_size": 8, "layers": 1, "width": 64, "heads": 1},
}


def build_tower(
    tower: Tower,
    config: dict[str, Any],
    state: dict[str, torch.Tensor],
    dtype: torch.dtype,
    *,
    name: str,
    source: str,
) -> torch.nn.Module:
    """One tower of a model on the CPU, frozen; a CoCa, whose towers share weights, is built whole.

    Args:
        config: open_clip's ``model_cfg``.
        state: the weights of both towers.
        dtype: float16 as open_clip's ``fp16`` (norms stay in float32), or float32.
        name, source: of the encoder and of its weight file, for errors.

    Raises:
        BadInputError: the state is of another architecture.
        MissingError: the configuration names a model of the hub that is neither cached nor downloadable, or
            this open_clip does not build it.
    """
    separable = "multimodal_cfg" not in config and any(key.startswith("visual.") for key in state)
    model = _build(_reduced(config, tower) if separable else deepcopy(config), config, dtype, name)
    state = convert_state_dict(model, dict(state))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for key in [k for k in state if k.endswith("position_ids")]:  # a constant in old files
        del state[key]
    for key in ("logit_scale", "logit_bias"):  # of the loss; scalar or (1,)
        state.pop(key, None)
    if separable:
        built = model.state_dict()
        stunted = {k: v for k, v in built.items() if k.startswith("visual.") != (tower == "visual")}
        state = {k: v for k, v in state.items() if k.startswith("visual.") == (tower == "visual")} | stunted
    load_exactly(model, state, source=source, wanted=name, may_lack="logit_scale|logit_bias")
    if separable and tower == "text":
        del model.visual
    return model.requires_grad_(False).eval()


def build_tokenizer(config: dict[str, Any], folder: Path | None, name: str) -> Any:
    """The tokenizer of a configuration: texts -> (n, context) int64.

    Args:
        config: open_clip's ``model_cfg``.
        folder: of the model, which contains its tokenizer too; None: the hub has it.

    Raises:
        MissingError: it is neither cached nor downloadable, or does not work here.
    """
    text = config["text_cfg"]
    options = {
        "context_length": text.get("context_length", DEFAULT_CONTEXT_LENGTH),
        **text.get("tokenizer_kwargs", {}),
    }
    repository = text.get("hf_tokenizer_name", "")
    if not repository:
        return SimpleTokenizer(**options)
    if folder is None:
        folder = _folder(repository, ["*.json", "*.txt", "*.model"], f"the tokenizer of {name}")
    try:
        return HFTokenizer(str(folder), tokenizer_mode=text.get("tokenizer_mode"), **options)
    except (OSError, ImportError, ValueError) as error:
        raise MissingError(f"the tokenizer of {name} cannot be loaded: {first_line(error)}") from error


def preprocess_settings(saved: dict[str, Any]) -> dict[str, Any]:
    """open_clip's preprocessing with what a model's own ``preprocess_cfg`` or tag changes in it."""
    return cast(dict[str, Any], merge_preprocess_dict(asdict(PreprocessCfg()), saved))


def _reduced(config: dict[str, Any], tower: Tower) -> dict[str, Any]:
    other: Tower = "text" if tower == "visual" else "visual"
    key = "text_cfg" if tower == "visual" else "vision_cfg"
    return {**deepcopy(config), key: dict(STUNTED[other])}


def _build(
    config: dict[str, Any], original: dict[str, Any], dtype: torch.dtype, name: str
) -> torch.nn.Module:
    """open_clip's choice of a class, by the configuration as it was before one tower was reduced."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    timm = "timm_model_name" in vision
    if timm:
        vision["timm_model_pretrained"] = False
        if ":" in str(vision["timm_model_name"]) and is_offline():
            raise MissingError(f"{name} names a vision tower of the hub: felga is offline, use another model")
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
        wanted = f"the configuration of the text tower of {name}"
        text["hf_model_name"] = str(_folder(text["hf_model_name"], ["config.json"], wanted))
    custom = config.pop("custom_text", False) or "hf_model_name" in original["text_cfg"]
    kind = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    half = None if dtype == torch.float32 else dtype
    try:
        model = cast(torch.nn.Module, kind(**config, cast_dtype=half))
    except (OSError, ImportError, TypeError) as error:
        raise MissingError(
            f"open_clip_torch {version('open_clip_torch')} cannot build {name} ({first_line(error)}): felga "
            f"works with {SUPPORTED}"
        ) from error
    if half is not None and timm:
        model.to(dtype=half)
        for module in model.modules():
            if isinstance(module, LayerNormFp32):
                module.float()
    elif half is not None:
        convert_weights_to_lp(model, dtype=half)
    return model


def _folder(source: str, patterns: list[str], wanted: str) -> Path:
    folder = Path(source)
    return folder if folder.is_dir() else hub_folder(source, patterns, wanted)
