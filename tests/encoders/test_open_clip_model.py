"""What felga builds with open_clip's parts, against open_clip's own factory."""

from __future__ import annotations

import importlib
import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from felga.encoders import open_clip_model
from felga.encoders.open_clip_model import build_tokenizer
from felga.errors import BadInputError, MissingError
from felga.registry import make_encoder
from felga.testing.encoder import boxes, noise

from .tiny import TINY_TEXT, TINY_VIT, tiny_clip

WORDS = ["a red bus", "dog"]
CONFIGS = {
    "plain": {},
    "quick_gelu": {"quick_gelu": True},
    "custom_text": {"custom_text": True, "init_logit_bias": -10},
    "timm": {"vision_cfg": {"timm_model_name": "test_vit", "image_size": 32, "timm_pool": "avg"}},
    "coca": {"multimodal_cfg": dict(TINY_TEXT, embed_cls=True), "custom_text": True},
}


def write(folder, config):
    """A folder as open_clip writes it, of any of its classes."""
    torch.manual_seed(0)
    config = {"embed_dim": 16, "vision_cfg": dict(TINY_VIT), "text_cfg": dict(TINY_TEXT), **config}
    if "multimodal_cfg" in config:
        config["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
        config["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("kind", CONFIGS)
def test_towers_equal_create_model_and_transforms(tmp_path, kind):
    folder = write(tmp_path / "model", CONFIGS[kind])
    ours = make_encoder(f"clip:local-dir:{folder}", device="cpu")
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs.eval()
    whole = noise(60, 50, 1)
    with torch.no_grad():
        image = theirs.encode_image(transform(Image.fromarray(whole.pixels))[None], normalize=True)
        texts = theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(WORDS), normalize=True)
    (vectors,) = ours.encode_regions([whole], [boxes(whole.whole)])
    np.testing.assert_allclose(vectors, image.numpy(), atol=5e-3)  # resizes differ by rounding
    np.testing.assert_allclose(ours.encode_texts(WORDS), texts.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "custom_text", "timm"])
def test_half_precision_is_close(tmp_path, kind):
    """float16 as on a GPU, run by the CPU: norms of timm's towers stay in float32."""
    folder = write(tmp_path / "model", CONFIGS[kind])
    full, half = (make_encoder(f"clip:local-dir:{folder}", device="cpu") for _ in range(2))
    half.dtype = torch.float16
    whole = noise(60, 50, 1)
    a, b = (e.encode_regions([whole], [boxes(whole.whole, (5, 5, 40, 40))])[0] for e in (full, half))
    assert torch.float16 in {p.dtype for p in half._towers["visual"].visual.parameters()}
    assert (a * b).sum(1).min() > 0.999
    assert (full.encode_texts(WORDS) * half.encode_texts(WORDS)).sum(1).min() > 0.999


def test_the_simple_tokenizer_is_open_clips_choice_without_a_hub_name():
    """For every kind of tokenizer among the architectures that open_clip knows, if it is not on the hub."""
    checked = set()
    for architecture in open_clip.list_models():
        config = open_clip.get_model_config(architecture)
        if config["text_cfg"].get("hf_tokenizer_name"):
            continue
        text = config["text_cfg"]
        kind = json.dumps([text.get("context_length"), text.get("tokenizer_kwargs")], sort_keys=True)
        if kind in checked:
            continue
        ours, theirs = build_tokenizer(config, None, "x"), open_clip.get_tokenizer(architecture)
        assert type(ours) is type(theirs), architecture
        assert torch.equal(ours(WORDS), theirs(WORDS)), architecture
        checked.add(kind)
    assert len(checked) >= 2


def test_a_tokenizer_comes_with_its_folder(tmp_path):
    """A model whose tokenizer has a hub name is used from its own folder, without the hub."""
    import transformers

    from .tiny import VOCABULARY

    folder = write(
        tmp_path / "model", {"text_cfg": dict(TINY_TEXT, hf_tokenizer_name="nobody/here", pad_id=0)}
    )
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)}).save_pretrained(folder)
    ours = make_encoder(f"clip:local-dir:{folder}", device="cpu")._text_tokenizer
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert torch.equal(ours(WORDS), theirs(WORDS))


def test_an_open_clip_without_its_parts_is_one_sentence(monkeypatch):
    try:
        with monkeypatch.context() as patch:
            patch.delattr(open_clip, "CustomTextCLIP")
            with pytest.raises(
                MissingError,
                match=r"not work with open_clip_torch .*: pip install 'open_clip_torch>=3,<4'",
            ):
                importlib.reload(open_clip_model)
    finally:
        importlib.reload(open_clip_model)


def test_a_configuration_that_open_clip_does_not_know_is_one_sentence(tmp_path):
    folder = tiny_clip(tmp_path)
    saved = json.loads((folder / "open_clip_config.json").read_text())
    saved["model_cfg"]["of_a_later_version"] = 1
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    with pytest.raises(MissingError, match=r"cannot build clip \(.*of_a_later_version.*felga works with"):
        make_encoder(f"clip:local-dir:{folder}", device="cpu").encode_texts(["bus"])


def test_keys_of_another_tower_are_refused(tmp_path):
    folder = write(tmp_path / "model", CONFIGS["plain"])
    saved = json.loads((folder / "open_clip_config.json").read_text())
    saved["model_cfg"]["text_cfg"]["layers"] = 2
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    with pytest.raises(BadInputError, match=r"not a checkpoint of clip: it lacks 'transformer\.resblocks\.1"):
        make_encoder(f"clip:local-dir:{folder}", device="cpu").encode_texts(["bus"])
