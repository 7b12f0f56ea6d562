"""The worker process of ``lavis:`` encoders. It runs in LAVIS's environment, without felga.

It imports only the standard library, numpy, torch and lavis. A message in either direction is a json header,
preceded by its length (4 bytes, big-endian), and ``header["bytes"]`` bytes of an array. It is started as
``python -I lavis_worker.py``: without ``-I`` the ``lavis.py`` in this folder would shadow the package.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import IO, Any

State = dict[str, Any]
Header = dict[str, Any]
Encode = Callable[[Any, Any], Any]

HEAD = 64  # width of an attention head in BLIP's ViT and BERT, and in the Q-Former
EVA_HEAD, EVA_WIDTH, EVA_DEPTH = 88, 1408, 39  # of EVA ViT-g, as LAVIS builds it
EVA_URL = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"
EVA_FILE = "eva_vit_g.pth"
SPARE = ("itm_head.", "Qformer.cls.", "temp")  # heads of other tasks, which a checkpoint may lack


class Refused(Exception):
    """An error the user can fix; ``kind`` is ``missing`` or ``input``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def send(stream: IO[bytes], header: Header, data: bytes = b"") -> None:
    """Write one message."""
    text = json.dumps({**header, "bytes": len(data)}).encode()
    stream.write(struct.pack(">I", len(text)) + text)
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Header, bytes] | None:
    """Read one message: (header, data), or None when the stream ends, between messages or inside one."""
    start = stream.read(4)
    if len(start) < 4:
        return None
    (size,) = struct.unpack(">I", start)
    text = stream.read(size)
    if len(text) < size:
        return None
    header: Header = json.loads(text)
    data = stream.read(header["bytes"])
    return (header, data) if len(data) == header["bytes"] else None


def serve(stdin: IO[bytes], stdout: IO[bytes], open_model: Callable[[Header], Any]) -> None:
    """Answer messages until the other end closes.

    Args:
        open_model: header -> (info, encode); ``encode(pixels, None)`` takes (b, 3, h, w) float32 and
            ``encode(None, texts)`` a list; both give (b, dim).
    """
    import numpy as np

    encode: Any = None
    while True:
        message = receive(stdin)
        if message is None:
            return
        header, data = message
        try:
            if header["op"] == "open":
                info, encode = open_model(header)
                send(stdout, {**info, "ok": True})
                continue
            pixels = None
            if header["op"] == "image":
                pixels = np.frombuffer(data, np.float32).reshape(header["shape"])
            vectors = np.ascontiguousarray(encode(pixels, header.get("texts")), np.float32)
            send(stdout, {"ok": True, "shape": vectors.shape}, vectors.tobytes())
        except Refused as error:
            send(stdout, {"ok": False, "kind": error.kind, "error": str(error)})
        except Exception as error:  # a bug: felga raises it with this traceback
            import traceback

            reason = f"{type(error).__name__}: {error}"
            send(stdout, {"ok": False, "kind": "bug", "error": reason, "trace": traceback.format_exc()})


def open_lavis(header: Header) -> tuple[Header, Encode]:
    """Build ``header["model"]`` with the weights of ``header["type"]`` or ``header["checkpoint"]``."""
    if find_spec("lavis") is None:
        raise Refused("missing", f"lavis is not installed for {sys.executable}")
    try:
        import torch

        import_module("lavis.models")
    except ImportError as error:  # its old pins are not satisfied
        raise Refused("missing", f"this Python cannot import lavis: {first(error)}") from error
    name = header["model"]
    second = name.startswith("blip2")
    paths = weight_files(name, header["type"], header.get("checkpoint"))
    state: State = {}
    for path in reversed(paths):  # the checkpoint last: it takes precedence
        state.update(read(path))
    use_vocabulary(os.path.dirname(paths[0]))
    wrong = f"{paths[0]!r} is not a checkpoint of {name}"
    try:
        model, side = (build_blip2 if second else build_blip)(state)
    except KeyError as error:
        raise Refused("input", f"{wrong}: it lacks {error}") from error
    except OSError as error:
        message = f"the vocabulary of bert-base-uncased is missing: {first(error)}"
        raise Refused("missing", message) from error
    built = model.state_dict()
    for key, value in built.items():
        if key in state and state[key].shape != value.shape:
            raise Refused("input", f"{wrong}: {key!r} has another shape")
        if key not in state and not key.startswith(SPARE) and not key.endswith("position_ids"):
            raise Refused("input", f"{wrong}: it lacks {key!r}")
    model.load_state_dict({key: value for key, value in state.items() if key in built}, strict=False)
    model.eval().requires_grad_(False).to(header["device"])
    words = import_module("lavis.processors.blip_processors").BlipCaptionProcessor()
    bert = model.Qformer.bert if second else model.text_encoder
    # LAVIS does not truncate texts and fails beyond the last position
    limit = int(bert.config.max_position_embeddings)
    model.tokenizer = functools.partial(model.tokenizer, truncation=True, max_length=limit)

    def encode(pixels: Any, texts: Any) -> Any:
        with torch.inference_mode():
            if pixels is None:
                output = model.extract_features({"text_input": [words(text) for text in texts]}, mode="text")
                return output.text_embeds_proj[:, 0].float().cpu().numpy()
            image = torch.from_numpy(pixels.copy()).to(header["device"])
            tokens = model.extract_features({"image": image}, mode="image").image_embeds_proj.float()
            # BLIP: the [CLS]; BLIP-2: the mean of the query tokens
            return (tokens.mean(1) if second else tokens[:, 0]).cpu().numpy()

    return {"dim": int(model.vision_proj.weight.shape[0]), "side": side, "files": paths}, encode


def weight_files(name: str, kind: str, checkpoint: str | None) -> list[str]:
    """The checkpoint, and for BLIP-2 the frozen ViT, which its authors publish as a separate file."""
    if checkpoint:
        paths = [checkpoint]
    else:
        model = import_module("lavis.common.registry").registry.get_model_class(name)
        known = sorted(model.PRETRAINED_MODEL_CONFIG_DICT)
        if kind not in known:
            raise Refused("input", f"{name} has no weights {kind!r}; known: {', '.join(known)}")
        config = import_module("lavis.models").OmegaConf.load(model.default_config_path(kind)).model
        if config.get("vit_model", "eva_clip_g") != "eva_clip_g":
            raise Refused("input", f"felga does not support the vision tower of {name}/{kind}")
        tuned = config.get("load_finetuned", False)
        paths = [download(config.get("finetuned") if tuned else config.get("pretrained"))]
    if name.startswith("blip2") and not any(key.startswith("visual_encoder.") for key in read(paths[0])):
        beside = os.path.join(os.path.dirname(paths[0]), EVA_FILE)
        paths.append(beside if os.path.isfile(beside) else download(EVA_URL))
    return paths


def download(url: str) -> str:
    """The file of a url in LAVIS's cache, downloaded by LAVIS if missing."""
    utilities = import_module("lavis.common.dist_utils")
    file = os.path.basename(url)
    cached = os.path.join(utilities.timm_hub.get_cache_dir(), file)
    if os.path.isfile(cached):
        return cached
    if os.environ.get("HF_HUB_OFFLINE", "0") == "1":
        raise Refused("missing", f"{file} is not in LAVIS's cache, and felga is offline")
    try:
        utilities.download_cached_file(url, check_hash=False, progress=False)
    except OSError as error:
        raise Refused("missing", f"{file} cannot be downloaded: {first(error)}") from error
    return cached


def read(path: str) -> State:
    """A checkpoint's tensors; code inside it is never run."""
    import torch

    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise Refused("missing", f"there is no weight file {path!r}") from error
    except Exception as error:  # zip, pickle and torch each raise their own errors for a damaged file
        raise Refused("input", f"{path!r} is truncated, or contains more than tensors") from error
    state = state.get("model", state)
    if os.path.basename(path) == EVA_FILE:
        return {f"visual_encoder.{key}": value for key, value in state.items()}
    return state


def use_vocabulary(folder: str) -> None:
    """Use a ``vocab.txt`` beside the checkpoint instead of the hub's vocabulary of bert-base-uncased."""
    path = os.path.join(folder, "vocab.txt")
    if not os.path.isfile(path):
        return
    kind = import_module("lavis.models.blip_models.blip").BertTokenizer
    plain = kind.from_pretrained.__func__

    def from_pretrained(cls: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return cls(path) if name == "bert-base-uncased" else plain(cls, name, *arguments, **options)

    kind.from_pretrained = classmethod(from_pretrained)


def build_blip(state: State) -> tuple[Any, int]:
    """BLIP's feature extractor in the sizes of the checkpoint: (model, side of its images)."""
    width, side, patch = vision_sizes(state)
    vision = import_module("lavis.models.vit").VisionTransformerEncoder(
        img_size=side,
        patch_size=patch,
        embed_dim=width,
        depth=blocks(state, "visual_encoder.blocks."),
        num_heads=width // HEAD,
        mlp_ratio=state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
    vision.vision_width = width
    med = import_module("lavis.models.med")
    config = med.BertConfig(**bert_sizes(state, "text_encoder."))
    config.encoder_width, config.add_cross_attention, config.add_type_embeddings = width, True, False
    text = med.XBertEncoder(config=config, add_pooling_layer=False)
    extractor = import_module("lavis.models.blip_models.blip_feature_extractor").BlipFeatureExtractor
    return extractor(vision, text, state["vision_proj.weight"].shape[0]), side


def build_blip2(state: State) -> tuple[Any, int]:
    """BLIP-2's first stage in the sizes of the checkpoint: (model, side of its images)."""
    import torch

    blip2: Any = import_module("lavis.models.blip2_models.blip2")
    width, side, patch = vision_sizes(state)
    count, hidden = state["query_tokens"].shape[1:]

    def vision(*_: Any) -> Any:
        return import_module("lavis.models.eva_vit").VisionTransformer(
            img_size=side,
            patch_size=patch,
            use_mean_pooling=False,
            embed_dim=width,
            depth=EVA_DEPTH if width == EVA_WIDTH else blocks(state, "visual_encoder.blocks."),
            num_heads=width // EVA_HEAD,
            mlp_ratio=state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0] / width,
            qkv_bias=True,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        )

    def qformer(cls: Any, queries: int, vision_width: int, frequency: int = 2) -> Any:
        config = blip2.BertConfig(**bert_sizes(state, "Qformer.bert."))
        config.encoder_width, config.add_cross_attention = vision_width, True
        config.cross_attention_freq, config.query_length = frequency, queries
        return blip2.BertLMHeadModel(config), torch.nn.Parameter(torch.zeros(1, queries, hidden))

    blip2.create_eva_vit_g = vision  # LAVIS's version downloads weights that are already here
    blip2.Blip2Base.init_Qformer = classmethod(qformer)
    kind = import_module("lavis.models.blip2_models.blip2_qformer").Blip2Qformer
    dim = state["vision_proj.weight"].shape[0]
    return kind(img_size=side, vit_precision="fp32", num_query_token=count, embed_dim=dim), side


def vision_sizes(state: State) -> tuple[int, int, int]:
    """(width, image side, patch side) of a vision transformer."""
    kernel = state["visual_encoder.patch_embed.proj.weight"]
    width, patch = int(kernel.shape[0]), int(kernel.shape[-1])
    return width, patch * round((state["visual_encoder.pos_embed"].shape[1] - 1) ** 0.5), patch


def bert_sizes(state: State, prefix: str) -> Header:
    """The sizes of a BERT whose keys start with ``prefix``."""
    vocabulary, hidden = state[f"{prefix}embeddings.word_embeddings.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": blocks(state, f"{prefix}encoder.layer."),
        "num_attention_heads": hidden // HEAD,
        "intermediate_size": state[f"{prefix}encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": state[f"{prefix}embeddings.position_embeddings.weight"].shape[0],
    }


def blocks(state: State, prefix: str) -> int:
    """Number of layers under ``prefix``."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def first(error: BaseException) -> str:
    """The first line of a library's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main() -> None:
    """Serve LAVIS on stdin and stdout."""
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what LAVIS prints must not mix with the messages
    serve(sys.stdin.buffer, stdout, open_lavis)


if __name__ == "__main__":
    main()
