"""Checkpoints: what is loaded is what was saved, and everything else is refused in a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.fenet.checkpoint import load_fenet
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.show.curves import loss_curve, tensorboard_log

from .made import made

FEATURES = made(40)


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
    with pytest.raises(BadIndexError, match="weights or preprocessing differ"):
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
    with pytest.raises(BadInputError, match="'features', format 1; 'fenet', format 1 is wanted"):
        load_fenet(path)


def test_a_failed_write_leaves_the_old_file(done, tmp_path, monkeypatch):
    path = tmp_path / "some.fenet"
    done.save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInputError, match="No space left"):
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
