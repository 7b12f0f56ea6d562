"""Copies in an index: equal files, near images, and which of them is the best."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.indexing import Options, index
from felga.store.copies import copies, looks
from felga.store.stored import StoredIndex
from tests.made import CHEAP, run, write


@pytest.fixture(scope="module")
def twins(demo, tmp_path_factory):
    """An index of six scenes of which two were copied, and its folder of images."""
    base = tmp_path_factory.mktemp("twins")
    folder = base / "photos"
    folder.mkdir()
    for number in (1, 3, 4, 5, 7, 9):
        shutil.copy(demo[1].folder / f"scene-{number:02d}.png", folder)
    shutil.copy(folder / "scene-03.png", folder / "a-same.png")
    scene = Image.open(folder / "scene-07.png").convert("RGB")
    scene.save(folder / "b-again.jpg", quality=70)
    width, height = scene.size
    scene.crop((8, 6, width - 8, height - 6)).save(folder / "c-cut.jpg", quality=80)
    (folder / "broken.png").write_bytes(b"no image")
    shutil.copy(folder / "broken.png", folder / "broken-too.png")
    options = Options(device="cpu", regions="grid", quality=False)
    index(FolderCorpus(folder), base / "index", options, fenet="none")
    return base / "index", folder


def names(groups):
    return [[copy.image_id for copy in group] for group in groups]


def test_equal_and_near_images_are_groups_with_the_best_copy_first(twins):
    out, folder = twins
    with StoredIndex.open(out) as stored:
        groups = copies(stored.images, folder)
    assert names(groups) == [
        ["a-same.png", "scene-03.png"],
        ["scene-07.png", "b-again.jpg", "c-cut.jpg"],
    ]
    same, again = groups
    assert [copy.exact for copy in same] == [True, True]
    assert [copy.exact for copy in again] == [True, False, False]
    assert again[1].width * again[1].height > again[2].width * again[2].height
    assert again[0].size > again[1].size
    assert [copy.path for copy in same] == [str(folder / name) for name in ("a-same.png", "scene-03.png")]
    assert all(0.9 <= copy.similarity <= 1 for group in groups for copy in group)


def test_similarity_is_the_cosine_of_the_features_of_the_whole_images(twins):
    out, folder = twins
    with StoredIndex.open(out) as stored:
        rows = stored.images.read(["image_id", "whole", "features"]).to_pylist()
        _, (best, again, _) = copies(stored.images, folder)
    seen = {
        row["image_id"]: np.float64(row["features"][row["whole"].index(True)]) for row in rows if row["whole"]
    }
    a, b = seen[best.image_id], seen[again.image_id]
    assert again.similarity == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-4)


def test_a_threshold_of_one_leaves_equal_images_and_a_low_one_takes_all(twins):
    out, folder = twins
    with StoredIndex.open(out) as stored:
        assert names(copies(stored.images, folder, 0.9999)) == [["a-same.png", "scene-03.png"]]
        (everything,) = copies(stored.images, folder, -1.0)
    assert len(everything) == 9, "all but the quarantined"


def test_without_features_only_equal_files_are_copies_unless_a_threshold_is_given(tmp_path, toy):
    write(tmp_path / "in", ["a", "b"])
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "c.png")
    run(tmp_path / "in", tmp_path / "out", CHEAP)
    with StoredIndex.open(tmp_path / "out") as stored:
        assert names(copies(stored.images, tmp_path)) == [["a.png", "c.png"]]
        ((*_, other),) = copies(stored.images, tmp_path, 0.5)
    assert other.image_id == "b.png"
    assert not other.exact


def test_looks_follow_the_order_asked_for_and_are_zero_without_a_whole(twins):
    with StoredIndex.open(twins[0]) as stored:
        ids = stored.images.read(["image_id"]).column("image_id").to_pylist()
        order = [ids.index(name) for name in ("scene-07.png", "broken.png", "a-same.png", "scene-03.png")]
        hashes, vectors = looks(stored.images, order)
    assert hashes[2] == hashes[3] != hashes[0]
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 0, 1, 1], abs=1e-5)
    assert vectors[2].tolist() == vectors[3].tolist()


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_a_search_without_copies_is_the_search_with_copies_taken_out(twins, k):
    out, _ = twins
    copied = {"scene-03.png": "a-same.png", "b-again.jpg": "scene-07.png", "c-cut.jpg": "scene-07.png"}
    with Engine.open(out, device="cpu") as engine:
        for query in ("rocket", "cat", "coffee"):
            every = engine.search(query, 9)
            own = engine.search(query, k, dedupe=True)
            seen, expected = set(), []
            for hit in every:
                if (scene := copied.get(hit.image_id, hit.image_id)) not in seen:
                    seen.add(scene)
                    expected.append((hit.image_id, hit.score))
            assert [(hit.image_id, hit.score) for hit in own] == expected[:k]
            assert [hit.rank for hit in own] == list(range(1, min(k, 6) + 1))
        found = engine.search_image(twins[1] / "c-cut.jpg", k=2, dedupe=True)
        assert len({copied.get(hit.image_id, hit.image_id) for hit in found}) == 2
