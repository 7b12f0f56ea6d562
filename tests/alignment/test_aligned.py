"""What the network sees, a model's file, and the encoder ``aligned:FILE``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from felga.alignment.aligned import AlignedModel, Decoding
from felga.alignment.region_cells import CellFile, places, region_cells
from felga.alignment.region_texts import read_region_texts
from felga.captions.captioner import CaptionNet, write_captioner
from felga.errors import BadInputError, NotFoundError
from felga.models.arrays import read_arrays, write_arrays
from felga.models.efficientnet import DEFAULT, LONGER_SIDE, shared_trunk, working_size
from felga.registry import make_encoder
from felga.testing.encoder import IMAGES, boxes, noise
from tests.alignment.made import random_model, tiny_captioner, tiny_coco
from tests.captions.made import random_decoder, tiny_bert
from tests.encoders.contract import LazyContract

CPU = torch.device("cpu")


class TestAligned(LazyContract):
    exact_crops = False

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("aligned")
        for seed in (0, 1):
            random_model(folder / f"{seed}.safetensors", seed)
        return lambda seed: make_encoder(f"aligned:{folder}/{seed}.safetensors", device="cpu")

    test_other_weights_give_other_vectors = None  # the texts of both are MiniLM's: see below

    def test_other_weights_see_other_things(self, encoder, other):
        own, rows = noise(60, 50, 1), np.array([[0, 0, 60, 50]], np.float32)
        a, b = (e.encode_regions([own], [rows])[0] for e in (encoder, other))
        assert np.abs(a - b).max() > 1e-2


def test_cells_are_torchvisions_roi_align_of_the_last_map():
    image = noise(120, 80, 3)
    rows = boxes((8, 8, 60, 70), image.whole)
    seen = shared_trunk(DEFAULT, CPU).maps(image).last
    height, width = working_size(80, 120, LONGER_SIDE)
    scaled = torch.from_numpy(rows) * torch.tensor([width / 120, height / 80] * 2)
    expected = roi_align(seen[None], [scaled], (7, 7), 1 / 32, 2, aligned=True)  # (2, 1280, 7, 7)
    found = region_cells(image, rows, CPU)
    assert found.shape == (2, 49, 1280)
    torch.testing.assert_close(found.square()[:, 10], expected[:, :, 1, 3], atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(places(image, rows)[0], [34 / 120, 39 / 80, 52 / 120, 62 / 80], rtol=1e-6)


def test_what_was_seen_is_kept_and_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("felga.alignment.region_cells.SAVED_EVERY", 2)
    texts = read_region_texts(*tiny_coco(tmp_path / "coco", 5))

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    def fill(folder, progress):
        folder.mkdir(exist_ok=True)
        cells = CellFile(folder, texts)
        cells.fill(CPU, progress)
        return cells

    whole, read = fill(tmp_path / "whole", lambda *seen: None), []
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "half", stop)
    again = fill(tmp_path / "half", lambda stage, done, total: read.append(done))
    assert read == [3, 4, 5]
    for name in ("means", "places", "cells"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    cells = again.cells.astype(np.float32).mean(1)
    np.testing.assert_allclose(cells, again.means[texts.described], atol=2e-3)
    assert cells.std() > 0.05


@pytest.fixture
def model(tmp_path):
    return AlignedModel.load(random_model(tmp_path / "model.safetensors", 0), device="cpu")


def test_x_of_the_mean_is_the_mean_of_x(model):
    found = model.regions(IMAGES[0], boxes((5, 5, 30, 40)))
    mean = region_cells(IMAGES[0], boxes((5, 5, 30, 40)), CPU).mean(1)
    with torch.inference_mode():
        torch.testing.assert_close(model.net.states(model.net.reduce(mean)), found.x, atol=1e-4, rtol=1e-4)


def test_a_tag_is_refined_by_the_image(model):
    found = model.regions(IMAGES[0], boxes(IMAGES[0].whole, (5, 5, 30, 40)))
    assert sorted(found.top[0].tolist()) == sorted(found.top[1].tolist())  # all four tags
    one, other = (found.refined[row, found.top[row].argsort()] for row in (0, 1))
    assert (one - other).abs().amax(1).min() > 1e-2
    assert found.prefix.shape == (2, 5, 384)


def test_tags_come_with_scores_best_first(model):
    (own,) = model.tags_of(model.regions(IMAGES[0], boxes(IMAGES[0].whole)), 3)
    assert [tag.score for tag in own] == sorted((tag.score for tag in own), reverse=True)
    assert len({tag.tag for tag in own}) == 3
    assert all(0 <= tag.score <= 1 for tag in own)


def test_phrases_are_told_with_an_article_and_read_without_it(model):
    decoding = model.decoding
    words, targets = decoding.rows(["red dog", "bus in a street"])
    said = [decoding.pieces.text(row[row > 2].tolist()) for row in targets]
    assert said == ["a red dog", "a bus in a street"]
    assert words.shape == targets.shape
    assert words[0, 1:4].tolist() == targets[0, :3].tolist()
    captions = model.captions_of(model.regions(IMAGES[0], boxes(IMAGES[0].whole)))
    assert not captions[0].text.startswith(("a ", "an ", "the "))


def test_a_model_without_a_decoder_says_so(tmp_path):
    model = AlignedModel.load(random_model(tmp_path / "m.safetensors", 0, decoder=False), device="cpu")
    found = model.regions(IMAGES[0], boxes(IMAGES[0].whole))
    with pytest.raises(BadInputError, match="without a captioner"):
        model.captions_of(found)


def test_files_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(NotFoundError):
        AlignedModel.load(tmp_path / "absent.safetensors")
    captioner = tiny_captioner(tmp_path / "captioner.safetensors")
    with pytest.raises(BadInputError, match="'captioner'.*expected 'aligned'"):
        AlignedModel.load(captioner)
    path = random_model(tmp_path / "m.safetensors", 0)
    arrays, about = read_arrays(path, "aligned")
    arrays.pop("net/project.weight")
    write_arrays(path, "aligned", arrays, about)
    with pytest.raises(BadInputError, match="is not a model of felga align .*train it again"):
        AlignedModel.load(path)
    with pytest.raises(BadInputError, match="name it as aligned:FILE"):
        make_encoder("aligned")


def test_a_decoder_of_other_words_than_minilms_is_refused(tmp_path):
    from felga.captions.word_pieces import Source, WordPieces

    pieces = WordPieces.of_texts(Source.of(tiny_bert(tmp_path / "bert")), ["a red dog"])
    shape = random_decoder().shape
    net = CaptionNet(pieces, shape)
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    write_captioner(tmp_path / "bert.safetensors", weights, pieces, shape, {})
    with pytest.raises(BadInputError, match="word vectors of 48 numbers; alignment needs MiniLM's 384"):
        Decoding.of_captioner(tmp_path / "bert.safetensors")
