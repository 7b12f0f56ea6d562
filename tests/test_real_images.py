"""The main job on real COCO images, where they are: words find their images, boxes their sentences."""

from __future__ import annotations

import json

import pytest

from felga.corpus.coco import CocoCorpus, read_instances
from felga.engine import Engine
from felga.indexing import Options, index

WORDS = ("boat", "zebra", "pizza")
UNKNOWN = ("giraffe", "skateboard", "fork")  # to ImageNet


@pytest.fixture(scope="module")
def real(coco_mini, tmp_path_factory):
    """Sixty images of val2017: those of six classes, and others; indexed with all defaults."""
    folder = tmp_path_factory.mktemp("real")
    truth = read_instances(coco_mini / "annotations" / "instances_val2017.json")
    number = {name: c for c, name in truth.categories.items()}
    shows = {
        word: [i for i, boxes in truth.truths.items() if any(b.category_id == number[word] for b in boxes)]
        for word in WORDS + UNKNOWN
    }
    chosen = [i for word in WORDS + UNKNOWN for i in shows[word][:6]]
    chosen = (list(dict.fromkeys(chosen)) + [i for i in truth.truths if i not in chosen])[:60]
    (folder / "ids.txt").write_text("\n".join(chosen))
    corpus = CocoCorpus(
        coco_mini / "annotations" / "captions_val2017.json", coco_mini / "val2017", ids=folder / "ids.txt"
    )
    index(corpus, folder / "index", Options(device="cpu"))
    return Engine.open(folder / "index", device="cpu"), truth, shows, coco_mini


@pytest.mark.parametrize("word", WORDS)
def test_a_word_finds_its_images(real, word):
    engine, _, shows, _ = real
    hits = engine.search(word, k=3)
    assert sum(hit.image_id in shows[word] for hit in hits) >= 2


def test_a_box_finds_sentences_that_speak_of_it(real):
    engine, truth, shows, root = real
    zebra = next(c for c, name in truth.categories.items() if name == "zebra")
    files = json.loads((root / "annotations" / "captions_val2017.json").read_text())["images"]
    names = {str(row["id"]): row["file_name"] for row in files}
    boxes = [(i, b.box) for i in shows["zebra"][:3] for b in truth.truths[i] if b.category_id == zebra][:3]
    for image_id, box in boxes:
        hit = engine.assign(root / "val2017" / names[image_id], box, k=1)[0]
        assert "zebra" in hit.text.lower()


def test_a_new_index_knows_words_that_imagenet_lacks(real):
    engine, _, shows, _ = real
    assert engine.manifest.fenet is not None
    found = {
        word: sum(hit.image_id in shows[word] for hit in engine.search(word, k=min(5, len(shows[word]))))
        for word in UNKNOWN
    }
    assert all(found.values()), found
    assert sum(found.values()) >= 6
