"""detreg: every key of the authors' checkpoint at full size, and the boxes of a tiny checkpoint."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.proposals.detreg import architecture, convert, detreg, resized
from felga.testing.proposer import IMAGES

from .tiny import tiny_detr, tiny_detreg, with_the_authors_keys


def resnet50_body() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet-50 without its classifier, batch norms frozen."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}
    norms = {"bn1": 64}
    into = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, into, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            norms |= {f"{name}.bn1": width, f"{name}.bn2": width, f"{name}.bn3": 4 * width}
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, into, 1, 1)
                norms[f"{name}.downsample.1"] = 4 * width
            into = 4 * width
    for name, size in norms.items():
        shapes |= {f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, size: int = 256) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def official_shapes() -> dict[str, tuple[int, ...]]:
    """The keys of DETReg's checkpoint pre-trained on ImageNet, from its code, module by module."""
    shapes = {f"backbone.0.body.{key}": shape for key, shape in resnet50_body().items()}
    for level, (channels, kernel) in enumerate(((512, 1), (1024, 1), (2048, 1), (2048, 3))):
        shapes[f"input_proj.{level}.0.weight"] = (256, channels, kernel, kernel)
        shapes[f"input_proj.{level}.0.bias"] = (256,)
        shapes |= norm(f"input_proj.{level}.1")
    shapes["query_embed.weight"] = (300, 512)
    shapes["transformer.level_embed"] = (4, 256)
    shapes |= linear("transformer.reference_points", 2, 256)
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        for i in range(6):
            layer = f"transformer.{part}.layers.{i}"
            shapes |= linear(f"{layer}.{attention}.sampling_offsets", 8 * 4 * 4 * 2, 256)
            shapes |= linear(f"{layer}.{attention}.attention_weights", 8 * 4 * 4, 256)
            shapes |= linear(f"{layer}.{attention}.value_proj", 256, 256)
            shapes |= linear(f"{layer}.{attention}.output_proj", 256, 256)
            shapes |= linear(f"{layer}.linear1", 1024, 256) | linear(f"{layer}.linear2", 256, 1024)
            shapes |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
            if part == "decoder":
                shapes |= norm(f"{layer}.norm3") | linear(f"{layer}.self_attn.out_proj", 256, 256)
                shapes[f"{layer}.self_attn.in_proj_weight"] = (768, 256)
                shapes[f"{layer}.self_attn.in_proj_bias"] = (768,)
    for i in range(6):  # one module, saved for each decoder layer
        shapes |= linear(f"class_embed.{i}", 91, 256)
        for j, (out, into) in enumerate(((256, 256), (256, 256), (4, 256))):
            shapes |= linear(f"bbox_embed.{i}.layers.{j}", out, into)
    for j, (out, into) in enumerate(((256, 256), (512, 256))):
        shapes |= linear(f"feature_embed.layers.{j}", out, into)
    return shapes


@pytest.fixture(scope="module")
def full_size():
    """transformers' model at full size, on the meta device."""
    import transformers as t

    state = {key: torch.empty(shape, device="meta") for key, shape in official_shapes().items()}
    with torch.device("meta"):
        return state, t.DeformableDetrForObjectDetection(architecture(state, {}, "the checkpoint"))


def test_keys_and_shapes_at_full_size(full_size):
    state, model = full_size
    assert len(state) == 565
    new, embedding = convert(state)
    assert len(embedding) == 4
    assert len(new) == 585  # 565 - 4, plus two for each of the 12 joint projections
    assert {k: tuple(v.shape) for k, v in new.items()} == {
        k: tuple(v.shape) for k, v in model.state_dict().items()
    }


def test_architecture_at_full_size(full_size):
    _, model = full_size
    config = model.config
    assert (config.num_queries, config.num_labels, config.d_model) == (300, 91, 256)
    assert (config.encoder_layers, config.decoder_layers) == (6, 6)
    assert (config.encoder_n_points, config.decoder_n_points, config.num_feature_levels) == (4, 4, 4)
    assert (config.encoder_attention_heads, config.encoder_ffn_dim) == (8, 1024)


def test_values_end_up_under_the_right_keys():
    """Query, key and value are distinguished, and norms of equal shape are not swapped."""
    model = tiny_detr(1)
    old = with_the_authors_keys(model.state_dict())
    new, _ = convert(old)
    for key, value in model.state_dict().items():
        assert torch.equal(new[key], value), key
    first = "transformer.decoder.layers.0.self_attn.in_proj_weight"
    assert torch.equal(
        old[first][32:64], model.state_dict()["model.decoder.layers.0.self_attn.k_proj.weight"]
    )
    assert torch.equal(
        old["transformer.decoder.layers.0.norm1.bias"],
        model.state_dict()["model.decoder.layers.0.encoder_attn_layer_norm.bias"],
    )


@pytest.mark.parametrize(
    ("finetuned", "size", "short_long"),
    [(False, "", (800, 1333)), (True, "", (800, 1333)), (False, "#480/600", (480, 600))],
)
def test_boxes_equal_those_of_transformers(tmp_path, finetuned, size, short_long):
    proposer = detreg(str(tiny_detreg(tmp_path / "c.pth", 3, finetuned=finetuned)) + size, device="cpu")
    image = IMAGES[0]
    height, width = image.pixels.shape[:2]
    tensor = torch.from_numpy(image.pixels).permute(2, 0, 1)
    tensor = F.resize(tensor, official_size(height, width, *short_long), antialias=True) / 255
    tensor = F.normalize(tensor, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]
    with torch.no_grad():
        expected = tiny_detr(3)(pixel_values=tensor)
    chances = expected.logits[0].sigmoid()
    scores = chances.max(1).values if finetuned else chances[:, 1]
    order = scores.argsort(descending=True, stable=True)
    boxes = []
    for x, y, w, h in expected.pred_boxes[0][order].tolist():
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        boxes.append([min(max(c, 0), 1) * side for c, side in zip(corners, (width, height) * 2, strict=True)])
    (regions,) = proposer.propose([image], 20)
    assert len(regions) == 20
    np.testing.assert_allclose([r.box for r in regions], boxes, atol=1e-2)
    np.testing.assert_allclose([r.score for r in regions], scores[order], atol=1e-4)
    settings = proposer.settings()
    assert settings["objectness"] == ("best class" if finetuned else "label 1")
    assert settings["short_long"] == list(short_long)
    assert proposer.name.endswith(f"c.pth{size}"), "the name makes it again"


def official_size(height, width, short, long):
    """What DETR's transforms.py does, branch by branch."""
    small, large = float(min(height, width)), float(max(height, width))
    if large / small * short > long:
        short = round(long * small / large)
    if width < height:
        return [int(short * height / width), short]
    return [short, int(short * width / height)]


def test_sides_are_truncated_as_by_the_authors():
    sizes = [(480, 640), (640, 480), (426, 640), (500, 500)]  # rounded, the first three were a pixel longer
    expected = [(800, 1066), (1066, 800), (800, 1201), (800, 800)]
    assert [resized(*size, 800, 1333) for size in sizes] == expected
    g = np.random.default_rng(0)
    for height, width in g.integers(30, 900, (500, 2)).tolist():
        for sides in ((800, 1333), (480, 600)):
            assert list(resized(height, width, *sides)) == official_size(height, width, *sides)


@pytest.mark.parametrize("size", ["#480", "#600/480", "#a/b", "#16/600", "#480/", "#"])
def test_sizes_that_are_none_are_refused(tmp_path, size):
    with pytest.raises(BadInputError, match="#SHORT/LONG, such as #480/600"):
        detreg(f"{tiny_detreg(tmp_path / 'c.pth')}{size}", device="cpu")


def test_a_folder_of_transformers_loads_silently_and_proposes_the_same(tmp_path, caplog):
    model = tiny_detr(3)
    model.save_pretrained(tmp_path / "folder")
    caplog.clear()
    a = detreg(str(tmp_path / "folder"), device="cpu")
    b = detreg(str(tiny_detreg(tmp_path / "c.pth", 3, finetuned=True)), device="cpu")
    (ours,), (theirs,) = b.propose(IMAGES[:1], 5), a.propose(IMAGES[:1], 5)
    np.testing.assert_allclose([r.box for r in ours], [r.box for r in theirs], atol=1e-3)
    np.testing.assert_allclose([r.score for r in ours], [r.score for r in theirs], atol=1e-4)
    assert a.settings()["objectness"] == "best class"
    assert [record.name for record in caplog.records if record.name.startswith("transformers")] == []


def test_a_checkpoint_of_parallel_training(tmp_path):
    a = detreg(str(tiny_detreg(tmp_path / "a.pth")), device="cpu")
    b = detreg(str(tiny_detreg(tmp_path / "b.pth", parallel=True)), device="cpu")
    assert a.propose(IMAGES[:1], 5) == b.propose(IMAGES[:1], 5)
    assert a.settings()["weights"] != b.settings()["weights"]


def test_wrong_names(tmp_path):
    with pytest.raises(BadInputError, match="detreg:FILE"):
        detreg("", device="cpu")
    with pytest.raises(NotFoundError, match=r"none\.pth"):
        detreg("/none/none.pth", device="cpu")
    with pytest.raises(NotFoundError, match="folder"):
        detreg("/none/none", device="cpu")
    with pytest.raises(MissingError, match="offline"):
        detreg("nobody/nothing-felga", device="cpu")


@pytest.mark.parametrize("kept", [0, 50, 100_000])
def test_a_truncated_checkpoint(tmp_path, kept):
    file = tiny_detreg(tmp_path / "c.pth")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadInputError, match="truncated"):
        detreg(str(file), device="cpu").propose(IMAGES[:1], 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone": "hf-hub:nobody/evil"}, "has the backbone 'hf-hub:nobody/evil'"),
        ({"backbone": 5}, "has the backbone 5"),
        ({"nheads": "many"}, "'many' attention heads"),
        ({"nheads": 0}, "0 attention heads"),
        ({"nheads": 3}, "Deformable DETR"),
        ({"backbone": "no_such_network"}, "is not a Deformable DETR: .*no_such_network"),
    ],
)
def test_options_of_a_hostile_checkpoint_are_refused(tmp_path, options, words):
    file = tiny_detreg(tmp_path / "c.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        saved = torch.load(file)
    saved["args"] = argparse.Namespace(**{**vars(saved["args"]), **options})
    torch.save(saved, file)
    with pytest.raises(BadInputError, match=words):
        detreg(str(file), device="cpu").settings()


@pytest.mark.parametrize("checkpoint", [[1, 2], {"args": 5}, {"model": 3, "args": {}}])
def test_a_checkpoint_without_tensors(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(BadInputError, match="tensors"):
        detreg(str(tmp_path / "c.pth"), device="cpu").settings()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.filterwarnings("ignore:You'd better set embed_dim")
@pytest.mark.parametrize("shape", [(), (3,), (0, 0), (1, 2, 3)])
def test_a_checkpoint_of_odd_shapes(tmp_path, shape):
    joint = "transformer.decoder.layers.0.self_attn.in_proj_weight"
    for key in ("query_embed.weight", "transformer.level_embed", "class_embed.0.weight", joint):
        file = tiny_detreg(tmp_path / "c.pth")
        with torch.serialization.safe_globals([argparse.Namespace]):
            saved = torch.load(file)
        saved["model"][key] = torch.zeros(shape)
        torch.save(saved, file)
        with pytest.raises(BadInputError, match="Deformable DETR"):
            detreg(str(file), device="cpu").settings()


def test_another_architecture(tmp_path):
    torch.save({"model": {"fc.weight": torch.zeros(3, 3)}}, tmp_path / "a.pth")
    with pytest.raises(BadInputError, match=r"it lacks 'query_embed.weight'"):
        detreg(str(tmp_path / "a.pth"), device="cpu").propose(IMAGES[:1], 5)
    file = tiny_detreg(tmp_path / "b.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        saved = torch.load(file)
    del saved["model"]["input_proj.0.0.weight"]
    torch.save(saved, file)
    with pytest.raises(BadInputError, match=r"lacks 'model.input_proj.0.0.weight'"):
        detreg(str(file), device="cpu").settings()
    saved["model"]["transformer.decoder.bbox_embed.0.layers.0.weight"] = torch.zeros(1)
    torch.save(saved, file)
    with pytest.raises(BadInputError, match="box refinement or two stages"):
        detreg(str(file), device="cpu").settings()
