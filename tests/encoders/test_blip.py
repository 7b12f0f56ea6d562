"""blip and blip2: against transformers' encoder forward passes, and every failure in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

from felga.encoders.blip import blip, plain_words
from felga.encoders.blip2 import blip2
from felga.errors import BadInputError, MissingError, NotFoundError
from felga.testing.encoder import boxes, noise

from .tiny import tiny_blip, tiny_blip2, tiny_clip

TEXTS = ["a red bus", "dog on the street"]
WHOLE = noise(60, 50, 1)


@pytest.fixture(scope="module", params=["blip", "blip2"])
def family(request, tmp_path_factory):
    write, build = {"blip": (tiny_blip, blip), "blip2": (tiny_blip2, blip2)}[request.param]
    return write, build, write(tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("safetensors", [True, False])
def test_blip_equals_the_scores_of_transformers(tmp_path, safetensors):
    folder = tiny_blip(tmp_path, 3, safetensors)
    encoder = blip(str(folder), device="cpu")
    model = t.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    pixels = t.AutoImageProcessor.from_pretrained(folder)(Image.fromarray(WHOLE.pixels), return_tensors="pt")
    tokens = t.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=pixels.pixel_values,
            use_itm_head=False,
        ).itm_score
    encoded = encoder.encode_regions([WHOLE], [boxes(WHOLE.whole)])[0] @ encoder.encode_texts(TEXTS).T
    np.testing.assert_allclose(encoded, expected, atol=1e-5)


@pytest.mark.parametrize("safetensors", [True, False])
def test_blip2_equals_the_scores_of_transformers(tmp_path, safetensors):
    folder = tiny_blip2(tmp_path, 3, safetensors)
    encoder = blip2(str(folder), device="cpu", batch_size=1)
    model = t.Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    pixels = t.AutoImageProcessor.from_pretrained(folder)(Image.fromarray(WHOLE.pixels), return_tensors="pt")
    tokens = t.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(
            pixel_values=pixels.pixel_values,
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            use_image_text_matching_head=False,
        )
    texts = encoder.encode_texts(TEXTS)
    tokens = expected.image_embeds[0].numpy()  # (8, 16), each of length 1
    np.testing.assert_allclose((tokens @ texts.T).max(0), expected.logits_per_image[0], atol=1e-5)
    mean = expected.image_embeds[0].mean(0)
    (vectors,) = encoder.encode_regions([WHOLE], [boxes(WHOLE.whole)])
    np.testing.assert_allclose(vectors[0], mean / mean.norm(), atol=1e-5)


def test_a_text_query_loads_only_the_text_tower(family):
    _, build, folder = family
    encoder = build(str(folder), device="cpu")
    encoder.encode_texts(TEXTS)
    assert set(encoder._towers) == {"text"}
    tower = encoder._towers["text"]
    assert not any(key.startswith("vision") for key in tower.state_dict())
    assert not tower.training
    assert not any(p.requires_grad for p in tower.parameters())


def test_half_precision_is_close(family):
    _, build, folder = family
    full, half = build(str(folder), device="cpu"), build(str(folder), device="cpu")
    half.dtype = torch.float16
    a, b = (e.encode_regions([WHOLE], [boxes(WHOLE.whole)])[0] for e in (full, half))
    assert next(half._towers["visual"].vision_model.parameters()).dtype == torch.float16
    assert (a * b).sum() > 0.999
    assert (full.encode_texts(TEXTS) * half.encode_texts(TEXTS)).sum(1).min() > 0.999


def test_captions_are_plain_words():
    assert plain_words('A  "Dog" (brown), on the street!\n') == "a dog brown , on the street"
    assert len(plain_words("word " * 80).split()) == 50
    assert plain_words("...") == ""


def test_a_missing_folder_or_hub_model_is_one_sentence(family, monkeypatch):
    _, build, _ = family
    with pytest.raises(NotFoundError, match="no folder '/none/none'"):
        build("/none/none", device="cpu")
    with pytest.raises(NotFoundError, match="no folder 'none'"):
        build("none", device="cpu")
    with pytest.raises(BadInputError, match="OWNER/NAME"):
        build("", device="cpu")
    with pytest.raises(MissingError, match="felga is offline"):
        build("nobody/nothing-felga", device="cpu")
    with pytest.raises(BadInputError, match="blip2? does not support pooling='roi'; use 'crop'"):
        build("nobody/nothing", device="cpu", pooling="roi")


def test_a_hub_name_is_served_from_the_cache(family, tmp_path, monkeypatch):
    write, build, folder = family
    repository = tmp_path / "models--someone--tiny"
    write(repository / "snapshots" / "0123456789")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = build("someone/tiny", device="cpu")
    np.testing.assert_array_equal(
        encoder.encode_texts(TEXTS), build(str(folder), device="cpu").encode_texts(TEXTS)
    )


def test_incomplete_folders_are_refused(family, tmp_path):
    write, build, _ = family
    with pytest.raises(BadInputError, match="is not a model"):
        build(str(tmp_path), device="cpu")
    (write(tmp_path / "weights") / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="contains no weights"):
        build(str(tmp_path / "weights"), device="cpu")
    folder = write(tmp_path / "processor")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadInputError, match="has no image processor"):
        build(str(folder), device="cpu")


def test_shards_are_hashed_and_read(family, tmp_path):
    write, build, folder = family
    model = t.AutoModel if build is blip2 else t.BlipForImageTextRetrieval
    model = t.Blip2ForImageTextRetrieval if build is blip2 else model
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    encoder, whole = build(str(tmp_path), device="cpu"), build(str(folder), device="cpu")
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), whole.encode_texts(TEXTS))
    assert len(encoder.identity()["weights"]) == 64
    shard = next(iter(sorted(tmp_path.glob("model-*.safetensors"))))
    shard.unlink()
    with pytest.raises(NotFoundError, match="model-00001"):
        build(str(tmp_path), device="cpu")


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("kept", [0, 9, 30_000])
def test_truncated_weights_are_refused(family, tmp_path, safetensors, kept):
    write, build, _ = family
    folder = write(tmp_path, 0, safetensors)
    file = folder / ("model.safetensors" if safetensors else "pytorch_model.bin")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadInputError, match="truncated") as caught:
        build(str(folder), device="cpu").encode_texts(TEXTS)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_run(family, tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("run",))

    write, build, _ = family
    folder = write(tmp_path, 0, False)
    torch.save({"state": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="truncated or of another model"):
        build(str(folder), device="cpu").encode_texts(TEXTS)


def test_another_family_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="type 'blip-2'; blip needs 'blip'"):
        blip(str(tiny_blip2(tmp_path / "2")), device="cpu")
    with pytest.raises(BadInputError, match="is not a model"):
        blip(str(tiny_clip(tmp_path / "c")), device="cpu")


def test_other_sizes_and_missing_keys_are_refused(family, tmp_path):
    from safetensors.torch import load_file, save_file

    write, build, _ = family
    folder = write(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["image_text_hidden_size"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match="another model"):
        build(str(folder), device="cpu").encode_texts(TEXTS)
    folder = write(tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "proj" not in k}, folder / "model.safetensors")
    with pytest.raises(BadInputError, match=r"missing keys .*proj"):
        build(str(folder), device="cpu").encode_texts(TEXTS)
