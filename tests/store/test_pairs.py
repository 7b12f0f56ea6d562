"""From an index to a FENet and back onto it, through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError
from felga.fenet.checkpoint import load_fenet
from felga.fenet.features import Features
from felga.files import sha256_file
from felga.indexing.job import Options, apply_fenet, index
from felga.store.manifest import read_manifest
from felga.store.owner_table import OwnerTable
from felga.store.pairs import _regions, features_of
from felga.store.stored import StoredIndex
from felga.store.verify import verify
from tests.cli.test_app import call
from tests.made import CHEAP, run, write


def test_features_are_the_raw_vectors_of_pairs(demo):
    features = features_of(demo[0])
    assert len(features) == 16
    assert features.encoder == "conse"
    opened = StoredIndex.open(demo[0])
    images = opened.images.read(["image_id", "vectors"]).to_pylist()
    texts = opened.texts
    columns = ["image_id", "keywords", "whole", "vectors"]
    rows = {row["image_id"]: row for row in texts.read(columns).to_pylist()}
    for pair, row in enumerate(sorted(images, key=lambda row: row["image_id"])):
        regions = features.regions[features.region_offsets[pair] : features.region_offsets[pair + 1]]
        np.testing.assert_array_equal(regions, np.float32(row["vectors"]))
        span = slice(*features.region_offsets[pair : pair + 2])
        assert features.whole[span].sum() == 1
        ids = features.keyword_ids[features.keyword_offsets[pair] : features.keyword_offsets[pair + 1]]
        own = rows[row["image_id"]]
        assert own["whole"] == [True] + [False] * len(ids)  # the whole text teaches nothing
        assert [features.keyword_texts[i] for i in ids] == own["keywords"][1:]
        np.testing.assert_allclose(features.keywords[ids], np.float32(own["vectors"])[1:], atol=1e-5)
    assert len(set(features.keyword_texts)) == len(features.keyword_texts)


def test_whole_texts_leave_the_training_data_as_it_is(tmp_path, demo):
    """To the bit: an index with whole texts has the keywords of one without, and their vectors."""
    write(tmp_path / "corpus", ["a", "b", "c"])
    (tmp_path / "corpus" / "b.txt").write_text("A zebra crosses the road.\nTwo zebras!\n")
    (tmp_path / "corpus" / "c.txt").write_text("!!!")
    options = Options(device="cpu", regions="grid", quality=False)
    plain = replace(options, whole=False)
    for name, own in (("with", options), ("without", plain)):
        index(FolderCorpus(tmp_path / "corpus"), tmp_path / name, own, fenet="none")
    found, wanted = features_of(tmp_path / "with"), features_of(tmp_path / "without")
    assert found.keyword_texts == wanted.keyword_texts
    for name in ("keywords", "keyword_ids", "keyword_offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert (
        read_manifest(tmp_path / "with").texts.fragments > read_manifest(tmp_path / "without").texts.fragments
    )


def test_stored_features_of_regions_are_read(tmp_path):
    """Bytes times a scale beside the vectors, as float16, for the images that are asked for."""
    rng = np.random.default_rng(0)
    counts = {"a": 2, "b": 0, "c": 3, "d": 1}
    codes = {name: rng.integers(-127, 128, (count, 5)) for name, count in counts.items()}
    scales = {name: np.exp2(-rng.integers(3, 9, count)) for name, count in counts.items()}
    seen = {name: codes[name] * scales[name][:, None] for name in counts}
    vectors = {name: rng.normal(size=(count, 4)).astype(np.float16) for name, count in counts.items()}
    schema = pa.schema(
        [
            ("image_id", pa.string()),
            ("whole", pa.list_(pa.bool_())),
            ("vectors", pa.list_(pa.list_(pa.float16(), 4))),
            ("features", pa.list_(pa.list_(pa.int8(), 5))),
            ("scales", pa.list_(pa.float32())),
        ]
    )
    rows = [
        {
            "image_id": name,
            "whole": [place == 0 for place in range(count)],
            "vectors": list(map(list, vectors[name])),
            "features": list(map(list, codes[name])),
            "scales": scales[name],
        }
        for name, count in counts.items()
    ]
    table = OwnerTable.create(tmp_path / "images.lance", schema)
    table.append(pa.Table.from_pylist(rows, schema))
    found = _regions(table, {"a", "c"})
    for name in ("a", "c"):
        assert found["features"][name].dtype == np.float16
        np.testing.assert_array_equal(found["features"][name], seen[name])
        np.testing.assert_array_equal(found["vectors"][name], vectors[name])
        assert found["whole"][name].tolist() == [place == 0 for place in range(counts[name])]
    assert set(found["features"]) == {"a", "c"}


def test_pairs_need_both(tmp_path, toy):
    folder = tmp_path / "corpus"
    write(folder, ["a", "b", "c"])
    (folder / "b.txt").unlink()
    (folder / "alone.txt").write_text("A text on its own.")
    run(folder, tmp_path / "index")
    assert features_of(tmp_path / "index").pair_ids == ("a.png", "c.png")
    for name in ("a", "c"):
        (folder / f"{name}.txt").unlink()
    run(folder, tmp_path / "index")
    with pytest.raises(BadInputError, match="no image in .* has a caption"):
        features_of(tmp_path / "index")


@pytest.fixture
def trained(capsys, demo_copy, tmp_path):
    out = tmp_path / "a.safetensors"
    more = [
        "--set",
        "epochs=2",
        "--set",
        "batch=4",
        "--device",
        "cpu",
        "--features-out",
        tmp_path / "f.safetensors",
    ]
    printed, err = call(capsys, "train", demo_copy, "--out", out, *more)
    assert json.loads(printed)["checkpoint"] == str(out)
    assert "is trained on 16 pairs (0 left out)" in err
    return out


def test_train_apply_search_and_remove(capsys, demo_copy, trained, tmp_path):
    before = Engine.open(demo_copy, device="cpu").search("cat", k=16, owner="max", quality=False)
    _, err = call(capsys, "fenet", "apply", trained, "--index", demo_copy)
    assert f"{load_fenet(trained).out} dimensions" in err
    assert verify(demo_copy)[1] == []
    engine = Engine.open(demo_copy, device="cpu")
    fenet = load_fenet(trained)
    query = fenet.keywords(engine.encoder.encode_texts(["cat"]))[0]
    table = engine.index.images
    wanted = {
        row["image_id"]: float(
            (
                fenet.regions(
                    np.float32(row["vectors"]),
                    np.float16(np.float32(row["features"]) * np.float32(row["scales"])[:, None]),
                )
                @ query
            ).max()
        )
        for row in table.read(["image_id", "vectors", "features", "scales"]).to_pylist()
    }
    hits = engine.search("cat", k=16, owner="max", quality=False)
    # FAISS files hold half precision: 2^-11 of each of a unit vector's numbers
    np.testing.assert_allclose(
        [hit.score for hit in hits], [wanted[hit.image_id] for hit in hits], atol=2**-11
    )
    assert [hit.score for hit in hits] != [hit.score for hit in before]
    out, _ = call(capsys, "info", "--index", demo_copy)
    assert f"{sha256_file(trained)[:12]}, {fenet.out} dimensions, from {trained.name}" in out
    call(capsys, "fenet", "apply", "--remove", "--index", demo_copy)
    assert Engine.open(demo_copy, device="cpu").search("cat", k=16, owner="max", quality=False) == before
    assert read_manifest(demo_copy).fenet is None


def test_a_sync_keeps_the_fenet(demo_copy, demo, trained):
    from felga.corpus.folder import FolderCorpus

    apply_fenet(demo_copy, trained)
    before = read_manifest(demo_copy).fenet
    index(FolderCorpus(demo[1].folder), demo_copy, Options(device="cpu"))
    assert read_manifest(demo_copy).fenet == before
    assert verify(demo_copy)[1] == []


def test_a_features_file_trains_the_same_network(capsys, trained, tmp_path):
    features = tmp_path / "f.safetensors"
    assert len(Features.load(features)) == 16
    more = ["--set", "epochs=2", "--set", "batch=4", "--device", "cpu", "--plot", tmp_path / "loss.png"]
    call(capsys, "train", features, "--out", tmp_path / "b.safetensors", *more)
    assert load_fenet(tmp_path / "b.safetensors").sha256() == load_fenet(trained).sha256()
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_a_fenet_of_another_encoder_is_refused(trained, tmp_path, toy):
    write(tmp_path / "corpus", ["a", "b"])
    run(tmp_path / "corpus", tmp_path / "other")
    before = (tmp_path / "other" / "manifest.json").read_bytes()
    with pytest.raises(BadIndexError, match="trained on vectors of 'conse', not of 'toy'"):
        apply_fenet(tmp_path / "other", trained)
    with pytest.raises(BadIndexError, match="'conse', not of 'toy'"):
        run(tmp_path / "corpus", tmp_path / "other", CHEAP, fenet=trained)
    assert (tmp_path / "other" / "manifest.json").read_bytes() == before


def test_wrong_arguments_are_one_sentence(capsys, demo_copy, tmp_path):
    out = ["--out", tmp_path / "x.safetensors"]
    _, err = call(capsys, "train", demo_copy, *out, "--set", "epoch=3", code=2)
    assert "no setting 'epoch'; did you mean 'epochs'" in err
    _, err = call(capsys, "train", demo_copy, *out, "--set", "epochs", code=2)
    assert "is not NAME=VALUE" in err
    _, err = call(capsys, "train", demo_copy, *out, "--recipe", "papre", code=2)
    assert "did you mean 'paper'" in err
    _, err = call(capsys, "train", tmp_path / "gone.safetensors", *out, code=3)
    _, err = call(capsys, "fenet", "apply", "--index", demo_copy, code=2)
    assert "give either" in err
