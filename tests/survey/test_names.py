"""Which word names a region: against a plain loop, and which words there are to choose from."""

from __future__ import annotations

import numpy as np

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.indexing import Options, index
from felga.models.wordlist import caption_things
from felga.survey.names import BLOCK, TEXTS, Names, Surveyed


def unit(rng, n, dim=6):
    rows = rng.normal(size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_name_is_the_word_that_stands_out_most():
    rng = np.random.default_rng(0)
    words, sample, regions = unit(rng, 9), unit(rng, 40), unit(rng, BLOCK + 5)
    best, standing = Names([str(n) for n in range(9)], words, sample).of(regions)
    for region, name, high in list(zip(regions, best, standing, strict=True))[::-50]:
        own = []
        for word in words:
            cosines = [float(word @ one) for one in sample]
            own.append((float(word @ region) - np.mean(cosines)) / np.std(cosines))
        assert name == int(np.argmax(own))
        assert abs(high - max(own)) < 1e-3


def test_a_word_that_fits_everything_names_nothing():
    """The cosine alone would always choose the first word."""
    words = np.array([[1, 0], [0.6, 0.8]], np.float32)
    sample = np.array([[1, 0], [0.999, 0.0447], [0.995, -0.0999]], np.float32)
    best, _ = Names(["anything", "one thing"], words, sample).of(np.array([[0.98, 0.199]], np.float32))
    assert best.tolist() == [1]


def test_names_are_keywords_of_several_texts_and_things_of_captions(engine):
    names = Surveyed(engine).names()
    counts = {}
    for row in engine.index.texts.read(["keywords", "whole"]).to_pylist():
        for word in {word for word, whole in zip(row["keywords"], row["whole"], strict=True) if not whole}:
            counts[word] = counts.get(word, 0) + 1
    assert len(set(names.words)) == len(names.words)
    assert {"coin", "saucer", "cat"} <= set(names.words), "in the singular, of captions"
    assert "coins" not in names.words
    assert set(caption_things()) <= set(names.words)
    assert not {"standing", "black", "group", "parked", "looks"} & set(names.words)
    assert counts["coins"] >= TEXTS
    rare = {word for word, count in counts.items() if count < TEXTS} - set(caption_things())
    assert not rare & set(names.words)
    at = names.words.index("coin")
    stored = [
        engine.index.keywords.vectors(row, row + 1)[0]
        for row, word in enumerate(
            word for own in engine.index.texts.read(["keywords"]).to_pylist() for word in own["keywords"]
        )
        if word == "coins"
    ]
    assert names.vectors[at].tolist() == stored[0].tolist()


def test_without_texts_the_things_of_imagenet_are_names_too(demo, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("scene-01.png", "scene-03.png"):
        (tmp_path / "photos" / name).write_bytes((demo[1].folder / name).read_bytes())
    options = Options(device="cpu", regions="grid", quality=False)
    index(FolderCorpus(tmp_path / "photos"), tmp_path / "index", options)
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        words = Surveyed(engine).names().words
    assert {"espresso", "tabby cat", "umbrella"} <= set(words)
    assert len(set(words)) == len(words)
