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


WORDS = ["a", "the", "red", "blue", "bus", "dog", "cat", "on", "street", "of", "man", "woman", "with", "in"]
VOCABULARY = list(
    dict.fromkeys(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        + [chr(c) for c in range(97, 123)]
        + ["##" + chr(c) for c in range(97, 123)]
        + WORDS
    )
)


def _shake(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


def tiny_blip(folder: Path, seed: int = 0, safetensors: bool = True) -> Path:
    """A folder as ``save_pretrained`` writes it for ``BlipForImageTextRetrieval``, of 73 k parameters."""
    import transformers as t

    torch.manual_seed(seed)
    tokenizer = t.BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)})
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = t.BlipTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        encoder_hidden_size=32,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        sep_token_id=tokenizer.sep_token_id,
        **common,
    )
    vision = t.BlipVisionConfig(image_size=32, patch_size=16, **common)
    config = t.BlipConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=16
    )
    model = t.BlipForImageTextRetrieval(config)
    _shake(model)
    return _save(model, tokenizer, t, folder, safetensors)


def tiny_blip2(folder: Path, seed: int = 0, safetensors: bool = True) -> Path:
    """A folder as ``save_pretrained`` writes it for ``Blip2ForImageTextRetrieval``, of 78 k parameters."""
    import transformers as t

    torch.manual_seed(seed)
    tokenizer = t.BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)})
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    qformer = t.Blip2QFormerConfig(
        vocab_size=len(tokenizer) + 1,
        encoder_hidden_size=32,
        max_position_embeddings=64,
        use_qformer_text_input=True,
        cross_attention_frequency=2,
        **common,
    )
    vision = t.Blip2VisionConfig(image_size=32, patch_size=16, **common)
    config = t.Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        num_query_tokens=8,
        image_text_hidden_size=16,
    )
    model = t.Blip2ForImageTextRetrieval(config)
    _shake(model)
    return _save(model, tokenizer, t, folder, safetensors)


def _save(model: Any, tokenizer: Any, t: Any, folder: Path, safetensors: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if not safetensors:  # as older checkpoints of the hub are
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    t.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
