"""Vectors of whole images from clip-retrieval and from felga's own export: imported, searched, guarded."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from felga.corpus.decode import read_image
from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.indexing import index
from felga.indexing.imported import import_vectors
from felga.registry import make_encoder
from felga.store.export import export_clip_retrieval
from felga.store.manifest import read_manifest
from felga.store.stored import StoredIndex
from felga.store.verify import verify
from tests.made import CHEAP, run, write

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def encoder(toy):
    return make_encoder(toy, device="cpu")


def whole(encoder, paths):
    images = [read_image(path, path.name) for path in paths]
    boxes = [np.array([image.whole], np.float32) for image in images]
    return np.concatenate(encoder.encode_regions(images, boxes))


def lay_out(folder, images, rows, texts=None, number="0"):
    """What ``clip-retrieval inference`` writes."""
    for name, vectors in (("img_emb", images), ("text_emb", texts)):
        if vectors is not None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"{name}_{number}.npy", vectors)
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


@pytest.fixture
def made(tmp_path, encoder):
    """Images, and their vectors in half precision in two parts, the second without vectors of captions."""
    write(tmp_path / "images", NAMES)
    paths = [tmp_path / "images" / f"{name}.png" for name in NAMES]
    vectors = whole(encoder, paths).astype(np.float16)
    captions = [f"The image {name} of colours." for name in NAMES]
    rows = [{"image_path": str(path), "caption": text} for path, text in zip(paths, captions, strict=True)]
    texts = encoder.encode_texts(captions[:3]).astype(np.float16)
    lay_out(tmp_path / "in", vectors[:3], rows[:3], texts, "00")
    lay_out(tmp_path / "in", vectors[3:], rows[3:], None, "01")
    return tmp_path / "in", tmp_path / "out"


def errors_of(out):
    return {line["item_id"]: line["reason"] for line in map(json.loads, (out / "errors.jsonl").open())}


def test_imported_vectors_are_searched_like_those_that_were_made_here(made, encoder):
    done = import_vectors(made[0], encoder, made[1])
    assert (done.images, done.texts, done.quarantined, done.absent, done.scaled) == (5, 5, 0, 0, 0)
    assert done.compared == 3 + 3, "the images and the captions of the first block"
    manifest, defects = verify(made[1])
    assert not defects
    assert manifest.contract.encoder == encoder.identity()
    own = whole(encoder, [made[0].parent / "images" / f"{name}.png" for name in NAMES])
    query = encoder.encode_texts(["colours"])[0]
    with Engine.open(made[1], device="cpu") as engine:
        hits = engine.search("colours", 5)
        order = np.argsort(-(own @ query)).tolist()
        assert [hit.image_id for hit in hits] == [f"{NAMES[at]}.png" for at in order]
        for hit, at in zip(hits, order, strict=True):
            assert hit.score == pytest.approx(own[at] @ query, abs=2e-3)
            assert os.path.isfile(hit.path)
            assert hit.regions[0].box == (0, 0, hit.width, hit.height) == (0, 0, 64, 48)
        text = "The image d of colours."
        assert engine.search_image(made[0].parent / "images" / "d.png", k=1)[0].image_id == "d.png"
        found = engine.assign(made[0].parent / "images" / "d.png", k=5)
        assert {hit.text for hit in found} >= {text}
        assert found[0].keyword == found[0].text


@pytest.mark.parametrize("query", ["rocket", "cat"])
def test_an_export_comes_back_with_the_same_ranking_of_whole_images(demo, tmp_path, query):
    with StoredIndex.open(demo[0]) as stored:
        export_clip_retrieval(stored, tmp_path / "v", demo[1].folder)
        regions = stored.manifest.images.fragments
    done = import_vectors(tmp_path / "v", make_encoder("conse", device="cpu"), tmp_path / "out")
    assert (done.images, done.texts, done.parts) == (16, 16, regions - 16)
    with Engine.open(demo[0], device="cpu") as before, Engine.open(tmp_path / "out", device="cpu") as after:
        vectors, hits = before.index.regions.vectors(0, regions), after.search(query, 16)
        rows = before.index.images.read(["image_id", "whole"]).to_pylist()
        owners = [row["image_id"] for row in rows for _ in row["whole"]]
        flags = [flag for row in rows for flag in row["whole"]]
        asked = before.encoder.encode_texts([query])[0]
        cosines = {
            owner: float(vector @ asked)
            for owner, flag, vector in zip(owners, flags, vectors, strict=True)
            if flag
        }
        assert [hit.image_id for hit in hits] == sorted(cosines, key=lambda key: -cosines[key])
        assert [hit.score for hit in hits] == pytest.approx(sorted(cosines.values(), reverse=True), abs=1e-5)
        image = demo[1].folder / "scene-04.png"
        assert {hit.text_id for hit in before.assign(image, k=16)} == {
            os.path.basename(hit.text_id) for hit in after.assign(image, k=16)
        }


def test_what_went_through_a_fenet_or_is_of_another_encoder_is_refused(tmp_path, encoder, toy):
    write(tmp_path / "in", NAMES)
    run(tmp_path / "in", tmp_path / "index")
    with StoredIndex.open(tmp_path / "index") as stored:
        export_clip_retrieval(stored, tmp_path / "v", tmp_path / "in")
    with pytest.raises(BadInputError, match=r"of another encoder \(name is 'toy', expected 'toy:2'"):
        import_vectors(tmp_path / "v", make_encoder("toy:2", device="cpu"), tmp_path / "out")
    path = tmp_path / "v" / "metadata" / "metadata_0.parquet"
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"felga"])
    assert about == {"encoder": encoder.identity(), "fenet": None}
    about = json.dumps({**about, "fenet": "f" * 64})
    pq.write_table(table.replace_schema_metadata({b"felga": about}), path)
    with pytest.raises(BadInputError, match=r"went through a FENet: .*fenet apply --remove"):
        import_vectors(tmp_path / "v", encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_encoder_of_the_same_length_is_noticed(made, encoder):
    turned = np.load(made[0] / "img_emb" / "img_emb_00.npy")[:, ::-1].copy()
    turned[:, ::2] *= -1
    np.save(made[0] / "img_emb" / "img_emb_00.npy", turned)
    with pytest.raises(BadInputError, match="another encoder than toy: images encoded here have a cosine of"):
        import_vectors(made[0], encoder, made[1])
    for path in (made[0].parent / "images").iterdir():
        path.unlink()
    np.save(made[0] / "text_emb" / "text_emb_00.npy", turned)
    with pytest.raises(BadInputError, match="captions encoded here have a cosine of"):
        import_vectors(made[0], encoder, made[1])


def test_images_that_are_not_here_are_known_by_path_or_url(tmp_path, encoder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ["here"])
    rows = [
        {"image_path": "here.png", "url": "https://h/here.png"},
        {"image_path": "000000001", "url": "https://h/one.jpg?a=b"},
        {"image_path": None, "url": "https://h/two.jpg"},
        {"image_path": "gone/three.jpg", "url": None},
    ]
    rng = np.random.default_rng(0)
    images = [whole(encoder, [tmp_path / "here.png"])[0], *rng.normal(size=(3, 8))]
    done = import_vectors(lay_out(tmp_path / "in", np.array(images), rows), encoder, tmp_path / "out")
    assert (done.images, done.texts, done.absent, done.scaled, done.compared) == (4, 0, 3, 3, 1)
    assert not verify(tmp_path / "out")[1]
    with Engine.open(tmp_path / "out", device="cpu") as engine:
        hits = {hit.image_id: hit for hit in engine.search("boat", 9, dedupe=True)}
        assert {image_id: hit.path for image_id, hit in hits.items()} == {
            "here.png": str(tmp_path / "here.png"),
            "https://h/one.jpg?a=b": "https://h/one.jpg?a=b",
            "https://h/two.jpg": "https://h/two.jpg",
            "gone/three.jpg": str(tmp_path / "gone" / "three.jpg"),
        }
        assert (hits["here.png"].width, hits["gone/three.jpg"].width) == (64, 0)
        assert hits["gone/three.jpg"].regions[0].box == (0, 0, 0, 0)
        with pytest.raises(BadInputError, match="holds no captions"):
            engine.assign(tmp_path / "here.png")


def test_rows_without_a_direction_or_a_name_cost_themselves(tmp_path, encoder):
    vectors = np.ones((7, 8), np.float32)
    vectors[1], vectors[2, 3], vectors[3, 3] = 0, np.nan, np.inf
    vectors[6] /= np.sqrt(8)
    rows = [{"image_path": f"/x/{name}.jpg", "caption": f"Of {name}."} for name in "abcdefg"]
    rows[0]["caption"] = rows[4]["image_path"] = None
    rows[5]["image_path"] = "/x/a.jpg"
    texts = encoder.encode_texts([f"Of {name}." for name in "abcdefg"])
    texts[6] = np.nan
    lay_out(tmp_path / "in", vectors, rows, texts)
    done = import_vectors(tmp_path / "in", encoder, tmp_path / "out")
    assert (done.images, done.texts, done.quarantined, done.scaled) == (2, 0, 6, 1)
    reasons = errors_of(tmp_path / "out")
    assert all("has no direction" in reasons[f"{name}.jpg"] for name in "bcdg")
    assert reasons["metadata_0.parquet:5"] == "it has neither a path nor a URL"
    assert "another row is of the same image (metadata_0.parquet:6)" in reasons["a.jpg"]
    assert not verify(tmp_path / "out")[1]


def test_files_that_do_not_belong_together_are_refused(made, encoder, tmp_path):
    folder, out = made

    def refused(words, error=BadInputError):
        with pytest.raises(error, match=words):
            import_vectors(folder, encoder, out)
        assert not (out / "manifest.json").exists()

    images, metadata = folder / "img_emb" / "img_emb_01.npy", folder / "metadata" / "metadata_01.parquet"
    sound, rows = np.load(images), pq.read_table(metadata)
    np.save(images, sound[:1])
    refused("img_emb_01.npy has 1 rows and metadata_01.parquet has 2: they do not belong together")
    np.save(images, sound[:, :7])
    refused(r"vectors of several lengths: \[7, 8\]")
    np.save(images, sound.astype(np.int64))
    refused(r"holds int64 of shape \(2, 8\), expected floats")
    np.save(images, np.array([{}], object), allow_pickle=True)
    refused("cannot be read .*expected an array of floats")
    images.write_bytes(pickle.dumps(sound))
    refused("cannot be read .*pickled")
    images.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8)}")
    refused("cannot be read")
    images.unlink()
    os.mkfifo(images)
    refused("no regular file")
    images.unlink()
    np.save(images, sound)
    pq.write_table(rows.drop_columns(["image_path"]), metadata)
    refused("has the columns caption: expected image_path or url")
    pq.write_table(pa.table({"image_path": [1, 2]}), metadata)
    refused("the column image_path of .* holds int64, expected strings")
    metadata.write_bytes(b"PAR1")
    refused("cannot be read .*: expected parquet")
    metadata.unlink()
    refused("metadata_01.parquet is missing")
    (folder / "img_emb").rename(folder / "elsewhere")
    refused("holds no img_emb/img_emb_0.npy")
    folder.rename(tmp_path / "moved")
    refused("does not exist", NotFoundError)


def test_vectors_of_another_length_than_the_encoder_has(tmp_path, encoder):
    lay_out(tmp_path / "in", np.ones((1, 9), np.float32), [{"image_path": "a.jpg"}])
    with pytest.raises(BadInputError, match="vectors of length 9, those of toy have 8: name the encoder"):
        import_vectors(tmp_path / "in", encoder, tmp_path / "out")
    rows = [{"image_path": "a.jpg", "whole": False}]
    lay_out(tmp_path / "in", np.ones((1, 8), np.float32), rows)
    with pytest.raises(BadInputError, match="no vector of a whole image"):
        import_vectors(tmp_path / "in", encoder, tmp_path / "out")


def test_an_imported_index_is_not_added_to(made, encoder, toy):
    import_vectors(made[0], encoder, made[1])
    before = read_manifest(made[1])
    with pytest.raises(BadIndexError, match="vectors from `felga import`, to which no images can be added"):
        index(made[0].parent / "images", made[1], CHEAP)
    with pytest.raises(BadInputError, match="is an index already: name a new folder"):
        import_vectors(made[0], encoder, made[1])
    assert read_manifest(made[1]) == before


KILLED = """
import os
from felga.indexing import imported
from felga.registry import make_encoder
imported.commit = lambda *a, **k: os._exit(9)
imported.import_vectors({!r}, make_encoder("toy", device="cpu"), {!r})
"""


def test_a_killed_import_starts_over(made, encoder, toy_site):
    code = KILLED.format(*map(str, made))
    site = os.pathsep.join([str(toy_site), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": site}, check=False)
    assert done.returncode == 9
    with pytest.raises(NotFoundError, match="no finished index"):
        Engine.open(made[1])
    with pytest.raises(BadIndexError, match="vectors from `felga import`"):
        index(made[0].parent / "images", made[1], CHEAP)
    assert import_vectors(made[0], encoder, made[1]).images == 5
    assert not verify(made[1])[1]
    assert not (made[1] / "building.json").exists()
