"""The encoder and the proposer of an adapted file, by the contracts and by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from felga.adapt.adapted_regions import LEAST, OVERLAP
from felga.corpus.decode import read_image
from felga.errors import BadInputError, NotFoundError
from felga.models.arrays import read_arrays, write_arrays
from felga.models.minilm import minilm
from felga.registry import make_encoder, make_regions
from felga.testing import ProposerContract
from felga.types import FeatureEncoder
from tests.encoders.contract import LazyContract

from .conftest import read, run


class TestEncoder(LazyContract):
    exact_crops = False

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, file, boxes, tmp_path_factory):
        other = tmp_path_factory.mktemp("other") / "other.safetensors"
        run(boxes, other, classes=["buoy"])
        files = (file, other)
        return lambda seed: make_encoder(f"adapted:{files[seed]}", device="cpu", batch_size=4)

    test_other_weights_give_other_vectors = None  # the texts of both are MiniLM's


class TestRegions(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, file):
        return make_regions(f"adapted:{file}", device="cpu")


def scene(boxes, n):
    x, y, w, h = read(boxes)["annotations"][n]["bbox"]
    image = read_image(boxes / "images" / f"{n}.png", str(n))
    return image, np.array([[x, y, x + w, y + h], image.whole, [0, 0, 30, 30]], np.float32)


def test_a_vector_is_the_mix_of_conses_and_the_heads_classes(file, boxes):
    """v = (1 - g) conse + g sum s_c w_c, s ~ q^2, g = max q, one region at a time."""
    image, rows = scene(boxes, 1)
    encoder, conse = (make_encoder(name, device="cpu") for name in (f"adapted:{file}", "conse"))
    assert isinstance(encoder, FeatureEncoder)
    ((vectors, features),) = encoder.encode_features([image], [rows])
    ((means, same),) = conse.combine([image], [rows])
    np.testing.assert_array_equal(features, same)
    arrays, about = read_arrays(file, "adapted")
    names = minilm(torch.device("cpu")).embed(about["classes"])
    for mean, feature, vector in zip(means, features.astype(np.float64), vectors, strict=True):
        logits = arrays["weight"] @ feature + arrays["bias"]
        chances = np.exp(logits) / np.exp(logits).sum()
        crate, buoy, _ = chances
        own = (crate**2 * names[0] + buoy**2 * names[1]) / (crate**2 + buoy**2)
        expected = (1 - max(crate, buoy)) * mean + max(crate, buoy) * own
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    np.testing.assert_array_equal(encoder.encode_texts(["boat"]), conse.encode_texts(["boat"]))


def test_words_find_the_class_that_was_taught(file, boxes):
    encoder, conse = (make_encoder(name, device="cpu") for name in (f"adapted:{file}", "conse"))
    query = encoder.encode_texts(["striped crate", "buoy"])
    for n in range(4):
        image, rows = scene(boxes, n)
        after, before = (one.encode_regions([image], [rows])[0] @ query.T for one in (encoder, conse))
        assert after[0].argmax() == n % 2
        assert after[0, n % 2] > before[0, n % 2] + 0.2


def test_regions_have_labels_and_no_two_of_a_class_overlap(file, boxes):
    proposer, learned = make_regions(f"adapted:{file}", device="cpu"), make_regions("learned", device="cpu")
    names = ("striped crate", "buoy")
    found = 0
    for n in range(6):
        image, rows = scene(boxes, n)
        (regions,) = proposer.propose([image], 100)
        (own,) = learned.propose([image], 100)
        quality = {region.box: region.score for region in own}
        assert {region.box for region in regions} <= set(quality)
        assert all(region.quality is not None and region.score <= quality[region.box] for region in regions)
        assert {region.label for region in regions} <= {None, *names}
        best = regions[0]
        found += best.label == names[n % 2] and bool(
            box_iou(torch.tensor([best.box]), torch.from_numpy(rows[:1])) > 0.5
        )
        for name in names:
            of_class = torch.tensor([region.box for region in regions if region.label == name])
            if len(of_class) > 1:
                assert box_iou(of_class, of_class).fill_diagonal_(0).max() <= OVERLAP + 1e-6
        for region in regions:
            if region.label is None:
                assert region.score <= LEAST * quality[region.box]
    assert found >= 5


def test_the_identity_tells_files_apart_and_not_where_they_are(file, tmp_path):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(file.read_bytes())
    own, other = (make_encoder(f"adapted:{path}", device="cpu") for path in (file, moved))
    assert own.identity() == other.identity()
    assert own.identity()["adapted"]["supervision"] == "drawn boxes"
    assert own.name == f"adapted:{file}"


def test_files_that_are_no_heads_are_refused(file, tmp_path):
    arrays, about = read_arrays(file, "adapted")
    path = tmp_path / "w.safetensors"
    with pytest.raises(BadInputError, match="adapted needs a file of felga adapt: --encoder adapted:FILE"):
        make_encoder("adapted")
    with pytest.raises(NotFoundError, match="does not exist"):
        make_regions(f"adapted:{path}")
    path.write_bytes(b"x")
    with pytest.raises(BadInputError, match="damaged or not a safetensors file"):
        make_regions(f"adapted:{path}")
    for wrong, words in (
        ({"classes": ["a", "a"]}, "does not name its classes, each once"),
        ({"supervision": None}, "does not say its supervision"),
    ):
        write_arrays(path, "adapted", arrays, {**about, **wrong})
        with pytest.raises(BadInputError, match=words):
            make_regions(f"adapted:{path}")
    frozen = {**about["frozen"], "features": {"name": "conse", "weights": "other"}}
    write_arrays(path, "adapted", arrays, {**about, "frozen": frozen})
    with pytest.raises(BadInputError, match="was trained on features of another 'learned'"):
        make_regions(f"adapted:{path}", device="cpu").settings()
    for array in (arrays["weight"][:2], np.full_like(arrays["weight"], np.nan)):
        write_arrays(path, "adapted", {**arrays, "weight": array}, about)
        with pytest.raises(BadInputError, match="holds no head for its classes"):
            make_encoder(f"adapted:{path}", device="cpu").encode_regions(*one_region())


def one_region():
    image = read_image_of_noise()
    return [image], [np.array([image.whole], np.float32)]


def read_image_of_noise():
    from felga.testing.encoder import IMAGES

    return IMAGES[0]


def test_an_index_gets_conses_fenet_and_finds_what_was_taught_by_words(file, boxes, tmp_path):
    from felga.corpus.folder import FolderCorpus
    from felga.engine import Engine
    from felga.indexing import Options, index

    names = {"encoder": f"adapted:{file}", "regions": f"adapted:{file}"}
    index(FolderCorpus(boxes / "images"), tmp_path / "index", Options(device="cpu", **names))
    engine = Engine.open(tmp_path / "index")
    assert engine.manifest.fenet is not None, "the one that comes with felga takes its vectors"
    hits = engine.search("buoy", 6)
    assert sum(int(hit.image_id.removesuffix(".png")) % 2 for hit in hits) >= 5
    assert hits[0].regions[0].label == "buoy"
    assert hits[0].confidence is None, "its promise was measured with conse alone"
