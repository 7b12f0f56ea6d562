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

from .pairs import make_pairs

FEATURES = make_pairs(40)


@pytest.fixture(scope="module")
def done():
    return train(FEATURES, make_recipe("residual", epochs=2, validation=0.3), seed=4)


def test_save_and_load(done, tmp_path):
    path = tmp_path / "some.fenet"
    done.save(path)
    again = load_fenet(path, encoder="made", identity=FEATURES.identity)
    assert again.sha256() == done.sha256()
    assert again.recipe == done.recipe
    assert (again.seed, again.encoder, again.fingerprint) == (4, "made", FEATURES.fingerprint())
    assert set(again.versions) == {"felga", "torch"}
    assert again.history == done.history
    assert np.array_equal(again.apply(FEATURES.regions), done.apply(FEATURES.regions))


def test_apply(done):
    out = done.apply(FEATURES.keywords)
    assert out.dtype == np.float32
    assert np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)
    assert np.allclose(out, done.apply(FEATURES.keywords, batch=5), atol=1e-6)
    assert done.apply(FEATURES.keywords[:0]).shape == (0, 16)
    with pytest.raises(BadInputError, match=r"takes \(n, 16\)"):
        done.apply(np.ones((2, 7), np.float32))
    with pytest.raises(BadInputError, match="NaN"):
        done.apply(np.full((2, 16), np.nan, np.float32))


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
        load_fenet(tmp_path / "x.fenet", device="cuda:99").apply(FEATURES.regions)


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
