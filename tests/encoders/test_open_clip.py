"""clip: against open_clip itself, and every failure in one sentence."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from felga.encoders.open_clip import Clip, clip
from felga.errors import BadInputError, MissingError, NotFoundError
from felga.registry import make_encoder
from felga.testing.encoder import boxes, noise

from .tiny import TINY_RESNET, tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def tiny_architecture(folder, tmp_path_factory):
    """The tiny model as an architecture that open_clip knows by name, as ViT-B-32 is."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    path = tmp_path_factory.mktemp("configs") / "tiny-felga.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return "tiny-felga"


@pytest.mark.parametrize("vision", [None, TINY_RESNET])
@pytest.mark.parametrize(
    "preprocess",
    [{}, {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}],
)
@pytest.mark.parametrize("safetensors", [True, False])
def test_equals_open_clip(tmp_path, vision, preprocess, safetensors):
    folder = tiny_clip(tmp_path, 5, vision, preprocess, safetensors)
    encoder = make_encoder(f"clip:local-dir:{folder}", device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    whole = noise(60, 50, 1)
    with torch.no_grad():
        expected = model.encode_image(transform(Image.fromarray(whole.pixels))[None], normalize=True).numpy()
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red bus", "dog"])
        texts = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_regions([whole], [boxes(whole.whole)])[0], expected, atol=5e-3)
    np.testing.assert_allclose(encoder.encode_texts(["a red bus", "dog"]), texts, atol=1e-6)


def test_a_file_and_a_folder_are_the_same(folder, tiny_architecture, monkeypatch):
    file = folder / "open_clip_model.safetensors"
    names = [f"{tiny_architecture}/{file}", f"{tiny_architecture}/{str(file)[1:]}", f"local-dir:{folder}"]
    vectors = [clip(n, device="cpu").encode_texts(["bus"]) for n in names]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    monkeypatch.chdir(folder)
    near = clip(f"{tiny_architecture}/open_clip_model.safetensors", device="cpu")
    np.testing.assert_array_equal(near.encode_texts(["bus"]), vectors[0])
    assert near.identity()["weights"] == clip(names[0], device="cpu").identity()["weights"]


def test_a_text_query_loads_only_the_text_tower(folder):
    encoder = clip(f"local-dir:{folder}", device="cpu")
    assert encoder._towers == {}
    encoder.encode_texts(["bus"])
    assert set(encoder._towers) == {"text"}
    assert not hasattr(encoder._towers["text"], "visual")
    full = sum(p.numel() for p in open_clip.CLIP(**encoder._config).parameters())
    assert sum(p.numel() for p in encoder._towers["text"].parameters()) < full - 10_000


def test_towers_are_frozen(folder):
    encoder = clip(f"local-dir:{folder}", device="cpu")
    encoder.encode_texts(["bus"])
    tower = encoder._towers["text"]
    assert not tower.training
    assert not any(p.requires_grad for p in tower.parameters())


@pytest.mark.parametrize("vision", [None, TINY_RESNET])
def test_half_precision_is_close(tmp_path, vision):
    """What runs on a GPU, with the CPU's encoder half-precision kernels."""
    folder = tiny_clip(tmp_path, 2, vision)
    full, half = (Clip(f"local-dir:{folder}", device="cpu", batch_size=4) for _ in range(2))
    half.dtype = torch.float16
    whole = noise(60, 50, 1)
    rows = boxes(whole.whole, (5, 5, 40, 40))
    a, b = (e.encode_regions([whole], [rows])[0] for e in (full, half))
    assert half._towers["visual"].visual.conv1.weight.dtype == torch.float16
    assert b.dtype == np.float32
    assert (a * b).sum(1).min() > 0.999
    assert (full.encode_texts(["a bus"]) * half.encode_texts(["a bus"])).sum() > 0.999


def test_a_built_in_quickgelu_tag_turns_it_on():
    encoder = Clip("ViT-B-32/openai", device="cpu", batch_size=1)
    assert encoder._config["quick_gelu"]
    assert encoder.dim == 512
    assert encoder.preprocessing.size == (224, 224)


def test_a_tag_brings_its_preprocessing():
    encoder = Clip("ViT-B-16-SigLIP/webli", device="cpu", batch_size=1)
    assert encoder.preprocessing.resize == "squash"
    assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)


def test_the_slash_of_the_paper_is_understood():
    encoder = Clip("ViT-B/32/laion2b_s34b_b79k", device="cpu", batch_size=1)
    assert encoder._model == "clip:ViT-B-32/laion2b_s34b_b79k"


def test_clip_alone_is_a_checkpoint_that_open_clip_knows_by_its_full_name():
    encoder = make_encoder("clip", device="cpu")
    assert encoder.name == "clip:ViT-B-32-256/datacomp_s34b_b86k"
    assert encoder.dim == 512
    assert encoder.preprocessing.size == (256, 256)
    assert open_clip.get_pretrained_cfg(*encoder.name.removeprefix("clip:").split("/"))["hf_hub"]


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ("ViT-B-23/openai", BadInputError, "did you mean 'ViT-B-32'"),
        ("vit-b-32/openai", BadInputError, "did you mean 'ViT-B-32'"),
        ("ViT-B-32/laion2b_s34b_b79j", BadInputError, "did you mean 'laion2b_s34b_b79k'"),
        ("ViT-B-32", BadInputError, "neither a tag of ViT-B-32 nor a file"),
        ("ViT-B-32-quickgelu/laion400m_e33", BadInputError, "laion400m_e32"),
        ("ViT-B-32/none.pt", NotFoundError, "none.pt"),
        ("ViT-B-32//none/none.safetensors", NotFoundError, "none.safetensors"),
        ("local-dir:/none/none", NotFoundError, "no folder"),
        ("/", BadInputError, "no architecture"),
    ],
)
def test_wrong_names_are_refused_at_once(weights, error, words):
    with pytest.raises(error, match=words) as caught:
        clip(weights, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_file_for_an_architecture_with_a_quickgelu_twin_warns(folder, tmp_path, recwarn):
    file = folder / "open_clip_model.safetensors"
    with pytest.warns(UserWarning, match=r"ViT-B-32-quickgelu/FILE, or their vectors are quietly wrong"):
        clip(f"ViT-B-32/{file}", device="cpu")
    clip(f"ViT-B-32-quickgelu/{file}", device="cpu")
    clip(f"ViT-B-16-SigLIP/{file}", device="cpu")  # has no twin
    assert not recwarn.list


@pytest.mark.parametrize("weights", ["ViT-B-32/laion2b_s34b_b79k", "RN50/yfcc15m", "hf-hub:nobody/nothing"])
def test_offline_without_a_cache(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingError, match="felga is offline"):
        clip(weights, device="cpu").encode_texts(["bus"])


def test_an_empty_folder_is_refused(folder, tmp_path):
    with pytest.raises(NotFoundError, match="open_clip_config"):
        clip(f"local-dir:{tmp_path}", device="cpu")
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    with pytest.raises(NotFoundError, match="contains no weights"):
        clip(f"local-dir:{tmp_path}", device="cpu")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_cfg": {"embed_dim": 3}}'])
def test_a_malformed_configuration_is_refused(tmp_path, text):
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(BadInputError, match="open_clip_config"):
        clip(f"local-dir:{tmp_path}", device="cpu")


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("kept", [0, 10, 5000])
def test_a_truncated_checkpoint_is_refused(tmp_path, safetensors, kept):
    folder = tiny_clip(tmp_path, safetensors=safetensors)
    (file,) = [f for f in folder.iterdir() if f.suffix != ".json"]
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadInputError, match="truncated") as caught:
        clip(f"local-dir:{folder}", device="cpu").encode_texts(["bus"])
    assert "\n" not in str(caught.value)


def test_another_architecture_is_refused(folder):
    encoder = clip(f"ViT-B-32/{folder}/open_clip_model.safetensors", device="cpu")
    with pytest.raises(
        BadInputError, match="is not a checkpoint of clip:ViT-B-32: 'positional_embedding' is"
    ):
        encoder.encode_texts(["bus"])


def test_a_mismatched_vision_tower_is_reported_on_first_use(tmp_path):
    folder = tiny_clip(tmp_path)
    saved = json.loads((folder / "open_clip_config.json").read_text())
    saved["model_cfg"]["vision_cfg"]["patch_size"] = 8
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    encoder = clip(f"local-dir:{folder}", device="cpu")
    encoder.encode_texts(["bus"])
    with pytest.raises(BadInputError, match=r"is not a checkpoint of clip: 'visual"):
        encoder.encode_regions([noise(8, 8, 1)], [boxes((0, 0, 8, 8))])


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("run",))

    folder = tiny_clip(tmp_path, safetensors=False)
    torch.save({"state_dict": Trap()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(BadInputError, match="never runs code"):
        clip(f"local-dir:{folder}", device="cpu").encode_texts(["bus"])


def test_roi_pooling_is_refused_without_a_feature_map(folder):
    with pytest.raises(BadInputError, match="no feature map to pool regions from; use --pooling crop"):
        make_encoder(f"clip:local-dir:{folder}", device="cpu", pooling="roi")
    with pytest.raises(BadInputError, match="batch_size must be at least 1, got 0"):
        make_encoder(f"clip:local-dir:{folder}", device="cpu", batch_size=0)


def test_roi_pooling_against_the_model_itself(tmp_path):
    """Trunk, RoIAlign and attention of open_clip's encoder model, one image, one box."""
    from torchvision.ops import roi_align

    from felga.encoders.open_clip import working_side

    path = tiny_clip(tmp_path / "clip", 3, TINY_RESNET)
    whole = noise(100, 75, 8)
    box = (10.0, 5.0, 80.0, 60.0)
    encoder = make_encoder(f"clip:local-dir:{path}", device="cpu", pooling="roi")
    (encoded,) = encoder.encode_regions([whole], [boxes(box)])
    side = working_side(64)
    assert working_side(224) == 384
    size = (side, max(1, round(75 * side / 100 / 32)) * 32)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    norm = preprocess.transforms[-1]
    pixels = np.array(Image.fromarray(whole.pixels).resize(size, Image.Resampling.BICUBIC))
    with torch.inference_mode():
        inputs = norm(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
        visual = model.eval().visual
        features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(inputs)))))
        scale = torch.tensor([size[0] / 100, size[1] / 75] * 2)
        rows = [torch.tensor([box]) * scale]
        expected = visual.attnpool(roi_align(features, rows, 2, 1 / 32, 2, aligned=True))[0].numpy()
    np.testing.assert_allclose(encoded[0], expected / np.linalg.norm(expected), atol=1e-5)
