"""Checkpoints: what is loaded is what was saved; anything else is refused with one sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from felga.errors import BadIndexError, BadInputError, MissingError, NotFoundError, StorageError
from felga.fenet.checkpoint import load_fenet
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.models.arrays import read_arrays, write_arrays
from felga.show.curves import loss_curve, tensorboard_log

from .pairs import make_pairs, unit

FEATURES, SEEN = make_pairs(40), make_pairs(40, seen=20)


@pytest.fixture(scope="module")
def done():
    return train(FEATURES, make_recipe("residual", epochs=2, validation=0.3), seed=4)


@pytest.fixture(scope="module")
def locked():
    return train(SEEN, make_recipe("locked", epochs=2, batch=8), seed=4)


def test_save_and_load(done, tmp_path):
    path = tmp_path / "some.fenet"
    done.save(path)
    again = load_fenet(path, encoder="made", identity=FEATURES.identity)
    assert again.sha256() == done.sha256()
    assert again.recipe == done.recipe
    assert (again.seed, again.encoder, again.fingerprint) == (4, "made", FEATURES.fingerprint())
    assert set(again.versions) == {"felga", "torch"}
    assert again.history == done.history
    assert again.frozen == done.frozen
    assert set(again.frozen) == {"discovery", "assignment"}
    assert np.array_equal(again.regions(FEATURES.regions), done.regions(FEATURES.regions))


@pytest.mark.parametrize("side", ["regions", "keywords"])
def test_a_shared_network_embeds_both_sides_alike(done, side):
    embed = getattr(done, side)
    out = embed(FEATURES.keywords)
    assert out.dtype == np.float32
    assert np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)
    assert np.array_equal(out, done.regions(FEATURES.keywords, np.zeros((12, 3), np.float16)))
    assert embed(FEATURES.keywords[:0]).shape == (0, 16)
    with pytest.raises(BadInputError, match=r"takes \(n, 16\)"):
        embed(np.ones((2, 7), np.float32))
    with pytest.raises(BadInputError, match="NaN"):
        embed(np.full((2, 16), np.nan, np.float32))


def test_a_locked_network_is_loaded_as_it_was_saved(locked, tmp_path):
    locked.save(tmp_path / "x.fenet")
    again = load_fenet(tmp_path / "x.fenet", encoder="made", identity=SEEN.identity)
    for some in (SEEN.regions, SEEN.regions[:0]):
        seen = SEEN.region_features[: len(some)]
        out = again.regions(some, seen)
        assert np.array_equal(out, locked.regions(some, seen))
        assert np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)
    assert np.array_equal(again.keywords(SEEN.keywords), locked.keywords(SEEN.keywords))
    assert {array.dtype.name for array in again.arrays.values() if array.ndim == 2} == {"float16"}


def test_a_locked_network_refuses_features_that_do_not_fit(locked):
    for seen, words in [
        (None, "needs the features of regions.*index again"),
        (np.ones((len(SEEN.regions), 7), np.float16), "this FENet takes"),
        (SEEN.region_features[:3], "this FENet takes"),
        (np.full_like(SEEN.region_features, np.nan), "feature has a NaN"),
    ]:
        with pytest.raises(BadInputError, match=words):
            locked.regions(SEEN.regions, seen)


@pytest.mark.parametrize(
    "name",
    [
        "region_mean",
        "keyword_mean",
        "feature_mean",
        "feature_scale",
        "components",
        "ridge",
        "support",
        "text_map",
        "net.0.bias",
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_locked_network_with_one_spoilt_number_is_refused(locked, tmp_path, name, value):
    def spoil(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = value
        return arrays

    forge(locked, tmp_path / "x.fenet", spoil)
    with pytest.raises(BadInputError, match="not finite or overflow|length 0"):
        load_fenet(tmp_path / "x.fenet")


def test_a_locked_region_is_its_networks_output_beside_its_ridge(locked):
    closed = locked.closed_form
    moved = locked.net.embed(closed.inputs(SEEN.regions, SEEN.region_features))
    ridge = closed.ridge_embeddings(SEEN.regions, SEEN.region_features)
    expected = unit(np.concatenate([moved, np.sqrt(0.75) * ridge], 1))
    found = locked.regions(SEEN.regions, SEEN.region_features)
    assert np.allclose(found, expected, atol=1e-6)
    assert found.shape[1] == locked.out
    assert locked.keywords(SEEN.keywords).shape[1] == locked.out


@pytest.mark.parametrize("change", [{"ridge": 1e300}, {"input_scale": 1e300}])
def test_a_recipe_that_overflows_is_refused(locked, tmp_path, change):
    forge(locked, tmp_path / "x.fenet", recipe={**locked.recipe.to_json(), **change})
    with pytest.raises(BadInputError, match="not finite or overflow"):
        load_fenet(tmp_path / "x.fenet")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("feature_scale", lambda x: 0 * x, "not finite or overflow"),
        ("feature_scale", lambda x: -x, "not finite or overflow"),
        ("ridge", lambda x: x[:-1], "do not have the shapes"),
        ("ridge", lambda x: x.astype("f8"), "do not have the shapes"),
        ("components", lambda x: x[:, :-1], "do not have the shapes"),
        ("components", lambda x: x[0], "not a matrix"),
        ("text_map", lambda x: 0 * x, "length 0"),
        ("text_map", lambda x: x[:-1], "do not have the shapes"),
        ("support", lambda x: 100 * x, "not finite or overflow"),
        ("components", lambda x: x[:0], "not a matrix"),
        ("region_mean", lambda x: x[:-1], "do not have the shapes"),
    ],
)
def test_a_locked_network_of_wrong_parts_is_refused(locked, tmp_path, name, change, words):
    forge(locked, tmp_path / "x.fenet", lambda arrays: {**arrays, name: change(arrays[name])})
    with pytest.raises(BadInputError, match=words):
        load_fenet(tmp_path / "x.fenet")


def test_a_locked_network_without_a_part_is_refused(locked, tmp_path):
    for name in locked.arrays:
        forge(
            locked,
            tmp_path / "x.fenet",
            lambda arrays, name=name: {k: arrays[k] for k in arrays if k != name},
        )
        with pytest.raises(BadInputError, match="not a checkpoint that this felga reads"):
            load_fenet(tmp_path / "x.fenet")


def test_older_checkpoints_are_read(done, tmp_path):
    """They say nothing of held-out pairs and provenance, and their recipe has fewer settings."""
    done.save(tmp_path / "x.fenet")
    arrays, said = read_arrays(tmp_path / "x.fenet", "fenet")
    for name in ("frozen", "provenance"):
        del said[name]
    for name in ("network", "input_scale", "precision"):
        del said["recipe"][name]
    write_arrays(tmp_path / "x.fenet", "fenet", arrays, said)
    assert np.array_equal(
        load_fenet(tmp_path / "x.fenet").keywords(FEATURES.keywords), done.keywords(FEATURES.keywords)
    )


def test_another_encoder_is_refused(done, tmp_path):
    path = tmp_path / "some.fenet"
    done.save(path)
    with pytest.raises(BadIndexError, match="trained on vectors of 'made', not of 'clip:x'"):
        load_fenet(path, encoder="clip:x")
    with pytest.raises(BadIndexError, match="other weights or preprocessing"):
        load_fenet(path, encoder="made", identity={"sha256": "1" * 64})


def test_a_damaged_file_is_refused(done, tmp_path):
    path = tmp_path / "some.fenet"
    with pytest.raises(NotFoundError):
        load_fenet(path)
    done.save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-9], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(BadInputError, match="damaged"):
            load_fenet(path)
    FEATURES.save(path)
    with pytest.raises(BadInputError, match="is 'features', format 1; expected 'fenet', format 1"):
        load_fenet(path)


def forge(done, path, change_weights=lambda arrays: arrays, **about):
    """A checkpoint with a correct sha256, as a stranger could write it."""
    done.save(path)
    arrays, said = read_arrays(path, "fenet")
    arrays = change_weights(arrays)
    said["sha256"] = replace(done, arrays=arrays).sha256()
    write_arrays(path, "fenet", arrays, {**said, **about})


@pytest.mark.parametrize(
    ("value", "share", "sentence"),
    [
        (np.nan, 1.0, "not finite or overflow"),
        (np.nan, 0.0, "not finite or overflow"),
        (np.inf, 0.0, "not finite or overflow"),
        (3e38, 1.0, "overflow"),
        (1e13, 1.0, "overflow"),
        (3e38, 0.0, "overflow"),
    ],
)
def test_weights_that_would_silence_a_search_are_refused(done, tmp_path, value, share, sentence):
    def spoil(arrays):
        spoiled = {name: array.copy() for name, array in arrays.items()}
        for array in spoiled.values():
            array.flat[: max(1, int(share * array.size))] = value
        return spoiled

    forge(done, tmp_path / "x.fenet", spoil)
    with pytest.raises(BadInputError, match=sentence):
        load_fenet(tmp_path / "x.fenet")


def test_weights_that_embed_everything_with_length_zero_are_refused(tmp_path):
    dead = train(FEATURES, make_recipe("paper", hidden=8, epochs=1), seed=4)
    forge(dead, tmp_path / "x.fenet", lambda arrays: {name: 0 * array for name, array in arrays.items()})
    with pytest.raises(BadInputError, match="length 0"):
        load_fenet(tmp_path / "x.fenet")


def test_weights_of_another_type_are_refused(done, tmp_path):
    forge(
        done,
        tmp_path / "x.fenet",
        lambda arrays: {name: array.astype("f8") for name, array in arrays.items()},
    )
    with pytest.raises(BadInputError, match="do not have the shapes"):
        load_fenet(tmp_path / "x.fenet")


@pytest.mark.parametrize(
    "about",
    [
        {"dim": 10**9},
        {"dim": -1},
        {"dim": "x"},
        {"dim": True},
        {"identity": 5},
        {"encoder": []},
        {"recipe": {}},
        {"recipe": 5},
        {"history": 5},
        {"history": [5]},
        {"history": [{}]},
        {"seed": "x"},
        {"versions": []},
        {"epoch": None},
        {"fingerprint": 5},
        {"sha256": None},
        {"frozen": 5},
        {"provenance": []},
    ],
)
def test_hostile_metadata_is_refused_before_anything_is_allocated(done, tmp_path, about):
    forge(done, tmp_path / "x.fenet", **about)
    with pytest.raises(BadInputError, match="not a checkpoint that this felga reads"):
        load_fenet(tmp_path / "x.fenet")


@pytest.mark.parametrize(
    "change", [{"hidden": 10**9}, {"layers": 10**6}, {"hidden": -5}, {"out": 10**9}, {"layers": 0}]
)
def test_hostile_recipes_are_refused_before_anything_is_allocated(done, tmp_path, change):
    forge(done, tmp_path / "x.fenet", recipe={**done.recipe.to_json(), **change})
    with pytest.raises(BadInputError, match="not a checkpoint that this felga reads"):
        load_fenet(tmp_path / "x.fenet")


def test_the_network_runs_on_the_requested_device(done, tmp_path):
    done.save(tmp_path / "x.fenet")
    assert next(load_fenet(tmp_path / "x.fenet", device="cpu").net.parameters()).device.type == "cpu"
    with pytest.raises(MissingError, match="torch sees"):
        load_fenet(tmp_path / "x.fenet", device="cuda:99").regions(FEATURES.regions)


def test_a_failed_write_leaves_the_old_file(done, tmp_path, monkeypatch):
    path = tmp_path / "some.fenet"
    done.save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        done.save(path)
    assert path.read_bytes() == before


def test_curves(done, tmp_path):
    pytest.importorskip("matplotlib")
    loss_curve(done, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_tensorboard(done, tmp_path):
    pytest.importorskip("tensorboard")
    tensorboard_log(done, tmp_path)
    assert list(tmp_path.glob("events.out.tfevents.*"))
