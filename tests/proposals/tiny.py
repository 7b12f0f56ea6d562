"""Tiny random detectors, saved as their authors' code or transformers saves them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from felga.types import DecodedImage

# transformers' keys -> keys of DETReg's code; independent of felga's rules, which go the other way.
BACK = {
    "model.backbone.model.": "backbone.0.body.",
    "model.input_proj.": "input_proj.",
    "model.query_position_embeddings.": "query_embed.",
    "model.level_embed": "transformer.level_embed",
    "model.reference_points.": "transformer.reference_points.",
    "model.encoder.": "transformer.encoder.",
    "model.decoder.": "transformer.decoder.",
    ".mlp.fc1.": ".linear1.",
    ".mlp.fc2.": ".linear2.",
    ".encoder_attn.": ".cross_attn.",
    ".self_attn.o_proj.": ".self_attn.out_proj.",
}
NORMS = {
    "encoder": {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"},
    "decoder": {
        "encoder_attn_layer_norm": "norm1",
        "self_attn_layer_norm": "norm2",
        "final_layer_norm": "norm3",
    },
}


def tiny_detr(seed: int = 0) -> Any:
    """A Deformable DETR of transformers, 0.5 M parameters, 20 queries."""
    import transformers as t

    torch.manual_seed(seed)
    config = t.DeformableDetrConfig(
        backbone="test_resnet",
        use_pretrained_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        num_labels=91,
        disable_custom_kernels=True,
    )
    model = t.DeformableDetrForObjectDetection(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def with_the_authors_keys(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    new: dict[str, torch.Tensor] = {}
    joint: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        part = re.match(r"model\.(encoder|decoder)\.layers", key)
        for ours, theirs in BACK.items():
            key = key.replace(ours, theirs)
        if part:
            for ours, theirs in NORMS[part[1]].items():
                key = key.replace(f".{ours}.", f".{theirs}.")
        if (
            part
            and (split := re.fullmatch(r"(.*self_attn\.)([qkv])_proj\.(\w+)", key))
            and part[1] == "decoder"
        ):
            joint.setdefault(f"{split[1]}in_proj_{split[3]}", {})[split[2]] = value
        else:
            new[key] = value.clone()
    for key, parts in joint.items():
        new[key] = torch.cat([parts[name] for name in "qkv"])
    return new


def tiny_detreg(path: Path, seed: int = 0, *, finetuned: bool = False, parallel: bool = False) -> Path:
    """A checkpoint as saved by DETReg's main.py: model, optimizer, epoch and options."""
    state = with_the_authors_keys(tiny_detr(seed).state_dict())
    if not finetuned:
        for i, (rows, columns) in enumerate(((32, 32), (512, 32))):
            state[f"feature_embed.layers.{i}.weight"] = torch.zeros(rows, columns)
            state[f"feature_embed.layers.{i}.bias"] = torch.zeros(rows)
    if parallel:
        state = {f"module.{key}": value for key, value in state.items()}
    options = argparse.Namespace(backbone="test_resnet", nheads=4, dilation=False, dataset="coco")
    torch.save(
        {"model": state, "optimizer": {"state": {}}, "lr_scheduler": {}, "epoch": 3, "args": options}, path
    )
    return path


def tiny_rcnn(path: Path, name: str = "fasterrcnn_mobilenet_v3_large_320_fpn", classes: int = 5) -> Path:
    """torchvision's smallest detector (19 M parameters) with random weights."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.1)  # otherwise all boxes score the same
    torch.save(model.state_dict(), path)
    return path


LABELS = {0: "boat", 1: "dog", 2: "tree"}
DETECTORS = ("rt_detr", "detr", "conditional_detr", "yolos", "d_fine")


def tiny_detector(folder: Path, model_type: str = "rt_detr", seed: int = 0) -> Path:
    """A detector with 20 queries and three classes, and its image processor, saved by transformers."""
    import transformers as t

    torch.manual_seed(seed)
    config, processor = _parts(model_type)
    model = t.AutoModelForObjectDetection.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _parts(model_type: str) -> tuple[Any, Any]:
    """Configuration and image processor of a tiny detector."""
    import transformers as t

    resnet = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "layer_type": "basic"}
    names = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}
    sides = {"shortest_edge": 64, "longest_edge": 128}
    transformer = {
        "d_model": 32,
        "num_queries": 20,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        **names,
    }
    square = t.RTDetrImageProcessor(size={"height": 64, "width": 64})
    levels = {"encoder_in_channels": [8, 16, 16], "decoder_in_channels": [32] * 3, "encoder_hidden_dim": 32}
    stages = {"out_features": ["stage2", "stage3", "stage4"]}
    if model_type == "yolos":
        config = t.YolosConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=32,
            image_size=[64, 96],
            num_detection_tokens=20,
            **names,
        )
        return config, t.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 512})
    if model_type == "rt_detr":
        backbone = t.RTDetrResNetConfig(**resnet, **stages)
        return t.RTDetrConfig(backbone_config=backbone, num_denoising=0, **levels, **transformer), square
    if model_type == "d_fine":
        return t.DFineConfig(backbone_config=_hgnet(stages), num_denoising=0, **levels, **transformer), square
    backbone = t.ResNetConfig(**resnet, out_features=["stage4"])
    kind, processor = {
        "detr": (t.DetrConfig, t.DetrImageProcessor),
        "conditional_detr": (t.ConditionalDetrConfig, t.ConditionalDetrImageProcessor),
    }[model_type]
    return kind(backbone_config=backbone, use_timm_backbone=False, **transformer), processor(size=sides)


def _hgnet(stages: dict[str, list[str]]) -> Any:
    import transformers as t

    return t.HGNetV2Config(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1] * 4,
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1] * 4,
        stage_downsample=[False, True, True, True],
        stage_light_block=[False] * 4,
        stage_kernel_size=[3] * 4,
        stage_numb_of_layers=[1] * 4,
        **stages,
    )


def by_transformers(folder: Path, image: DecodedImage) -> list[tuple[Any, float, str]]:
    """(box, score, label) of every detection, best first; cut to the image, the first of equal boxes."""
    import transformers as t

    model = t.AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = t.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        output = model(**processor(images=[Image.fromarray(image.pixels)], return_tensors="pt"))
    size = torch.tensor([[image.height, image.width]])
    (found,) = processor.post_process_object_detection(output, threshold=0, target_sizes=size)
    rows = {}
    for i in sorted(range(len(found["scores"])), key=lambda i: -found["scores"][i].item()):
        x1, y1, x2, y2 = found["boxes"][i].tolist()
        box = max(0, x1), max(0, y1), min(image.width, x2), min(image.height, y2)
        area = (box[2] - box[0]) * (box[3] - box[1])
        if box[2] > box[0] and box[3] > box[1] and area < 0.99 * image.width * image.height:
            rows.setdefault(box, (found["scores"][i].item(), LABELS[found["labels"][i].item()]))
    return [(box, *rest) for box, rest in rows.items()]
