"""Training: it learns, resumes to the bit, and says what is wrong with its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from felga.alignment.align_losses import Weights
from felga.alignment.align_training import RIDGE, Training, grouped, start_at, train_alignment
from felga.alignment.aligned import AlignedModel, Decoding
from felga.alignment.aligner import COMPONENTS, principal
from felga.alignment.region_cells import CellFile
from felga.alignment.region_texts import read_region_texts
from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.models.arrays import read_arrays
from felga.models.efficientnet import CHANNELS
from tests.alignment.made import edited, tiny_captioner, tiny_coco
from tests.cli.calls import call


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return tiny_coco(tmp_path_factory.mktemp("coco"), 8)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return tiny_captioner(tmp_path_factory.mktemp("captioner") / "captioner.safetensors")


def test_all_four_losses_fall_and_the_decoder_stays_as_it_was(tmp_path, coco, captioner):
    texts = read_region_texts(*coco)
    cells = CellFile(tmp_path, texts)
    cells.fill(torch.device("cpu"), lambda *seen: None)
    decoding = Decoding.of_captioner(captioner)
    before = [weight.clone() for weight in decoding.decoder.parameters()]
    run = Training(texts, cells, decoding, Weights(), 40, 0)
    run.one_epoch(lambda *seen: None)
    first = run.losses
    while run.epoch < 40:
        run.one_epoch(lambda *seen: None)
    assert set(first) == {"tag", "cap", "cond", "multi"}
    assert run.losses["tag"] < 0.05  # it starts at a regression, which fits so few boxes exactly
    for name in ("cap", "cond", "multi"):
        assert run.losses[name] < 0.8 * first[name], name
    for weight, was in zip(decoding.decoder.parameters(), before, strict=True):
        assert torch.equal(weight, was)


@pytest.mark.parametrize("left_out", ["tag", "cap", "cond", "multi"])
def test_a_loss_of_weight_0_is_left_out(tmp_path, coco, captioner, left_out):
    texts = read_region_texts(*coco)
    cells = CellFile(tmp_path, texts)
    cells.fill(torch.device("cpu"), lambda *seen: None)
    run = Training(texts, cells, Decoding.of_captioner(captioner), Weights(**{left_out: 0.0}), 1, 0)
    run.one_epoch(lambda *seen: None)
    assert set(run.losses) == {"tag", "cap", "cond", "multi"} - {left_out}


def test_an_interrupted_training_resumes_to_the_bit(tmp_path, coco, captioner):
    def train(out, **more):
        train_alignment(*coco, out, captioner=captioner, supervision="mine", epochs=3, device="cpu", **more)

    def stop(stage, done, total):
        if (stage, done) == ("alignment", 2):
            raise KeyboardInterrupt

    train(tmp_path / "whole.safetensors")
    out = tmp_path / "half.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(out, progress=stop)
    assert not out.exists()
    with pytest.raises(BadInputError, match="state of another training"):
        train(out, resume=True, seed=1)
    seen = []
    train(out, resume=True, progress=lambda *said: seen.append(said))
    assert seen == [("alignment", 2, 3), ("alignment", 3, 3)]
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not (tmp_path / "half.safetensors.training").exists()
    about = read_arrays(out, "aligned")[1]
    assert (about["supervision"], about["described"]) == ("mine", 8)


def test_a_layer_starts_at_the_ridge_regression():
    rng = np.random.default_rng(0)
    inputs, targets = (
        rng.normal(1, 2, (900, 6)).astype(np.float32),
        rng.normal(size=(900, 3)).astype(np.float32),
    )
    layer = torch.nn.Linear(6, 3)
    start_at(layer, torch.from_numpy(inputs), torch.from_numpy(targets))
    reference = Ridge(alpha=RIDGE).fit(inputs, targets)
    with torch.inference_mode():
        found = layer(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(found, reference.predict(inputs), atol=1e-4)


def test_components_are_those_of_scikit_learn():
    means = torch.randn(3000, CHANNELS, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.linspace(1, 20, CHANNELS)
    )
    center, basis = principal(means)
    reduced = ((means - center) @ basis).numpy()
    reference = PCA(COMPONENTS, svd_solver="covariance_eigh").fit_transform(means.numpy())
    likeness = (
        (reduced * reference).sum(0) / np.linalg.norm(reduced, axis=0) / np.linalg.norm(reference, axis=0)
    )
    np.testing.assert_allclose(np.abs(likeness), 1, atol=1e-3)
    np.testing.assert_allclose(reduced.std(0), 1, atol=1e-2)


def test_regions_of_one_class_stand_together_but_in_another_order_each_time():
    classes = np.array([0] * 9 + [1] * 3 + [2])
    orders = [grouped(classes, np.random.default_rng(seed)) for seed in (0, 1)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(13))
        runs = np.flatnonzero(np.diff(classes[order], prepend=-1))
        assert len(runs) <= 5
    assert orders[0].tolist() != orders[1].tolist()


def test_the_commands_train_and_tag(tmp_path, coco, captioner, capsys):
    instances, captions, images = coco
    model = tmp_path / "mine.safetensors"
    words = [instances, captions, images, "--captioner", captioner, "-o", model, "--epochs", 2]
    _, said = call(capsys, "align", *words, "--device", "cpu")
    assert f"--encoder aligned:{model}" in said
    image = images / "1.png"
    out, _ = call(capsys, "tags", image, "--box", "8,8,58,48", "--model", model, "-k", 2)
    assert out.startswith("8,8,58,48 ")
    assert out.count(",") == 4
    out, _ = call(capsys, "caption", "run", image, "--box", "8,8,58,48", "--model", model)
    assert out.startswith(f"{image}[8,8,58,48]: ")
    assert out.endswith(" (generated)\n")
    out, _ = call(capsys, "tags", image, "--model", model, "--regions", "grid", "--format", "json")
    assert '"whole": true' in out
    assert out.count('"box"') == 10
    (first,) = AlignedModel.load(model).tags_of(
        AlignedModel.load(model).regions(read_image(image, "1"), np.float32([[0, 0, 96, 64]])), 1
    )
    assert f'"tag": "{first[0].tag}"' in out


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["tags", "absent.jpg", "--model", "m.safetensors"], 3, "absent.jpg does not exist"),
        (["tags", "{images}/1.png", "--model", "m.safetensors"], 3, "m.safetensors does not exist"),
        (["tags", "{images}/1.png", "--model", "{captioner}"], 2, "expected 'aligned'"),
        (["tags", "{images}/1.png", "--model", "m", "--box", "1,2"], 2, "--box 1,2 is not a box"),
        (["tags", "{images}/1.png", "--model", "m", "-k", "0"], 2, "top must be at least 1"),
        (["caption", "run", "{images}/1.png", "--box", "0,0,9,9", "--model", "{captioner}"], 2, "'aligned'"),
        (["caption", "run", "a", "b", "--box", "0,0,9,9", "--model", "m"], 2, "got 2 images: name one"),
        (["caption", "run", "{images}/1.png", "--box", "900,0,950,9", "--model", "m"], 2, "covers no pixel"),
        (["align", "{instances}", "{captions}", "{images}", "--epochs", "0"], 2, "epochs must be at least 1"),
        (["align", "{instances}", "{captions}", "{images}/.."], 2, "1.png"),
        (["align", "{instances}", "{captions}", "{images}", "--captioner", "no"], 3, "no does not exist"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, coco, captioner, capsys, monkeypatch, words, code, reason):
    monkeypatch.chdir(tmp_path)
    names = {"instances": coco[0], "captions": coco[1], "images": coco[2], "captioner": captioner}
    _, said = call(capsys, *[word.format(**names) for word in words], code=code)
    assert reason in said
    assert said.count("\n") == 1


def test_an_image_that_cannot_be_read_ends_the_training(tmp_path, capsys):
    instances, captions, images = tiny_coco(tmp_path / "coco", 3)
    (images / "2.png").write_bytes(b"no image")
    _, said = call(capsys, "align", instances, captions, images, "-o", tmp_path / "m.safetensors", code=2)
    assert "2.png" in said
    edited(captions, lambda data: data["annotations"].clear())
    _, said = call(capsys, "align", instances, captions, images, "-o", tmp_path / "m.safetensors", code=2)
    assert "has no captions" in said
