"""Vectors for clip-retrieval, read back by numpy and pyarrow alone."""

from __future__ import annotations

import os

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from felga.engine import Engine
from felga.registry import make_encoder
from felga.store.export import export_clip_retrieval
from felga.store.stored import StoredIndex
from felga.store.verify import verify
from tests.cli.calls import call
from tests.made import CHEAP, run, write


def read(folder, name):
    return np.load(folder / name / f"{name}_0.npy", allow_pickle=False)


@pytest.fixture(scope="module")
def exported(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    with StoredIndex.open(demo[0]) as stored:
        export_clip_retrieval(stored, folder, demo[1].folder)
    return folder


@pytest.mark.parametrize("query", ["rocket", "cat", "coffee"])
def test_brute_force_over_the_files_finds_the_hits_of_felga(demo, exported, query):
    vectors, rows = read(exported, "img_emb"), pyarrow.parquet.read_table(exported / "metadata").to_pylist()
    assert len(vectors) == len(rows)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    (asked,) = make_encoder("conse", device="cpu").encode_texts([query])
    best = {}
    for row, cosine in zip(rows, (vectors @ asked).tolist(), strict=True):
        if cosine > best.get(row["image_path"], (-1, None))[0]:
            best[row["image_path"]] = cosine, row["box"]
    order = sorted(best, key=lambda path: -best[path][0])[:5]
    with Engine.open(demo[0], device="cpu") as engine:
        hits = engine.search(query, 5, owner="max", quality=False)
    assert [hit.path for hit in hits] == order
    for hit in hits:
        cosine, box = best[hit.path]
        assert hit.score == pytest.approx(cosine, abs=1e-5)
        assert list(hit.regions[0].box) == box


def test_each_row_says_what_it_is(demo, exported):
    rows = pyarrow.parquet.read_table(exported / "metadata").to_pylist()
    assert set(rows[0]) == {"image_path", "caption", "box", "quality", "whole"}
    for row in rows:
        with Image.open(row["image_path"]) as image:
            if row["whole"]:
                assert row["box"] == [0, 0, *image.size]
        caption = os.path.splitext(row["image_path"])[0] + ".txt"
        with open(caption, encoding="utf-8") as file:
            assert row["caption"] == " ".join(file.read().split())
    assert sum(row["whole"] for row in rows) == len({row["image_path"] for row in rows})
    assert all(0 < row["quality"] <= 1 for row in rows if not row["whole"])


def test_vectors_of_captions_stand_beside_the_regions_of_their_images(exported):
    texts, rows = read(exported, "text_emb"), pyarrow.parquet.read_table(exported / "metadata").to_pylist()
    assert len(texts) == len(rows)
    own = make_encoder("conse", device="cpu").encode_texts([rows[0]["caption"], rows[-1]["caption"]])
    assert texts[0] == pytest.approx(own[0], abs=2e-3)
    assert texts[-1] == pytest.approx(own[1], abs=2e-3)


def test_an_image_without_a_caption_leaves_the_vectors_of_captions_out(capsys, tmp_path, toy):
    write(tmp_path / "in", ["a", "b"])
    (tmp_path / "in" / "b.txt").unlink()
    run(tmp_path / "in", tmp_path / "out", CHEAP)
    words = ["export", tmp_path / "out", "--to", "clip-retrieval", tmp_path / "new"]
    _, err = call(capsys, *words)
    assert "without vectors of captions" in err
    assert sorted(os.listdir(tmp_path / "new")) == ["img_emb", "metadata"]
    captions = pyarrow.parquet.read_table(tmp_path / "new" / "metadata").column("caption").to_pylist()
    assert set(captions) == {"The picture a of colours.", None}
    _, err = call(capsys, *words, code=2)
    assert "is not empty: name a new folder" in err
    call(capsys, "export", tmp_path / "out", "--to", "faiss", tmp_path / "newer", code=2)


def test_progress_counts_all_regions_and_all_owners(demo, tmp_path):
    seen = []
    with StoredIndex.open(demo[0]) as stored:
        regions = len(stored.regions)
        owners = {"images": len(stored.images), "texts": len(stored.texts)}
        export_clip_retrieval(stored, tmp_path, demo[1].folder, lambda *step: seen.append(step))
    assert seen[-1] == ("regions", regions, regions)
    seen.clear()
    verify(demo[0], lambda *step: seen.append(step))
    assert {stage: (done, total) for stage, done, total in seen} == {
        stage: (count, count) for stage, count in owners.items()
    }
